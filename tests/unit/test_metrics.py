"""Metrics are measured by wrappers, which change nothing of what they wrap."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from api.app import create_app
from bahi.telemetry.metrics import (
    InstrumentedBroker,
    MarketMetrics,
    Metrics,
    TickToOrder,
    instrument_check,
    instrument_log,
    measure_lanes,
    timed,
)
from brokers.port import Broker, BrokerUnavailable
from domain.events import (
    AlertTriggered,
    BuyTriggered,
    Event,
    EventParked,
    OrderRetryRequired,
    SafetyAbort,
    StoplossTriggered,
    TriggerMissed,
    UserLoggedIn,
    UserRegistered,
)
from domain.tags import make_tag
from domain.values import SECOND, Abort, Code, Kind, OrderRequest, Priority, Product, Severity, Side, Tag, Tick
from eventstore.batch import Ack, Appended, Conflict
from eventstore.clients import command
from eventstore.envelope import Dedupe, NewEvent
from eventstore.errors import LogLost, LogUnavailable
from eventstore.keys import GROUP
from eventstore.log import EventLog
from eventstore.open import open_log
from projections.runtime import DEFAULTS
from projections.stop_index import Stop
from simulation.clock import VirtualClock
from sources.judging import Verdict
from tests.brokers import conformance
from tests.brokers import world as paper
from tests.brokers.conformance import SBIN, BrokerConformance, Fault

NOON = 1_795_000_000_000_000


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOON)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """A sample as Prometheus would read it."""
    return metrics.registry.get_sample_value(f"bahi_{name}", labels)


# --- the log ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def log(redis: Redis, redis_url: str, clock: VirtualClock) -> AsyncIterator[EventLog]:
    log = await open_log(redis_url, clock=clock, defaults=DEFAULTS, writer="w", allow_weak=True)
    yield log
    await log.aclose()


def of(event: Event, key: str = "") -> NewEvent:
    return NewEvent(event, 42, 7, dedupe=Dedupe(key, "same") if key else None)


async def test_appended_events_are_counted_by_type(log: EventLog, metrics: Metrics) -> None:
    counted = instrument_log(log, metrics)
    result = await counted.append([NewEvent(UserRegistered(), 0, 7), NewEvent(UserLoggedIn(), 0, 7)])
    assert isinstance(result, Appended)
    await counted.append_many([[NewEvent(UserLoggedIn(), 0, 7)], [NewEvent(UserLoggedIn(), 0, 8)]])
    assert value(metrics, "events_appended_total", type="USER_REGISTERED") == 1
    assert value(metrics, "events_appended_total", type="USER_LOGGED_IN") == 3


async def test_the_wrapped_log_is_the_log_in_everything_else(log: EventLog, metrics: Metrics) -> None:
    counted = instrument_log(log, metrics)
    await counted.append([NewEvent(UserRegistered(), 0, 7)])
    assert await counted.last_position() == await log.last_position() == 1
    assert [recorded.event async for recorded in counted.read()] == [UserRegistered()]
    assert (counted.keys, counted.epoch, counted.redis) == (log.keys, log.epoch, log.redis)
    with pytest.raises(AttributeError, match="nothing"):
        counted.nothing  # type: ignore[attr-defined]  # noqa: B018


async def test_what_was_not_written_is_not_counted(log: EventLog, metrics: Metrics) -> None:
    counted = instrument_log(log, metrics)
    first, second, third = (of(BuyTriggered(run=1, due_at=NOON), key=f"timer:{n}") for n in range(3))
    await counted.append([first])
    await counted.append([NewEvent(UserLoggedIn(), 0, 7)])
    await counted.append([first])
    assert value(metrics, "events_appended_total", type="BUY_TRIGGERED") == 1
    await counted.append([second, first, third])
    assert value(metrics, "events_appended_total", type="BUY_TRIGGERED") == 3
    assert isinstance(await counted.append([of(UserLoggedIn())], expected=77), Conflict)
    assert value(metrics, "events_appended_total", type="USER_LOGGED_IN") == 1


async def test_a_failed_append_raises_what_the_log_raises(log: EventLog, metrics: Metrics) -> None:
    counted = instrument_log(log, metrics)
    with pytest.raises(ValueError, match="need a strategy"):
        await counted.append([NewEvent(UserLoggedIn(), 0, 7)], expected=1)
    assert value(metrics, "events_appended_total", type="USER_LOGGED_IN") is None


async def test_retries_aborts_parked_and_alerts_are_counted_from_their_events(log: EventLog, metrics: Metrics) -> None:
    retry = OrderRetryRequired(tag=Tag("T"), kind=Kind.SELL, attempt=1, counted=True, not_before=NOON, reason="MARGIN")
    alert = AlertTriggered(severity=Severity.CRITICAL, code=Code.FEED_SILENT, at=NOON)
    abort = SafetyAbort(run=1, reason=Abort.POISON_EVENT)
    parked = EventParked(parked="high/1", group=GROUP, error="?")
    await instrument_log(log, metrics).append([of(retry), of(retry), of(alert), of(abort), of(parked)])
    assert value(metrics, "order_retries_total", kind="SELL") == 2
    assert value(metrics, "safety_aborts_total", reason="POISON_EVENT") == 1
    assert value(metrics, "alerts_total", code="FEED_SILENT", severity="critical") == 1
    assert value(metrics, "events_parked_total") == 1


async def test_the_lateness_of_a_trigger_is_from_its_due_time_to_its_place_in_the_log(
    log: EventLog, metrics: Metrics, clock: VirtualClock
) -> None:
    clock.set(NOON + SECOND // 5)
    missed = TriggerMissed(run=1, due_at=NOON - 40 * SECOND, lateness=40 * SECOND)
    await instrument_log(log, metrics).append([of(BuyTriggered(run=1, due_at=NOON)), of(missed)])
    assert value(metrics, "trigger_lateness_seconds_sum", type="BUY_TRIGGERED") == pytest.approx(0.2)
    assert value(metrics, "trigger_lateness_seconds_sum", type="TRIGGER_MISSED") == pytest.approx(40.2)


async def test_lanes_are_measured_by_what_waits_and_what_is_pending(
    log: EventLog, metrics: Metrics, clock: VirtualClock
) -> None:
    await measure_lanes(log, metrics)
    for each in Priority:
        for name in ("lane_lag_seconds", "lane_pending", "pending_age_seconds"):
            assert value(metrics, name, **{"class": each}) == 0

    tick = Tick("NSE:SBIN", Decimal(1), NOON)
    for _ in range(3):
        await log.append([of(StoplossTriggered(run=1, stop_revision=1, tick=tick, stop_loss=Decimal(1)))])
        clock.set(clock.now() + SECOND)
    stream = log.keys.streams[Priority.CRITICAL]
    await command(log.redis, "XREADGROUP", "GROUP", GROUP, "me", "COUNT", 2, "STREAMS", stream, ">")
    await measure_lanes(log, metrics)
    assert value(metrics, "lane_pending", **{"class": "critical"}) == 2
    assert value(metrics, "pending_age_seconds", **{"class": "critical"}) == 3
    assert value(metrics, "lane_lag_seconds", **{"class": "critical"}) == 1

    await log.append([], ack=Ack(Priority.CRITICAL, 1))
    await measure_lanes(log, metrics)
    assert value(metrics, "lane_pending", **{"class": "critical"}) == 1
    assert value(metrics, "pending_age_seconds", **{"class": "critical"}) == 2
    assert value(metrics, "lane_pending", **{"class": "high"}) == 0


async def test_a_lost_group_is_an_incident_and_not_a_number(log: EventLog, metrics: Metrics) -> None:
    await command(log.redis, "XGROUP DESTROY", log.keys.streams[Priority.LOW], GROUP)
    with pytest.raises(LogLost, match="events:low"):
        await measure_lanes(log, metrics)


# --- handlers and checks ---------------------------------------------------------------------------------------------


async def test_timed_observes_a_coroutine_function_by_its_argument_and_keeps_it_one(metrics: Metrics) -> None:
    @timed(metrics.handler_seconds, lambda stream, **_: stream.value)
    async def handle(stream: Priority, *, fail: bool = False) -> int:
        """Handle one."""
        await asyncio.sleep(0)
        if fail:
            raise LookupError("no such strategy")
        return 5

    assert (handle.__name__, handle.__doc__, inspect.iscoroutinefunction(handle)) == ("handle", "Handle one.", True)
    answer: int = await handle(Priority.HIGH)
    assert answer == 5
    with pytest.raises(LookupError, match="no such strategy"):
        await handle(Priority.HIGH, fail=True)
    assert value(metrics, "handler_seconds_count", **{"class": "high"}) == 2
    assert value(metrics, "handler_seconds_count", **{"class": "low"}) is None


async def test_timed_observes_the_whole_time_until_a_coroutine_is_cancelled(metrics: Metrics) -> None:
    begun = asyncio.Event()

    @timed(metrics.tick_to_order)
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert value(metrics, "tick_to_order_seconds_count") == 1


def test_timed_observes_a_plain_function_also_when_it_raises(metrics: Metrics) -> None:
    @timed(metrics.tick_to_order)
    def divide(a: int, b: int) -> float:
        return a / b

    assert divide(1, 2) == 0.5
    with pytest.raises(ZeroDivisionError):
        divide(1, 0)
    assert value(metrics, "tick_to_order_seconds_count") == 2


async def test_a_check_of_readiness_is_a_gauge_and_still_raises(metrics: Metrics) -> None:
    failing = False

    async def check() -> None:
        if failing:
            raise ConnectionError("no answer from Redis")

    checked = instrument_check("log", check, metrics)
    assert value(metrics, "ready", part="log") == 0
    await checked()
    assert value(metrics, "ready", part="log") == 1
    failing = True
    with pytest.raises(ConnectionError, match="no answer"):
        await checked()
    assert value(metrics, "ready", part="log") == 0


# --- the broker ------------------------------------------------------------------------------------------------------


class Instrumented(paper.World):
    """The paper broker's world, seen through the wrapper."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        super().__init__(path, inline=True)
        self.metrics = metrics

    def broker(self, account: str = "ACCOUNT1") -> Broker:  # type: ignore[override]
        return InstrumentedBroker(super().broker(account), self.metrics, self.clock)


@pytest.fixture
def harness(tmp_path: Path, metrics: Metrics) -> Iterator[Instrumented]:
    world = Instrumented(tmp_path / "paper.db", metrics)
    yield world
    world.close()


class TestInstrumentedBroker(BrokerConformance):
    """Wrapped, a broker is still a broker."""


async def test_calls_of_the_broker_are_timed_by_call_and_outcome(harness: Instrumented, metrics: Metrics) -> None:
    await harness.set_price(SBIN, Decimal("340.05"))
    broker = harness.broker()
    assert broker.account == "ACCOUNT1"
    await harness.answer(broker.place(conformance.request()))
    await harness.inject(Fault.REJECTED_BEFORE)
    await harness.answer(broker.place(conformance.request()))
    await harness.inject(Fault.LOST_NEVER)
    await harness.answer(broker.place(conformance.request()))
    await harness.answer(broker.cancel("no such order"))
    await harness.answer(broker.modify("no such order", price=Decimal("340.05")))
    await harness.answer(broker.orders())
    await harness.answer(broker.trades())
    await harness.answer(broker.positions())
    counted = {
        (sample.labels["call"], sample.labels["outcome"]): sample.value
        for family in metrics.broker_seconds.collect()
        for sample in family.samples
        if sample.name.endswith("_count")
    }
    assert counted == {
        ("place", "accepted"): 1,
        ("place", "not_placed"): 1,
        ("place", "unanswered"): 1,
        ("cancel", "refused"): 1,
        ("modify", "refused"): 1,
        ("orders", "read"): 1,
        ("trades", "read"): 1,
        ("positions", "read"): 1,
    }


async def test_failed_readings_of_the_broker_are_timed_and_raised(harness: Instrumented, metrics: Metrics) -> None:
    broker = harness.broker()
    await harness.inject(Fault.READING_FAILS)
    with pytest.raises(BrokerUnavailable):
        await harness.answer(broker.orders())
    assert value(metrics, "broker_call_seconds_count", call="orders", outcome="unavailable") == 1


class Slow:
    """A broker that takes its time, by the clock, and then fails in a way that no port allows."""

    account = "SLOW"
    limits = None

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    async def orders(self) -> list[Any]:
        await self._clock.sleep(2 * SECOND)
        raise RuntimeError("a bug in the adapter")


async def test_the_time_of_a_call_is_the_clocks_and_bugs_and_cancellations_have_names(
    metrics: Metrics, clock: VirtualClock
) -> None:
    broker = InstrumentedBroker(cast(Broker, Slow(clock)), metrics, clock)
    with pytest.raises(RuntimeError, match="a bug"):
        await paper.drive(clock, broker.orders())
    assert value(metrics, "broker_call_seconds_sum", call="orders", outcome="error") == 2

    task = asyncio.ensure_future(broker.orders())
    await paper.until(lambda: clock.next_at() is not None, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert value(metrics, "broker_call_seconds_count", call="orders", outcome="given_up") == 1


# --- from tick to order ----------------------------------------------------------------------------------------------


def exit_of(strategy_id: int, run: int, side: Side = Side.SELL) -> OrderRequest:
    tag = make_tag("LOG1", strategy_id, run, 2)
    return OrderRequest(symbol=SBIN, side=side, quantity=10, product=Product.MIS, tag=tag)


def stop_of(strategy_id: int, run: int) -> Stop:
    return Stop(strategy_id, 7, run, 1, SBIN, Decimal(100), NOON, NOON + SECOND)


async def test_tick_to_order_is_from_the_tick_received_to_the_brokers_being_called(
    harness: Instrumented, metrics: Metrics
) -> None:
    now = 1_000_000_000
    watch = TickToOrder(metrics.tick_to_order.observe, now=lambda: now)
    listener = MarketMetrics(metrics, watch)
    broker = InstrumentedBroker(harness.broker(), metrics, harness.clock, tick_to_order=watch)
    await harness.set_price(SBIN, Decimal("340.05"))
    listener.triggered([stop_of(42, 3), stop_of(43, 1)], now)
    now += 1_200_000
    await harness.answer(broker.place(exit_of(42, 3)))
    assert value(metrics, "tick_to_order_seconds_sum") == pytest.approx(0.0012)
    assert value(metrics, "tick_to_order_seconds_bucket", le="0.0012") == 1
    assert value(metrics, "tick_to_order_seconds_bucket", le="0.001") == 0

    for request in (exit_of(42, 3), exit_of(43, 2), exit_of(43, 1, Side.BUY)):
        await harness.answer(broker.place(request))
    assert value(metrics, "tick_to_order_seconds_count") == 1


def test_stops_whose_exit_never_comes_are_forgotten_at_last(metrics: Metrics) -> None:
    watch = TickToOrder(metrics.tick_to_order.observe, now=lambda: 0, keep=2)
    for strategy_id in (1, 2, 1, 3):
        watch.triggered(strategy_id, 1, 0)
    for strategy_id in (1, 2, 3):
        watch.placing(exit_of(strategy_id, 1))
    assert value(metrics, "tick_to_order_seconds_count") == 2


def test_the_market_listener_tells_ticks_and_why_some_do_not_count(metrics: Metrics) -> None:
    listener = MarketMetrics(metrics)
    listener.received([Tick(SBIN, Decimal(1), NOON)] * 3, 0)
    listener.dropped(Verdict.OLD, 2)
    listener.triggered([stop_of(42, 3)], 0)
    listener.unavailable(LogUnavailable("no answer"))
    assert value(metrics, "ticks_total") == 3
    assert value(metrics, "ticks_dropped_total", reason="old") == 2
    assert value(metrics, "log_unavailable_total") == 1


# --- all together ----------------------------------------------------------------------------------------------------


async def test_the_application_serves_them_beside_its_own_by_route_template(metrics: Metrics) -> None:
    metrics.archive_lag.set(12)
    application = create_app(cast(Any, SimpleNamespace(registry=metrics.registry, acknowledge=None)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://bahi") as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/no/such/path/4711")).status_code == 404
    text = generate_latest(metrics.registry).decode()
    assert "4711" not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["bahi_archive_lag_events"].samples[0].value == 12
    routes = {sample.labels.get("route") for sample in families["bahi_http_request_seconds"].samples}
    assert "/healthz" in routes


def test_every_metric_is_named_with_its_unit_and_described(metrics: Metrics) -> None:
    for family in metrics.registry.collect():
        assert family.name.startswith("bahi_")
        assert family.documentation
        assert family.type != "histogram" or family.name.endswith("_seconds")
