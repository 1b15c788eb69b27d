"""Strategies: asked for here, decided in `domain.commands` on the state as the log has it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from fastapi import APIRouter, Request
from msgspec import UNSET, structs
from starlette.responses import Response

from api import answers
from api.dependencies import Dependencies, Deps
from api.models import (
    CreateStrategy,
    EventPage,
    ListedEvent,
    ListedOrder,
    ListedStrategy,
    OrderPage,
    SettlePosition,
    StartStrategy,
    StopStrategy,
    StrategyCreated,
    StrategyPage,
    StrategyStatus,
    UpdateStrategy,
)
from api.openapi import operation
from api.pages import Cursor, Limit
from api.parameters import StrategyId
from api.ports import ArchivedEvent, OrderRow, UnknownStrategy
from api.problems import FieldProblem, Problem, invalid, not_found
from api.security.caller import Caller
from api.writes import Write, write
from domain import events
from domain.commands import (
    Changes,
    FieldError,
    Refused,
    check_config,
    decide_settle,
    decide_start,
    decide_stop,
    decide_update,
)
from domain.events import Event
from domain.facts import Facts
from domain.strategy import State, fold, initial
from domain.values import Config, Status
from eventstore.batch import Appended, Conflict
from eventstore.envelope import NewEvent, Raw, decode
from eventstore.errors import CorruptEvent, LogUnavailable
from projections.runtime import CorruptState, encode_change

__all__ = ["router"]

router: Final = APIRouter(prefix="/strategy", tags=["strategy"])

_log = structlog.get_logger(__name__)

PATIENCE: Final = 2.0
"""Seconds that a start or a stop waits for the engine before it answers 202."""
FIRST_LOOK: Final = 0.01
LAST_LOOK: Final = 0.1

_THIS: Final = {"strategy_id": "$response.body#/strategy_id"}
_NEXT: Final = {
    operation: {"operationId": operation, part: _THIS}
    for part, operations in (
        ("parameters", ("strategy_status", "strategy_events", "strategy_orders")),
        ("requestBody", ("update_strategy", "start_strategy", "stop_strategy", "settle_position")),
    )
    for operation in operations
}
"""What can be asked of a strategy, as links from the answer that names it."""


# --- writes ----------------------------------------------------------------------------------------------------------


@write(router, "POST", "/create", CreateStrategy, answers={201: StrategyCreated}, links=_NEXT)
async def create_strategy(attempt: Write[CreateStrategy]) -> Response:
    """Write a strategy down. It does nothing until it is started."""
    deps, asked = attempt.deps, attempt.body
    _need_instruments(deps)
    symbol = asked.symbol if ":" in asked.symbol else f"NSE:{asked.symbol}"
    config = Config(**structs.asdict(asked) | {"symbol": symbol})
    facts = Facts(
        now=deps.clock.now(),
        log_id="",
        calendar=deps.calendar,
        policy=deps.policy,
        instrument=deps.instruments.find(symbol),
    )
    if errors := check_config(config, facts, deps.instruments.near(symbol)):
        raise invalid(_fields(errors))
    strategy_id = await attempt.reserve_id()
    await _append_created(attempt, strategy_id, events.StrategyCreated(config=config))
    location = {"Location": f"/strategy/status/{strategy_id}"}
    return answers.json(StrategyCreated(strategy_id=strategy_id), 201, location)


@write(router, "POST", "/update", UpdateStrategy, answers={200: StrategyStatus}, problems=(404,))
async def update_strategy(attempt: Write[UpdateStrategy]) -> Response:
    """Change fields. The timers and the stop of a running strategy follow."""
    asked = structs.asdict(attempt.body)
    strategy_id = asked.pop("strategy_id")
    given = {name: value for name, value in asked.items() if value is not UNSET}
    if not given:
        raise invalid([FieldProblem("", "empty", "name at least one field to change")])
    changes = Changes(**given)
    _need_instruments(attempt.deps)
    state = await _turn(attempt, strategy_id, lambda state, facts: decide_update(state, changes, facts))
    return answers.json(_status(attempt.deps, state))


@write(
    router,
    "POST",
    "/start",
    StartStrategy,
    answers={200: StrategyStatus, 202: StrategyStatus},
    problems=(404,),
    links=_NEXT,
)
async def start_strategy(attempt: Write[StartStrategy]) -> Response:
    """Arm the next session whose buy_time is ahead: 200 once it runs, 202 if that takes more than two seconds."""

    def decide(state: State, facts: Facts) -> Sequence[Event] | Refused:
        if attempt.again and (state.alive or state.start_requested):
            return ()
        return decide_start(state, facts)

    def running(state: State) -> bool:
        return state.status is Status.RUNNING or not (state.start_requested or state.alive)

    _need_instruments(attempt.deps)
    state = await _turn(attempt, attempt.body.strategy_id, decide)
    state, reached = await _until(running, attempt, state)
    if reached and not state.alive and state.last_action.startswith("START refused"):
        raise Problem(409, "START_REFUSED", state.last_action)
    return answers.json(_status(attempt.deps, state), 200 if reached else 202)


@write(router, "POST", "/stop", StopStrategy, answers={200: StrategyStatus, 202: StrategyStatus}, problems=(404,))
async def stop_strategy(attempt: Write[StopStrategy]) -> Response:
    """Stop, and with `square_off` sell what is held: 200 once it has stopped, 202 if that takes longer."""
    asked = attempt.body

    def stopped(state: State) -> bool:
        sold = state.open_quantity <= 0 or not asked.square_off
        return not state.alive and not state.start_requested and sold

    state = await _turn(attempt, asked.strategy_id, lambda state, _: decide_stop(state, asked.square_off))
    state, reached = await _until(stopped, attempt, state)
    return answers.json(_status(attempt.deps, state), 200 if reached else 202)


@write(router, "POST", "/settle", SettlePosition, answers={200: StrategyStatus}, problems=(404,))
async def settle_position(attempt: Write[SettlePosition]) -> Response:
    """Record that shares of the strategy were closed elsewhere. Refused while one of its orders is unresolved."""
    asked = attempt.body
    state = await _turn(attempt, asked.strategy_id, lambda state, _: decide_settle(state, asked.quantity, "USER"))
    return answers.json(_status(attempt.deps, state))


def _need_instruments(deps: Dependencies) -> None:
    """503 while the broker's list of instruments is not there: no symbol is called unknown for that reason."""
    if not deps.instruments.loaded:
        detail = (
            "the instruments of Kite are not loaded yet: they are downloaded within seconds once an account is "
            "connected, and an operator can load them with `bahi instruments --import FILE`"
        )
        raise Problem(503, "INSTRUMENTS_NOT_LOADED", detail, headers={"Retry-After": "3"})


async def _append_created(attempt: Write[CreateStrategy], strategy_id: int, created: events.StrategyCreated) -> None:
    """The first event of a strategy. If it is there already, just as it was asked for, an earlier attempt of this
    request appended it."""
    before = initial(strategy_id)
    after = fold(initial(strategy_id, attempt.user_id), [created])
    result = await attempt.deps.log_of(attempt.user_id).append(
        [NewEvent(created, strategy_id, attempt.user_id, attempt.request_id)],
        expected=0,
        runtime=encode_change(before, after, None, keep_timer=True),
    )
    done = isinstance(result, Appended)
    if isinstance(result, Conflict) and attempt.again:
        done = (await _own(attempt.deps, strategy_id, attempt.user_id)).config == created.config
    if not done:
        raise LogUnavailable(f"strategy {strategy_id} of user {attempt.user_id} not created: {result}")


async def _turn(
    attempt: Write[Any], strategy_id: int, decide: Callable[[State, Facts], Sequence[Event] | Refused]
) -> State:
    """Decide on the caller's strategy, append, and say what it is then. Raises 404, 409 and 422."""

    def decided(state: State, facts: Facts) -> Sequence[Event]:
        _check_owner(state, attempt.user_id)
        answer = decide(state, facts)
        if not isinstance(answer, Refused):
            return answer
        if answer.conflict:
            raise Problem(409, answer.code, answer.detail, errors=_fields(answer.errors))
        raise invalid(_fields(answer.errors))

    user_id, story = attempt.user_id, attempt.request_id
    try:
        await attempt.deps.strategies.turn(
            strategy_id, user_id, decided, correlation_id=story, dedupe=attempt.dedupe("strategy")
        )
    except UnknownStrategy:
        raise not_found("strategy") from None
    except CorruptState as error:
        raise _unreadable(error) from error
    return await _own(attempt.deps, strategy_id, attempt.user_id)


async def _until(reached: Callable[[State], bool], attempt: Write[Any], state: State) -> tuple[State, bool]:
    """Look at the strategy, ever less often, until it is so or PATIENCE is over."""
    pause = FIRST_LOOK
    try:
        async with asyncio.timeout(PATIENCE):
            while not reached(state):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_LOOK)
                state = await _own(attempt.deps, state.id, attempt.user_id)
    except TimeoutError:
        return state, False
    return state, True


# --- reads -----------------------------------------------------------------------------------------------------------


@router.get(
    "/status/{strategy_id}",
    operation_id="strategy_status",
    **operation(answers={200: StrategyStatus, 304: None}, problems=(404,)),
)
async def strategy_status(request: Request, deps: Deps, caller: Caller, strategy_id: StrategyId) -> Response:
    """A strategy as it is now. With If-None-Match, 304 while nothing has changed."""
    return answers.tagged(_status(deps, await _own(deps, strategy_id, caller.user_id)), request)


@router.get("/list", operation_id="list_strategies", **operation(answers={200: StrategyPage}, problems=(400,)))
async def list_strategies(deps: Deps, caller: Caller, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """The caller's strategies, the newest first. It follows the log by some milliseconds."""
    before = deps.cursors.read(cursor, caller.user_id, "strategies")
    rows = await deps.readings.strategies(caller.user_id, before=before, limit=limit + 1)
    page = [
        ListedStrategy(
            **structs.asdict(row)
            | {"created_at": answers.local(row.created_at), "updated_at": answers.local(row.updated_at)}
        )
        for row in rows[:limit]
    ]
    last = page[-1].strategy_id if len(rows) > limit else None
    return answers.json(StrategyPage(strategies=page, next_cursor=_next(deps, caller.user_id, "strategies", last)))


@router.get(
    "/{strategy_id}/events",
    operation_id="strategy_events",
    **operation(answers={200: EventPage}, problems=(400, 404)),
)
async def strategy_events(
    deps: Deps, caller: Caller, strategy_id: StrategyId, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """What happened to a strategy, in the log's order."""
    await _own(deps, strategy_id, caller.user_id)
    of = f"events/{strategy_id}"
    after = deps.cursors.read(cursor, caller.user_id, of) or 0
    rows = await deps.readings.events(caller.user_id, strategy_id, after=after, limit=limit + 1)
    last = rows[limit - 1].position if len(rows) > limit else None
    page = [_event(deps, row) for row in rows[:limit]]
    return answers.json(EventPage(events=page, next_cursor=_next(deps, caller.user_id, of, last)))


@router.get(
    "/{strategy_id}/orders",
    operation_id="strategy_orders",
    **operation(answers={200: OrderPage}, problems=(400, 404)),
)
async def strategy_orders(
    deps: Deps, caller: Caller, strategy_id: StrategyId, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """A strategy's orders, in the order in which they were decided."""
    await _own(deps, strategy_id, caller.user_id)
    of = f"orders/{strategy_id}"
    after = deps.cursors.read(cursor, caller.user_id, of) or 0
    rows = await deps.readings.orders(caller.user_id, strategy_id, after=after, limit=limit + 1)
    last = rows[limit - 1].intent_position if len(rows) > limit else None
    page = [_order(deps, caller.user_id, row) for row in rows[:limit]]
    return answers.json(OrderPage(orders=page, next_cursor=_next(deps, caller.user_id, of, last)))


# --- from state and rows to answers ----------------------------------------------------------------------------------


async def _own(deps: Dependencies, strategy_id: int, user_id: int) -> State:
    try:
        state = await deps.strategies.look(strategy_id, user_id)
    except UnknownStrategy:
        raise not_found("strategy") from None
    except CorruptState as error:
        raise _unreadable(error) from error
    _check_owner(state, user_id)
    return state


def _check_owner(state: State, user_id: int) -> None:
    """Raises the same 404 for a strategy that there never was and for another user's."""
    if state.version == 0 or state.user_id != user_id:
        raise not_found("strategy")


def _unreadable(error: CorruptState) -> Problem:
    """Nothing is said of a state that may be anything; the log has the rest."""
    _log.error("state unreadable", error=str(error))
    return Problem(500, "STATE_UNREADABLE", "the state of the strategy cannot be read; it is being taken care of")


def _fields(errors: Sequence[FieldError]) -> list[FieldProblem]:
    return [FieldProblem(error.field, error.rule, error.message) for error in errors]


def _status(deps: Dependencies, state: State) -> StrategyStatus:
    return StrategyStatus(
        strategy_id=state.id,
        status=Status.STARTING if state.start_requested else state.status,
        position=state.position,
        last_action=state.last_action,
        last_price=state.last_price,
        symbol=state.symbol,
        product=state.product,
        session_date=state.session_date,
        quantity=state.quantity,
        filled_quantity=state.bought,
        open_quantity=state.open_quantity,
        stop_loss=state.stop_loss,
        buy_time=state.buy_time,
        sell_time=state.sell_time,
        buy_at=answers.moment(state.buy_at),
        sell_at=answers.moment(state.sell_at),
        lock_state=state.lock_state,
        exit_reason=state.exit_reason,
        run=state.run,
        version=state.version,
        updated_at=answers.moment(state.updated_at),
        position_in_log=deps.public_position(state.user_id, state.position_in_log),
    )


def _event(deps: Dependencies, row: ArchivedEvent) -> ListedEvent:
    raw = Raw(row.position, row.stream, row.version, row.recorded_at, row.envelope)
    listed = ListedEvent(
        position=deps.position_in(row.partition, row.position),
        version=row.version,
        type=row.type,
        recorded_at=answers.wall(row.recorded_at),
        event_id="",
        correlation_id="",
        causation_id="",
        data={},
    )
    try:
        recorded = decode(raw)
    except CorruptEvent:
        return listed  # it is parked, and its strategy aborted; that it is there is all that can be said
    data = answers.plain(recorded.event)
    del data["schema"]
    return structs.replace(
        listed,
        event_id=recorded.event_id,
        correlation_id=recorded.correlation_id,
        causation_id=recorded.causation_id,
        data=data,
    )


def _order(deps: Dependencies, user_id: int, row: OrderRow) -> ListedOrder:
    values = structs.asdict(row)
    for name, value in values.items():
        if name.endswith("_at"):
            values[name] = answers.local(value)
        elif name.endswith("_position") and value is not None:
            values[name] = deps.public_position(user_id, value)
    return ListedOrder(**values)


def _next(deps: Dependencies, user_id: int, of: str, after: int | None) -> str | None:
    return None if after is None else deps.cursors.write(user_id, of, after)
