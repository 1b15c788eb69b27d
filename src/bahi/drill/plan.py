"""What happens on the day of a drill: the market, the strategies, and what users do meanwhile. All from a seed."""

import datetime as dt
import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from domain.calendar import load_nse
from domain.values import MINUTE, SECOND, Config, Duration, Instant, Product, Tick
from simulation.market import DEFAULT_SYMBOLS, generate_day
from simulation.plan import Market

__all__ = ["DATE", "PAPER_PLAN", "STRATEGIES", "USERS", "Action", "DayPlan", "draw_day"]

DATE: Final = dt.date(2026, 6, 15)
"""A Monday with a regular session."""
SYMBOLS: Final = ("NSE:INFY", "NSE:TCS", "NSE:SBIN", "NSE:ITC", "NSE:RELIANCE", "NSE:TATASTEEL")
TICKS: Final = 1_500
"""Of each symbol."""
WINDOW: Duration = 30 * SECOND
"""Ticks come together so often."""
USERS: Final = 3
STRATEGIES: Final = 36
"""That are armed before the day begins. Users create a few more."""
BUSY: Final = 9
"""Moments of the day at which several strategies are due at once."""
PAPER_PLAN: Final = (
    "seed={seed},latency=300ms,partial=0.25,rests=0.05,rejected=0.03,rejected_after=0.03,throttled=0.02,"
    "timeout_exists=0.03,timeout_surfaces=0.02,timeout_never=0.02,cancel_refused=0.1,cancel_filled=0.1,"
    "cancel_unanswered=0.1,modify_refused=0.1,modify_unanswered=0.1,readings=0.03"
)
"""What goes wrong at the broker meanwhile, and that it takes its time: so that death finds orders on their way."""


class Action(Struct, frozen=True):
    """A user's request over REST. `strategy` is the number of a strategy of the plan, or, negative, of one that the
    user creates in the course of the day (−1 the first)."""

    at: Instant
    user: int
    what: str
    strategy: int | None = None
    body: dict[str, Any] = {}


class DayPlan(Struct, frozen=True):
    """`strategies` are (number of the user, config); `batches` the market's ticks."""

    open_at: Instant
    close_at: Instant
    strategies: list[tuple[int, Config]]
    actions: list[Action]
    batches: list[tuple[Instant, list[Tick]]]


def draw_day(seed: int, strategies: int = STRATEGIES) -> DayPlan:
    """The same for the same seed and number of strategies."""
    calendar = load_nse()
    session = calendar.session_on(DATE)
    if session is None:
        raise ValueError(f"{DATE} has no session")
    rng = random.Random(f"drill/{seed}")
    opening = {symbol: DEFAULT_SYMBOLS[symbol] for symbol in SYMBOLS}
    ticks = generate_day(DATE, opening, seed, ticks_per_symbol=TICKS, session=session)
    batches = list(_batches(ticks, session.open_at))
    market = Market(session, opening, TICKS * len(SYMBOLS))
    busy = [session.open_at + rng.randint(3, 300) * MINUTE for _ in range(BUSY)]
    armed = [(number % USERS, _strategy(rng, market, rng.choice(busy))) for number in range(strategies)]
    return DayPlan(session.open_at, session.close_at, armed, list(_actions(rng, market, armed)), batches)


def _batches(ticks: Iterator[Tick], first: Instant) -> Iterator[tuple[Instant, list[Tick]]]:
    """What comes within a window, at its end."""
    gathered: list[Tick] = []
    until = first
    for tick in ticks:
        if tick.at >= until:
            if gathered:
                yield until, gathered
            gathered = []
            until = first + ((tick.at - first) // WINDOW + 1) * WINDOW
        gathered.append(tick)
    if gathered:
        yield until, gathered


def _strategy(rng: random.Random, market: Market, bought: Instant) -> Config:
    symbol = rng.choice(SYMBOLS)
    latest = market.session.close_at - 20 * MINUTE
    sold = min(latest, bought + rng.randint(5, 150) * MINUTE)
    stop = market.opening[symbol] * (1 - Decimal(rng.randint(0, 150)) / 10_000)
    return Config(
        symbol=symbol,
        quantity=rng.choice((1, 5, 10, 25, 100)),
        buy_time=_wall(bought),
        sell_time=_wall(max(sold, bought + MINUTE)),
        stop_loss=(stop / Decimal("0.05")).quantize(Decimal(1)) * Decimal("0.05"),
        product=rng.choice((Product.MIS, Product.MIS, Product.CNC)),
    )


def _actions(rng: random.Random, market: Market, strategies: Sequence[tuple[int, Config]]) -> Iterator[Action]:
    """In the order of their times."""
    session, found = market.session, []
    for number in range(1, 7):  # created and started in the course of the day
        at = session.open_at + rng.randint(1, 280) * MINUTE + rng.randint(1, 59) * SECOND
        user = rng.randrange(USERS)
        config = _strategy(rng, market, at + rng.randint(2, 4) * MINUTE)
        found += [
            Action(at, user, "create", -number, _body(config)),
            Action(at + 5 * SECOND, user, "start", -number),
        ]
    for _ in range(4):
        number = rng.randrange(len(strategies))
        at = session.open_at + rng.randint(10, 320) * MINUTE
        found.append(Action(at, number % USERS, "stop", number, {"square_off": rng.random() < 0.7}))
    for _ in range(4):
        number = rng.randrange(len(strategies))
        at = session.open_at + rng.randint(10, 320) * MINUTE
        user, config = strategies[number]
        lower = config.stop_loss - rng.randint(1, 60) * Decimal("0.05")
        found.append(Action(at, user, "update", number, {"stop_loss": float(lower)}))
    halted = session.open_at + rng.randint(60, 240) * MINUTE
    user = rng.randrange(USERS)
    found += [Action(halted, user, "halt"), Action(halted + 10 * MINUTE, user, "resume")]
    yield from sorted(found, key=lambda action: action.at)


def _body(config: Config) -> dict[str, Any]:
    return {
        "symbol": config.symbol,
        "quantity": config.quantity,
        "buy_time": config.buy_time.isoformat(),
        "sell_time": config.sell_time.isoformat(),
        "stop_loss": float(config.stop_loss),
        "product": str(config.product),
    }


def _wall(at: Instant) -> dt.time:
    return load_nse().wall(at).time().replace(tzinfo=None, microsecond=0)
