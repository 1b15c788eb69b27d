"""The projector: events, projections and checkpoint are one; nothing stops it but a log that is not the one it was."""

import asyncio
import datetime as dt
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from bahi.database.tables import order_logs, parked, strategies
from domain.events import (
    EventParked,
    ExecuteBuy,
    OrderAccepted,
    OrderFilled,
    OrderFinalized,
    OrderOutcomeUnknown,
    OrderRejected,
    ParkedDismissed,
    StrategyStartRequested,
    StrategyUpdated,
    UserRegistered,
)
from domain.values import SECOND, Doubt, Exit, Final, Kind, OrderRequest, Product, Side, Tag
from eventstore.archive import OUTAGES
from eventstore.envelope import NewEvent
from eventstore.errors import LogHole, LogLost
from projections.projector import Lag
from projections.sql.projections import Changes, SqlProjections
from tests.projections.world import CONFIG, MORNING, USER, World


async def _counts(world: World) -> dict[str, int]:
    found = {}
    for table in ("events", "strategies", "order_logs", "checkpoint"):
        found[table] = (await world.execute(f"SELECT count(*) FROM {table}"))[0][0]  # noqa: S608
    return found


# --- one transaction -------------------------------------------------------------------------------------------------


async def test_a_connection_killed_between_archive_and_projections_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    await world.day(1)
    write = SqlProjections.write
    killed: list[int] = []

    async def killing(self: SqlProjections, connection: Any, changes: Changes) -> None:
        await write(self, connection, changes)
        if not killed:
            pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            with psycopg.connect(database_url.replace("+psycopg", "", 1), autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (pid,))
            killed.append(pid)

    monkeypatch.setattr(SqlProjections, "write", killing)
    with pytest.raises(OUTAGES):
        await world.projector.step()
    counts = await _counts(world)
    assert counts == {"events": 0, "strategies": 0, "order_logs": 0, "checkpoint": 0}
    archived = await world.projector.step()
    assert archived == await world.log.last_position()
    assert await _counts(world) == {"events": archived, "strategies": 1, "order_logs": 2, "checkpoint": 1}
    assert await world.projector.step() == 0


async def test_another_projector_goes_on_where_the_first_one_was(world: World) -> None:
    await world.create(1)
    await world.start(1)
    first = await world.projector.step()
    await world.order(1, Kind.BUY)
    second = world.new_projector(batch=3)
    assert await second.step() == await world.log.last_position() - first
    await world.order(1, Kind.SELL)
    # the first one knows only an old checkpoint, and an old state of the strategy
    await world.projector.step()
    await world.end(1, Exit.SELL)
    await second.step()
    assert await world.archive.entries(0, 1000) == await world.entries()
    row = (await world.rows(strategies, "id"))[0]
    assert (row.status, row.position, row.exit_reason) == ("stopped", "sold", "SELL")
    assert row.version == (await world.state(1)).version
    assert [each.status for each in await world.rows(order_logs, "tag")] == ["complete", "complete"]


async def test_batches_are_bounded_and_their_number_does_not_matter(world: World) -> None:
    await world.day(1)
    await world.day(2, Kind.STOPLOSS)
    await world.new_projector(batch=1).step()
    one_by_one = [await world.rows(strategies, "id"), await world.rows(order_logs, "tag")]
    for table in ("events", "strategies", "order_logs", "checkpoint"):
        await world.execute(f"DELETE FROM {table} RETURNING 1")  # noqa: S608
    await world.new_projector().step()
    assert [await world.rows(strategies, "id"), await world.rows(order_logs, "tag")] == one_by_one


# --- outages ---------------------------------------------------------------------------------------------------------


class _Outage:
    """Nobody can connect to the database, and who was connected is thrown out."""

    def __init__(self, server_url: str, database_url: str) -> None:
        self._server = server_url.replace("+psycopg", "", 1)
        self._name = database_url.rpartition("/")[2].partition("?")[0]

    def _run(self, *statements: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def begin(self) -> None:
        self._run(
            f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'",  # noqa: S608
        )

    def end(self) -> None:
        self._run(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")


class _Watch:
    """What a projector tells, to wait for."""

    def __init__(self) -> None:
        self.lag = Lag(0, 0)
        self.most = Lag(0, 0)
        self.troubles: list[Exception] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def on_lag(self, lag: Lag) -> None:
        self.lag = lag
        self.most = max(self.most, lag, key=lambda each: each.positions)
        self._tell()

    def on_trouble(self, error: Exception) -> None:
        self.troubles.append(error)
        self._tell()

    def _tell(self) -> None:
        async def tell() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.ensure_future(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(condition)


async def test_postgresql_may_go_away_while_trading_goes_on(
    world: World, postgres_server: Any, database_url: str
) -> None:
    watch = _Watch()
    projector = world.new_projector(linger=0, on_lag=watch.on_lag, on_trouble=watch.on_trouble)
    running = asyncio.create_task(projector.run())
    await world.day(1)
    archived = await world.log.last_position()
    await watch.until(lambda: watch.lag == Lag(0, 0) and projector.position == archived)

    outage = _Outage(postgres_server.url, database_url)
    outage.begin()
    try:
        await world.day(2)
        await watch.until(lambda: len(watch.troubles) > 1)
        await world.day(3)
        assert not running.done()
    finally:
        outage.end()
    last = await world.log.last_position()
    await watch.until(lambda: watch.lag == Lag(0, 0) and projector.position == last)
    await projector.stop()
    await running
    assert await world.archive.entries(0, 1000) == await world.entries()
    assert [row.status for row in await world.rows(strategies, "id")] == ["stopped"] * 3


async def test_a_stop_drains(world: World) -> None:
    projector = world.new_projector(linger=10 * SECOND)
    running = asyncio.create_task(projector.run())
    await world.day(1)
    await projector.stop()
    await running
    assert await world.archive.last_position() == await world.log.last_position()


async def test_the_lag_is_told_in_positions_and_seconds(world: World) -> None:
    lags: list[Lag] = []
    projector = world.new_projector(on_lag=lags.append, batch=4)
    await world.create(1)
    await projector.step()
    world.time.set(MORNING + 100 * SECOND)
    await world.start(1)
    lags.clear()
    await projector.step()
    assert [lag.positions for lag in lags] == [4, 0]
    assert lags[0].seconds == pytest.approx(3)  # since the first of what came then
    assert lags[-1] == Lag(0, 0)


# --- what cannot stop it ---------------------------------------------------------------------------------------------


async def test_a_corrupt_entry_is_archived_and_logged_and_the_rest_goes_on(world: World) -> None:
    await world.create(1)
    corrupt = await world.foreign("high", b"\xc1\x00garbage", strategy_id=1)
    await world.create(2)
    with capture_logs() as lines:
        assert await world.projector.step() == 3
    assert await world.archive.entries(0, 10) == await world.entries()
    assert [line["position"] for line in lines if line["event"] == "ERROR_LOGGED"] == [corrupt]
    assert [row.id for row in await world.rows(strategies, "id")] == [1, 2]


async def test_an_entry_that_no_append_wrote_is_archived_too(world: World) -> None:
    await world.create(1)
    await world.log.redis.execute_command("HINCRBY", "position", "position", 1)
    await world.log.redis.execute_command("XADD", "events:low", "2-0", "who", "me")
    await world.log.redis.execute_command("XADD", "events:low", "2-7", "who", "me")
    await world.create(3)
    assert await world.projector.step() == 3
    assert [raw.position for raw in await world.archive.entries(0, 10)] == [1, 2, 3]


async def test_an_event_whose_projection_is_refused_is_archived_without_it(world: World) -> None:
    await world.create(1)
    await world.start(1)
    tag = Tag("A-TAG-THAT-NO-COLUMN-HOLDS")
    request = OrderRequest(symbol="NSE:INFY", side=Side.BUY, quantity=10, product=Product.MIS, tag=tag)
    now = world.time.now()
    intent = ExecuteBuy(request=request, tag=tag, kind=Kind.BUY, attempt=1, at=now, deadline=now, cause="x")
    spoiled = (await world.append(1, intent)).positions[0]
    await world.day(2)
    with capture_logs() as lines:
        await world.projector.step()
    assert await world.archive.entries(0, 1000) == await world.entries()
    errors = [line for line in lines if line["event"] == "ERROR_LOGGED"]
    assert [line["position"] for line in errors] == [spoiled]
    assert "cannot be projected" in errors[0]["error"]
    assert [row.strategy_id for row in await world.rows(order_logs, "tag")] == [2, 2]


async def test_text_that_postgresql_refuses_is_stored_as_well_as_it_goes(world: World) -> None:
    await world.create(1)
    await world.start(1)
    tag = await world.intend(1, Kind.BUY, await world.trigger(1, Kind.BUY))
    await world.append(1, OrderRejected(tag=tag, reason="MARGIN", curable=False, text="nul \0 byte"))
    await world.projector.step()
    row = (await world.rows(order_logs, "tag"))[0]
    assert row.reason == "MARGIN: nul \ufffd byte"


async def test_a_hole_in_the_log_stops_it_after_what_came_before(world: World) -> None:
    await world.create(1)
    await world.create(2)
    await world.create(3)
    await world.redis.xdel("events:medium", "2-0")
    with pytest.raises(LogHole):
        await world.projector.step()
    assert await world.archive.last_position() == 1


async def test_an_emptied_redis_stops_it(world: World) -> None:
    await world.create(1)
    await world.projector.step()
    await world.redis.flushall()
    with pytest.raises(LogLost):
        await world.projector.step()


# --- rows ------------------------------------------------------------------------------------------------------------


async def test_a_strategy_row_is_what_its_last_event_left(world: World) -> None:
    await world.day(1)
    await world.projector.step()
    row = (await world.rows(strategies, "id"))[0]
    state = await world.state(1)
    assert (row.user_id, row.symbol, row.quantity, row.stop_loss) == (USER, "NSE:INFY", 10, Decimal("1480.50"))
    assert (row.buy_time, row.sell_time, row.product) == (CONFIG.buy_time, CONFIG.sell_time, "MIS")
    assert (row.status, row.position, row.open_quantity) == ("stopped", "sold", 0)
    assert (row.run, row.session_date, row.version, row.log_position) == (
        state.run,
        state.session_date,
        state.version,
        state.position_in_log,
    )
    assert (row.exit_reason, row.realised) == ("SELL", Decimal(0))
    assert row.created_at == _time(MORNING + SECOND)
    assert row.updated_at == _time(state.updated_at)
    world.sleep_a_day()
    await world.start(1)
    await world.append(1, StrategyUpdated(stop_revision=2, stop_loss=Decimal("1490.05")))
    await world.new_projector().step()
    row = (await world.rows(strategies, "id"))[0]
    assert (row.status, row.position, row.realised, row.exit_reason) == ("running", "none", None, None)
    assert (row.stop_loss, row.created_at) == (Decimal("1490.05"), _time(MORNING + SECOND))


def _time(at: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at)


@pytest.mark.parametrize("stepwise", [True, False])
async def test_an_order_row_tells_its_whole_life(world: World, stepwise: bool) -> None:
    seen: list[Any] = []

    async def look() -> None:
        if stepwise:
            await world.projector.step()
            row = (await world.rows(order_logs, "tag"))[0]
            seen.append((row.status, row.filled, row.order_id))

    await world.create(1)
    await world.start(1)
    cause = await world.trigger(1, Kind.BUY)
    tag = await world.intend(1, Kind.BUY, cause)
    intent = await world.log.last_position()
    await look()
    accepted = (await world.append(1, OrderAccepted(tag=tag, order_id="77"))).positions[0]
    await look()
    await world.append(1, OrderFilled(tag=tag, order_id="77", filled=4, average_price=Decimal("1500.35")))
    await look()
    await world.append(1, OrderFilled(tag=tag, order_id="77", filled=10, average_price=Decimal("1500.1234567")))
    final = (await world.append(1, OrderFinalized(tag=tag, final=Final.COMPLETE, filled=10))).positions[0]
    await look()
    await world.projector.step()
    if stepwise:
        assert seen == [("sending", 0, None), ("live", 0, "77"), ("live", 4, "77"), ("complete", 10, "77")]
    row = (await world.rows(order_logs, "tag"))[0]
    assert (row.tag, row.user_id, row.strategy_id, row.kind, row.side) == (tag, USER, 1, "BUY", "BUY")
    assert (row.run, row.symbol, row.product, row.quantity, row.attempt) == (3, "NSE:INFY", "MIS", 10, 1)
    assert (row.cause, row.average_price, row.reason) == (cause, Decimal("1500.1234567"), None)
    assert (row.intent_position, row.outcome_position, row.final_position) == (intent, accepted, final)
    assert row.requested_at < row.answered_at < row.finalized_at == _time(world.time.now())


@pytest.mark.parametrize("stepwise", [True, False])
async def test_an_order_that_shows_up_after_it_was_given_up_is_open_again(world: World, stepwise: bool) -> None:
    async def step() -> Any:
        if stepwise:
            await world.projector.step()
            return (await world.rows(order_logs, "tag"))[0]
        return None

    await world.create(1)
    await world.start(1)
    tag = await world.intend(1, Kind.BUY, await world.trigger(1, Kind.BUY))
    await world.append(1, OrderOutcomeUnknown(tag=tag, doubt=Doubt.AMBIGUOUS, text="read time-out"))
    if row := await step():
        assert (row.status, row.reason, row.answered_at) == ("unknown", "ambiguous: read time-out", None)
    given_up = (await world.append(1, OrderFinalized(tag=tag, final=Final.NOT_PLACED))).positions[0]
    if row := await step():
        assert (row.status, row.final_position) == ("not_placed", given_up)
    await world.append(1, OrderAccepted(tag=tag, order_id="77"))
    if row := await step():
        assert (row.status, row.final_position, row.finalized_at) == ("live", None, None)
    cancelled = (await world.append(1, OrderFinalized(tag=tag, final=Final.CANCELLED))).positions[0]
    await world.projector.step()
    row = (await world.rows(order_logs, "tag"))[0]
    assert (row.status, row.final_position, row.order_id) == ("cancelled", cancelled, "77")


async def test_the_parked_list(world: World) -> None:
    await world.create(1)
    park = EventParked(parked="critical/17", group="workers", error="ValueError: \0")
    await world.log.append([NewEvent(park, strategy_id=1, user_id=USER)])
    await world.projector.step()
    row = (await world.rows(parked, "position"))[0]
    assert (row.stream, row.position, row.group, row.state) == ("critical", 17, "workers", "parked")
    assert row.error == "ValueError: \ufffd"
    await world.log.append([NewEvent(ParkedDismissed(parked="critical/17", who="op", why="known"), user_id=USER)])
    await world.projector.step()
    row = (await world.rows(parked, "position"))[0]
    assert (row.state, row.who, row.why) == ("dismissed", "op", "known")
    assert row.settled_at is not None


# --- log lines -------------------------------------------------------------------------------------------------------


async def test_every_kind_of_line_is_written_once_its_event_is_archived(world: World) -> None:
    await world.log.append([NewEvent(UserRegistered(), user_id=USER)])
    await world.create(1)
    await world.start(1)
    cause = await world.trigger(1, Kind.BUY)
    tag = await world.intend(1, Kind.BUY, cause)
    await world.append(1, OrderRejected(tag=tag, order_id="77", reason="MARGIN", curable=False), cause=cause)
    with capture_logs() as lines:
        await world.projector.step()
    assert [(line["event"], line["type"]) for line in lines] == [
        ("STRATEGY_EVENT_LOGGED", "STRATEGY_CREATED"),
        ("STRATEGY_EVENT_LOGGED", "STRATEGY_START_REQUESTED"),
        ("STRATEGY_EVENT_LOGGED", "STRATEGY_STARTED"),
        ("STRATEGY_EVENT_LOGGED", "STRATEGY_READY"),
        ("STRATEGY_EVENT_LOGGED", "STRATEGY_RUNNING"),
        ("STRATEGY_EVENT_LOGGED", "BUY_TRIGGERED"),
        ("ORDER_EVENT_LOGGED", "EXECUTE_BUY"),
        ("ORDER_EVENT_LOGGED", "ORDER_REJECTED"),
        ("ERROR_LOGGED", "ORDER_REJECTED"),
    ]
    request = lines[6]
    assert (request["position"], request["strategy_id"], request["user_id"]) == (9, 1, USER)
    assert (request["correlation_id"], request["causation_id"]) == (request["event_id"], cause)
    assert request["data"]["request"]["tag"] == tag
    assert lines[-1]["log_level"] == "error"
    assert all(line["partition"] == 0 for line in lines)


async def test_a_batch_that_was_not_committed_has_no_lines(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.create(1)
    with capture_logs() as lines:
        with monkeypatch.context() as failing:
            failing.setattr(SqlProjections, "write", _fail)
            with pytest.raises((DBAPIError, OSError)):
                await world.projector.step()
        assert lines == []
        await world.append(1, StrategyStartRequested())
        await world.projector.step()
    assert [line["type"] for line in lines] == ["STRATEGY_CREATED", "STRATEGY_START_REQUESTED"]


async def _fail(*_: Any) -> None:
    raise OSError("no connection")
