"""Lanes: every event that needs a reaction is handled, the urgent ones first, whatever happens to workers."""

import asyncio
from collections.abc import Callable

import pytest

from domain.events import (
    CRITICAL,
    HIGH,
    LOW,
    BuyTriggered,
    ForceStop,
    LockConflict,
    SafetyAbort,
    StrategyStartRequested,
    StrategyStopRequested,
    UserHalted,
)
from domain.values import Abort
from eventstore.batch import Appended, NotPending
from eventstore.envelope import NewEvent
from eventstore.errors import LogLost, LogUnavailable
from eventstore.keys import GROUP
from eventstore.lanes import Lanes
from eventstore.parked import park

BUY = BuyTriggered(run=2, due_at=5)


def due(strategy_id: int) -> NewEvent:
    return NewEvent(BUY, strategy_id=strategy_id, user_id=7)


def forced(strategy_id: int) -> NewEvent:
    return NewEvent(ForceStop(reason="OPERATOR"), strategy_id=strategy_id, user_id=7)


def idle() -> NewEvent:
    return NewEvent(LockConflict(woken_by="a", held_by="b"))


class Worker:
    """A process with lanes, whose handler acknowledges and keeps what it handled. `gates` hold strategies up."""

    def __init__(self, log, consumer="worker-1", **options):
        self.log = log
        self.handled = []
        self.strategies = []
        self.in_hand = 0
        self.most = 0
        self.poison = []
        self.gone = []
        self.trouble = []
        self.failing: dict[int, list[Exception]] = {}
        self.gates: dict[int, asyncio.Event] = {}
        self._changed = asyncio.Event()
        settings = {
            "consumer": consumer,
            "handle": self.handle,
            "wakes": lambda recorded: recorded.event.wakes,
            "on_poison": self.on_poison,
            "on_gone": lambda stream, positions: self.note(self.gone, (stream, *positions)),
            "on_trouble": lambda error: self.note(self.trouble, error),
        }
        self.lanes = Lanes(log, **(settings | options))
        self.running: asyncio.Task | None = None

    def note(self, into, what):
        into.append(what)
        self._changed.set()

    async def handle(self, delivery):
        self.in_hand += 1
        self.most = max(self.most, self.in_hand)
        self._changed.set()
        try:
            if gate := self.gates.get(delivery.strategy_id):
                await gate.wait()
            if failures := self.failing.get(delivery.strategy_id):
                raise failures.pop(0)
            result = await self.log.append([], ack=delivery.ack)
            if result == NotPending():
                return
            self.note(self.handled, delivery.position)
            self.strategies.append(delivery.strategy_id)
        finally:
            self.in_hand -= 1

    async def on_poison(self, message, error):
        self.note(self.poison, (message.position, str(error)))
        abort = SafetyAbort(run=1, reason=Abort.POISON_EVENT)
        await park(self.log, message, error, [NewEvent(abort, strategy_id=message.strategy_id)])

    async def until(self, condition: Callable[[], bool], seconds: float = 60):
        async with asyncio.timeout(seconds):
            while not condition():
                assert self.running is None or not self.running.done(), self.running.exception()
                self._changed.clear()
                await self._changed.wait()

    async def __aenter__(self):
        self.running = asyncio.create_task(self.lanes.run())
        return self

    async def __aexit__(self, *_):
        for gate in self.gates.values():
            gate.set()
        await self.lanes.stop()
        await self.running


async def pending(log) -> list[int]:
    return [(await log.redis.execute_command("XPENDING", s, GROUP))[0] for s in log.keys.streams.values()]


async def once_connected(log) -> None:
    """The log's own connection was cut as well: it notices once, and then has another."""
    async with asyncio.timeout(60):
        while True:
            try:
                await log.last_position()
            except LogUnavailable:
                continue
            return


async def all_waiting(log) -> None:
    """Wait until the readers of all four classes wait in Redis."""
    async with asyncio.timeout(60):
        while (await log.redis.execute_command("CLIENT LIST")).count(b"flags=b") < 4:
            continue


async def all_gone(log) -> None:
    """Wait until no reader is connected any more."""
    async with asyncio.timeout(60):
        while b"cmd=xreadgroup" in await log.redis.execute_command("CLIENT LIST"):
            continue


async def lag(log) -> list[int]:
    """The last position of each class that was delivered."""
    found = []
    for stream in log.keys.streams.values():
        reply = (await log.redis.execute_command("XINFO GROUPS", stream))[0]
        found.append(dict(zip(reply[::2], reply[1::2], strict=True))[b"last-delivered-id"])
    return found


async def deliver_to(log, consumer, priority=HIGH, count=100, idle_ms=None) -> list[bytes]:
    """Messages go to a consumer that does nothing with them, as if it had died; some time ago, if told so."""
    stream = log.keys.streams[priority]
    run = log.redis.execute_command
    reply = await run("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", stream, ">")
    ids = [entry[0] for entry in reply[0][1]]
    if idle_ms is not None:
        await run("XCLAIM", stream, GROUP, consumer, 0, *ids, "IDLE", idle_ms, "JUSTID")
    return ids


# --- handling --------------------------------------------------------------------------------------------------------


async def test_every_event_that_wakes_is_handled_and_the_others_are_acknowledged(log):
    for n in range(1, 40):
        await log.append([due(n), idle(), forced(n), NewEvent(StrategyStartRequested(), strategy_id=n)])
    async with Worker(log) as worker:
        await worker.until(lambda: len(worker.handled) == 3 * 39)
        await log.append([due(1)])
        await worker.until(lambda: len(worker.handled) == 3 * 39 + 1)
    assert len(set(worker.handled)) == 3 * 39 + 1
    assert await pending(log) == [0, 0, 0, 0]


async def test_events_without_a_reaction_are_acknowledged_many_at_a_time(log, redis):
    await log.append([idle() for _ in range(64)])
    before = (await redis.info("commandstats")).get("cmdstat_xack", {}).get("calls", 0)
    async with Worker(log, concurrency=18):
        async with asyncio.timeout(60):
            while (await lag(log))[3] != b"64-0" or await pending(log) != [0, 0, 0, 0]:
                continue
    calls = (await redis.info("commandstats"))["cmdstat_xack"]["calls"] - before
    assert 1 <= calls <= 4


async def test_one_strategy_is_handled_by_one_at_a_time(log):
    worker = Worker(log)
    worker.gates[1] = asyncio.Event()
    await log.append([due(1), due(1), forced(1), due(2)])
    async with worker:
        await worker.until(lambda: worker.strategies == [2])
        assert worker.in_hand == 1
        worker.gates[1].set()
        await worker.until(lambda: len(worker.handled) == 4)
    assert worker.most <= 2


async def test_no_more_are_handled_at_once_than_allowed(log):
    worker = Worker(log, concurrency=5, reserved_critical=1)
    gate = asyncio.Event()
    worker.gates = dict.fromkeys(range(1, 30), gate)
    await log.append([due(n) for n in range(1, 15)] + [forced(n) for n in range(15, 30)])
    async with worker:
        await worker.until(lambda: worker.in_hand == 5)
        assert sum(await pending(log)) <= 5 + 4  # one more of each class may wait in the process
        gate.set()
        await worker.until(lambda: len(worker.handled) == 29)
    assert worker.most == 5


async def test_critical_events_have_room_when_all_others_are_stuck(log):
    worker = Worker(log, concurrency=6, reserved_critical=2)
    gate = asyncio.Event()
    worker.gates = dict.fromkeys(range(1, 50), gate)
    await log.append([due(n) for n in range(1, 20)])
    await log.append([NewEvent(StrategyStopRequested(), strategy_id=n) for n in range(20, 40)])
    async with worker:
        await worker.until(lambda: worker.in_hand == 4)
        await log.append([forced(100), forced(101), NewEvent(UserHalted(), user_id=7)])
        await worker.until(lambda: len(worker.handled) == 3, seconds=2)
        assert worker.in_hand == 4
        gate.set()
        await worker.until(lambda: len(worker.handled) == 42)


# --- what goes wrong in handlers -------------------------------------------------------------------------------------


async def test_poison_is_parked_after_three_tries_and_the_others_go_on(log):
    worker = Worker(log)
    worker.failing[13] = [ValueError(f"no sense {n}") for n in range(3)]
    await log.append([due(12), due(13), due(14)])
    async with worker:
        await worker.until(lambda: len(worker.handled) == 3)
    assert set(worker.strategies) == {12, 13, 14}  # 13 for its abort
    assert worker.poison == [(2, "no sense 2")]
    assert await pending(log) == [0, 0, 0, 0]
    parked, abort = [e async for e in log.read(after=3)]
    assert (parked.event.parked, parked.event.error) == ("high/2", "ValueError: no sense 2")
    assert (parked.version, abort.version, abort.strategy_id) == (0, 2, 13)
    assert isinstance(abort.event, SafetyAbort)


async def test_a_handler_that_fails_twice_and_then_succeeds_is_no_poison(log):
    worker = Worker(log)
    worker.failing[1] = [ValueError("one"), ValueError("two")]
    await log.append([due(1)])
    async with worker:
        await worker.until(lambda: worker.handled == [1])
    assert worker.poison == []


async def test_an_event_that_cannot_be_read_is_parked(log, redis):
    await log.append([due(12)])
    await redis.xadd(log.keys.streams["high"], {"v": 1, "t": 1, "e": b"\x93\x01\xa1x*"}, id="2-0")
    await redis.hset(log.keys.position, "position", "2")
    await log.append([due(14)])
    worker = Worker(log)
    async with worker:
        await worker.until(lambda: len(worker.handled) == 3)
    assert [position for position, _ in worker.poison] == [2]
    assert "entry 2 of high cannot be read" in worker.poison[0][1]
    assert set(worker.strategies) == {12, 14, 42}  # 42: whose it was could be told, and its abort was handled
    assert await pending(log) == [0, 0, 0, 0]


async def test_a_message_is_parked_once_however_often_it_is_tried(log):
    await log.append([due(1)])
    worker = Worker(log)
    delivery = None

    async def keep(message):
        nonlocal delivery
        delivery = message

    await Worker(log, handle=keep).lanes.step()
    first = await park(log, delivery, ValueError("one"))
    assert isinstance(first, Appended)
    again = await park(log, delivery, ValueError("two"))
    assert again.positions == first.positions
    assert await worker.lanes.step() == 1
    assert await log.last_position() == 2


async def test_a_message_is_done_again_when_the_log_was_unavailable(log):
    worker = Worker(log)
    worker.failing[1] = [LogUnavailable("gone") for _ in range(2)]
    await log.append([due(1), due(2)])
    async with worker:
        await worker.until(lambda: sorted(worker.handled) == [1, 2])
    assert worker.poison == []
    assert [str(each) for each in worker.trouble].count("gone") == 2


async def test_an_incident_in_a_handler_stops_the_lanes_after_what_is_in_hand(log):
    worker = Worker(log)
    worker.gates[1] = asyncio.Event()
    worker.failing[2] = [LogLost("the epoch changed")]
    await log.append([due(1)])
    running = asyncio.create_task(worker.lanes.run())
    await worker.until(lambda: worker.in_hand == 1)
    await log.append([due(2)])
    await worker.until(lambda: worker.failing[2] == [])
    worker.gates[1].set()
    with pytest.raises(LogLost, match="epoch changed"):
        await running
    assert worker.handled == [1]


# --- workers that die, connections that break, groups that vanish -----------------------------------------------------


async def test_messages_of_a_dead_worker_are_taken_over_within_three_seconds(log):
    await log.append([due(1), due(2), due(3)])
    async with Worker(log) as worker:
        await worker.until(lambda: len(worker.handled) == 3)
        await log.append([due(4), due(5), forced(6)])
        await worker.until(lambda: len(worker.handled) == 6)
    await log.append([due(7), forced(8)])
    await deliver_to(log, "dead")
    await deliver_to(log, "dead", CRITICAL)
    async with Worker(log) as worker:
        await worker.until(lambda: sorted(worker.handled) == [7, 8], seconds=3)
    assert await pending(log) == [0, 0, 0, 0]


async def test_many_messages_of_a_dead_worker_are_taken_over_as_slots_get_free(log):
    await log.append([due(n) for n in range(1, 61)])
    await deliver_to(log, "dead", idle_ms=5000)
    async with Worker(log) as worker:
        await worker.until(lambda: len(worker.handled) == 60, seconds=20)
    assert sorted(worker.handled) == list(range(1, 61))


async def test_a_message_that_is_held_by_a_living_worker_is_not_handled_twice(log):
    worker = Worker(log)
    worker.gates[1] = asyncio.Event()
    await log.append([due(1)])
    async with worker:
        await worker.until(lambda: worker.in_hand == 1)
        claim = ("XCLAIM", log.keys.streams["high"], GROUP, "worker-1", 0, "1-0", "IDLE", 9000, "JUSTID")
        await log.redis.execute_command(*claim)
        await log.append([due(n) for n in range(2, 30)])
        await worker.until(lambda: len(worker.handled) == 28)
        await asyncio.wait_for(_taken_over(log), 60)
        assert worker.in_hand == 1
        worker.gates[1].set()
        await worker.until(lambda: len(worker.handled) == 29)


async def _taken_over(log) -> None:
    """Wait until the pending message was claimed again, which resets how long it is idle."""
    stream = log.keys.streams["high"]
    while (await log.redis.execute_command("XPENDING", stream, GROUP, "-", "+", 1))[0][2] > 9000:
        continue


async def test_a_restarted_worker_first_does_what_it_had_begun(log):
    await log.append([due(1), due(2), idle()])
    await deliver_to(log, "worker-1")
    await deliver_to(log, "worker-1", LOW)
    async with Worker(log) as worker:
        await worker.until(lambda: worker.handled == [1, 2], seconds=1.5)
    assert await pending(log) == [0, 0, 0, 0]


async def test_a_worker_whose_connections_are_killed_goes_on(log, redis):
    async with Worker(log) as worker:
        for n in range(1, 4):
            await all_waiting(log)
            await redis.client_kill_filter(_type="normal", skipme=True)
            await once_connected(log)
            await log.append([due(n), forced(n)])
            await worker.until(lambda n=n: len(worker.handled) == 2 * n)
    assert len(worker.trouble) >= 4
    assert await pending(log) == [0, 0, 0, 0]


async def test_messages_of_a_lost_reply_are_done_after_the_reconnect_before_anybody_takes_them_over(opened, lossy):
    log, direct = await opened(url=lossy.url), await opened(writer="d")
    async with Worker(log) as worker:
        await all_waiting(direct)
        lossy.lose = True
        await direct.append([due(1), due(2), idle()])
        async with asyncio.timeout(60):
            while await pending(direct) != [0, 1, 0, 1]:
                continue
        lossy.lose = False
        await worker.until(lambda: sorted(worker.handled) == [1, 2], seconds=1.8)
    assert await pending(direct) == [0, 0, 0, 0]


async def test_pending_messages_that_are_gone_from_the_stream_are_counted_and_reported(log, redis):
    await log.append([due(1), due(2), due(3)])
    await deliver_to(log, "dead", count=2, idle_ms=5000)
    await deliver_to(log, "worker-1", count=1)
    await redis.xdel(log.keys.streams["high"], "1-0", "3-0")
    async with Worker(log) as worker:
        await worker.until(lambda: worker.handled == [2] and len(worker.gone) == 2)
    assert sorted(worker.gone) == [(HIGH, 1), (HIGH, 3)]
    assert worker.lanes.gone == 2
    assert await pending(log) == [0, 0, 0, 0]


@pytest.mark.parametrize("loss", ["group", "everything"])
async def test_a_group_that_is_gone_is_an_incident_and_not_made_again(log, redis, loss):
    worker = Worker(log)
    worker.running = asyncio.create_task(worker.lanes.run())
    await log.append([due(1)])
    await worker.until(lambda: worker.handled == [1])
    if loss == "group":
        await redis.xgroup_destroy(log.keys.streams["high"], GROUP)
    else:
        await redis.flushall()
    with pytest.raises(LogLost, match=f"group {GROUP} of"):
        async with asyncio.timeout(60):
            await worker.running
    if loss == "group":
        assert await redis.xinfo_groups(log.keys.streams["high"]) == []


# --- stopping --------------------------------------------------------------------------------------------------------


async def test_a_stop_finishes_what_is_in_hand_and_leaves_the_rest_pending(log):
    worker = Worker(log, concurrency=4, reserved_critical=1)
    gate = asyncio.Event()
    worker.gates = dict.fromkeys(range(1, 21), gate)
    await log.append([due(n) for n in range(1, 21)])
    worker.running = asyncio.create_task(worker.lanes.run())
    await worker.until(lambda: worker.in_hand == 3)
    stopping = asyncio.create_task(worker.lanes.stop())
    await all_gone(log)
    assert not stopping.done()
    gate.set()
    await stopping
    await worker.running
    assert worker.in_hand == 0
    assert sorted(worker.handled) == [1, 2, 3]
    async with Worker(log) as successor:
        await successor.until(lambda: len(successor.handled) == 17)
    assert sorted(successor.handled) == list(range(4, 21))


async def test_an_idle_worker_stops_at_once(log):
    async with Worker(log) as worker:
        await all_waiting(log)
        start = asyncio.get_running_loop().time()
        await worker.lanes.stop()
    assert asyncio.get_running_loop().time() - start < 0.3


# --- step ------------------------------------------------------------------------------------------------------------


async def test_a_step_takes_the_urgent_ones_first_and_each_class_in_position_order(log):
    halt = NewEvent(UserHalted(), user_id=7)
    medium = NewEvent(StrategyStartRequested(), strategy_id=5)
    await log.append([idle(), medium, due(1), forced(2), due(3), halt])
    worker = Worker(log)
    assert await worker.lanes.step() == 6
    assert worker.handled == [4, 6, 3, 5, 2]
    assert await worker.lanes.step() == 0
    assert await pending(log) == [0, 0, 0, 0]


async def test_what_comes_meanwhile_is_more_urgent_than_what_a_step_has_not_taken_in_hand(log):
    worker = Worker(log)

    async def handle(delivery):
        if delivery.strategy_id == 1:
            await log.append([forced(9)], ack=delivery.ack)
        else:
            await log.append([], ack=delivery.ack)
        worker.strategies.append(delivery.strategy_id)

    await log.append([due(n) for n in range(1, 7)])
    await Worker(log, handle=handle).lanes.step()
    assert worker.strategies == [1, 2, 3, 4, 9, 5, 6]


async def test_a_step_tells_when_the_streams_hold_nothing_new_for_anybody(log):
    worker, other, told = Worker(log), Worker(log, consumer="w2"), []
    await log.append([due(1)])
    assert await worker.lanes.step(1, on_empty=lambda: told.append("taken")) == 1
    assert told == []  # it was not asked for more than one
    assert await other.lanes.step(on_empty=lambda: told.append("nothing left")) == 0
    assert told == ["nothing left"]


async def test_a_step_takes_no_more_than_its_limit(log):
    await log.append([due(n) for n in range(1, 6)])
    worker = Worker(log)
    assert [await worker.lanes.step(2) for _ in range(4)] == [2, 2, 1, 0]
    assert worker.handled == [1, 2, 3, 4, 5]


async def test_a_step_leaves_what_the_log_refused_for_the_next_one(log):
    worker = Worker(log)
    worker.failing[1] = [LogUnavailable("gone")]
    await log.append([due(1), due(2)])
    assert await worker.lanes.step() == 2
    assert worker.handled == [2]
    assert await worker.lanes.step() == 1
    assert worker.handled == [2, 1]


async def test_a_worker_that_dies_in_a_step_begins_with_the_same_message(log):
    class Killed(BaseException):
        pass

    async def die(delivery):
        raise Killed

    await log.append([due(1), due(2)])
    with pytest.raises(Killed):
        await Worker(log, handle=die).lanes.step()
    worker = Worker(log)
    await worker.lanes.step()
    assert worker.handled == [1, 2]


def test_some_slots_must_be_left_for_the_others(log):
    with pytest.raises(ValueError, match="reserved"):
        Worker(log, concurrency=2, reserved_critical=2)
