"""Defects of the log: the append script, the group, and who wakes whom."""

from typing import Final

from bahi.prove.defects.defect import Defect
from bahi.prove.planting import Edit, LuaEdit
from eventstore import clients, log, timers
from eventstore.lanes import Lanes
from eventstore.log import EventLog
from eventstore.open import create_groups
from handlers.worker import Worker
from simulation.faults import Fault

__all__ = ["DEFECTS"]

APPEND: Final = log._append
CLAIM: Final = timers._claim
CALLS: Final = frozenset(
    {Fault.CALL_LOST, Fault.REPLY_LOST, Fault.CALL_DELAYED, Fault.WORKER_DIES, Fault.REDIS_AWAY, Fault.TAKEN_OVER}
)

DEFECTS: Final = (
    Defect(
        name="acknowledge-before-effect",
        what="a wake-up is acknowledged when it is taken, and not with what it leads to",
        changes=(
            Edit(
                Worker._advance,
                "    turn = await advance(self._desk, strategy_id, wake)\n",
                "    if wake.ack is not None:\n"
                "        await self._desk.log.append([], ack=wake.ack)\n"
                "        wake = structs.replace(wake, ack=None)\n"
                "    turn = await advance(self._desk, strategy_id, wake)\n",
            ),
        ),
        faults=CALLS,
        by=("idle", "liveness", "time"),
    ),
    Defect(
        name="pipeline-instead-of-script",
        what="events are written in one step, the runtime and the acknowledgement in the next",
        changes=(
            Edit(
                EventLog.append,
                "    return self._noted(request.result(await _append(self.redis, request.keys,"
                " *request.arguments())))\n",
                "    asked = request._request\n"
                "    later = {name: asked.pop(name) for name in ('write', 'ack') if name in asked}\n"
                "    result = self._noted(request.result(await _append(self.redis, request.keys,"
                " *request.arguments())))\n"
                "    if later and isinstance(result, Appended):\n"
                "        for name in ('expected', 'dedupe', 'entry', 'permits'):\n"
                "            asked.pop(name, None)\n"
                "        asked.update(later, events=[])\n"
                "        await _append(self.redis, request.keys, request.arguments()[0])\n"
                "    return result\n",
            ),
        ),
        faults=CALLS,
        by=("7",),
    ),
    Defect(
        name="version-not-checked",
        what="a decision is written whatever version it was made on",
        changes=(LuaEdit(APPEND, "if version ~= q.expected then return {'Conflict', version} end", ""),),
        by=("1", "2", "3", "5", "6", "7", "9", "12", "judge", "time"),
    ),
    Defect(
        name="dedupe-forgotten",
        what="the keys that make an event come once are not looked at",
        changes=(LuaEdit(APPEND, "  local own = event.dedupe\n", "  local own = nil\n"),),
        faults=frozenset({Fault.MESSAGE_REPEATED, Fault.REPLY_LOST, Fault.WRITE_LATE}),
        by=("time 1",),
    ),
    Defect(
        name="halt-not-checked-at-append",
        what="an entry that was decided before the halt is appended after it",
        changes=(LuaEdit(APPEND, "if q.entry and call('EXISTS', KEYS[q.entry]) == 1 then return {'Halted'} end", ""),),
        faults=frozenset({Fault.HALT, Fault.CALL_DELAYED, Fault.PAUSED}),
        test="tests/eventstore/test_append.py::test_a_halted_user_gets_no_entry_and_everything_else",
        why="the halt has to fall into the microseconds between a look and its append",
    ),
    Defect(
        name="time-runs-backwards",
        what="a writer whose clock is behind records an earlier time",
        changes=(LuaEdit(APPEND, "math.max(q.now, tonumber(at[2] or 0))", "q.now"),),
        faults=frozenset({Fault.CLOCK_BEHIND, Fault.CLOCK_AHEAD}),
        by=("8", "judge time"),
    ),
    Defect(
        name="conditions-of-blind-events-ignored",
        what="a blind event changes the runtime whether its run, instant or revision is the present one or not",
        changes=(LuaEdit(APPEND, "if satisfied(case, runtime) then", "if true then"),),
        faults=frozenset({Fault.UPDATE, Fault.RESTART, Fault.STOP, Fault.WRITE_LATE, Fault.MESSAGE_REPEATED}),
        by=("7", "judge"),
    ),
    Defect(
        name="event-ids-by-the-process-name",
        what="a process that is started again numbers its events from 1 under the same name",
        changes=(Edit(EventLog.__init__, "self.ids = ids", 'self.ids = Ids(ids.writer.partition(".")[0])'),),
        faults=CALLS,
        by=("8", "judge event-id", "defect"),
    ),
    Defect(
        name="timers-claimed-and-dropped",
        what="a claimed timer is taken off, and does not come back when its claimer dies",
        changes=(
            LuaEdit(
                CLAIM,
                "redis.call('ZADD', KEYS[1], 'XX', ARGV[3], member)",
                "redis.call('ZREM', KEYS[1], member)",
            ),
        ),
        test="tests/eventstore/test_small_parts.py::test_a_claimed_timer_comes_again_when_nobody_dealt_with_it",
        why="the claimer has to die between its claim and the append that follows at once",
    ),
    Defect(
        name="own-pending-forgotten",
        what="after a restart a worker asks for new messages only, not for those it had taken",
        changes=(Edit(Lanes.step, "if own:", "if own and False:"),),
        faults=CALLS,
        by=("idle", "liveness"),
    ),
    Defect(
        name="client-retries-on",
        what="redis-py repeats a command whose reply was lost",
        changes=(
            Edit(clients._settings, '"retry": Retry(NoBackoff(), 0)', '"retry": Retry(NoBackoff(), 3)'),
            Edit(
                clients.command,
                "return await _lend(redis, _ask, args)",
                "return await redis.execute_command(*args)",
            ),
        ),
        test="tests/eventstore/test_clients.py",
        why="redis-py repeats below the gate at which a simulated process meets its server",
    ),
    Defect(
        name="group-at-dollar",
        what="the consumer group begins at the end of the stream, and not at its beginning",
        changes=(Edit(create_groups, 'f"{after}-0"', '"$"'),),
        test="tests/eventstore/test_open.py::test_a_group_that_is_made_when_there_are_entries_delivers_all_of_them",
        why="in a simulated life the group is made before the first event",
    ),
    Defect(
        name="epoch-not-checked",
        what="a process of an earlier incarnation of the log appends to this one",
        changes=(LuaEdit(APPEND, "if epoch ~= q.epoch then return {'WrongEpoch', epoch} end", ""),),
        test="tests/eventstore/test_append.py::test_another_log_is_never_appended_to",
        why="who finds the log lost leaves at its next look, which a life has before the next append",
    ),
    Defect(
        name="shorter-log-appended-to",
        what="a log that lost its end is appended to by whoever had seen that end",
        changes=(LuaEdit(APPEND, "or tonumber(at[1]) < q.seen then", "then"),),
        test="tests/eventstore/test_append.py::test_a_log_that_lost_its_end_is_never_appended_to_by_whoever_saw_that_end",
        why="a process that had seen more leaves at its next look, which a life has before the next append",
    ),
    Defect(
        name="limits-not-counted",
        what="orders take no room in the account's limits",
        changes=(LuaEdit(APPEND, "if before + permit.amount > permit.limit then", "if before > 1000000 then"),),
        test="tests/engine/test_orders.py::test_ten_orders_a_second_with_a_share_for_exits",
        why="the paper broker does not refuse what is over its limits",
    ),
)
