"""Append: what it promises, what it refuses, and that a refusal leaves no trace."""

import asyncio

import pytest
from redis.exceptions import ResponseError

from domain.events import (
    CRITICAL,
    HIGH,
    BuyTriggered,
    LockConflict,
    SellTriggered,
    StoplossTriggered,
    StrategyStartRequested,
    StrategyStopRequested,
    UserHalted,
    UserResumed,
)
from domain.values import Decimal, Tick
from eventstore.batch import (
    Ack,
    Appended,
    Conflict,
    Duplicate,
    Halted,
    NoPermit,
    NotPending,
    Permit,
    RuntimeWrite,
    WrongEpoch,
)
from eventstore.entries import stream_entries
from eventstore.envelope import Dedupe, NewEvent
from eventstore.errors import DedupeMismatch, LogUnavailable
from eventstore.keys import GROUP
from eventstore.log import chunked


def asked(strategy_id: int = 42, **more) -> NewEvent:
    return NewEvent(StrategyStartRequested(), strategy_id=strategy_id, user_id=7, **more)


def due(strategy_id: int = 42, **more) -> NewEvent:
    return NewEvent(BuyTriggered(run=2, due_at=5), strategy_id=strategy_id, user_id=7, **more)


async def delivered(log, priority=HIGH, consumer="c") -> Ack:
    """Have the next message of a class delivered, as a worker would."""
    stream = log.keys.streams[priority]
    reply = await log.redis.execute_command("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", 1, "STREAMS", stream, ">")
    return Ack(priority, int(reply[0][1][0][0][:-2]))


async def pending(log, priority=HIGH) -> int:
    return (await log.redis.execute_command("XPENDING", log.keys.streams[priority], GROUP))[0]


# --- positions, versions, times --------------------------------------------------------------------------------------


async def test_positions_are_one_gapless_count_over_all_streams(log):
    stop = StoplossTriggered(run=2, stop_revision=0, tick=Tick("NSE:INFY", Decimal(9), 1), stop_loss=Decimal(10))
    first = await log.append([asked(), due(), NewEvent(stop, strategy_id=42)])
    second = await log.append([NewEvent(LockConflict(woken_by="a", held_by="b"))])
    assert (first.positions, second.positions) == ((1, 2, 3), (4,))
    assert await log.last_position() == 4
    assert [await log.redis.execute_command("XLEN", s) for s in log.keys.streams.values()] == [1, 1, 1, 1]


async def test_positions_are_gapless_under_eight_appenders_at_once(opened):
    logs = [await opened(writer=f"w{n}") for n in range(8)]

    async def many(log, strategy_id):
        return [await log.append([due(strategy_id), asked(strategy_id)]) for _ in range(25)]

    results = await asyncio.gather(*(many(log, n % 3) for n, log in enumerate(logs)))
    positions = sorted(p for many in results for result in many for p in result.positions)
    assert positions == list(range(1, 401))
    assert [e.position async for e in logs[0].read()] == positions


async def test_versions_count_each_strategy_for_itself(log):
    result = await log.append([asked(1), asked(2), asked(1), asked(1)])
    assert result.versions == (1, 1, 2, 3)
    assert (await log.load(1)).version == 3


async def test_an_event_without_version_leaves_the_strategy_alone(log):
    conflict = LockConflict(woken_by="a", held_by="b")
    result = await log.append([NewEvent(conflict, strategy_id=42), NewEvent(UserHalted(), user_id=7)])
    assert result.versions == (0, 0)
    assert (await log.load(42)).version == 0


async def test_time_never_runs_backwards(log, clock):
    then = clock.time
    first = await log.append([asked()])
    clock.time -= 5_000_000
    second = await log.append([asked()])
    clock.time = then + 1
    third = await log.append([asked()])
    assert [first.recorded_at, second.recorded_at, third.recorded_at] == [then, then, then + 1]
    assert [e.recorded_at async for e in log.read()] == [then, then, then + 1]


async def test_more_events_than_an_append_takes_are_refused_and_append_many_takes_them(log):
    events = [due(n) for n in range(1, 201)]
    with pytest.raises(ValueError, match="200 events"):
        await log.append(events)
    results = await log.append_many(chunked(events))
    assert [p for result in results for p in result.positions] == list(range(1, 201))
    assert [e.strategy_id async for e in log.read()] == list(range(1, 201))


async def test_a_server_that_forgot_the_scripts_is_told_them_again(log):
    await log.redis.execute_command("SCRIPT FLUSH")
    assert (await log.append([asked()])).positions == (1,)
    await log.redis.execute_command("SCRIPT FLUSH")
    assert [r.positions for r in await log.append_many([[asked()], [asked()]])] == [(2,), (3,)]
    await log.redis.execute_command("SCRIPT FLUSH")
    assert [loaded.version for loaded in await log.load_many([42, 43])] == [3, 0]


# --- epoch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["other", "none", "no position"])
async def test_another_log_is_never_appended_to(log, redis, everything, damage):
    await log.append([asked()])
    if damage == "other":
        await redis.set(log.keys.epoch, "another")
    else:
        await redis.delete(log.keys.epoch if damage == "none" else log.keys.position)
    before = await everything()
    result = await log.append([asked()])
    assert result == WrongEpoch("another" if damage == "other" else None)
    assert await everything() == before


async def test_a_position_behind_the_streams_is_never_appended_to(log, redis, everything):
    await log.append([asked(), due()])
    await redis.hset(log.keys.position, "position", "1")
    ack = await delivered(log)
    before = await everything()
    assert await log.append([due()], ack=ack) == WrongEpoch(None)
    assert await everything() == before


async def test_a_log_that_lost_its_end_is_never_appended_to_by_whoever_saw_that_end(log, redis, everything):
    await log.append([asked()])
    await log.append([asked()])
    for stream in log.keys.streams.values():
        await redis.xdel(stream, "2-0")
    await redis.hset(log.keys.position, "position", 1)
    before = await everything()
    assert await log.append([asked()]) == WrongEpoch(None)
    assert await everything() == before


async def test_an_emptied_redis_is_never_appended_to(log, redis, everything):
    await redis.flushall()
    assert await log.append([asked()]) == WrongEpoch(None)
    assert await everything() == {}


# --- halt ------------------------------------------------------------------------------------------------------------


async def test_a_halted_user_gets_no_entry_and_everything_else(log, everything):
    await log.append([NewEvent(UserHalted(square_off=True, reason="USER"), user_id=7)])
    before = await everything()
    assert await log.append([asked()], entry=True) == Halted()
    assert await everything() == before
    assert isinstance(await log.append([asked()]), Appended)
    other = NewEvent(StrategyStartRequested(), strategy_id=9, user_id=8)
    assert isinstance(await log.append([other], entry=True), Appended)
    assert (await log.load(42, user_id=7)).halt == b'{"square_off":true,"reason":"USER"}'


async def test_the_halt_ends_only_when_the_user_is_resumed(log):
    await log.append([NewEvent(UserHalted(), user_id=7)])
    await log.append([NewEvent(UserResumed(), user_id=7)])
    assert isinstance(await log.append([asked()], entry=True), Appended)
    assert (await log.load(42, user_id=7)).halt is None


# --- expected version ------------------------------------------------------------------------------------------------


async def test_a_decision_on_an_old_version_is_a_conflict_and_leaves_no_trace(log, everything):
    await log.append([asked()])
    await log.append([due(1)])
    ack = await delivered(log)
    before = await everything()
    write = RuntimeWrite(runtime_set={"status": "running"}, wake_at=9, user_add=True)
    permit = (Permit("orders", 1, 60),)
    result = await log.append([asked()], expected=0, runtime=write, dedupe=Dedupe("k", "d"), permit=permit, ack=ack)
    assert result == Conflict(1)
    assert await everything() == before
    assert await pending(log) == 1


async def test_of_two_decisions_on_one_version_one_wins(log):
    results = await asyncio.gather(*(log.append([asked()], expected=0) for _ in range(5)))
    assert sorted(type(r).__name__ for r in results) == ["Appended", *["Conflict"] * 4]


async def test_deciding_nothing_is_checked_and_acknowledged_too(log):
    await log.append([due()])
    ack = await delivered(log)
    assert await log.append([], expected=0, strategy_id=42, ack=ack) == Conflict(1)
    assert isinstance(await log.append([], expected=1, strategy_id=42, ack=ack), Appended)
    assert await pending(log) == 0
    assert await log.last_position() == 1


async def test_an_expected_version_is_of_one_strategy(log):
    with pytest.raises(ValueError, match="strategy 1's"):
        await log.append([asked(1), asked(2)], expected=0)
    with pytest.raises(ValueError, match="need a strategy"):
        await log.append([], expected=0)
    with pytest.raises(ValueError, match="need a user"):
        await log.append([NewEvent(StrategyStartRequested(), strategy_id=1)], entry=True)


# --- acknowledging ---------------------------------------------------------------------------------------------------


async def test_a_wake_up_is_acknowledged_with_what_it_leads_to(log):
    await log.append([due()])
    ack = await delivered(log)
    assert (await log.append([asked()], expected=1, ack=ack)).positions == (2,)
    assert await pending(log) == 0


async def test_a_wake_up_that_somebody_finished_writes_nothing(log, everything):
    await log.append([due()])
    ack = await delivered(log)
    await log.append([], ack=ack)
    before = await everything()
    write = RuntimeWrite(runtime_set={"status": "running"}, wake_at=9)
    result = await log.append(
        [asked()], expected=1, runtime=write, dedupe=Dedupe("k", "d"), permit=(Permit("n", 1, 9),), ack=ack
    )
    assert result == NotPending()
    assert await everything() == before


async def test_of_two_workers_with_the_same_wake_up_one_writes(log):
    await log.append([due()])
    ack = await delivered(log)
    results = await asyncio.gather(*(log.append([asked()], ack=ack) for _ in range(4)))
    assert sorted(type(r).__name__ for r in results) == ["Appended", *["NotPending"] * 3]
    assert await log.last_position() == 2


# --- permits ---------------------------------------------------------------------------------------------------------


async def test_a_full_limit_is_named_and_takes_nothing_of_the_others(log, everything):
    second, minute = Permit("s:100", 10, 2, amount=4), Permit("m:1", 7, 60, amount=4)
    await log.append([asked()], permit=(second, minute))
    await log.append([due()])
    ack = await delivered(log)
    before = await everything()
    result = await log.append([asked()], permit=(second, minute), ack=ack)
    assert isinstance(result, NoPermit)
    assert (result.which, result.used) == ("m:1", 4)
    assert 0 < result.retry_after <= 60_000_000
    assert await everything() == before


async def test_limits_are_counted_only_by_what_is_written_and_vanish_with_their_window(log, redis):
    permit = (Permit("s:100", 3, 2),)
    await log.append([asked()], permit=permit)
    await log.append([asked()], expected=0, permit=permit)
    assert await redis.get(log.keys.limit("s:100")) == b"1"
    await log.append([asked()], permit=permit)
    assert await redis.get(log.keys.limit("s:100")) == b"2"
    assert 0 < await redis.ttl(log.keys.limit("s:100")) <= 2


async def test_one_append_may_not_overdraw_a_limit_that_it_names_twice(log):
    permit = Permit("s", 3, 60, amount=2)
    assert isinstance(await log.append([asked()], permit=(permit, permit)), NoPermit)


# --- dedupe ----------------------------------------------------------------------------------------------------------


async def test_the_same_request_again_is_answered_with_the_first_positions(log, everything):
    dedupe = Dedupe("req:1", "digest")
    first = await log.append([asked(), asked()], dedupe=dedupe)
    before = await everything()
    assert await log.append([asked(), asked()], dedupe=dedupe) == Duplicate(first.positions, first.versions)
    assert await everything() == before


async def test_another_request_under_the_same_key_is_an_error_naming_both(log, everything):
    await log.append([asked()], dedupe=Dedupe("req:1", "one"))
    await log.append([due(dedupe=Dedupe("t", "one"))])
    before = await everything()
    with pytest.raises(DedupeMismatch, match=r"req:1.*'two' now, 'one' then"):
        await log.append([asked()], dedupe=Dedupe("req:1", "two"))
    with pytest.raises(DedupeMismatch, match=r"dedupe:t "):
        await log.append([asked(), due(dedupe=Dedupe("t", "two"))])
    with pytest.raises(DedupeMismatch):
        await log.append([due(dedupe=Dedupe("u", "one")), due(dedupe=Dedupe("u", "two"))])
    assert await everything() == before


async def test_a_batch_appends_only_its_events_that_are_new(log):
    old, new = Dedupe("t:1", "x"), Dedupe("t:2", "x")
    first = await log.append([due(1, dedupe=old)])
    second = await log.append([due(1, dedupe=old), due(2, dedupe=new), due(2, dedupe=new)])
    assert isinstance(second, Appended)
    assert second.positions == (first.positions[0], 2, 2)
    assert second.versions == (1, 1, 1)
    assert await log.append([due(2, dedupe=new), due(1, dedupe=old)]) == Duplicate((2, 1), (1, 1))
    assert await log.last_position() == 2


async def test_a_trigger_fires_once_however_many_schedulers_append_it(opened):
    logs = [await opened(writer=f"w{n}") for n in range(4)]
    results = await asyncio.gather(*(log.append([due(dedupe=Dedupe("t", "x"))]) for log in logs))
    assert sorted(type(r).__name__ for r in results) == ["Appended", *["Duplicate"] * 3]


async def test_a_wake_up_whose_batch_is_known_is_acknowledged(log):
    await log.append([due(), due()])
    first, second = await delivered(log), await delivered(log)
    dedupe = Dedupe("req", "x")
    await log.append([asked()], dedupe=dedupe, ack=first)
    assert isinstance(await log.append([asked()], dedupe=dedupe, ack=second), Duplicate)
    assert await pending(log) == 0


async def test_an_entry_that_is_in_the_log_is_known_even_after_a_halt(log):
    dedupe = Dedupe("intent", "x")
    await log.append([asked()], dedupe=dedupe, entry=True)
    await log.append([NewEvent(UserHalted(), user_id=7)])
    assert isinstance(await log.append([asked()], dedupe=dedupe, entry=True), Duplicate)


async def test_dedupe_keys_expire(log, redis):
    await log.append([asked(dedupe=Dedupe("own", "x", 100))], dedupe=Dedupe("all", "x", 50))
    assert 99 <= await redis.ttl(log.keys.dedupe("own")) <= 100
    assert 49 <= await redis.ttl(log.keys.dedupe("all")) <= 50


async def test_an_append_whose_reply_was_lost_is_simply_repeated(opened, lossy):
    log = await opened(url=lossy.url)
    await log.append([due()])
    ack = await delivered(log)
    lossy.lose = True
    with pytest.raises(LogUnavailable):
        await log.append([asked()], expected=1, dedupe=Dedupe("k", "x"), ack=ack)
    lossy.lose = False
    assert await log.append([asked()], expected=1, dedupe=Dedupe("k", "x"), ack=ack) == Duplicate((2,), (2,))
    assert await log.last_position() == 2


async def test_a_plain_decision_whose_reply_was_lost_is_recognised_by_the_conflict(opened, lossy):
    log = await opened(url=lossy.url)
    assert await log.last_position() == 0
    lossy.lose = True
    with pytest.raises(LogUnavailable):
        await log.append([asked()], expected=0)
    lossy.lose = False
    assert await log.append([asked()], expected=0) == Conflict(1)


async def test_a_full_server_is_unavailable_and_nothing_is_written(log, redis, everything):
    await log.append([due()])
    before = await everything()
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(LogUnavailable, match="cannot do it now"):
            await log.append([asked(), asked()])
    finally:
        await redis.config_set("maxmemory", "0")
    assert await everything() == before


# --- ids -------------------------------------------------------------------------------------------------------------


async def test_an_event_without_correlation_starts_one(log):
    await log.append([asked(), asked(correlation_id="c", causation_id="w-1", event_id="mine")])
    first, second = [e async for e in log.read()]
    assert (first.event_id, first.correlation_id, first.causation_id, first.writer) == ("w-1", "w-1", "", "w")
    assert (second.event_id, second.correlation_id, second.causation_id) == ("mine", "c", "w-1")


async def test_a_stop_request_is_in_the_medium_stream_and_a_halt_in_the_critical_one(log):
    await log.append([NewEvent(StrategyStopRequested(), strategy_id=1), NewEvent(UserHalted(), user_id=7)])
    await log.append([NewEvent(SellTriggered(run=1, due_at=2), strategy_id=1)])
    entries = await stream_entries(log, 0, 3)
    assert [(raw.position, raw.stream) for raw in entries] == [(1, "medium"), (2, CRITICAL), (3, HIGH)]


async def test_a_version_that_is_no_number_stops_the_append_before_it_writes(log) -> None:
    await log.append([due(1)])
    await log.redis.execute_command("HSET", log.keys.strategy(1), "version", "many")
    with pytest.raises(ResponseError, match="is no number"):
        await log.append([due(1)])
    assert await log.last_position() == 1
    assert [recorded.position async for recorded in log.read()] == [1]
