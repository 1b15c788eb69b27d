"""What may go wrong in a simulated world, and how often: drawn from the seed, counted as it happens."""

import random
from collections import Counter
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final

from msgspec import Struct

__all__ = ["BROKER", "EVERY", "Fault", "Faults", "UnknownFault", "parse_faults"]


class Fault(StrEnum):
    """A kind of fault. The values are its names on the command line and in tables."""

    # calls of a process
    CALL_LOST = "call-lost"
    REPLY_LOST = "reply-lost"
    CALL_DELAYED = "call-delayed"
    WRITE_LATE = "write-late"
    MESSAGE_REPEATED = "message-repeated"
    ARCHIVE_CALL_LOST = "archive-call-lost"
    COMMIT_UNANSWERED = "commit-unanswered"
    # processes
    WORKER_DIES = "worker-dies"
    SCHEDULER_DIES = "scheduler-dies"
    MARKET_DIES = "market-dies"
    UPDATES_DIES = "updates-dies"
    ARCHIVE_DIES = "archive-dies"
    DIES_WHILE_STARTING = "dies-while-starting"
    PAUSED = "paused"
    PAUSED_PAST_TAKE_OVER = "paused-past-take-over"
    PAUSED_PAST_QUARANTINE = "paused-past-quarantine"
    TAKEN_OVER = "taken-over"
    CLOCK_AHEAD = "clock-ahead"
    CLOCK_BEHIND = "clock-behind"
    # servers
    REDIS_AWAY = "redis-away"
    REDIS_RESTARTED = "redis-restarted"
    REDIS_TORN = "redis-torn"
    REDIS_EMPTIED = "redis-emptied"
    GROUP_LOST = "group-lost"
    POSTGRES_AWAY = "postgres-away"
    TRIMMED = "trimmed"
    # the market
    TICK_LATE = "tick-late"
    TICK_REPEATED = "tick-repeated"
    TICKS_REORDERED = "ticks-reordered"
    TICK_MISSING = "tick-missing"
    TICK_BROKEN = "tick-broken"
    # people
    UPDATE = "update"
    STOP = "stop"
    SQUARE_OFF = "square-off"
    HALT = "halt"
    RESTART = "restart"
    FORCE_STOP = "force-stop"
    SESSION_LOST = "session-lost"
    CANCEL_BY_HAND = "cancel-by-hand"
    # the broker, by order
    THROTTLED = "broker-throttled"
    REJECTED = "broker-rejected"
    MARGIN = "broker-margin"
    NO_SESSION = "broker-no-session"
    REJECTED_AFTER = "broker-rejected-after"
    TIMEOUT_EXISTS = "broker-timeout-exists"
    TIMEOUT_SURFACES = "broker-timeout-surfaces"
    TIMEOUT_NEVER = "broker-timeout-never"
    PARTIAL = "broker-partial"
    RESTS = "broker-rests"
    CANCEL_REFUSED = "broker-cancel-refused"
    CANCEL_FILLED = "broker-cancel-filled"
    CANCEL_UNANSWERED = "broker-cancel-unanswered"
    MODIFY_REFUSED = "broker-modify-refused"
    MODIFY_UNANSWERED = "broker-modify-unanswered"
    READINGS = "broker-readings"


EVERY: Final = frozenset(Fault)
BROKER: Final = {
    Fault.THROTTLED: ("throttled", 0.05),
    Fault.REJECTED: ("rejected", 0.06),
    Fault.MARGIN: ("margin", 0.03),
    Fault.NO_SESSION: ("session", 0.02),
    Fault.REJECTED_AFTER: ("rejected_after", 0.06),
    Fault.TIMEOUT_EXISTS: ("timeout_exists", 0.1),
    Fault.TIMEOUT_SURFACES: ("timeout_surfaces", 0.1),
    Fault.TIMEOUT_NEVER: ("timeout_never", 0.08),
    Fault.PARTIAL: ("partial", 0.2),
    Fault.RESTS: ("rests", 0.2),
    Fault.CANCEL_REFUSED: ("cancel_refused", 0.15),
    Fault.CANCEL_FILLED: ("cancel_filled", 0.15),
    Fault.CANCEL_UNANSWERED: ("cancel_unanswered", 0.2),
    Fault.MODIFY_REFUSED: ("modify_refused", 0.2),
    Fault.MODIFY_UNANSWERED: ("modify_unanswered", 0.2),
    Fault.READINGS: ("readings", 0.15),
}
"""The rate at the paper broker that stands for each of its faults, and how high it is where the seed draws it."""

AT_CALLS: Final = {
    Fault.CALL_LOST: 8,
    Fault.REPLY_LOST: 10,
    Fault.CALL_DELAYED: 6,
    Fault.WRITE_LATE: 4,
    Fault.MESSAGE_REPEATED: 3,
    Fault.ARCHIVE_CALL_LOST: 4,
    Fault.COMMIT_UNANSWERED: 6,
    Fault.WORKER_DIES: 10,
    Fault.SCHEDULER_DIES: 4,
    Fault.MARKET_DIES: 4,
    Fault.UPDATES_DIES: 4,
    Fault.ARCHIVE_DIES: 3,
    Fault.DIES_WHILE_STARTING: 4,
    Fault.PAUSED: 4,
    Fault.PAUSED_PAST_TAKE_OVER: 4,
    Fault.PAUSED_PAST_QUARANTINE: 2,
    Fault.TAKEN_OVER: 4,
    Fault.CLOCK_AHEAD: 2,
    Fault.CLOCK_BEHIND: 2,
    Fault.REDIS_AWAY: 1,
    Fault.POSTGRES_AWAY: 2,
}
"""How often each is drawn among those that strike while a call waits at its gate."""
SERVERS: Final = (Fault.REDIS_RESTARTED, Fault.REDIS_TORN, Fault.REDIS_EMPTIED, Fault.GROUP_LOST)
"""So costly that a life has one of them at most, and most lives none."""
SHARE: Final = 0.3
"""Of lives that have one, when all are enabled."""
CALLS: Final = (150, 2_200)
"""At which of a life's calls it strikes."""


class UnknownFault(ValueError):
    """There is no fault of that name."""


FEW: Final = 6
"""Of so few enabled faults a life knows every one."""


class _Mood(Struct, frozen=True):
    """How a life is: which faults it knows, and how probable one is at a call."""

    known: tuple[Fault, ...]
    rate: float


class Faults:
    """The faults of one life. `enabled` are those that may be drawn at all; each life knows about half of them, so that
    one fault does not hide what another would have shown. `fired` counts what really happened."""

    def __init__(self, seed: int, enabled: Collection[Fault] = EVERY) -> None:
        self.fired: Counter[Fault] = Counter()
        self.healed = False
        self._chance = random.Random(f"faults/{seed}")
        share = self._chance.choice((0.3, 0.5, 0.8)) if len(enabled) > FEW else 1.0
        known = tuple(fault for fault in Fault if fault in enabled and self._chance.random() < share)
        self._mood = _Mood(known, self._chance.choice((0.002, 0.006, 0.015, 0.03)) if enabled else 0.0)
        costly = [fault for fault in SERVERS if fault in enabled]
        strikes = bool(costly) and (len(enabled) <= FEW or self._chance.random() < SHARE)
        self._costly = self._chance.choice(costly) if strikes else None
        self._calls_left = self._chance.randint(*CALLS)

    def knows(self, fault: Fault) -> bool:
        return fault in self._mood.known and not self.healed

    def at_call(self) -> Fault | None:
        """What strikes now, while a call waits at its gate; nearly always nothing."""
        self._calls_left -= 1
        if self.healed:
            return None
        if self._costly is not None and self._calls_left <= 0:
            costly, self._costly = self._costly, None
            return costly
        if self._chance.random() >= self._mood.rate:
            return None
        drawn = [fault for fault in self._mood.known if fault in AT_CALLS]
        if not drawn:
            return None
        (fault,) = self._chance.choices(drawn, [AT_CALLS[fault] for fault in drawn])
        return fault

    def happens(self, fault: Fault, rate: float) -> bool:
        """Whether it happens on this occasion; counted if so."""
        if not self.knows(fault) or self._chance.random() >= rate:
            return False
        self.note(fault)
        return True

    def note(self, fault: Fault) -> None:
        """It has happened."""
        self.fired[fault] += 1


def parse_faults(names: Iterable[str]) -> frozenset[Fault]:
    """The faults of these names; `all` and `none` are names, and `-NAME` takes one away. Raises UnknownFault."""
    chosen: set[Fault] = set()
    for number, name in enumerate(names):
        if name in ("all", "none"):
            chosen = set(EVERY) if name == "all" else set()
            continue
        bare = name.removeprefix("-")
        try:
            fault = Fault(bare)
        except ValueError:
            known = ", ".join(["all", "none", *Fault])
            raise UnknownFault(f"there is no fault {bare!r}; known are {known}") from None
        if name.startswith("-"):
            chosen = chosen or (set(EVERY) if number == 0 else chosen)
            chosen.discard(fault)
        else:
            chosen.add(fault)
    return frozenset(chosen)
