"""A short trading day in one process, for what wants to see all of it: the drill's engine, on a clock turned by hand.

A quarter of an hour of a market that falls, a few strategies, a broker with faults. Deterministic but for ids.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import time, timedelta
from decimal import Decimal
from functools import partial
from typing import Final

from msgspec import Struct
from pydantic import SecretStr

from bahi.drill.engine import ROLES, Engine, open_engine
from bahi.drill.plan import DATE, PAPER_PLAN
from bahi.drill.stage import Stage
from bahi.settings import Settings
from domain.calendar import load_nse
from domain.commands import decide_stop
from domain.decide import Decision
from domain.facts import Facts
from domain.strategy import State
from domain.values import MINUTE, SECOND, Config, Duration, Instant, Product, Tick
from eventstore.errors import LogLost
from handlers.decider import Wake, decided, take_turn
from handlers.desk import NoStrategy

__all__ = ["GoldenDay", "Seen", "draw_golden", "play_from"]

SYMBOLS: Final[Mapping[str, Decimal]] = {"NSE:INFY": Decimal(1510), "NSE:SBIN": Decimal(955)}
STRATEGIES: Final = 3
EVERY: Final[Duration] = 40 * SECOND
"""Between two ticks of a symbol."""
TICKS: Final = 23
AFTERMATH: Final[Duration] = 30 * MINUTE
"""How long the day goes on after its last tick, and after a start: for orders whose fate is not known yet."""
OPENINGS: Final = 20
"""A log that is lost again and again while it is opened is no incident but a defect."""
Seen = Callable[[Engine], Awaitable[None]]
"""Called after everything that can be done at a time was done."""


class GoldenDay(Struct, frozen=True):
    """`ends` is when the user of which strategy ends it. The day is over at `until`."""

    begins: Instant
    strategies: list[Config]
    ticks: list[tuple[Instant, list[Tick]]]
    ends: tuple[Instant, int]
    until: Instant


def draw_golden(seed: int, strategies: int = STRATEGIES) -> GoldenDay:
    """The same for the same seed."""
    session = load_nse().session_on(DATE)
    if session is None:
        raise ValueError(f"{DATE} has no session")
    rng, at, prices = random.Random(f"prove/golden/{seed}"), session.open_at, dict(SYMBOLS)
    ticks: list[tuple[Instant, list[Tick]]] = []
    for number in range(TICKS):
        when = at + number * EVERY
        for symbol in SYMBOLS:
            prices[symbol] += Decimal(rng.randint(-20, 16)) * Decimal("0.05")
        ticks.append((when, [Tick(symbol, price, when, 100 * (number + 1)) for symbol, price in prices.items()]))
    drawn = []
    for number in range(strategies):
        symbol, bought = rng.choice(sorted(SYMBOLS)), at + MINUTE + rng.choice((0, 0, 40)) * SECOND
        near = number % 2 == 1
        drawn.append(
            Config(
                symbol=symbol,
                quantity=rng.choice((5, 10, 25)),
                buy_time=_wall(bought),
                sell_time=_wall(bought + rng.randint(4, 8) * MINUTE),
                stop_loss=SYMBOLS[symbol] - (Decimal("0.05") * rng.randint(20, 60) if near else Decimal(200)),
                product=Product.MIS if number % 3 else Product.CNC,
            )
        )
    ends = at + rng.randint(3, 5) * MINUTE, rng.randrange(strategies) + 1
    return GoldenDay(at, drawn, ticks, ends, at + TICKS * EVERY + AFTERMATH)


async def play_from(
    stage: Stage,
    seed: int,
    day: GoldenDay,
    at: Instant,
    *,
    archives: Callable[[], bool],
    seen: Seen,
    anew: bool = False,
) -> None:
    """Opens the engine at this time, with whatever recovery that takes, and plays the rest of the day. `anew`: from the
    beginning, its strategies are created first. `archives`: whether the archive catches up at a step.

    A log that is lost is opened anew, as every process does; raises LogLost when that does not help.
    """
    settings = Settings.load(
        home=stage.home,
        redis_url=SecretStr(stage.redis.url),
        database_url=SecretStr(stage.postgres.url),
        calendar="nse",
        paper_plan=PAPER_PLAN.format(seed=seed),
        http_port=0,
        archive_patience=timedelta(seconds=0.2),
    )
    for number in range(OPENINGS):
        try:
            async with open_engine(settings, at, [role for role in ROLES if role != "api"]) as engine:
                await seen(engine)
                if anew:
                    users = stage.users
                    await engine.create(
                        [(number, users[number % len(users)], each) for number, each in enumerate(day.strategies, 1)]
                    )
                    # whoever was told that a strategy is there was told so when the archive had it
                    await engine.settle(at, archive=True)
                await _Play(engine, day, archives, seen).play()
                return
        except LogLost:
            if number == OPENINGS - 1:
                raise


class _Play:
    def __init__(self, engine: Engine, day: GoldenDay, archives: Callable[[], bool], seen: Seen) -> None:
        self._engine = engine
        self._day = day
        self._archives = archives
        self._seen = seen

    async def play(self) -> None:
        engine, day = self._engine, self._day
        began = engine.clock.now()
        await self._settle(began)
        todo: list[tuple[Instant, Callable[[], Awaitable[object]]]] = [(day.ends[0], self._end)]
        todo += [(at, partial(engine.ticks, at, batch)) for at, batch in day.ticks]
        for at, work in sorted(todo, key=lambda each: each[0]):
            if at >= began:
                await self._until(at)
                await work()
        await self._until(max(day.until, began + AFTERMATH))
        await self._settle(engine.clock.now(), archive=True)

    async def _until(self, at: Instant) -> None:
        """Moves on to `at`, stopping wherever something is due."""
        due = await self._settle(self._engine.clock.now())
        while due is not None and due <= at:
            due = await self._settle(due)
        self._engine.clock.set(max(at, self._engine.clock.now()))

    async def _settle(self, at: Instant, *, archive: bool = False) -> Instant | None:
        """When time alone next brings something."""
        rest = await self._engine.settle(max(at, self._engine.clock.now()), archive=False)
        if archive or (rest.done and self._archives()):
            await self._engine.archive()
        await self._seen(self._engine)
        return rest.due

    async def _end(self) -> None:
        """The user ends a strategy, if it was created."""

        def decide(state: State, _: Facts) -> Decision | None:
            events = decide_stop(state, square_off=True) if state.symbol else ()
            return decided(state, list(events)) if events else None

        with suppress(NoStrategy):
            await take_turn(self._engine.house.desks[0], self._day.ends[1], decide, Wake())


def _wall(at: Instant) -> time:
    return load_nse().wall(at).time().replace(tzinfo=None, microsecond=0)
