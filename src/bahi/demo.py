"""The demonstration: a fresh house, users with strategies, one trading day through the engine, and what came of it."""

import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from msgspec import Struct

from api.security.box import SecretBox
from bahi.clock import SystemClock
from bahi.database.accounts import SqlAccounts
from bahi.database.instruments import SqlInstruments
from bahi.database.readings import SqlReadings
from bahi.database.users import SqlUsers
from bahi.seal_keys import SqlSealKeys
from bahi.settings import Settings
from bahi.telemetry.metrics import MarketMetrics, TickToOrder
from bahi.users import create_user
from bahi.wiring import House, open_house
from brokers.kite.login import KiteLogin
from domain.calendar import Calendar
from domain.events import (
    Event,
    Intent,
    OrderDenied,
    OrderFinalized,
    OrderRejected,
    StrategyCreated,
    StrategyExited,
    StrategyStartRequested,
    UserRegistered,
)
from domain.strategy import evolve, initial
from domain.values import MINUTE, Config, Exit, Final, Instant, Tick
from eventstore.envelope import NewEvent
from eventstore.sealing import Sealing
from handlers.decider import Wake, decided, take_turn
from projections.live import live_states
from projections.projector import Projector
from projections.replay import replay_states
from projections.runtime import differences, encode_change
from simulation.clock import VirtualClock
from simulation.day import Day, PaperVenue, Venue
from simulation.kite.instruments import SimInstrument
from simulation.kite.limits import SimLimits
from simulation.kite.server import Server, serve
from simulation.kite.sim import KiteSim
from simulation.kite.venue import KiteVenue
from simulation.plan import Market, draw_strategies

__all__ = ["At", "Orders", "Quantiles", "Summary", "run_demo"]

USERS = 5
ANSWER = timedelta(seconds=5)
"""How long a call to the simulated Kite may take, in real time."""

At = Literal["paper", "kite-sim"]


class Orders(Struct, frozen=True):
    placed: int
    filled: int
    rejected: int
    denied: int


class Quantiles(Struct, frozen=True):
    p50: float | None
    p99: float | None


class Summary(Struct, frozen=True, kw_only=True):
    """What `bahi demo --json` ends with."""

    session_date: str
    strategies: int
    events: int
    ticks: int
    orders: Orders
    stoplosses: int
    sells: int
    tick_to_order_ms: Quantiles
    replay_equal: bool
    positions_gapless: bool
    duration_seconds: float
    home: Path
    faults: list[str] = []


async def run_demo(
    settings: Settings,
    calendar: Calendar,
    market: Market,
    ticks: Iterable[Tick],
    *,
    strategies: int,
    seed: int,
    progress: Callable[[Instant, int], None],
    at: At = "paper",
) -> Summary:
    """Lives through the day in `settings.home` and checks that replaying the log gives exactly the live state.

    At `kite-sim` every order goes over HTTP and every tick over a WebSocket, to a simulated Kite and from it.
    """
    begun = time.perf_counter()
    clock = VirtualClock(market.session.open_at - 30 * MINUTE)
    latencies: list[float] = []
    stopwatch = TickToOrder(latencies.append)
    async with AsyncExitStack() as stack:
        kite = None
        if at == "kite-sim":
            kite = await stack.enter_async_context(_simulated_kite(clock, calendar, market))
            settings = settings.model_copy(
                update={
                    "kite_root": kite.server.root,
                    "kite_ws_root": kite.server.ws_root,
                    "feed": "kite",
                    "request_timeout": ANSWER,
                }
            )
        house = await stack.enter_async_context(
            open_house(settings, clock=clock, calendar=calendar, tick_to_order=stopwatch, limit_reads=kite is None)
        )
        users = await _register(house)
        venue: Venue
        if kite is None:
            await _open_paper(house, users)
            venue = PaperVenue(house.exchange)
        else:
            venue = await stack.enter_async_context(_open_kite(house, users, kite))
        configs = draw_strategies(market, strategies, seed, calendar, house.policy.mis_cutoff)
        projector = Projector(
            house.logs[0], house.engine, clock, sealing=Sealing(0, SqlSealKeys(SecretBox(house.keys)))
        )
        day = Day(
            house.desks[0],
            clock,
            venue,
            archive=projector.step,
            observer=MarketMetrics(house.metrics, stopwatch),
        )
        await day.begin()
        for number, config in enumerate(configs):
            await _create(house, users[number % len(users)], config)
        await day.settle()
        seen = await day.play(ticks, progress)
        await day.finish()
        await projector.step()
        await projector.seal(rest=True)
        faults = await _compare(house)
        tally = await _tally(house)
        return Summary(
            session_date=market.session.date.isoformat(),
            strategies=len(configs),
            events=await house.logs[0].last_position(),
            ticks=seen,
            orders=tally.orders,
            stoplosses=tally.exits[Exit.STOPLOSS],
            sells=tally.exits[Exit.SELL],
            tick_to_order_ms=_quantiles(latencies),
            replay_equal=not faults,
            positions_gapless=tally.gapless,
            duration_seconds=round(time.perf_counter() - begun, 2),
            home=settings.home,
            faults=faults[:10],
        )


async def _register(house: House) -> list[int]:
    """Users. Their passwords are random and nobody's."""

    async def record(user_id: int, event: UserRegistered) -> None:
        await house.logs[0].append([NewEvent(event, user_id=user_id)])

    users = []
    token = secrets.token_hex(4)
    for number in range(1, USERS + 1):
        user_id = await create_user(
            SqlUsers(house.engine),
            record,
            email=f"trader{number}.{token}@example.com",
            password=secrets.token_urlsafe(24),
            role="trader",
        )
        users.append(user_id)
    return users


async def _open_paper(house: House, users: Sequence[int]) -> None:
    accounts = SqlAccounts(house.engine, SecretBox(house.keys))
    for user_id in users:
        await accounts.connect(
            user_id,
            broker="paper",
            broker_user_id=f"PAPER-{user_id}",
            credentials={},
            fingerprint="demo",
            egress_proxy=None,
        )


class _Kite(NamedTuple):
    sim: KiteSim
    server: Server


@asynccontextmanager
async def _simulated_kite(clock: VirtualClock, calendar: Calendar, market: Market) -> AsyncIterator[_Kite]:
    """A Kite that lists what the market trades. Readings are not limited: a day of them takes seconds."""
    listed = [SimInstrument(symbol=each, exchange_token=n) for n, each in enumerate(sorted(market.opening), start=1)]
    sim = KiteSim(clock, instruments=listed, calendar=calendar, limits=SimLimits(others_per_second=None))
    async with serve(sim, beat=SystemClock()) as server:
        yield _Kite(sim, server)


@asynccontextmanager
async def _open_kite(house: House, users: Sequence[int], kite: _Kite) -> AsyncIterator[KiteVenue]:
    """Logs the users in, as the REST application does, and fetches the instruments."""
    login = KiteLogin(house.kite.address, house.clock)
    accounts = SqlAccounts(house.engine, SecretBox(house.keys))
    for user_id in users:
        name, key, secret = f"DEMO{user_id:04}", f"key{user_id}", f"secret{user_id}"
        kite.sim.register(name, api_key=key, api_secret=secret)
        token = kite.sim.login(name)
        done = await login.authenticate(user_id, {"api_key": key, "api_secret": secret, "request_token": token})
        await accounts.connect(
            user_id,
            broker="kite",
            broker_user_id=done.broker_user_id,
            credentials=done.credentials,
            fingerprint="demo",
            egress_proxy=None,
            expires_at=done.expires_at,
        )
    assert house.catalogue is not None  # noqa: S101 (the feed is Kite's)
    today = house.calendar.wall(house.clock.now()).date()
    await SqlInstruments(house.engine).store(await house.kite.download("NSE"), ["NSE"], day=today, at=house.clock.now())
    await house.catalogue.load()
    venue = KiteVenue(kite.sim, kite.server, house.kite.feed_account, house.kite.address, SystemClock())
    async with venue.listening():
        yield venue


async def _create(house: House, user_id: int, config: Config) -> None:
    """A strategy written down and asked to start, as the REST application does it."""
    strategy_id = await SqlReadings(house.engine).next_strategy_id()
    before = initial(strategy_id, user_id)
    created = StrategyCreated(config=config)
    write = encode_change(initial(strategy_id), evolve(before, created), None)
    desk = house.desks[0]
    await desk.log.append([NewEvent(created, strategy_id, user_id)], expected=0, runtime=write)
    await take_turn(desk, strategy_id, lambda state, _: decided(state, [StrategyStartRequested()]), Wake())


async def _compare(house: House) -> list[str]:
    """Where replaying the log does not give the live state."""
    replayed = await replay_states(house.logs[0])
    _, live, corrupt = await live_states(house.logs[0])
    faults = [f"strategy {strategy_id}: {why}" for strategy_id, why in corrupt.items()]
    if replayed.keys() != {state.id for state in live}:
        faults.append(f"the log has {len(replayed)} strategies, the runtime {len(live)}")
    for state in live:
        for field, (was, now) in differences(replayed.get(state.id, initial()), state).items():
            faults.append(f"strategy {state.id}, {field}: replay {was!r}, live {now!r}")
    return faults


class _Tally(Struct):
    orders: Orders
    exits: Counter[Exit]
    gapless: bool


async def _tally(house: House) -> _Tally:
    """Counts the log."""
    kinds: Counter[str] = Counter()
    exits: Counter[Exit] = Counter()
    expected = 0
    gapless = True
    async for recorded in house.logs[0].read():
        expected += 1
        gapless = gapless and recorded.position == expected
        kinds[_kind(recorded.event)] += 1
        if isinstance(recorded.event, StrategyExited):
            exits[recorded.event.reason] += 1
    return _Tally(Orders(kinds["placed"], kinds["filled"], kinds["rejected"], kinds["denied"]), exits, gapless)


def _kind(event: Event) -> str:
    match event:
        case Intent():
            return "placed"
        case OrderFinalized(final=Final.COMPLETE):
            return "filled"
        case OrderRejected():
            return "rejected"
        case OrderDenied():
            return "denied"
        case _:
            return ""


def _quantiles(seconds: list[float]) -> Quantiles:
    """In milliseconds; None for none."""
    ordered = sorted(seconds)

    def at(share: float) -> float | None:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3) if ordered else None

    return Quantiles(at(0.5), at(0.99))
