"""The scheduler on a real log: every timer is fired once, by the late policy, whatever the clock and the log do."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apscheduler.schedulers.base
import pytest

from bahi.servers import EmbeddedRedis
from domain.events import (
    BuyTriggered,
    SchedulerResyncRequired,
    SellTriggered,
    StrategyReady,
    StrategyRunning,
    StrategyStopped,
    StrategyUpdated,
    TriggerMissed,
)
from domain.values import HOUR, MINUTE, SECOND, Duration, Exit, Status
from eventstore.errors import LogLost, LogUnavailable
from eventstore.log import EventLog
from projections.timetable import Timer, Timetable
from simulation.clock import VirtualClock
from sources.scheduler import Scheduler
from tests.sources.world import (
    CLOSE,
    TEN,
    ShiftedClock,
    add,
    catch_up,
    history,
    load,
    open_test_log,
    start,
    start_many,
    started,
    wait_for,
)

TIMERS = (BuyTriggered, SellTriggered, TriggerMissed)
SELL = TEN + HOUR


@asynccontextmanager
async def running(scheduler: Scheduler, log: EventLog, after: int = 0) -> AsyncIterator[None]:
    """Runs the scheduler, and stops it in good order."""
    async with asyncio.TaskGroup() as group:
        group.create_task(scheduler.run(log.follow(after)))
        try:
            yield
        finally:
            scheduler.stop()


async def followed(log: EventLog, clock: VirtualClock, **options: Any) -> Scheduler:
    scheduler = Scheduler(log, clock, Timetable(), **options)
    await catch_up(log, scheduler.apply, 0)
    return scheduler


# --- by hand --------------------------------------------------------------------------------------------------------


async def test_ready_and_running_come_once_when_the_timers_stand(log: EventLog, clock: VirtualClock) -> None:
    begun = await start(log, 1, started(TEN + MINUTE, SELL))
    one, two = await followed(log, clock), await followed(log, clock)
    await one.step(TEN)
    await two.step(TEN)
    await one.step(TEN)
    told = await history(log, StrategyReady, StrategyRunning)
    assert [each.event for each in told] == [StrategyReady(run=begun.run), StrategyRunning(run=begun.run)]
    assert told[0].causation_id == (await history(log, type(started())))[0].event_id
    (state,) = await load(log, [1])
    assert (state.status, state.ready) == (Status.RUNNING, True)


async def test_a_buy_and_a_sell_are_triggered_at_their_instants(log: EventLog, clock: VirtualClock) -> None:
    begun = await start(log, 1, started())
    scheduler = await followed(log, clock)
    assert scheduler.next_due() == TEN
    assert await scheduler.step(TEN - 1) == 0
    assert await scheduler.step(TEN) == 1
    assert scheduler.next_due() == SELL
    assert await scheduler.step(SELL - 1) == 0
    assert await scheduler.step(SELL) == 1
    assert scheduler.next_due() is None
    assert [each.event for each in await history(log, *TIMERS)] == [
        BuyTriggered(run=begun.run, due_at=TEN),
        SellTriggered(run=begun.run, due_at=SELL),
    ]
    (state,) = await load(log, [1])
    assert (state.buy_due, state.sell_due) == (True, True)


async def test_a_buy_within_the_limit_is_fired_late_and_beyond_it_is_missed(log: EventLog, clock: VirtualClock) -> None:
    await start(log, 1, started(TEN))
    await start(log, 2, started(TEN - 1))
    scheduler = await followed(log, clock)
    await scheduler.step(TEN + 30 * SECOND)
    found = {each.strategy_id: each.event for each in await history(log, *TIMERS)}
    assert found[1] == BuyTriggered(run=2, due_at=TEN)
    assert found[2] == TriggerMissed(run=2, due_at=TEN - 1, lateness=30 * SECOND + 1)
    one, two = await load(log, [1, 2])
    assert (one.buy_due, one.buy_missed, two.buy_due, two.buy_missed) == (True, False, False, True)


async def test_a_sell_is_fired_late_until_the_close(log: EventLog, clock: VirtualClock) -> None:
    await start(log, 1, started())
    await (await followed(log, clock)).step(CLOSE - 1)
    assert [type(each.event) for each in await history(log, *TIMERS)] == [TriggerMissed, SellTriggered]


async def test_a_sell_after_the_close_is_left_to_the_end_of_the_session(log: EventLog, clock: VirtualClock) -> None:
    await start(log, 1, started())
    scheduler = await followed(log, clock)
    await scheduler.step(CLOSE)
    assert [type(each.event) for each in await history(log, *TIMERS)] == [TriggerMissed]
    assert scheduler.next_due() is None


async def test_an_update_moves_the_timers(log: EventLog, clock: VirtualClock) -> None:
    await start(log, 1, started())
    scheduler = await followed(log, clock)
    moved = StrategyUpdated(stop_revision=1, buy_at=TEN + MINUTE, sell_at=SELL + MINUTE)
    await add(log, 1, moved, SchedulerResyncRequired())
    await catch_up(log, scheduler.apply, 0)
    assert await scheduler.step(TEN + MINUTE - 1) == 0
    assert await scheduler.step(SELL + MINUTE) == 2
    assert [each.event.due_at for each in await history(log, TriggerMissed, SellTriggered)] == [  # type: ignore[attr-defined]
        TEN + MINUTE,
        SELL + MINUTE,
    ]


async def test_a_run_that_ended_is_not_fired(log: EventLog, clock: VirtualClock) -> None:
    begun = await start(log, 1, started())
    scheduler = await followed(log, clock)
    await add(log, 1, StrategyStopped(run=begun.run, reason=Exit.USER, at=TEN))
    await catch_up(log, scheduler.apply, 0)
    assert await scheduler.step(SELL) == 0


async def test_two_schedulers_that_judge_lateness_differently_fire_once(log: EventLog, clock: VirtualClock) -> None:
    """The second is late: what it would call missed was fired already."""
    await start(log, 1, started())
    one, two = await followed(log, clock), await followed(log, clock)
    await one.fire_due(TEN)
    await two.fire_due(TEN + MINUTE)
    assert [type(each.event) for each in await history(log, *TIMERS)] == [BuyTriggered]


async def test_from_loaded_states_only_what_is_pending_is_fired(log: EventLog, clock: VirtualClock) -> None:
    await start_many(log, [1, 2], started())
    before = await followed(log, clock)
    await before.step(TEN)
    await start(log, 3, started(TEN + 1))
    restarted = Scheduler(log, clock, Timetable.from_states(await load(log, [1, 2, 3])))
    await catch_up(log, restarted.apply, 2)
    assert await restarted.step(TEN + 2) == 1
    assert [each.strategy_id for each in await history(log, BuyTriggered)] == [1, 2, 3]


async def test_another_epoch_is_an_incident(log: EventLog, clock: VirtualClock, redis: Any) -> None:
    await start(log, 1, started())
    scheduler = await followed(log, clock)
    await redis.set(log.keys.epoch, "another")
    with pytest.raises(LogLost):
        await scheduler.step(TEN)


# --- by the clock ---------------------------------------------------------------------------------------------------


def soon(clock: ShiftedClock, ahead: Duration = 300_000, sell_ahead: Duration = HOUR) -> Any:
    now = clock.now()
    return started(now + ahead, now + sell_ahead, open_at=now - HOUR, close_at=now + 3 * HOUR)


async def test_two_schedulers_fire_each_trigger_once_and_on_time(real_log: EventLog, real_clock: ShiftedClock) -> None:
    late: list[tuple[Timer, Duration]] = []
    one = Scheduler(real_log, real_clock, Timetable(), lateness=lambda *it: late.append(it))
    two = Scheduler(real_log, real_clock, Timetable(), lateness=lambda *it: late.append(it))
    async with running(one, real_log), running(two, real_log):
        for each in range(1, 21):
            await start(real_log, each, soon(real_clock, 300_000, 600_000))
        await wait_for(real_log, 20, StrategyRunning)
        await wait_for(real_log, 20, SellTriggered)
    fired = await history(real_log, *TIMERS)
    assert sorted((each.strategy_id, each.event.type) for each in fired) == sorted(
        (each, kind) for each in range(1, 21) for kind in ("BUY_TRIGGERED", "SELL_TRIGGERED")
    )
    assert all(each.recorded_at >= each.event.due_at for each in fired)  # type: ignore[attr-defined]
    assert len(await history(real_log, StrategyReady, StrategyRunning)) == 40
    assert late
    assert min(late_by for _, late_by in late) >= 0


async def test_what_is_due_at_start_up_fires_at_once(real_log: EventLog, real_clock: ShiftedClock) -> None:
    await start(real_log, 1, soon(real_clock, -SECOND))
    await start(real_log, 2, soon(real_clock, -MINUTE))
    await start(real_log, 3, soon(real_clock, -MINUTE, -SECOND))
    states = await load(real_log, [1, 2, 3])
    scheduler = Scheduler(real_log, real_clock, Timetable.from_states(states))
    async with running(scheduler, real_log, await real_log.last_position()):
        fired = await wait_for(real_log, 4, *TIMERS)
    assert {(each.strategy_id, each.event.type) for each in fired} == {
        (1, "BUY_TRIGGERED"),
        (2, "TRIGGER_MISSED"),
        (3, "TRIGGER_MISSED"),
        (3, "SELL_TRIGGERED"),
    }


async def test_five_thousand_due_at_one_instant_are_one_job(
    real_log: EventLog, real_clock: ShiftedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = list(range(1, 5_001))
    event = soon(real_clock, HOUR, 2 * HOUR)
    await start_many(real_log, ids, event)
    late: list[Duration] = []
    scheduler = Scheduler(
        real_log,
        real_clock,
        Timetable.from_states(await load(real_log, ids)),
        lateness=lambda _, late_by: late.append(late_by),
    )
    at = await real_log.last_position()
    async with running(scheduler, real_log, at):
        await wait_for(real_log, 5_000, StrategyRunning)
        assert [job.id for job in scheduler._alarm.get_jobs()] == [str(event.buy_at), str(event.sell_at)]
        real_clock.shift = event.buy_at - (real_clock.now() - real_clock.shift)
        fired = await wait_for(real_log, 5_000, BuyTriggered)
    assert sorted(each.strategy_id for each in fired) == ids
    took = (fired[-1].recorded_at - fired[0].recorded_at) / 1_000
    with capsys.disabled():
        print(f"\n5,000 triggers: {took:.0f} ms from the first to the last in the log")


async def test_a_clock_set_forward_fires_what_became_due(real_log: EventLog, real_clock: ShiftedClock) -> None:
    await start(real_log, 1, soon(real_clock, HOUR, 2 * HOUR))
    scheduler = Scheduler(real_log, real_clock, Timetable(), buy_late_limit=2 * HOUR)
    async with running(scheduler, real_log):
        await wait_for(real_log, 1, StrategyRunning)
        real_clock.shift += HOUR
        await wait_for(real_log, 1, BuyTriggered)
        assert scheduler.next_due() is not None
        real_clock.shift += HOUR
        await wait_for(real_log, 1, SellTriggered)


async def test_a_clock_set_back_fires_neither_early_nor_twice(
    real_log: EventLog, real_clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm clock sees the machine's time jump too."""

    class Shifted(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> "Shifted":
            real = super().now(tz) + dt.timedelta(microseconds=real_clock.shift)
            return cls.fromtimestamp(real.timestamp(), tz)

    monkeypatch.setattr(apscheduler.schedulers.base, "datetime", Shifted)
    monkeypatch.setattr("sources.scheduler.dt.datetime", Shifted)
    event = soon(real_clock, 200_000, 700_000)
    await start(real_log, 1, event)
    scheduler = Scheduler(real_log, real_clock, Timetable())
    async with running(scheduler, real_log):
        await wait_for(real_log, 1, StrategyRunning)
        real_clock.shift -= 300_000  # the alarm of the BUY is waited for already: it rings 0.3 s early
        (bought,) = await wait_for(real_log, 1, BuyTriggered)
        assert bought.recorded_at >= event.buy_at
        real_clock.shift -= 400_000  # before the BUY once more
        (sold,) = await wait_for(real_log, 1, SellTriggered)
        assert real_clock.now() >= event.sell_at
        assert sold.recorded_at >= event.sell_at
    assert len(await history(real_log, *TIMERS)) == 2


async def test_an_alarm_that_rings_early_is_set_again(real_log: EventLog, real_clock: ShiftedClock) -> None:
    event = soon(real_clock, 400_000)
    await start(real_log, 1, event)
    scheduler = Scheduler(real_log, real_clock, Timetable())
    async with running(scheduler, real_log):
        await wait_for(real_log, 1, StrategyRunning)
        await scheduler._ring(event.buy_at)
        (fired,) = await wait_for(real_log, 1, BuyTriggered)
    assert fired.recorded_at >= event.buy_at


async def test_an_update_moves_a_running_alarm(real_log: EventLog, real_clock: ShiftedClock) -> None:
    await start(real_log, 1, soon(real_clock, HOUR, 2 * HOUR))
    scheduler = Scheduler(real_log, real_clock, Timetable())
    async with running(scheduler, real_log):
        await wait_for(real_log, 1, StrategyRunning)
        at = real_clock.now() + 100_000
        await add(real_log, 1, StrategyUpdated(stop_revision=1, buy_at=at), SchedulerResyncRequired())
        (fired,) = await wait_for(real_log, 1, BuyTriggered)
    assert fired.event == BuyTriggered(run=2, due_at=at)


async def test_an_outage_of_the_log_at_the_due_instant_forgets_nothing(
    servers_home: Path, real_clock: ShiftedClock
) -> None:
    home = servers_home / "timers"
    home.mkdir(exist_ok=True)
    server = EmbeddedRedis(home)
    server.start()
    try:
        log = await open_test_log(server.url, real_clock)
        down = asyncio.Event()

        def told(error: LogUnavailable) -> None:
            down.set()

        scheduler = Scheduler(log, real_clock, Timetable(), outage=told)
        event = soon(real_clock, 4 * SECOND, 4 * SECOND + 100_000)
        await start_many(log, list(range(1, 101)), event)
        async with running(scheduler, log):
            await wait_for(log, 100, StrategyRunning)
            await asyncio.to_thread(server.kill)
            assert real_clock.now() < event.buy_at
            async with asyncio.timeout(60):
                await down.wait()  # it is due, and could not be appended
            assert real_clock.now() >= event.buy_at
            await asyncio.to_thread(server.start)
            fired = await wait_for(log, 200, *TIMERS)
        assert len({(each.strategy_id, each.event.type) for each in fired}) == 200
        assert len(await history(log, *TIMERS)) == 200
        await log.aclose()
    finally:
        server.stop()


async def test_a_lost_answer_is_not_a_second_trigger(log: EventLog, clock: VirtualClock) -> None:
    """Written, but nobody heard of it; asked again after the limit, it is still the trigger and not a miss."""
    await start(log, 1, started())
    scheduler = await followed(log, clock)
    forgetful = await followed(log, clock)
    await forgetful.fire_due(TEN)
    await scheduler.fire_due(TEN + HOUR - 1)
    await scheduler.fire_due(TEN + HOUR - 1)
    assert [type(each.event) for each in await history(log, *TIMERS)] == [BuyTriggered]


async def test_idle_alarms_are_accurate(
    real_log: EventLog, real_clock: ShiftedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the instant to the trigger in the log. The goal is p99 < 5 ms; a busy machine gets ten times that here."""
    late: list[Duration] = []
    begin = real_clock.now() + 500_000
    for each in range(50):
        at = begin + each * 10_007
        await start(
            real_log,
            each + 1,
            started(at, at + 777_777, open_at=at - HOUR, close_at=at + HOUR),
        )
    scheduler = Scheduler(real_log, real_clock, Timetable(), lateness=lambda _, late_by: late.append(late_by))
    async with running(scheduler, real_log):
        await wait_for(real_log, 50, SellTriggered)
    ahead = sorted(late)
    with capsys.disabled():
        print(f"\nlateness of {len(late)} alarms: p50 {ahead[len(late) // 2]} µs, p99 {ahead[-2]} µs")
    assert ahead[len(late) // 2] < 50_000
