"""A round of the campaign: some minutes of trading at a Kite that fails, with workers that die.

Everything but time is real: the log on a Redis, the handlers, the adapter, HTTP on a socket. Users come back when their
session has died, stop what they want to stop, and square off what an aborted strategy left them with.
"""

import datetime as dt
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Final

from msgspec import Struct

from bahi.clock import SystemClock
from brokers.instruments import InstrumentTable
from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.broker import KiteBroker
from brokers.kite.brokers import KiteBrokers
from brokers.port import BookStatus, Instrument, Trade
from domain.calendar import load_nse
from domain.events import StrategyCreated, StrategyStartRequested, StrategyStopRequested
from domain.facts import Policy
from domain.strategy import State, evolve, initial
from domain.tags import parse_tag
from domain.values import MINUTE, SECOND, Config, Instant, Product, Quantity, Side, Tick
from eventstore.envelope import NewEvent, Recorded
from eventstore.open import open_log
from handlers.decider import Wake, decided, take_turn
from handlers.desk import Desk
from projections.live import live_states
from projections.runtime import DEFAULTS, encode_change
from simulation.clock import VirtualClock
from simulation.crashes import Crashes, MortalCrew
from simulation.day import Day, NoFeed, Venue
from simulation.invariants import Checker, Violations
from simulation.kite.faults import Fault, SeededFaults
from simulation.kite.instruments import SimInstrument
from simulation.kite.limits import SimLimits
from simulation.kite.orders import OrderStatus, SimOrder
from simulation.kite.server import Server, serve
from simulation.kite.sim import KiteSim
from simulation.kite.tally import Tally, tally
from simulation.kite.venue import KiteVenue
from sources.feeds.port import Feed

__all__ = ["Plan", "Round"]

DATE: Final = dt.date(2026, 6, 15)
OPENS: Final = dt.time(10)
TRADED: Final = 6 * MINUTE
"""While entries and exits are due."""
WATCHED: Final = 14 * MINUTE
"""How long the market goes on at least: quarantines end, users come back."""
AT_MOST: Final = 60 * MINUTE
"""How long it goes on while anybody holds shares or has an order."""
SQUARE_OFF: Final = 2 * MINUTE
"""How often people look whether an aborted strategy left them with shares, and want them sold."""
SYMBOLS: Final = {f"NSE:SIM{n}": Decimal(100 * n) for n in range(1, 9)}
BACK_AFTER: Final = 45 * SECOND
"""How long a user whose session died is away."""
TIMEOUT: Final = 0.2
"""Seconds of real time that a call may take."""
STREAM_WITHIN: Final = 0.1
"""Seconds of real time that a batch of ticks may take, when the stream has faults."""


class Plan(Struct, frozen=True, kw_only=True):
    """How big a round is and how much goes wrong. `deaths`: the share of orders that each point of death strikes."""

    users: int = 4
    strategies: int = 40
    rates: Mapping[Fault, float] = {}
    deaths: float = 0.0
    skewed: bool = False
    """The server's clock is off by up to 5 s."""
    streamed: bool = False
    """Ticks come over the stream, with its faults, instead of reaching the engine at once."""


class Round:
    """One seed's round, on an empty Redis."""

    def __init__(self, redis_url: str, seed: int, plan: Plan) -> None:
        self._redis_url = redis_url
        self._seed = seed
        self._plan = plan
        self._rng = random.Random(f"round/{seed}")
        self._calendar = load_nse()
        self._opened_at = self._calendar.instant(DATE, OPENS)
        self.clock = VirtualClock(self._opened_at - MINUTE)
        self.crashes = Crashes(seed, plan.deaths)
        self.records: list[Recorded] = []
        self.violations: list[str] = []

    async def play(self) -> Tally:
        """Raises what the engine raises; what does not hold is in the tally and in `violations`."""
        async with AsyncExitStack() as stack:
            sim, server = await stack.enter_async_context(self._kite())
            sessions = _Sessions(sim, self.clock, range(1, self._plan.users + 1))
            brokers = self._brokers(sim, server, sessions)
            stack.push_async_callback(brokers.aclose)
            desk = await self._open_desk("day", brokers, sim)
            stack.push_async_callback(desk.log.aclose)
            crew = MortalCrew(self.clock, self.crashes, lambda name: self._open_desk(name, brokers, sim))
            await crew.begin()
            stack.push_async_callback(crew.aclose)
            venue: Venue = _Venue(sim)
            if self._plan.streamed:
                address = KiteAddress(root=server.root, ws_root=server.ws_root)
                kite = KiteVenue(sim, server, sessions.anybody, address, SystemClock(), faulty=STREAM_WITHIN)
                await stack.enter_async_context(kite.listening())
                venue = kite
            day = Day(desk, self.clock, venue, archive=_no_archive, crew=crew)
            await day.begin()
            for strategy_id in range(1, self._plan.strategies + 1):
                await self._create(desk, strategy_id)
            await day.settle()
            users = _Users(desk, sessions, self._rng, self._opened_at, self._plan.strategies)
            async for batch in self._market(users):
                await day.play(batch)
            await day.finish()
            self.records = [record async for record in desk.log.read()]
            await self._check(desk, sim)
            counted = tally(self.records, sim.accounts.values(), self.crashes.struck, skew=sim.skew)
            counted.fired.update({fault.value: count for fault, count in sim.fired.items()})
            counted.fired.update({point.value: count for point, count in self.crashes.fired.items()})
            return counted

    # --- the world ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _kite(self) -> AsyncIterator[tuple[KiteSim, Server]]:
        listed = [
            SimInstrument(symbol=symbol, exchange_token=n, close=price)
            for n, (symbol, price) in enumerate(SYMBOLS.items(), start=1)
        ]
        limits = SimLimits(quotes_per_second=None, others_per_second=None)  # no window of readings fits this clock
        plan = SeededFaults(self._seed, self._plan.rates)
        sim = KiteSim(self.clock, instruments=listed, plan=plan, limits=limits, calendar=self._calendar)
        if self._plan.skewed:
            sim.skew = self._rng.randint(-5 * SECOND, 5 * SECOND)
            sim.fired[Fault.F21_CLOCK_SKEW] += 1
        async with serve(sim, beat=SystemClock()) as server:
            yield sim, server

    def _brokers(self, sim: KiteSim, server: Server, sessions: "_Sessions") -> KiteBrokers:
        address = KiteAddress(root=server.root, ws_root=server.ws_root, timeout=TIMEOUT)
        instruments = _tradable(sim)

        def make(account: KiteAccount) -> KiteBroker:
            return KiteBroker(
                account,
                address,
                clock=self.clock,
                instruments=instruments,
                gate=_ungated,
                refused=sessions.expire,
                hints=_no_hints,
            )

        return KiteBrokers(sessions, make)

    async def _open_desk(self, name: str, brokers: KiteBrokers, sim: KiteSim) -> Desk:
        log = await open_log(
            self._redis_url,
            clock=self.clock,
            defaults=DEFAULTS,
            writer=name,
            allow_weak=True,
            random=self._name,
        )
        return Desk(
            log=log,
            clock=self.clock,
            calendar=self._calendar,
            policy=Policy(),
            instruments=_tradable(sim),
            brokers=brokers,
            known={},
        )

    def _name(self, length: int) -> str:
        """The same log in every run of a seed, so that its tags are."""
        return f"{self._seed:0{length}d}"[-length:]

    async def _create(self, desk: Desk, strategy_id: int) -> None:
        user_id = 1 + strategy_id % self._plan.users
        rng = self._rng
        symbol = rng.choice(sorted(SYMBOLS))
        bought = dt.datetime.combine(DATE, OPENS) + dt.timedelta(seconds=rng.randint(5, 90))
        sold = bought + dt.timedelta(seconds=rng.randint(30, 240))
        stop = SYMBOLS[symbol] * (1 - Decimal(rng.randint(10, 120)) / 10_000)
        config = Config(
            symbol=symbol,
            quantity=rng.choice((1, 2, 10, 25)),
            buy_time=bought.time(),
            sell_time=sold.time(),
            stop_loss=(stop / Decimal("0.05")).quantize(Decimal(1)) * Decimal("0.05"),
            product=rng.choice((Product.MIS, Product.MIS, Product.CNC)),
        )
        created = StrategyCreated(config=config)
        before = initial(strategy_id, user_id)
        write = encode_change(initial(strategy_id), evolve(before, created), None)
        await desk.log.append([NewEvent(created, strategy_id, user_id)], expected=0, runtime=write)
        await take_turn(desk, strategy_id, lambda state, _: decided(state, [StrategyStartRequested()]), Wake())

    async def _market(self, users: "_Users") -> AsyncIterator[list[Tick]]:
        """Batches of ticks; before each, people do what they do at that time."""
        prices = {symbol: int(price / Decimal("0.05")) for symbol, price in SYMBOLS.items()}
        at = self._opened_at
        while at < self._opened_at + WATCHED or (at < self._opened_at + AT_MOST and await users.wait()):
            await users.act(at)
            for symbol, start in SYMBOLS.items():
                step = max(1, int(start / Decimal("0.05")) // 1_500)
                prices[symbol] = max(1, prices[symbol] + self._rng.randint(-step, step))
            yield [Tick(symbol, price * Decimal("0.05"), at) for symbol, price in sorted(prices.items())]
            at += 2 * SECOND if at < self._opened_at + TRADED else 10 * SECOND

    # --- afterwards --------------------------------------------------------------------------------------------------

    async def _check(self, desk: Desk, sim: KiteSim) -> None:
        rows = [
            _Row(account.user_id, order)
            for account in sim.accounts.values()
            for order in account.orders
            if not order.foreign
        ]
        trades = [
            Trade(
                trade_id=trade.trade_id,
                order_id=trade.order_id,
                symbol=trade.symbol,
                side=trade.side,
                quantity=trade.quantity,
                price=trade.price,
                at=trade.at,
            )
            for account in sim.accounts.values()
            for trade in account.trades
        ]
        checker = Checker(
            self.records,
            rows,
            sorted(trades, key=lambda trade: (trade.at, trade.trade_id)),
            log_ids=desk.log.log_ids,
            accounts={_kite_id(user_id): user_id for user_id in range(1, self._plan.users + 1)},
        )
        _, states, corrupt = await live_states(desk.log)
        live = {state.id: state for state in states}
        self.violations += [f"corrupt: strategy {each}: {why}" for each, why in corrupt.items()]
        facts = {each: (await desk.look(each))[1] for each in live}
        for check in (
            checker.check,
            lambda: checker.equals_live(live),
            lambda: checker.at_rest(facts),
            checker.all_final,
            lambda: _held(states, rows, trades),
        ):
            try:
                check()
            except Violations as violation:
                self.violations.append(str(violation))


def _held(states: Sequence[State], rows: Sequence["_Row"], trades: Sequence[Trade]) -> None:
    """What each strategy thinks that it holds is what its orders traded at the broker."""
    strategy_of = {row.order_id: parts.strategy_id for row in rows if (parts := parse_tag(row.tag)) is not None}
    held: dict[int, int] = {state.id: 0 for state in states}
    for trade in trades:
        if (strategy_id := strategy_of.get(trade.order_id)) is not None:
            held[strategy_id] += trade.quantity if trade.side is Side.BUY else -trade.quantity
    for state in states:
        ours = state.open_quantity + state.surfaced
        if ours != held[state.id]:
            raise Violations(f"strategy {state.id} holds {ours}, at the broker {held[state.id]}")
        if ours > 0:
            raise Violations(f"strategy {state.id} was left with {ours} shares: {state.status} {state.exit_reason}")


class _Users:
    """People: who stops a strategy, and who comes back after a session died."""

    def __init__(self, desk: Desk, sessions: "_Sessions", rng: random.Random, begins: Instant, strategies: int) -> None:
        self._desk = desk
        self._sessions = sessions
        self._stops = {
            strategy_id: begins + rng.randint(20, 300) * SECOND
            for strategy_id in range(1, strategies + 1)
            if rng.random() < 0.08
        }
        self._square_off_at = begins + TRADED

    async def wait(self) -> bool:
        """Whether anything is still open."""
        _, states, _ = await live_states(self._desk.log)
        return any(each.alive or each.unresolved or each.lingering or each.open_quantity for each in states)

    async def act(self, now: Instant) -> None:
        self._sessions.come_back()
        for strategy_id, at in list(self._stops.items()):
            if now >= at:
                del self._stops[strategy_id]
                await self._stop(strategy_id)
        if now >= self._square_off_at:
            self._square_off_at = now + SQUARE_OFF
            _, states, _ = await live_states(self._desk.log)
            for state in states:
                if not state.alive and state.open_quantity > 0:
                    await self._stop(state.id)

    async def _stop(self, strategy_id: int) -> None:
        state, _ = await self._desk.look(strategy_id)
        if state.alive or state.open_quantity > 0:
            stop = StrategyStopRequested(square_off=True, reason="USER")
            await self._desk.log.append([NewEvent(stop, strategy_id, state.user_id)])


class _Sessions:
    """`brokers.kite.brokers.KiteSessions`: everybody is logged in, and comes back after a while when thrown out."""

    def __init__(self, sim: KiteSim, clock: VirtualClock, users: Collection[int]) -> None:
        self._sim = sim
        self._clock = clock
        self._accounts: dict[int, KiteAccount] = {}
        self._away: dict[int, Instant] = {}
        for user_id in users:
            sim.register(_kite_id(user_id), api_key=f"key{user_id}", api_secret=f"secret{user_id}")
            self._log_in(user_id)

    async def kite(self, user_id: int) -> KiteAccount | None:
        return self._accounts.get(user_id)

    async def connected(self, broker: str) -> Collection[int]:
        return frozenset(self._accounts)

    async def anybody(self) -> KiteAccount | None:
        """Somebody with a session, as long as there is one."""
        return next((self._accounts[user_id] for user_id in sorted(self._accounts)), None)

    def expire(self, account: KiteAccount) -> None:
        if self._accounts.get(account.user_id) == account:
            del self._accounts[account.user_id]
            self._away[account.user_id] = self._clock.now()

    def come_back(self) -> None:
        for user_id, since in list(self._away.items()):
            if self._clock.now() >= since + BACK_AFTER:
                del self._away[user_id]
                self._log_in(user_id)

    def _log_in(self, user_id: int) -> None:
        now = self._clock.now()
        self._accounts[user_id] = KiteAccount(
            user_id=user_id,
            kite_user_id=_kite_id(user_id),
            api_key=f"key{user_id}",
            access_token=self._sim.open_session(_kite_id(user_id)),
            connected_at=now,
            expires_at=now + 24 * 60 * MINUTE,
        )


class _Venue:
    """Ticks reach the exchange and the engine at once; the stream has tests of its own."""

    def __init__(self, sim: KiteSim) -> None:
        self._sim = sim
        self.feed: Feed = NoFeed()

    async def trade(self, batch: Sequence[Tick]) -> Sequence[Tick]:
        await self._sim.on_ticks(batch)
        return batch

    async def match(self, batch: Sequence[Tick]) -> None:
        """The exchange has seen them."""

    def next_due(self) -> Instant | None:
        due = self._sim.next_due()
        return due if due is not None and due > self._sim.clock.now() else None


class _Row:
    """An order in the broker's book, as the checker wants it."""

    def __init__(self, account: str, order: SimOrder) -> None:
        self.account = account
        self.order_id = order.order_id
        self.tag = order.tag or ""
        self.symbol = order.symbol
        self.side = order.side
        self.product = order.product
        self.quantity: Quantity = order.quantity
        self.filled: Quantity = order.filled
        self.status = _STATUS.get(order.status, BookStatus.OPEN)
        self.placed_at: Instant = order.received_at


_STATUS: Final = {
    OrderStatus.COMPLETE.value: BookStatus.COMPLETE,
    OrderStatus.CANCELLED.value: BookStatus.CANCELLED,
    OrderStatus.REJECTED.value: BookStatus.REJECTED,
}


def _kite_id(user_id: int) -> str:
    return f"SIM{user_id:03}"


def _tradable(sim: KiteSim) -> InstrumentTable:
    return InstrumentTable(
        Instrument(symbol=each.symbol, lot=each.lot, tick_size=each.tick_size) for each in sim.instruments
    )


async def _no_archive() -> int:
    return 0


async def _ungated(_reading: str) -> None:
    """Readings are not limited."""


async def _no_hints(_account: KiteAccount) -> AsyncIterator[str]:
    empty: tuple[str, ...] = ()
    for hint in empty:
        yield hint
