"""Strategies that live through days, on a real log, with the runtime that follows from each event."""

import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import Table, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.database.engine import create_engine
from domain import blind
from domain.events import (
    BuyTriggered,
    Event,
    ExecuteBuy,
    ExecuteSell,
    ExecuteStoploss,
    LockAcquired,
    OrderAccepted,
    OrderFilled,
    OrderFinalized,
    SellTriggered,
    StoplossTriggered,
    StrategyCreated,
    StrategyExited,
    StrategyReady,
    StrategyRunning,
    StrategyStarted,
    StrategyStartRequested,
    StrategyStopped,
)
from domain.strategy import State, fold
from domain.tags import make_tag
from domain.values import DAY, HOUR, SECOND, Config, Exit, Final, Kind, OrderRequest, Product, Tag, Tick
from eventstore.archive import PostgresArchive
from eventstore.batch import Appended
from eventstore.clients import command
from eventstore.entries import read_entries
from eventstore.envelope import NewEvent, Raw
from eventstore.log import EventLog
from eventstore.open import open_log
from projections.projector import Projector
from projections.runtime import DEFAULTS, decode_state, encode_change
from simulation.clock import VirtualClock

MORNING = 1_795_000_000_000_000
USER = 7
CONFIG = Config(
    symbol="NSE:INFY",
    quantity=10,
    buy_time=dt.time(9, 20),
    sell_time=dt.time(15, 10),
    stop_loss=Decimal("1480.50"),
)


class World:
    def __init__(self, redis: "Redis", log: EventLog, engine: AsyncEngine) -> None:
        self.redis = redis
        self.log = log
        self.engine = engine
        self.clock = log.clock
        self.archive = PostgresArchive(engine)
        self.projector = self.new_projector()
        assert isinstance(self.clock, VirtualClock)
        self.time: VirtualClock = self.clock

    @classmethod
    async def make(cls, redis: "Redis", redis_url: str, database_url: str) -> "World":
        clock = VirtualClock(MORNING)
        engine = create_engine(database_url)
        log = await open_log(redis_url, clock=clock, defaults=DEFAULTS, allow_weak=True, writer="wrld")
        log.archive = PostgresArchive(engine)
        return cls(redis, log, engine)

    async def aclose(self) -> None:
        await self.log.aclose()
        await self.engine.dispose()

    def new_projector(self, **options: Any) -> Projector:
        return Projector(self.log, self.engine, self.clock, **options)

    # --- appending --------------------------------------------------------------------------------------------------

    async def state(self, strategy_id: int) -> State:
        loaded = await self.log.load(strategy_id)
        return decode_state(strategy_id, loaded.strategy, loaded.runtime)

    async def append(self, strategy_id: int, *events: Event, user_id: int = USER, cause: str = "") -> Appended:
        """Decided on the present state: at its version, with the runtime that follows."""
        before = await self.state(strategy_id)
        before.user_id = before.user_id or user_id
        self.time.set(self.time.now() + SECOND)
        new = [NewEvent(event, strategy_id, user_id, causation_id=cause) for event in events]
        written = before if before.version else State(id=strategy_id)
        write = encode_change(written, fold(before, events), None)
        result = await self.log.append(new, expected=before.version, runtime=write)
        assert isinstance(result, Appended)
        return result

    async def blind(self, strategy_id: int, event: Event, user_id: int = USER) -> str:
        """Appended by a source that knows nothing of the state. Its event id."""
        assert blind.cases(event) is not None
        self.time.set(self.time.now() + SECOND)
        event_id = self.log.ids.next()
        new = NewEvent(event, strategy_id, user_id, event_id=event_id)
        assert isinstance(await self.log.append([new]), Appended)
        return event_id

    async def foreign(self, stream: str, envelope: bytes, *, strategy_id: int = 0, version: int | None = None) -> int:
        """An entry that is in the log as if it had been appended, whatever its bytes. Its position."""
        keys = self.log.keys
        position = int(await command(self.log.redis, "HINCRBY", keys.position, "position", 1))
        if strategy_id and version is None:
            version = int(await command(self.log.redis, "HINCRBY", keys.strategy(strategy_id), "version", 1))
        at = await command(self.log.redis, "HGET", keys.position, "recorded_at")
        name = next(name for each, name in keys.streams.items() if each == stream)
        await command(self.log.redis, "XADD", name, f"{position}-0", "v", version or 0, "t", at, "e", envelope)
        return position

    async def create(self, strategy_id: int, user_id: int = USER) -> None:
        await self.append(strategy_id, StrategyCreated(config=CONFIG), user_id=user_id)

    async def start(self, strategy_id: int, user_id: int = USER) -> int:
        """Armed and running. The run."""
        now = self.time.now()
        await self.append(strategy_id, StrategyStartRequested(), user_id=user_id)
        started = StrategyStarted(
            session_date=dt.datetime.fromtimestamp(now / SECOND, dt.UTC).date(),
            open_at=now,
            close_at=now + 6 * HOUR,
            buy_at=now + HOUR,
            sell_at=now + 5 * HOUR,
            config=CONFIG,
        )
        run = (await self.append(strategy_id, started, user_id=user_id)).versions[0]
        await self.blind(strategy_id, StrategyReady(run=run), user_id)
        await self.blind(strategy_id, StrategyRunning(run=run), user_id)
        return run

    async def trigger(self, strategy_id: int, kind: Kind) -> str:
        """What makes an order of this kind due."""
        state = await self.state(strategy_id)
        event: Event
        match kind:
            case Kind.BUY:
                event = BuyTriggered(run=state.run, due_at=state.buy_at)
            case Kind.SELL:
                event = SellTriggered(run=state.run, due_at=state.sell_at)
            case _:
                tick = Tick("NSE:INFY", Decimal("1480.45"), self.time.now())
                event = StoplossTriggered(
                    run=state.run, stop_revision=state.stop_revision, tick=tick, stop_loss=CONFIG.stop_loss
                )
        return await self.blind(strategy_id, event)

    async def intend(self, strategy_id: int, kind: Kind, cause: str) -> Tag:
        """The intent of an order, and the lock."""
        state = await self.state(strategy_id)
        tag = make_tag(self.log.log_id, strategy_id, state.run, state.orders + 1)
        cls = {Kind.BUY: ExecuteBuy, Kind.SELL: ExecuteSell, Kind.STOPLOSS: ExecuteStoploss}[kind]
        request = OrderRequest(symbol="NSE:INFY", side=kind.side, quantity=10, product=Product.MIS, tag=tag)
        now = self.time.now()
        intent = cls(request=request, tag=tag, kind=kind, attempt=1, at=now, deadline=now + 2 * SECOND, cause=cause)
        await self.append(strategy_id, LockAcquired(tag=tag, kind=kind), intent, cause=cause)
        return tag

    async def fill(self, strategy_id: int, tag: Tag, price: str = "1500.35") -> None:
        """Accepted, filled and final."""
        average = Decimal(price)
        await self.append(strategy_id, OrderAccepted(tag=tag, order_id=f"o-{tag}"))
        await self.append(
            strategy_id,
            OrderFilled(tag=tag, order_id=f"o-{tag}", filled=10, average_price=average),
            OrderFinalized(tag=tag, final=Final.COMPLETE, filled=10, average_price=average),
        )

    async def order(self, strategy_id: int, kind: Kind) -> Tag:
        """From its trigger to its end."""
        tag = await self.intend(strategy_id, kind, await self.trigger(strategy_id, kind))
        await self.fill(strategy_id, tag)
        return tag

    async def end(self, strategy_id: int, reason: Exit) -> None:
        state = await self.state(strategy_id)
        await self.append(
            strategy_id,
            StrategyExited(run=state.run, reason=reason, realised=state.sell_value - state.buy_value),
            StrategyStopped(run=state.run, reason=reason, at=self.time.now()),
        )

    async def day(self, strategy_id: int, exit_by: Kind = Kind.SELL) -> tuple[Tag, Tag]:
        """A whole run, bought and sold; 24 events with its creation. The tags."""
        if not (await self.state(strategy_id)).version:
            await self.create(strategy_id)
        await self.start(strategy_id)
        bought = await self.order(strategy_id, Kind.BUY)
        sold = await self.order(strategy_id, exit_by)
        await self.end(strategy_id, Exit.STOPLOSS if exit_by is Kind.STOPLOSS else Exit.SELL)
        return bought, sold

    def sleep_a_day(self) -> None:
        self.time.set(self.time.now() + DAY + HOUR)

    # --- looking ----------------------------------------------------------------------------------------------------

    async def entries(self, after: int = 0) -> list[Raw]:
        return [raw async for page in read_entries(self.log, after) for raw in page]

    async def rows(self, table: Table, order_by: str) -> Sequence[Any]:
        async with self.engine.connect() as connection:
            return (await connection.execute(select(table).order_by(table.c[order_by]))).all()

    async def execute(self, statement: str, **values: Any) -> Any:
        async with self.engine.begin() as connection:
            return (await connection.execute(text(statement), values)).all()

    async def trim(self, upto: int) -> None:
        """The streams forget everything up to this position."""
        for name in self.log.keys.streams.values():
            await command(self.log.redis, "XTRIM", name, "MINID", "=", f"{upto + 1}-0")

    async def dump(self, keep: Callable[[str], bool] = lambda _: True) -> dict[str, Any]:
        """Every hash, set and string of Redis, but for the log itself."""
        found: dict[str, Any] = {}
        for raw_name in await command(self.log.redis, "KEYS", "*"):
            name = raw_name.decode()
            if not keep(name):
                continue
            match await command(self.log.redis, "TYPE", name):
                case b"hash":
                    flat = await command(self.log.redis, "HGETALL", name)
                    found[name] = dict(zip(flat[::2], flat[1::2], strict=True))
                case b"set":
                    found[name] = set(await command(self.log.redis, "SMEMBERS", name))
                case b"string":
                    found[name] = await command(self.log.redis, "GET", name)
        return found
