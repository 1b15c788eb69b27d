"""Effects: what an appended intent, cancel or change makes us ask of the broker, once, by whoever appended it (§5.2).

The answer is appended whatever happens to the log meanwhile: repeated until the log takes it. If this process dies
first, the order is *sending* without an answer and becomes unknown by rule 3.
"""

from collections.abc import Callable

import structlog

from brokers.port import Broker, Changing, NotPlaced, Placing, Refused, Unanswered
from domain.decide import NO_SESSION, UNREACHABLE, Decision
from domain.events import CancelRequested, Event, Intent, ModifyRequested
from domain.facts import Facts
from domain.strategy import State
from domain.values import Denial, Kind
from eventstore.batch import NoPermit
from eventstore.errors import LogUnavailable
from handlers import outcomes
from handlers.decider import Turn, Wake, decided, persist, take_turn
from handlers.desk import Desk, decode_halt
from handlers.limits import SENT_WITHIN, give_back, permits_anew, window_of

Effect = Intent | CancelRequested | ModifyRequested

log = structlog.get_logger(__name__)


def effects_of(turn: Turn) -> list[tuple[Effect, Wake]]:
    """What the turn asks of the broker, in its order, each with the cause that its outcome is to name."""
    return [(event, cause) for event, cause in turn.story if isinstance(event, Effect)] if turn.written else []


Events = Callable[[State, Facts], tuple[Event, ...]]
"""What came of it, as the events that a state lacks."""


async def ask(desk: Desk, state: State, effect: Effect) -> Events:
    """Asks the broker once. An exit is never held back by anything but its deadline."""
    if isinstance(effect, Intent):
        return await _send(desk, state.user_id, effect)
    return await _change(desk, state.user_id, effect)


async def record(desk: Desk, strategy_id: int, events: Events, cause: Wake) -> State:
    """Appends what a state lacks, until the log takes it. Nothing is written when it lacks nothing."""

    def decide(state: State, facts: Facts) -> Decision | None:
        lacking = events(state, facts)
        return decided(state, lacking) if lacking else None

    turn = await persist(lambda: take_turn(desk, strategy_id, decide, cause), desk.clock)
    return turn.state


async def _send(desk: Desk, user_id: int, intent: Intent) -> Events:
    try:
        broker = await desk.brokers.of(user_id)
    except Exception as error:
        log.exception("broker_failed", call="of", tag=intent.tag)
        unreachable = NotPlaced(UNREACHABLE, curable=True, counted=False, text=f"{type(error).__name__}: {error}")
        return lambda state, facts: outcomes.placing(state, intent, unreachable, facts)
    if broker is None:
        return lambda state, _: outcomes.not_sent(state, intent.tag, Denial.NO_SESSION, {"cure": "connect the broker"})
    await _room(desk, user_id, broker, intent)
    if intent.kind is Kind.BUY and (reason := await _halted(desk, user_id)) is not None:
        return lambda state, _: outcomes.not_sent(state, intent.tag, Denial.HALTED, {"reason": reason})
    now = desk.clock.now()  # the last thing before it goes out: whatever came before may have taken time
    if now > intent.deadline:
        told = {"deadline": str(intent.deadline), "now": str(now)}
        return lambda state, _: outcomes.not_sent(state, intent.tag, Denial.TOO_LATE, told)
    answer = await _ask_to_place(broker, intent)
    if isinstance(answer, NotPlaced) and answer.reason == UNREACHABLE and broker.limits is not None:
        await give_back(desk.log, user_id, intent.at)
    return lambda state, facts: outcomes.placing(state, intent, answer, facts)


async def _room(desk: Desk, user_id: int, broker: Broker, asked: Effect) -> None:
    """Returns when it may go out as far as the account's limits are concerned: at once while it is counted in the
    windows of now. What was held up is counted anew, and waits until there is room, or its deadline is over."""
    counted_at = asked.at
    while broker.limits is not None and counted_at + SENT_WITHIN < (now := desk.clock.now()) <= asked.deadline:
        room = permits_anew(broker.limits, user_id, asked, counted_at, now)
        try:
            result = await desk.log.append([], permit=room, user_id=user_id)
        except LogUnavailable as error:  # a 429 is the smaller evil: a stop-loss does not wait for our log
            log.warning("not_counted_anew", tag=asked.tag, why=str(error))
            return
        if not isinstance(result, NoPermit):
            return
        _, at = window_of(result.which)
        await desk.clock.sleep(min(at, asked.deadline + 1) - now)


async def _halted(desk: Desk, user_id: int) -> str | None:
    """Why an entry may not go out. A latch that cannot be read fails closed."""
    try:
        halt = decode_halt(await desk.log.halt(user_id))
    except Exception as error:
        return f"the latch cannot be read: {error}"
    return None if halt is None else halt.reason


async def _ask_to_place(broker: Broker, intent: Intent) -> Placing:
    try:
        return await broker.place(intent.request)
    except Exception as error:
        log.exception("broker_failed", call="place", tag=intent.tag)
        return Unanswered(f"{type(error).__name__}: {error}")


async def _change(desk: Desk, user_id: int, asked: CancelRequested | ModifyRequested) -> Events:
    answer: Changing
    broker = None
    try:
        broker = await desk.brokers.of(user_id)
        if broker is not None:
            await _room(desk, user_id, broker, asked)
        if broker is None:
            answer = Refused(NO_SESSION)
        elif desk.clock.now() > asked.deadline:
            answer = Refused("TOO_LATE")
        elif isinstance(asked, CancelRequested):
            answer = await broker.cancel(asked.order_id)
        else:
            answer = await broker.modify(asked.order_id, price=asked.price)
    except Exception as error:
        log.exception("broker_failed", call=asked.type, tag=asked.tag)
        answer = Unanswered(f"{type(error).__name__}: {error}")
    if answer == Refused(UNREACHABLE) and broker is not None and broker.limits is not None:
        await give_back(desk.log, user_id, asked.at)
    return lambda state, _: outcomes.changing(state, asked, answer)
