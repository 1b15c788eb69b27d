"""Metrics for Prometheus. Everything is measured from outside, by wrapping what does the work or by asking Redis.

The requests of the REST application are measured by `api.middleware`, on the same registry.
"""

import functools
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from brokers.port import (
    Accepted,
    BookOrder,
    Broker,
    BrokerPosition,
    BrokerUnavailable,
    Changing,
    Done,
    NotPlaced,
    OrderLimits,
    Placing,
    Refused,
    SessionExpired,
    Trade,
    Unanswered,
)
from domain.clock import Clock
from domain.events import (
    AlertTriggered,
    BuyTriggered,
    Event,
    EventParked,
    OrderRetryRequired,
    SafetyAbort,
    SellTriggered,
    TriggerMissed,
)
from domain.tags import parse_tag
from domain.values import SECOND, Instant, OrderRequest, Price, Side, Tick
from eventstore.batch import Appended, AppendResult
from eventstore.clients import commands
from eventstore.envelope import NewEvent
from eventstore.errors import LogLost, LogUnavailable
from eventstore.keys import CLASSES, GROUP
from eventstore.log import EventLog
from eventstore.reading import parse
from projections.stop_index import Stop
from sources.judging import Verdict
from sources.listener import Observer

__all__ = [
    "InstrumentedBroker",
    "MarketMetrics",
    "Metrics",
    "TickToOrder",
    "instrument_check",
    "instrument_log",
    "measure_lanes",
    "timed",
]

P = ParamSpec("P")
R = TypeVar("R")

_QUICK: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_BROKER: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 7, 10, 30)
_TICK_TO_ORDER: Final = (
    *(0.0001, 0.0002, 0.0003, 0.0004, 0.0005, 0.0006, 0.0007, 0.0008, 0.0009),
    *(0.001, 0.0012, 0.0015, 0.002, 0.0025, 0.003, 0.004, 0.005, 0.006, 0.008),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1),
)
_WAIT: Final = (0, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 25, 30, 60)
_LATENESS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600)


class Metrics:
    """All of the engine's metrics, on one registry. Times are seconds, as Prometheus wants them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"bahi_{name}", words, labels, registry=registry)

        def gauge(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"bahi_{name}", words, labels, registry=registry)

        def histogram(name: str, words: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"bahi_{name}", words, labels, buckets=buckets, registry=registry)

        self.events = counter("events_appended", "Events that this process appended", "type")
        self.retries = counter("order_retries", "Orders that will be placed again", "kind")
        self.aborts = counter("safety_aborts", "Strategies aborted", "reason")
        self.parked = counter("events_parked", "Events set aside because nothing could be made of them")
        self.alerts = counter("alerts", "Alerts raised", "code", "severity")
        self.trigger_lateness = histogram(
            "trigger_lateness_seconds", "From the due time of a trigger to its place in the log", _LATENESS, "type"
        )

        self.lane_waiting = gauge("lane_lag_seconds", "Age of the oldest event not yet delivered to a worker", "class")
        self.lane_pending = gauge("lane_pending", "Events delivered and not yet acknowledged", "class")
        self.pending_age = gauge("pending_age_seconds", "Age of the oldest event delivered and pending", "class")
        self.handler_seconds = histogram("handler_seconds", "Handling one wake-up", _QUICK, "class")

        self.order_wait = histogram(
            "order_wait_seconds", "How long an order waited for room in the account's limits; mostly 0", _WAIT
        )
        self.broker_seconds = histogram("broker_call_seconds", "Calls of the broker", _BROKER, "call", "outcome")
        self.tick_to_order = histogram(
            "tick_to_order_seconds", "From the tick that hit a stop to the call of the broker", _TICK_TO_ORDER
        )

        self.ticks = counter("ticks", "Ticks received")
        self.ticks_dropped = counter("ticks_dropped", "Ticks that did not count", "reason")
        self.log_unavailable = counter("log_unavailable", "Attempts of the market listener to write that failed")
        self.archive_lag = gauge("archive_lag_events", "Events in the log and not yet in the archive")
        self.archive_lag_seconds = gauge("archive_lag_seconds", "Age of the oldest event not yet in the archive")
        self.archived_position = gauge("archived_position", "Everything up to here is in the archive", "partition")
        self.sealed_position = gauge("sealed_position", "Everything up to here is under a seal", "partition")
        self.trimmed_position = gauge("trimmed_position", "Up to here Redis holds nothing any more", "partition")
        self.sealing_stopped = gauge("sealing_stopped", "1 while no seal can be made", "partition")
        self.ready = gauge("ready", "Whether a part of the engine is ready: 1 or 0", "part")


# --- the log ---------------------------------------------------------------------------------------------------------


class Appends(Protocol):
    """What `instrument_log` wraps: `EventLog`, or anything that appends as it does."""

    @property
    def append(self) -> Callable[..., Awaitable[AppendResult]]: ...


L = TypeVar("L", bound=Appends)


def instrument_log(log: L, metrics: Metrics) -> L:
    """The log itself, whose appends are counted from now on.

    Only what was written counts: neither a Conflict nor an event that was in the log before.
    """
    appending: Any = log
    append, append_many = appending.append, appending.append_many

    def count(events: Sequence[NewEvent], result: AppendResult) -> None:
        if isinstance(result, Appended):
            for new in _written(events, result.positions):
                _count_event(new.event, result.recorded_at, metrics)

    async def counted(events: Sequence[NewEvent], **how: Any) -> AppendResult:
        result: AppendResult = await append(events, **how)
        count(events, result)
        return result

    async def many_counted(batches: Sequence[Sequence[NewEvent]]) -> list[AppendResult]:
        results: list[AppendResult] = await append_many(batches)
        for events, result in zip(batches, results, strict=True):
            count(events, result)
        return results

    appending.append, appending.append_many = counted, many_counted
    return log


def _written(events: Sequence[NewEvent], positions: Sequence[int]) -> Iterable[NewEvent]:
    """Those that this append wrote: the run of positions up to the highest. Others keep their earlier ones."""
    highest = max(positions, default=0)
    for new, position in zip(reversed(events), reversed(positions), strict=True):
        if position == highest:
            highest -= 1
            yield new


def _count_event(event: Event, recorded_at: Instant, metrics: Metrics) -> None:
    metrics.events.labels(event.type).inc()
    match event:
        case BuyTriggered() | SellTriggered() | TriggerMissed():
            metrics.trigger_lateness.labels(event.type).observe(max(0, recorded_at - event.due_at) / SECOND)
        case OrderRetryRequired():
            metrics.retries.labels(event.kind).inc()
        case SafetyAbort():
            metrics.aborts.labels(event.reason).inc()
        case EventParked():
            metrics.parked.inc()
        case AlertTriggered():
            metrics.alerts.labels(event.code, event.severity).inc()
        case _:
            pass


async def measure_lanes(log: EventLog, metrics: Metrics) -> None:
    """Ask Redis how far behind the workers are, once. Raises LogUnavailable, LogLost when the group is gone."""
    streams = log.keys.streams
    first = await commands(
        log.redis,
        [
            call
            for each in CLASSES
            for call in (("XINFO", "GROUPS", streams[each]), ("XPENDING", streams[each], GROUP, "-", "+", 1))
        ],
    )
    groups, pendings = first[::2], first[1::2]
    lookups: list[tuple[str, str, bytes, bytes | str]] = []
    for each, described, pending in zip(CLASSES, groups, pendings, strict=True):
        group = _group(described)
        if group is None or isinstance(pending, Exception):
            raise LogLost(f"the group {GROUP} of {streams[each]} is gone: {described!r}, {pending!r}")
        metrics.lane_pending.labels(each).set(group[b"pending"])
        lookups.append(("XRANGE", streams[each], b"(" + group[b"last-delivered-id"], "+"))
        oldest = pending[0][0] if pending else b"0-0"
        lookups.append(("XRANGE", streams[each], oldest, oldest))
    entries = await commands(log.redis, [(*lookup, "COUNT", 1) for lookup in lookups])
    now = log.clock.now()
    for each, waiting, pending in zip(CLASSES, entries[::2], entries[1::2], strict=True):
        for gauge, found in ((metrics.lane_waiting, waiting), (metrics.pending_age, pending)):
            age = max(0, now - parse(found[0], each).recorded_at) if found else 0
            gauge.labels(each).set(age / SECOND)


def _group(described: Any) -> dict[bytes, Any] | None:
    if isinstance(described, Exception):
        return None
    groups = (dict(zip(each[::2], each[1::2], strict=True)) for each in described)
    return next((group for group in groups if group[b"name"] == GROUP.encode()), None)


# --- handlers and checks ---------------------------------------------------------------------------------------------


class Timed(Protocol):
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


def timed(histogram: Histogram, label: Callable[..., str] | None = None) -> Timed:
    """A decorator: every call of the function, plain or `async def`, is observed, also one that raises.

    `label` makes the label of a call from its arguments, for a histogram with one label.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        def observe(started: float, *args: P.args, **kwargs: P.kwargs) -> None:
            child = histogram if label is None else histogram.labels(label(*args, **kwargs))
            child.observe(time.perf_counter() - started)

        @functools.wraps(function)
        async def later(*args: P.args, **kwargs: P.kwargs) -> Any:
            started = time.perf_counter()
            try:
                return await cast(Awaitable[Any], function(*args, **kwargs))
            finally:
                observe(started, *args, **kwargs)

        @functools.wraps(function)
        def at_once(*args: P.args, **kwargs: P.kwargs) -> R:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                observe(started, *args, **kwargs)

        return cast(Callable[P, R], later) if inspect.iscoroutinefunction(function) else at_once

    return decorate


def instrument_check(
    part: str, check: Callable[[], Awaitable[None]], metrics: Metrics
) -> Callable[[], Awaitable[None]]:
    """The same check of readiness, whose last answer is a gauge; 0 until it was asked for the first time."""
    gauge = metrics.ready.labels(part)

    async def checked() -> None:
        try:
            await check()
        except BaseException:
            gauge.set(0)
            raise
        gauge.set(1)

    return checked


# --- the broker and the market ---------------------------------------------------------------------------------------


class TickToOrder:
    """From the tick that hits a stop to the broker's being called, where both happen in this process.

    Other delays between the two count too: an entry that must be cancelled first, a back-off.
    """

    def __init__(
        self, observe: Callable[[float], None], *, now: Callable[[], int] = time.perf_counter_ns, keep: int = 10_000
    ) -> None:
        """`observe` is called with seconds: the `observe` of `Metrics.tick_to_order`, say."""
        self._observe = observe
        self._now = now
        self._keep = keep
        self._received: dict[tuple[int, int], int] = {}

    def triggered(self, strategy_id: int, run: int, received_at: int) -> None:
        """The stop of this run was hit by a tick received at `received_at`, in nanoseconds of `now`."""
        self._received.pop((strategy_id, run), None)
        self._received[strategy_id, run] = received_at
        if len(self._received) > self._keep:  # exits that never came: denied, or placed by another process
            del self._received[next(iter(self._received))]

    def placing(self, request: OrderRequest) -> None:
        """The broker is about to be called with this request."""
        tag = parse_tag(request.tag) if self._received and request.side is Side.SELL else None
        received_at = self._received.pop((tag.strategy_id, tag.run), None) if tag is not None else None
        if received_at is not None:
            self._observe((self._now() - received_at) / 1e9)


class MarketMetrics(Observer):
    """What the market listener tells, as metrics."""

    def __init__(self, metrics: Metrics, tick_to_order: TickToOrder | None = None) -> None:
        self._metrics = metrics
        self._tick_to_order = tick_to_order

    def received(self, batch: Sequence[Tick], received_at: int) -> None:
        self._metrics.ticks.inc(len(batch))

    def triggered(self, stops: Sequence[Stop], received_at: int) -> None:
        if self._tick_to_order is not None:
            for stop in stops:
                self._tick_to_order.triggered(stop.strategy_id, stop.run, received_at)

    def dropped(self, reason: Verdict, count: int) -> None:
        self._metrics.ticks_dropped.labels(reason).inc(count)

    def unavailable(self, error: LogUnavailable) -> None:
        self._metrics.log_unavailable.inc()


class InstrumentedBroker:
    """A broker whose calls are timed, by call and outcome; it answers and raises what the one inside does."""

    def __init__(
        self, broker: Broker, metrics: Metrics, clock: Clock, *, tick_to_order: TickToOrder | None = None
    ) -> None:
        self._broker = broker
        self._metrics = metrics
        self._clock = clock
        self._tick_to_order = tick_to_order

    @property
    def account(self) -> str:
        return self._broker.account

    @property
    def limits(self) -> OrderLimits | None:
        return self._broker.limits

    async def place(self, request: OrderRequest) -> Placing:
        if self._tick_to_order is not None:
            self._tick_to_order.placing(request)
        return await self._timed("place", self._broker.place(request))

    async def modify(self, order_id: str, *, price: Price) -> Changing:
        return await self._timed("modify", self._broker.modify(order_id, price=price))

    async def cancel(self, order_id: str) -> Changing:
        return await self._timed("cancel", self._broker.cancel(order_id))

    async def orders(self) -> list[BookOrder]:
        return await self._timed("orders", self._broker.orders())

    async def trades(self) -> list[Trade]:
        return await self._timed("trades", self._broker.trades())

    async def positions(self) -> list[BrokerPosition]:
        return await self._timed("positions", self._broker.positions())

    def updates(self) -> AsyncIterator[str]:
        return self._broker.updates()

    async def _timed(self, call: str, answer: Awaitable[R]) -> R:
        started = self._clock.now()
        outcome = "given_up"  # cancelled while waiting
        try:
            result = await answer
            outcome = _outcome(result)
            return result
        except Exception as error:
            outcome = _failure(error)
            raise
        finally:
            took = max(0, self._clock.now() - started) / SECOND
            self._metrics.broker_seconds.labels(call, outcome).observe(took)


def _outcome(answer: object) -> str:
    match answer:
        case Accepted():
            return "accepted"
        case NotPlaced():
            return "not_placed"
        case Unanswered():
            return "unanswered"
        case Done():
            return "done"
        case Refused():
            return "refused"
        case _:
            return "read"


def _failure(error: Exception) -> str:
    match error:
        case SessionExpired():
            return "session_expired"
        case BrokerUnavailable():
            return "unavailable"
        case _:
            return "error"
