"""The pre-open readiness check: who is told, when, and how often."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from domain.calendar import AlwaysOpenCalendar, Calendar, instant, load_nse
from domain.events import (
    AlertTriggered,
    Event,
    OrderFinalized,
    OrderOutcomeUnknown,
    PositionSettled,
    StrategyCreated,
    StrategyStopped,
)
from domain.strategy import fold, initial
from domain.tags import make_tag
from domain.values import HOUR, MINUTE, Code, Doubt, Exit, Final, Instant, Severity
from eventstore.batch import Appended
from eventstore.envelope import NewEvent
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog
from projections.runtime import decode_state, encode_change
from simulation.clock import VirtualClock
from sources.readiness import Readiness
from tests.sources.world import bought, history, open_test_log, started

DAY = dt.date(2021, 4, 13)
NEXT_DAY = dt.date(2021, 4, 15)
"""The 14th was a holiday."""


def at(hour: int, minute: int = 0, date: dt.date = DAY) -> Instant:
    return instant(date, dt.time(hour, minute))


NINE_TWENTY = at(9, 20)


class Sessions:
    """Sessions by user: until when."""

    def __init__(self) -> None:
        self.ends: dict[int, Instant] = {}
        self.away = False

    async def lasts(self, user_id: int, until: Instant) -> bool:
        if self.away:
            raise LogUnavailable("the accounts cannot be read")
        return self.ends.get(user_id, 0) > until


class World:
    def __init__(self, log: EventLog, clock: VirtualClock) -> None:
        self.log = log
        self.clock = clock
        self.sessions = Sessions()

    def check(self, calendar: Calendar | None = None) -> Readiness:
        return Readiness(self.log, self.clock, calendar or load_nse(), self.sessions, cure="log in")

    async def arm(self, strategy_id: int, user_id: int = 7, buy_at: Instant = NINE_TWENTY) -> None:
        """A run of today, with the version 2."""
        event = started(buy_at, at(15, 10))
        await self.add(strategy_id, StrategyCreated(config=event.config), event, user_id=user_id)

    async def add(self, strategy_id: int, *events: Event, user_id: int = 7) -> None:
        (loaded,) = await self.log.load_many([strategy_id])
        known = initial(strategy_id)
        if loaded.version:
            known = decode_state(strategy_id, loaded.strategy, loaded.runtime)
        after = fold(known if loaded.version else initial(strategy_id, user_id), events)
        news = [NewEvent(event, strategy_id, user_id) for event in events]
        result = await self.log.append(news, expected=known.version, runtime=encode_change(known, after, None))
        assert isinstance(result, Appended), result

    async def alerts(self) -> list[tuple[int, AlertTriggered]]:
        return [(one.user_id, one.event) for one in await history(self.log, AlertTriggered)]  # type: ignore[misc]


@pytest.fixture
async def world(redis: Redis, redis_url: str) -> AsyncIterator[World]:
    clock = VirtualClock(at(8))
    log = await open_test_log(redis_url, clock)
    yield World(log, clock)
    await log.aclose()


# --- when ------------------------------------------------------------------------------------------------------------


async def test_it_looks_at_0845_and_0910_of_every_day_with_a_session(world: World) -> None:
    check = world.check()
    seen = []
    while len(seen) < 6:
        due = check.next_due()
        assert due is not None
        assert due > world.clock.now()
        world.clock.set(due - 1)
        assert await check.step(world.clock.now()) == 0
        assert check.next_due() == due, "a step before its time does nothing"
        world.clock.set(due)
        await check.step(due)
        seen.append(due)
    assert seen == [
        *(at(8, 45), at(9, 10)),
        *(at(8, 45, NEXT_DAY), at(9, 10, NEXT_DAY)),
        *(at(8, 45, dt.date(2021, 4, 16)), at(9, 10, dt.date(2021, 4, 16))),
    ]


async def test_a_late_start_looks_at_once_and_once(world: World) -> None:
    await world.arm(1)
    world.clock.set(at(9, 12))
    check = world.check()
    assert check.next_due() == at(9, 10)
    assert await check.step(at(9, 12)) == 1
    assert check.next_due() == at(8, 45, NEXT_DAY)
    assert await check.step(at(9, 13)) == 0
    assert len(await world.alerts()) == 1


async def test_after_the_close_there_is_nothing_to_be_ready_for(world: World) -> None:
    await world.arm(1)
    world.clock.set(at(15, 30))
    assert world.check().next_due() == at(8, 45, NEXT_DAY)


async def test_an_evening_session_is_told_of_in_the_morning(world: World) -> None:
    diwali = dt.date(2021, 11, 4)
    world.clock.set(at(0, 0, diwali))
    assert world.check().next_due() == at(8, 45, diwali)


async def test_where_the_market_never_closes_it_looks_every_day(world: World) -> None:
    assert world.check(AlwaysOpenCalendar()).next_due() == at(8, 45)


async def test_an_unknown_year_is_skipped_aloud_and_once(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.clock.set(at(9, 0, dt.date(2051, 1, 3)))
    check = world.check()
    for _ in range(3):
        assert check.next_due() is None
        assert await check.step(world.clock.now()) == 0
    said = capsys.readouterr().out
    assert said.count("readiness_not_checked") == 1
    assert "the exchange's calendar for 2051 is not known" in said


# --- who -------------------------------------------------------------------------------------------------------------


async def test_a_user_without_a_session_hears_which_strategies_wait_for_it(world: World) -> None:
    await world.arm(1, buy_at=at(9, 40))
    await world.arm(2, buy_at=at(9, 20))
    await world.arm(3, user_id=8)
    world.sessions.ends[8] = at(6, 0, dt.date(2021, 4, 14))
    assert await world.check().step(at(8, 45)) == 1
    ((user_id, alert),) = await world.alerts()
    assert (user_id, alert.severity, alert.code, alert.at) == (7, Severity.CRITICAL, Code.SESSION_MISSING, at(8, 45))
    assert alert.facts == {"date": "2021-04-13", "strategies": "1, 2", "first_buy": "09:20:00", "cure": "log in"}


async def test_a_session_that_ends_before_the_last_sale_is_none(world: World) -> None:
    await world.arm(1)
    world.sessions.ends[7] = at(15, 10)
    assert await world.check().step(at(8, 45)) == 1


async def test_only_todays_strategies_count(world: World) -> None:
    await world.arm(1)
    check = world.check()
    world.clock.set(at(8, 45, NEXT_DAY))
    assert await check.step(at(8, 45, NEXT_DAY)) == 0


async def test_what_has_ended_or_is_sold_again_needs_no_session(world: World) -> None:
    await world.arm(1)
    await world.add(1, StrategyStopped(run=2, reason=Exit.USER, at=at(8, 30)))
    assert await world.check().step(at(8, 45)) == 0
    await world.arm(2)
    await world.add(2, *bought(2, 2), OrderFinalized(tag=make_tag("TEST", 2, 2, 1), final=Final.COMPLETE, filled=10))
    await world.add(2, PositionSettled(quantity=10, how="sold elsewhere"))
    world.clock.set(at(9, 30))
    assert await world.check().step(at(9, 30)) == 0


async def test_shares_that_are_held_need_a_session_to_be_sold(world: World) -> None:
    await world.arm(1)
    await world.add(1, *bought(1, 2))
    world.clock.set(at(11))
    assert await world.check().step(at(11)) == 1
    ((_, alert),) = await world.alerts()
    assert alert.facts["shares_held"] == "10"
    assert "first_buy" not in alert.facts


async def test_an_order_whose_outcome_is_unknown_needs_a_session_on_any_day(world: World) -> None:
    await world.arm(1)
    intent, _ = bought(1, 2)
    unknown = OrderOutcomeUnknown(tag=make_tag("TEST", 1, 2, 1), doubt=Doubt.AMBIGUOUS)
    await world.add(1, intent, unknown)
    world.clock.set(at(8, 45, NEXT_DAY))
    assert await world.check().step(at(8, 45, NEXT_DAY)) == 1


async def test_hundreds_of_users_are_told_in_batches_and_many_strategies_in_short(world: World) -> None:
    for number in range(1, 31):
        await world.arm(number)
    for user_id in range(100, 230):
        await world.arm(user_id, user_id=user_id)
    assert await world.check().step(at(8, 45)) == 131
    alerts = dict(await world.alerts())
    assert len(alerts) == 131
    assert alerts[7].facts["strategies"].endswith("19, 20 and 10 more")


# --- how often -------------------------------------------------------------------------------------------------------


async def test_it_is_told_once_a_call_however_many_check(world: World) -> None:
    await world.arm(1)
    checks = [world.check() for _ in range(3)]
    for check in checks:
        await check.step(at(8, 45))
    assert len(await world.alerts()) == 1
    world.clock.set(at(9, 10))
    for check in [*checks, world.check()]:
        await check.step(at(9, 10))
    assert len(await world.alerts()) == 2


async def test_who_logs_in_after_the_first_call_is_not_called_again(world: World) -> None:
    await world.arm(1)
    check = world.check()
    await check.step(at(8, 45))
    world.sessions.ends[7] = at(6, 0, dt.date(2021, 4, 14))
    assert await check.step(at(9, 10)) == 0
    assert len(await world.alerts()) == 1


async def test_a_restart_between_the_calls_repeats_nothing(world: World) -> None:
    await world.arm(1)
    await world.check().step(at(8, 45))
    again = world.check()
    world.clock.set(at(8, 50))
    assert again.next_due() == at(8, 45)
    await again.step(at(8, 50))
    assert again.next_due() == at(9, 10)
    assert len(await world.alerts()) == 1


# --- by the clock ----------------------------------------------------------------------------------------------------


async def run_until(world: World, end: Instant) -> None:
    """Turns the clock from sleep to sleep; everything that is due in between is done at its time."""
    while (due := world.clock.next_at()) is None or due <= end:
        if due is not None:
            world.clock.set(due)
        await asyncio.sleep(0)
    world.clock.set(end)


async def test_it_runs_through_the_morning_and_stops(world: World) -> None:
    await world.arm(1)
    outages: list[LogUnavailable] = []
    check = Readiness(world.log, world.clock, load_nse(), world.sessions, cure="log in", outage=outages.append)
    running = asyncio.create_task(check.run())
    await run_until(world, at(8, 44))
    assert await world.alerts() == []
    world.sessions.away = True
    await run_until(world, at(8, 45) + 5 * MINUTE)
    assert outages, "the sessions could not be read"
    assert await world.alerts() == []
    world.sessions.away = False
    await run_until(world, at(8, 52))
    assert len(await world.alerts()) == 1
    await run_until(world, at(9, 11))
    assert [alert.at - at(9, 10) < MINUTE for _, alert in await world.alerts()] == [True, True]
    await run_until(world, at(9, 11) + HOUR)
    assert len(await world.alerts()) == 2
    check.stop()
    await running
