"""Defects on the way between the log and the broker: sending, answers, readings of the book."""

from typing import Final

from bahi.prove.defects.defect import Defect
from bahi.prove.planting import Edit
from handlers import effects, outcomes, reconcile, worker
from handlers.poller import Poller
from handlers.reconcile import Searches
from simulation.faults import BROKER, Fault

__all__ = ["DEFECTS"]

TIMEOUTS: Final = frozenset({Fault.TIMEOUT_EXISTS, Fault.TIMEOUT_SURFACES, Fault.TIMEOUT_NEVER})
ANSWERS: Final = frozenset(BROKER)

DEFECTS: Final = (
    Defect(
        name="blind-retry-after-time-out",
        what="an order that was not answered counts as rejected, and is placed again",
        changes=(
            Edit(
                outcomes.placing,
                "        case Unanswered() if order.phase is Phase.SENDING:\n",
                "        case Unanswered() if order.phase in UNSETTLED:\n"
                "            rejected = OrderRejected(tag=order.tag, reason='TIMEOUT', curable=True,"
                " text=answer.text)\n"
                "            return rejected, OrderFinalized(tag=order.tag, final=Final.REJECTED)\n"
                "        case Unanswered() if order.phase is Phase.SENDING:\n",
            ),
        ),
        faults=TIMEOUTS,
        by=("1", "2", "3", "9", "judge"),
    ),
    Defect(
        name="second-worker-sends",
        what="whoever gets the message of an intent sends the order, too",
        changes=(
            Edit(
                worker.wakes,
                "return recorded.event.wakes",
                "return recorded.event.wakes or recorded.event.type.startswith('EXECUTE_')",
            ),
            Edit(
                worker.Worker._handle,
                "    wake = Wake.of(recorded, delivery.ack)\n",
                "    wake = Wake.of(recorded, delivery.ack)\n"
                "    if recorded.event.type.startswith('EXECUTE_'):\n"
                "        state, _ = await self._desk.look(recorded.strategy_id)\n"
                "        if state.order is not None and state.order.phase == 'sending':\n"
                "            self._sends.start(state, recorded.event, wake)\n",
            ),
        ),
        by=("9", "judge placed-twice", "judge", "1"),  # 1: what one was told undoes what the other was told
    ),
    Defect(
        name="broker-of-somebody-else",
        what="the broker of the user before is kept, and the next user's order goes to it",
        changes=(
            Edit(
                effects._send,
                "broker = await desk.brokers.of(user_id)\n",
                "broker = await desk.brokers.of((await desk.brokers.connected())[0])\n",
            ),
        ),
        faults=frozenset(),
        by=("10", "judge", "liveness"),
    ),
    Defect(
        name="quarantine-cut-to-zero",
        what="an order whose answer is missing is given up as soon as the answer was due",
        changes=(
            Edit(
                reconcile.quarantine_ends,
                "return answer_due(order, policy) + (policy.quarantine_dead_sender if dead else"
                " policy.quarantine_ambiguous)",
                "return answer_due(order, policy)",
            ),
        ),
        faults=TIMEOUTS,
        by=("time 4",),
    ),
    Defect(
        name="quarantine-of-a-dead-sender-for-all",
        what="an ambiguous answer gets the short quarantine of a sender that died before it sent",
        changes=(
            Edit(
                reconcile.quarantine_ends, "dead = order.doubt is Doubt.DEAD_SENDER", "dead = order.doubt is not None"
            ),
        ),
        faults=TIMEOUTS,
        by=("time 4",),
    ),
    Defect(
        name="failed-reading-counts-as-absent",
        what="a book that could not be read counts as one in which the order is not",
        changes=(
            Edit(Searches.failed, "    if self._dark_since is None:\n        self._dark_since = now\n", "    return\n"),
        ),
        test="tests/engine/test_unknown.py::test_failed_readings_prolong_the_quarantine",
        why="the paper broker's seeded faults fail three readings at most, and the quarantine needs tens",
    ),
    Defect(
        name="one-reading-is-enough",
        what="an order is absent when one reading of the book lacks it",
        changes=(Edit(Searches.missed, "readings >= self.policy.sufficient_readings and ", ""),),
        test="tests/engine/test_unknown.py::test_three_readings_at_least",
        why="a book that is read every second was read often enough when a quarantine ends",
    ),
    Defect(
        name="entry-sent-after-its-deadline",
        what="an order goes out however long ago it was decided",
        changes=(Edit(effects._send, "if now > intent.deadline:", "if now > intent.deadline and False:"),),
        test="tests/engine/test_orders.py::test_an_order_is_sent_up_to_its_deadline_and_not_after_it",
        why="a process that is paused after the check sends late, too, and nothing can prevent that",
    ),
    Defect(
        name="halt-not-checked-at-send",
        what="an entry that is in the log goes out although the user has halted meanwhile",
        changes=(
            Edit(
                effects._send,
                "if intent.kind is Kind.BUY and (reason := await _halted(desk, user_id)) is not None:",
                "if intent.kind is None and (reason := await _halted(desk, user_id)) is not None:",
            ),
        ),
        test="tests/engine/test_orders.py::test_a_halt_between_the_intent_and_the_send_holds_the_entry_back",
        why="an order that is on its way when the halt comes arrives after it, too",
    ),
    Defect(
        name="end-forgotten-after-a-rejection",
        what="a rejection that the book shows is told, the end of the order is not",
        changes=(Edit(outcomes._ended, "return rejected, final(Final.REJECTED)", "return (rejected,)"),),
        faults=ANSWERS,
        by=("9", "liveness", "12"),
    ),
    Defect(
        name="fill-added-instead-of-cumulative",
        what="a reading tells what was filled since the last one, as if it were all",
        changes=(
            Edit(
                outcomes.booked,
                "filled=row.filled, average_price=row.average_price))",
                "filled=row.filled - order.filled, average_price=row.average_price))",
            ),
        ),
        faults=ANSWERS,
        by=("time 6", "2", "9", "liveness", "judge"),
    ),
    Defect(
        name="matched-by-symbol",
        what="an unknown order is taken for any order of its symbol and side in the book",
        changes=(
            Edit(
                Poller._tell,
                "    parts = parse_tag(row.tag)\n",
                "    parts = parse_tag(row.tag)\n"
                "    for strategy_id in sorted(self._desk.known):\n"
                "        other, _ = await self._look(strategy_id)\n"
                "        sought = other.order\n"
                "        if other.user_id == self._user_id and sought is not None and sought.phase is Phase.UNKNOWN:\n"
                "            if (row.symbol, row.side) == (other.symbol, sought.kind.side):\n"
                "                told = lambda now, facts, tag=sought.tag: outcomes.booked(now, tag, row)\n"
                "                return (await record(self._desk, strategy_id, told, Wake())).version -"
                " other.version\n",
            ),
        ),
        faults=TIMEOUTS,
        by=("2", "9", "liveness", "judge"),
    ),
    Defect(
        name="answers-appended-once",
        what="the answer of the broker is dropped when the log does not take it at once",
        changes=(
            Edit(
                effects.record,
                "turn = await persist(lambda: take_turn(desk, strategy_id, decide, cause), desk.clock)",
                "turn = await take_turn(desk, strategy_id, decide, cause)",
            ),
        ),
        test="tests/engine/test_lost_replies.py::test_an_answer_of_the_broker_outlives_an_outage_of_the_log",
        why="the book tells the same within seconds: what is lost is time only",
    ),
)
