"""Faults by chance, reproducibly: what happens to an order depends on the seed and the order's tag alone."""

from decimal import Decimal
from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import fields

from brokers.paper.plan import (
    NEVER,
    SESSION_EXPIRED,
    THROTTLED,
    ChangeFault,
    Lost,
    NoFaults,
    Plan,
    Portion,
    Rejection,
    Script,
)
from brokers.port import NotPlaced
from domain.values import SECOND, Duration, OrderRequest

__all__ = ["PlanError", "Rates", "SeededPlan", "parse_plan"]


class PlanError(ValueError):
    """The text is not a plan; the message names the part and what may stand there."""


class Rates(Struct, frozen=True, kw_only=True):
    """How probable each fault is per order. The outcomes of placing exclude each other, so they sum to at most 1."""

    throttled: float = 0
    rejected: float = 0
    """Before acceptance, curable."""
    margin: float = 0
    """Before acceptance, not curable."""
    session: float = 0
    """Before acceptance: no valid session."""
    rejected_after: float = 0
    """After acceptance, within 2 s, curable."""
    timeout_exists: float = 0
    timeout_surfaces: float = 0
    """Unanswered, and the order surfaces after a while, by default 8 to 90 s."""
    timeout_never: float = 0

    partial: float = 0
    """Two or three fills over up to 3 s."""
    rests: float = 0
    """A part fills, the remainder rests until it is modified or cancelled."""
    cancel_refused: float = 0
    cancel_filled: float = 0
    """The first cancel loses to the last fill."""
    cancel_unanswered: float = 0
    modify_refused: float = 0
    modify_unanswered: float = 0
    readings: float = 0
    """The next one to three readings of the book fail."""


_OUTCOMES = (
    "throttled", "rejected", "margin", "session", "rejected_after",
    "timeout_exists", "timeout_surfaces", "timeout_never",
)  # fmt: skip
_RATES = tuple(field.name for field in fields(Rates))


class SeededPlan:
    """Draws each order's script from (seed, tag): the same in every process, in any order of calls."""

    def __init__(
        self,
        seed: int,
        rates: Rates,
        *,
        latency: Duration = 0,
        timeout: Duration = 7 * SECOND,
        surfaces: tuple[Duration, Duration] = (8 * SECOND, 90 * SECOND),
    ) -> None:
        """Raises PlanError when a rate is not a probability or the outcomes of placing sum to more than 1."""
        for name in _RATES:
            if not 0 <= getattr(rates, name) <= 1:
                raise PlanError(f"{name} must be between 0 and 1, got {getattr(rates, name)}")
        if (total := sum(getattr(rates, name) for name in _OUTCOMES)) > 1 + 1e-9:
            raise PlanError(f"{', '.join(_OUTCOMES)} exclude each other and may sum to at most 1, got {total:g}")
        self._seed = seed
        self._rates = rates
        self._latency = latency
        self._timeout = timeout
        self._surfaces = surfaces

    def for_order(self, request: OrderRequest, n: int) -> Script:
        dice = _Dice(self._seed, request.tag)
        return Script(
            latency=self._latency,
            **self._outcome(dice),  # type: ignore[arg-type]  # a dict of Script's own fields
            **self._filling(dice),  # type: ignore[arg-type]
            cancels=self._cancels(dice),
            modifies=self._modifies(dice),
            failed_readings=dice.integer("readings.n", 1, 3) if dice.falls("readings", self._rates.readings) else 0,
        )

    def _outcome(self, dice: "_Dice") -> dict[str, object]:
        match dice.choose("outcome", [(name, getattr(self._rates, name)) for name in _OUTCOMES]):
            case "throttled":
                return {"refuse": THROTTLED}
            case "rejected":
                return {"refuse": NotPlaced(reason="EXCHANGE_BUSY", curable=True, text="Try again later.")}
            case "margin":
                return {"refuse": NotPlaced(reason="MARGIN", curable=False, text="Insufficient funds.")}
            case "session":
                return {"refuse": SESSION_EXPIRED}
            case "rejected_after":
                after = dice.integer("rejected_after.after", 0, 2 * SECOND)
                return {"reject": Rejection(reason="EXCHANGE_BUSY", curable=True, after=after, text="Try again later.")}
            case "timeout_exists":
                return {"lost": Lost(surfaces=0, timeout=self._timeout)}
            case "timeout_surfaces":
                surfaces = dice.integer("timeout_surfaces.after", *self._surfaces)
                return {"lost": Lost(surfaces=surfaces, timeout=self._timeout)}
            case "timeout_never":
                return {"lost": Lost(surfaces=None, timeout=self._timeout)}
        return {}

    def _filling(self, dice: "_Dice") -> dict[str, object]:
        first = Portion(Decimal(dice.integer("fills.first", 10, 70)) / 100)
        if dice.falls("rests", self._rates.rests):
            return {"fills": (first,), "rest": NEVER}
        if not dice.falls("partial", self._rates.partial):
            return {}
        fills: tuple[Portion, ...] = (first,)
        if dice.falls("fills.three", 0.5):
            fills = (first, Portion(Decimal("0.2"), dice.integer("fills.after", 100_000, SECOND)))
        return {"fills": fills, "rest": dice.integer("fills.rest", 100_000, 2 * SECOND)}

    def _cancels(self, dice: "_Dice") -> tuple[ChangeFault, ...]:
        if dice.falls("cancel_filled", self._rates.cancel_filled):
            return (ChangeFault.FILLED,)
        if dice.falls("cancel_refused", self._rates.cancel_refused):
            return (ChangeFault.REFUSED,)
        return dice.lost("cancel_unanswered", self._rates.cancel_unanswered)

    def _modifies(self, dice: "_Dice") -> tuple[ChangeFault, ...]:
        if dice.falls("modify_refused", self._rates.modify_refused):
            return (ChangeFault.REFUSED,)
        return dice.lost("modify_unanswered", self._rates.modify_unanswered)


class _Dice:
    """Independent draws, each named; none depends on how many were made before it, nor on PYTHONHASHSEED."""

    def __init__(self, seed: int, tag: str) -> None:
        self._seed = f"{seed}\0{tag}\0"

    def draw(self, name: str) -> float:
        digest = blake2b((self._seed + name).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    def falls(self, name: str, rate: float) -> bool:
        return self.draw(name) < rate

    def integer(self, name: str, low: int, high: int) -> int:
        """Uniform in low … high, both included."""
        return low + int(self.draw(name) * (high - low + 1))

    def choose(self, name: str, rates: list[tuple[str, float]]) -> str | None:
        left = self.draw(name)
        for choice, rate in rates:
            if left < rate:
                return choice
            left -= rate
        return None

    def lost(self, name: str, rate: float) -> tuple[ChangeFault, ...]:
        if not self.falls(name, rate):
            return ()
        return (ChangeFault.LOST_DONE if self.falls(f"{name}.done", 0.5) else ChangeFault.LOST_IGNORED,)


# --- a plan in one line ----------------------------------------------------------------------------------------------

_UNITS = {"us": 1, "ms": 1_000, "s": SECOND}
_DURATIONS = ("latency", "timeout")


def parse_plan(text: str) -> Plan:
    """Reads `"seed=7,latency=5ms,partial=0.1,timeout_exists=0.02"`. Empty or `"none"`: no faults. Raises PlanError."""
    seed = 0
    durations: dict[str, Duration] = {}
    rates: dict[str, float] = {}
    given: set[str] = set()
    for part in [] if text.strip() in {"", "none"} else text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise PlanError(f"plan {text!r}: {part.strip()!r} is not NAME=VALUE")
        if name in given:
            raise PlanError(f"plan {text!r}: {name} is given twice")
        given.add(name)
        if name == "seed":
            seed = _seed(text, value)
        elif name in _DURATIONS:
            durations[name] = _duration(text, name, value)
        elif name in _RATES:
            rates[name] = _rate(text, name, value)
        else:
            raise PlanError(f"plan {text!r}: unknown name {name!r}; known are seed, {', '.join(_DURATIONS + _RATES)}")
    if not rates:
        return NoFaults(durations.get("latency", 0))
    latency, timeout = durations.get("latency", 0), durations.get("timeout", 7 * SECOND)
    return SeededPlan(seed, Rates(**rates), latency=latency, timeout=timeout)


def _seed(text: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise PlanError(f"plan {text!r}: seed must be a whole number, got {value!r}") from None


def _rate(text: str, name: str, value: str) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = -1
    if not 0 <= rate <= 1:
        raise PlanError(f"plan {text!r}: {name} must be a probability between 0 and 1, got {value!r}")
    return rate


def _duration(text: str, name: str, value: str) -> Duration:
    for unit, factor in _UNITS.items():
        number = value.removesuffix(unit)
        if number != value and number.isdecimal():
            return int(number) * factor
    raise PlanError(f"plan {text!r}: {name} must be a duration such as 250us, 5ms or 7s, got {value!r}")
