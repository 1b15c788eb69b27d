"""The market listener: watches the stops of all strategies, and keeps the last prices.

1. `look(batch)` judges the ticks and finds the stops that they hit. It only computes; the first thing that follows a
   batch is the append of its STOPLOSS_TRIGGERED.
2. A stop that is armed, or armed anew, is checked at once against the last price (`apply`).
3. A trigger that could not be appended is appended when the log is back; the log takes one per run and revision.
4. Prices are written behind that, and nobody waits for them.
5. A feed silent while the market is open is reported, once, and asked to reconnect (`check_silence`).

`on_ticks`, `check_silence` and `on_event` are for a clock that is turned by hand; `run` does it all for ever.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final, assert_never

from domain.calendar import Calendar, UnknownYear
from domain.clock import Clock
from domain.events import (
    AlertTriggered,
    Event,
    PriceFeedConnected,
    PriceFeedError,
    PriceStreamDisconnected,
    PriceStreamRestored,
    StoplossTriggered,
)
from domain.values import SECOND, Code, Duration, Instant, Severity, Tick
from eventstore.clients import commands
from eventstore.envelope import Dedupe, NewEvent, Recorded
from eventstore.errors import LogUnavailable, outages
from eventstore.keys import price
from eventstore.log import EventLog
from projections.prices import decode_price
from projections.stop_index import Stop, StopIndex
from sources.appending import AT_ONCE, BACK_OFF, append, until_available
from sources.feeds.port import Connected, Disconnected, Feed, FeedError, FeedItem
from sources.following import following
from sources.judging import TickJudge, Verdict
from sources.prices import PriceWriter
from sources.silence import Silence

__all__ = ["MarketListener", "Observer"]

WATCH_EVERY: Final[Duration] = SECOND // 2
WRITE_EVERY: Final[Duration] = 10_000
"""Prices are written at most so often: each write of a log that is synced always costs a sync."""
DRAIN: Final = 2.0
"""Seconds that `stop` gives to triggers on their way to the log."""


class Observer:
    """What a listener tells whoever measures it. Times are `time.perf_counter_ns()`."""

    def received(self, batch: Sequence[Tick], received_at: int) -> None:
        """A batch came; its stops are checked."""

    def triggered(self, stops: Sequence[Stop], received_at: int) -> None:
        """The triggers of these stops are in the log; the tick that hit them came at `received_at`."""

    def dropped(self, reason: Verdict, count: int) -> None:
        """Ticks of a batch that did not count."""

    def unavailable(self, error: LogUnavailable) -> None:
        """The log or the prices could not be written just now."""


class MarketListener:
    """The stops of one partition.

    `index` was made from the states loaded, `run` follows the log from before that.
    """

    def __init__(
        self,
        log: EventLog,
        feed: Feed,
        clock: Clock,
        calendar: Calendar,
        index: StopIndex,
        *,
        prices: PriceWriter | None = None,
        observer: Observer | None = None,
        silence: Silence | None = None,
    ) -> None:
        self.index = index
        self._log = log
        self._feed = feed
        self._clock = clock
        self._calendar = calendar
        self._judge = TickJudge(calendar)
        self._prices = PriceWriter(log.redis) if prices is None else prices
        self._observer = observer or Observer()
        self._silence = silence or Silence()
        self._gap: Duration | None = None
        self._unsent: list[NewEvent] = []
        self._subscribed = -1
        self._error = ""
        self._group: asyncio.TaskGroup | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._to_write = asyncio.Event()
        self._to_report = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def is_silent(self) -> bool:
        """Whether no tick comes although ticks are to be expected."""
        return self._silence.is_silent

    # --- pure: what a tick or an event means ------------------------------------------------------------------------

    def look(self, batch: Sequence[Tick]) -> list[tuple[Stop, Tick]]:
        """Judge the ticks, and find the stops that they hit. From then on those are the caller's to append."""
        now = self._clock.now()
        judge, hits_of, note = self._judge.judge, self.index.hits, self._prices.note
        hit: list[tuple[Stop, Tick]] = []
        dropped: list[Verdict] = []
        for tick in batch:
            verdict = judge(tick, now)
            if verdict is not Verdict.NEWEST and verdict is not Verdict.EARLIER:
                dropped.append(verdict)
                continue
            for stop in hits_of(tick.symbol, tick.price):
                if stop.is_hit_by(tick):
                    self.index.take(stop)
                    hit.append((stop, tick))
            note(tick, verdict is Verdict.NEWEST)
        broken = dropped.count(Verdict.PRICE) + dropped.count(Verdict.FUTURE) if dropped else 0
        if broken < len(batch):  # a feed that sends nothing else is as good as silent
            self._gap = self._silence.heard(now)
        for reason, count in Counter(dropped).items() if dropped else ():
            self._observer.dropped(reason, count)
        return hit

    def apply(self, recorded: Recorded) -> list[tuple[Stop, Tick]]:
        """Follow one event of the log. The stops that it armed and that the last price hits."""
        return self._check(self.index.apply(recorded))

    def _check(self, stops: Sequence[Stop]) -> list[tuple[Stop, Tick]]:
        hit = []
        for stop in stops:
            last = self._judge.last.get(stop.symbol)
            if last is not None and stop.is_hit_by(last):
                self.index.take(stop)
                hit.append((stop, last))
        return hit

    def _restored(self) -> list[NewEvent]:
        """After a look: what to report if it ended a silence."""
        gap, self._gap = self._gap, None
        return [] if gap is None else [NewEvent(PriceStreamRestored(gap=gap))]

    def _fell_silent(self, now: Instant) -> list[NewEvent]:
        try:
            is_open = self._calendar.is_open(now)
        except UnknownYear:
            is_open = False
        expected = is_open and bool(self.index.symbols())
        silence = self._silence.check(now, expected)
        if expected and self._silence.asks(now):
            self._feed.reconnect()
        if silence is None:
            return []
        facts = {"feed": self._feed.name, "silence_ms": str(silence // 1_000), "stops": str(len(self.index))}
        events: list[Event] = [
            PriceStreamDisconnected(silence=silence, reason="no tick while the market is open"),
            AlertTriggered(severity=Severity.CRITICAL, code=Code.FEED_SILENT, at=now, facts=facts),
        ]
        return [NewEvent(event) for event in events]

    def _feed_said(self, item: Connected | Disconnected) -> list[NewEvent]:
        match item:
            case Connected(symbols=symbols):
                self._error = ""
                return [NewEvent(PriceFeedConnected(feed=self._feed.name, symbols=symbols))]
            case Disconnected(reason=reason):
                if reason == self._error:  # the same, attempt after attempt, is said once
                    return []
                self._error = reason
                return [NewEvent(PriceFeedError(feed=self._feed.name, reason=reason))]
            case _:
                assert_never(item)

    # --- by hand ----------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Take the last prices from where the listener before left them, and check every armed stop against them.
        Raises LogUnavailable: call it again."""
        symbols = sorted(self.index.symbols() - self._judge.last.keys())
        values = await commands(self._log.redis, [("GET", price(symbol)) for symbol in symbols]) if symbols else []
        for symbol, value in zip(symbols, values, strict=True):
            with outages():
                if isinstance(value, Exception):
                    raise value
            if (known := decode_price(value)) is not None:
                self._judge.last[symbol] = Tick(symbol, known[0], known[1])
        self._subscribe()
        await self._send(self._check(list(self.index.armed())))

    async def on_ticks(self, batch: Sequence[Tick], received_at: int | None = None) -> None:
        """A batch has arrived: triggers, then prices. Raises LogUnavailable; what was not appended is with the next
        call."""
        received_at = time.perf_counter_ns() if received_at is None else received_at
        hits = self.look(batch)
        self._observer.received(batch, received_at)
        await self._send(hits, self._restored())
        if hits:
            self._observer.triggered([stop for stop, _ in hits], received_at)
        await self._prices.flush(self._clock.now())

    async def on_event(self, recorded: Recorded) -> None:
        """Follow one event of the log, and append the triggers that it leads to. Raises LogUnavailable."""
        hits = self.apply(recorded)
        self._subscribe()
        await self._send(hits)

    async def check_silence(self, now: Instant) -> None:
        """Report a feed that has fallen silent. Raises LogUnavailable; the report is with the next call."""
        await self._send([], self._fell_silent(now))

    async def _send(self, hits: Sequence[tuple[Stop, Tick]], notices: Sequence[NewEvent] = ()) -> None:
        self._unsent += [_trigger(stop, tick) for stop, tick in hits]
        self._unsent += notices
        await self._send_unsent()

    async def _send_unsent(self) -> None:
        while self._unsent:
            some = self._unsent[:AT_ONCE]
            await append(self._log, some)
            del self._unsent[: len(some)]

    def _subscribe(self) -> None:
        if self._subscribed != self.index.symbols_revision:
            self._subscribed = self.index.symbols_revision
            self._feed.subscribe(self.index.symbols())

    # --- by the clock -----------------------------------------------------------------------------------------------

    async def run(self, follower: AsyncIterator[Recorded]) -> None:
        """Listen until `stop()`. Raises, as a group, what the follower raises, LogLost, and a fault of the feed other
        than FeedError."""
        await until_available(self._clock, self.begin, self._observer.unavailable)
        async with asyncio.TaskGroup() as group:
            self._group = group
            services = [
                group.create_task(self._follow(follower), name="listener: follow"),
                group.create_task(self._listen(), name="listener: feed"),
                group.create_task(self._watch(), name="listener: silence"),
                group.create_task(self._write_prices(), name="listener: prices"),
                group.create_task(self._report(), name="listener: reports"),
            ]
            await self._stopping.wait()
            for service in services:
                service.cancel()
            if self._sending:
                _, late = await asyncio.wait(self._sending, timeout=DRAIN)
                for task in late:  # the log is away: the next listener finds these stops armed, and the last prices
                    task.cancel()
        self._group = None
        try:
            await self._send_unsent()
            await self._prices.flush(self._clock.now(), everything=True)
        except LogUnavailable as error:
            self._observer.unavailable(error)

    def stop(self) -> None:
        """Let `run` return, when the triggers on their way are in the log."""
        self._stopping.set()

    async def _follow(self, follower: AsyncIterator[Recorded]) -> None:
        async with following(follower) as events:
            async for recorded in events:
                hits = self.apply(recorded)
                if hits:
                    self._append_soon(hits, time.perf_counter_ns())
                self._subscribe()

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async with following(self._feed.ticks()) as items:
                    async for item in items:
                        self._take(item, time.perf_counter_ns())
                        failures = 0
                return  # it has ended, as a recording does
            except FeedError as error:
                self._report_soon(self._feed_said(Disconnected(str(error))))
            await self._clock.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])
            failures += 1

    def _take(self, item: FeedItem, received_at: int) -> None:
        if not isinstance(item, list):
            self._report_soon(self._feed_said(item))
            return
        hits = self.look(item)
        if hits:
            self._append_soon(hits, received_at)
        self._report_soon(self._restored())
        self._observer.received(item, received_at)
        self._to_write.set()

    def _append_soon(self, hits: Sequence[tuple[Stop, Tick]], received_at: int) -> None:
        """Append in a task of its own, so that neither the next tick nor a price waits for the log."""
        assert self._group is not None  # noqa: S101 (only `run` comes here)
        task = self._group.create_task(self._append_until_done(hits, received_at))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _append_until_done(self, hits: Sequence[tuple[Stop, Tick]], received_at: int) -> None:
        events = [_trigger(stop, tick) for stop, tick in hits]
        for start in range(0, len(events), AT_ONCE):
            some = events[start : start + AT_ONCE]

            async def attempt(some: list[NewEvent] = some) -> None:
                await append(self._log, some)

            await until_available(self._clock, attempt, self._observer.unavailable)
        self._observer.triggered([stop for stop, _ in hits], received_at)

    def _report_soon(self, notices: Sequence[NewEvent]) -> None:
        """Append behind what was reported before, so that the log tells it in its order."""
        if notices:
            self._unsent += notices
            self._to_report.set()

    async def _report(self) -> None:
        while True:
            await self._to_report.wait()
            self._to_report.clear()
            await until_available(self._clock, self._send_unsent, self._observer.unavailable)

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(WATCH_EVERY)
            self._report_soon(self._fell_silent(self._clock.now()))

    async def _write_prices(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            while self._prices.is_pending:
                # first the triggers of these ticks, and what the workers make of them
                await self._clock.sleep(WRITE_EVERY)
                try:
                    await self._prices.flush(self._clock.now())
                except LogUnavailable as error:
                    self._observer.unavailable(error)
                    await self._clock.sleep(BACK_OFF[-1])


def _trigger(stop: Stop, tick: Tick) -> NewEvent:
    event = StoplossTriggered(run=stop.run, stop_revision=stop.revision, tick=tick, stop_loss=stop.price)
    # Two listeners may see it on different ticks: the first in the log is the one that counts.
    dedupe = Dedupe(f"stop:{stop.strategy_id}:{stop.run}:{stop.revision}", "stop")
    return NewEvent(event, stop.strategy_id, stop.user_id, dedupe=dedupe)
