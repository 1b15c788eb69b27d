"""What can go wrong with the server, each documented for the real one, and who decides when it does.

A `FaultPlan` is asked at every occasion: a call before it is looked at, an order that is about to be taken, its life
after that, a change, a cancel, a reading, a message of the stream. `ScriptedFaults` plays what was put into its queue,
`SeededFaults` draws by chance, reproducibly: what happens depends on the seed and the order's tag (or, where there is
none, on the call's number) alone, in any order of calls.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from hashlib import blake2b
from typing import Protocol

from msgspec import Struct

from domain.values import SECOND, Duration

__all__ = ["AFTER", "OCCASIONS", "Call", "Fault", "FaultPlan", "NoFaults", "Occasion", "Play", "ScriptedFaults",
           "SeededFaults"]  # fmt: skip


class Occasion(StrEnum):
    """When a plan is asked."""

    CALL = "call"
    """Any call with a session, before anything is checked."""
    ORDER_CALL = "order_call"
    """A placing, change or cancel, after the session was checked."""
    PLACE = "place"
    """A placing that passed every check."""
    LIFE = "life"
    """The order that was just taken."""
    MODIFY = "modify"
    CANCEL = "cancel"
    READ = "read"
    """A GET with a session."""
    PUSH = "push"
    """The stream and the postbacks; asked for one fault at a time with `plays`."""


class Fault(StrEnum):
    """One member per fault; where one number has several kinds, one per kind. The value says what happens."""

    F1_ACCEPTED_THEN_HANGS = "F1 the order is taken, the answer never comes"
    F2_ACCEPTED_THEN_DROPPED = "F2 the order is taken, then the connection is dropped"
    F2_ACCEPTED_HALF_ANSWER = "F2 the order is taken, the connection is dropped in the middle of the answer"
    F3_DROPPED_BEFORE = "F3 the connection is dropped, the order is not taken"
    F4A_HTML_AFTER = "F4 the order is taken, the load balancer answers 502 or 504 in HTML"
    F4B_HTML_BEFORE = "F4 the order is not taken, the load balancer answers 502 or 504 in HTML"
    F4C_HTML_READING = "F4 a reading is answered 502 or 504 in HTML"
    F5_SURFACES_LATER = "F5 503 NetworkException, the order surfaces after 8 to 90 s"
    F6_TIMED_OUT_400 = "F6 400 'Order request timed out', the order is taken"
    F7_TOO_MANY_ORDERS = "F7 429 for an order call"
    F7_TOO_MANY_READINGS = "F7 429 for a reading"
    F8A_STUCK_OPEN_PENDING = "F8 the order is stuck in OPEN PENDING, then lives on"
    F8B_STUCK_THEN_CANCELLED = "F8 the cancel is stuck in CANCEL PENDING, then carried out"
    F8B_STUCK_THEN_FILLED = "F8 the cancel is stuck in CANCEL PENDING, then the order fills"
    F9_CANCEL_LOSES = "F9 the order fills just before the cancel"
    F10_HALF_THEN_CANCELLED = "F10 half fills, the exchange cancels the rest"
    F11_HALF_THEN_STUCK = "F11 half fills, the rest stays open beyond its protection until it is modified"
    F12_PUSH_LOST = "F12 an order update is lost"
    F12_PUSH_DUPLICATED = "F12 an order update is sent twice"
    F12_PUSH_REORDERED = "F12 an order update comes after the next one"
    F12_STREAM_GAP = "F12 the stream is away while orders fill"
    F13_TOKEN_DIES = "F13 the session dies in the middle of the day"  # noqa: S105 (what happens, not a secret)
    F14_SILENT_STREAM = "F14 the stream is silent, its connection stays up"
    F15_STREAM_ABORTED = "F15 the stream is cut without a closing frame"
    F15_SLOW_READER = "F15 the stream cannot keep up with what is to be sent"
    F16_UNKNOWN_STATUS = "F16 the order is in a status that nobody documented, then lives on"
    F16_TAG_ONLY_IN_TAGS = "F16 the order's tag is null, its tags carry it"
    F16_EXTRA_FIELDS = "F16 a reading has fields that nobody documented"
    F16_MISSING_FIELDS = "F16 a reading lacks fields that a client can do without"
    F16_MISSING_KEY_FIELDS = "F16 a reading lacks filled_quantity"
    F16_NUMBERS_AS_STRINGS = "F16 a reading has its numbers as strings"
    F16_ERROR_WITHOUT_TYPE = "F16 nothing is carried out, an error without error_type is answered"
    F16_NO_CONTENT_TYPE = "F16 carried out, the answer has no Content-Type"
    F16_LIST_AT_TOP = "F16 carried out, the answer is a JSON list"
    F16_TRUNCATED_JSON = "F16 carried out, the answer is half of the JSON"
    F17_UNKNOWN_PACKET = "F17 the stream sends a packet of unknown length"
    F17_EMPTY_FRAME = "F17 the stream sends an empty frame"
    F17_TRUNCATED_FRAME = "F17 the stream sends half a frame"
    F18_IP_NOT_ALLOWED = "F18 the caller's address is not on the list"
    F19_SECOND_ORDER_WITH_TAG = "F19 an order from elsewhere appears with the same tag"
    F20_TOKEN_REUSED = "F20 an instrument_token stands for another symbol"  # noqa: S105
    F21_CLOCK_SKEW = "F21 the server's clock is off"

    MARGIN_REFUSED = "the order is refused at once for want of margin"
    REJECTED_LATER = "the order is taken, then rejected for want of margin"
    HALF_THEN_REST = "half fills, the rest within 5 s"
    CANCEL_REFUSED = "the cancel is refused"
    CANCEL_DONE_UNANSWERED = "the cancel is carried out, not answered"
    CANCEL_IGNORED_UNANSWERED = "the cancel is neither carried out nor answered"
    MODIFY_REFUSED = "the change is refused"
    MODIFY_DONE_UNANSWERED = "the change is carried out, not answered"
    MODIFY_IGNORED_UNANSWERED = "the change is neither carried out nor answered"
    READING_HANGS = "a reading is never answered"
    READING_DROPPED = "the connection is dropped on a reading"

    @property
    def code(self) -> str:
        """The stable short name, for tables and for the admin door."""
        return self.name


_BODY = frozenset({Occasion.PLACE, Occasion.MODIFY, Occasion.CANCEL, Occasion.READ})
_PUSHED = ("F12", "F14", "F15", "F17", "F20")


def _occasions(fault: Fault) -> frozenset[Occasion]:
    match fault:
        case Fault.F13_TOKEN_DIES:
            return frozenset({Occasion.CALL})
        case Fault.F7_TOO_MANY_ORDERS | Fault.F18_IP_NOT_ALLOWED:
            return frozenset({Occasion.ORDER_CALL})
        case (
            Fault.F1_ACCEPTED_THEN_HANGS | Fault.F2_ACCEPTED_THEN_DROPPED | Fault.F2_ACCEPTED_HALF_ANSWER
            | Fault.F3_DROPPED_BEFORE | Fault.F4A_HTML_AFTER | Fault.F4B_HTML_BEFORE | Fault.F5_SURFACES_LATER
            | Fault.F6_TIMED_OUT_400 | Fault.MARGIN_REFUSED
        ):  # fmt: skip
            return frozenset({Occasion.PLACE})
        case (
            Fault.F8A_STUCK_OPEN_PENDING | Fault.F10_HALF_THEN_CANCELLED | Fault.F11_HALF_THEN_STUCK
            | Fault.F16_UNKNOWN_STATUS | Fault.F16_TAG_ONLY_IN_TAGS | Fault.F19_SECOND_ORDER_WITH_TAG
            | Fault.REJECTED_LATER | Fault.HALF_THEN_REST
        ):  # fmt: skip
            return frozenset({Occasion.LIFE})
        case (
            Fault.F8B_STUCK_THEN_CANCELLED | Fault.F8B_STUCK_THEN_FILLED | Fault.F9_CANCEL_LOSES
            | Fault.CANCEL_REFUSED | Fault.CANCEL_DONE_UNANSWERED | Fault.CANCEL_IGNORED_UNANSWERED
        ):  # fmt: skip
            return frozenset({Occasion.CANCEL})
        case Fault.MODIFY_REFUSED | Fault.MODIFY_DONE_UNANSWERED | Fault.MODIFY_IGNORED_UNANSWERED:
            return frozenset({Occasion.MODIFY})
        case (
            Fault.F16_ERROR_WITHOUT_TYPE | Fault.F16_NO_CONTENT_TYPE | Fault.F16_LIST_AT_TOP | Fault.F16_TRUNCATED_JSON
        ):
            return _BODY
        case _:
            return frozenset({Occasion.PUSH if fault.name.startswith(_PUSHED) else Occasion.READ})


OCCASIONS: Mapping[Fault, frozenset[Occasion]] = {fault: _occasions(fault) for fault in Fault}

AFTER: Mapping[Fault, tuple[Duration, Duration]] = {
    Fault.F5_SURFACES_LATER: (8 * SECOND, 90 * SECOND),
    Fault.F8A_STUCK_OPEN_PENDING: (5 * SECOND, 120 * SECOND),
    Fault.F8B_STUCK_THEN_CANCELLED: (5 * SECOND, 60 * SECOND),
    Fault.F8B_STUCK_THEN_FILLED: (5 * SECOND, 60 * SECOND),
    Fault.F10_HALF_THEN_CANCELLED: (1 * SECOND, 10 * SECOND),
    Fault.F16_UNKNOWN_STATUS: (1 * SECOND, 30 * SECOND),
    Fault.F19_SECOND_ORDER_WITH_TAG: (0, 5 * SECOND),
    Fault.F21_CLOCK_SKEW: (-5 * SECOND, 5 * SECOND),
    Fault.REJECTED_LATER: (0, 2 * SECOND),
    Fault.HALF_THEN_REST: (100_000, 5 * SECOND),
    Fault.F12_STREAM_GAP: (1 * SECOND, 30 * SECOND),
    Fault.F14_SILENT_STREAM: (10 * SECOND, 60 * SECOND),
    Fault.F15_SLOW_READER: (1 * SECOND, 10 * SECOND),
}
"""How long the faults that last do so, lowest and highest; a script that does not say gets the lowest."""


class Play(Struct, frozen=True):
    """A fault that plays now. `after`: how long what it delays is delayed, see `AFTER`."""

    fault: Fault
    after: Duration = 0


class Call(Struct, frozen=True, kw_only=True):
    """What a plan is told. `key` names the order or call: a tag with the attempt's number, or the call's number."""

    occasion: Occasion
    user_id: str
    key: str


class FaultPlan(Protocol):
    """Decides which fault plays, if any."""

    def play(self, call: Call) -> Play | None: ...

    def plays(self, fault: Fault, user_id: str | None, number: int) -> Play | None:
        """Whether this fault plays now. `number` counts how often it was asked for this user."""
        ...


class NoFaults:
    """The server that Kite would like to be."""

    def play(self, call: Call) -> Play | None:
        return None

    def plays(self, fault: Fault, user_id: str | None, number: int) -> Play | None:
        return None


class _Queued(Struct):
    fault: Fault
    user_id: str | None
    times: int
    after: Duration
    occasions: frozenset[Occasion]

    def concerns(self, user_id: str | None) -> bool:
        return self.user_id is None or self.user_id == user_id


class ScriptedFaults:
    """A queue: the first entry that concerns the user and the occasion plays; it leaves after `times` times."""

    def __init__(self) -> None:
        self._queue: list[_Queued] = []

    def inject(
        self,
        fault: Fault,
        user_id: str | None = None,
        *,
        times: int = 1,
        after: Duration | None = None,
        on: Occasion | None = None,
    ) -> None:
        """`on` narrows a fault that fits several occasions. Raises ValueError for an occasion it does not fit."""
        if times < 1:
            raise ValueError(f"{fault.name}: times must be at least 1, was {times}")
        if on is not None and on not in OCCASIONS[fault]:
            fitting = ", ".join(sorted(OCCASIONS[fault]))
            raise ValueError(f"{fault.name} does not play on {on.value}, only on: {fitting}")
        delay = after if after is not None else AFTER.get(fault, (0, 0))[0]
        occasions = OCCASIONS[fault] if on is None else frozenset({on})
        self._queue.append(_Queued(fault, user_id, times, delay, occasions))

    def play(self, call: Call) -> Play | None:
        return self._take(lambda queued: call.occasion in queued.occasions and queued.concerns(call.user_id))

    def plays(self, fault: Fault, user_id: str | None, number: int) -> Play | None:
        return self._take(lambda queued: queued.fault is fault and queued.concerns(user_id))

    def waiting(self) -> list[tuple[Fault, str | None, int]]:
        """What has not played yet: fault, user, how many times."""
        return [(queued.fault, queued.user_id, queued.times) for queued in self._queue]

    def _take(self, fits: Callable[[_Queued], bool]) -> Play | None:
        for place, queued in enumerate(self._queue):
            if fits(queued):
                queued.times -= 1
                if queued.times == 0:
                    del self._queue[place]
                return Play(queued.fault, queued.after)
        return None


class SeededFaults:
    """Draws from (seed, occasion, user, key). Raises ValueError when the rates of one occasion sum to more than 1."""

    def __init__(self, seed: int, rates: Mapping[Fault, float]) -> None:
        self._seed = seed
        self._rates = dict(rates)
        self._by_occasion: dict[Occasion, list[tuple[Fault, float]]] = {occasion: [] for occasion in Occasion}
        for fault in Fault:  # the vocabulary's order, so that a mapping's order does not matter
            rate = self._rates.get(fault, 0)
            if not 0 <= rate <= 1:
                raise ValueError(f"{fault.name}: a rate is between 0 and 1, got {rate}")
            for occasion in OCCASIONS[fault] if rate else ():
                self._by_occasion[occasion].append((fault, rate))
        for occasion, entries in self._by_occasion.items():
            total = sum(rate for _, rate in entries)
            if occasion is not Occasion.PUSH and total > 1 + 1e-9:
                raise ValueError(f"the faults of {occasion.value} exclude each other; their rates sum to {total:g}")

    def play(self, call: Call) -> Play | None:
        entries = self._by_occasion[call.occasion]
        if not entries:
            return None
        name = f"{call.occasion.value}\0{call.user_id}\0{call.key}"
        left = self._draw(name)
        for fault, rate in entries:
            if left < rate:
                return Play(fault, self._after(fault, name))
            left -= rate
        return None

    def plays(self, fault: Fault, user_id: str | None, number: int) -> Play | None:
        name = f"push\0{user_id}\0{fault.name}\0{number}"
        return Play(fault, self._after(fault, name)) if self._draw(name) < self._rates.get(fault, 0) else None

    def _after(self, fault: Fault, name: str) -> Duration:
        low, high = AFTER.get(fault, (0, 0))
        return low + int(self._draw(f"{name}\0after") * (high - low + 1))

    def _draw(self, name: str) -> float:
        digest = blake2b(f"{self._seed}\0{name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
