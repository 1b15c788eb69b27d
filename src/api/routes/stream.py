"""Events as they come: of the caller's own strategies, and for auditors of anybody's."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from api.audit.access import record_read
from api.audit.models import StreamNotice
from api.audit.ports import Where
from api.dependencies import Dependencies, Deps
from api.history import history_event
from api.openapi import EVENT_STREAM, operation
from api.parameters import EventTypes, StrategyFilter, UserFilter
from api.ports import LoggedIn
from api.problems import Problem, not_found
from api.security.caller import AUDITOR, Caller, logged_in
from api.stream.ids import BEGINNING, LONGEST, Resumption, event_id, resume
from api.stream.sse import HEARTBEAT, event_stream, frame
from api.stream.streams import Ended, Streams
from eventstore.clients import command

__all__ = ["router"]

router: Final = APIRouter(prefix="/events", tags=["events"])

RETRY_MS: Final = 2000
"""After which a browser connects again."""
_WHAT: Final = (
    "the id of the last event that was received, exactly as it came: the stream goes on right after it, however "
)

LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=LONGEST, description=_WHAT + "old it is")]
LastEventIdParameter = Annotated[
    str | None,
    Query(
        max_length=LONGEST,
        description=f"the same, for clients that cannot set the header, which counts if both are there; `{BEGINNING}` "
        "begins with the first event of all",
    ),
]


@router.get(
    "/stream",
    operation_id="stream_events",
    **operation(answers={200: EVENT_STREAM}, problems=(400, 403, 404, 429)),
)
async def stream_events(
    request: Request,
    deps: Deps,
    caller: Caller,
    user_id: UserFilter = None,
    strategy_id: StrategyFilter = None,
    type: EventTypes = None,  # noqa: A002 (the parameter's name)
    last_event_id: LastEventIdParameter = None,
    resumed: LastEventId = None,
) -> Response:
    """Server-Sent Events, as they are archived: `id`, `event` (its type) and `data` as in the lists of events.

    Traders see what is theirs, auditors what they ask for; from now on, or from `Last-Event-ID` on without a gap or a
    repetition. `event: reset` tells that events which the id counts were lost, and goes on after the last one that was
    not. A comment comes every 15 s. The stream ends, with `event: end` and the reason as its code, when the access
    token expires or the login ends: connect again with another token and the last id.
    """
    where = await _what(deps, caller, user_id, strategy_id, tuple(type or ()))
    everywhere = list(range(len(deps.logs)))
    partitions = everywhere if where.user_id is None else [where.user_id % len(deps.logs)]
    begin = await _resumption(deps, partitions, resumed or last_event_id or None)
    leave = deps.streams.enter(caller.user_id)
    try:
        if caller.role == AUDITOR:
            types = ",".join(where.types) or None
            after = None if begin is None else ",".join(deps.position_in(*each) for each in sorted(begin.after.items()))
            await record_read(
                deps, caller, request, "stream", user_id=user_id, strategy_id=strategy_id, type=types, after=after
            )
    except BaseException:
        leave()
        raise

    async def still_allowed() -> None:
        now = await logged_in(request, deps)
        if now.role != caller.role:
            raise Problem(403, "ROLE_NOT_ALLOWED", f"you were of the role {caller.role}, and are of {now.role} now")

    return event_stream(_frames(deps, deps.streams, where, partitions, begin, still_allowed), leave)


async def _what(
    deps: Dependencies, caller: LoggedIn, user_id: int | None, strategy_id: int | None, types: tuple[str, ...]
) -> Where:
    """Which events this caller gets. Raises 403 for another user's, and 404 for another user's strategy."""
    if caller.role != AUDITOR:
        if user_id not in (None, caller.user_id):
            raise Problem(403, "ROLE_NOT_ALLOWED", "only auditors see the events of others")
        user_id = caller.user_id
        if strategy_id is not None:
            log = deps.log_of(user_id)
            if not await command(log.redis, "SISMEMBER", log.keys.user_strategies(user_id), strategy_id):
                raise not_found("strategy")
    return Where(user_id=user_id, strategy_id=strategy_id, types=types)


async def _resumption(deps: Dependencies, partitions: list[int], text: str | None) -> Resumption | None:
    if text is None:
        return None
    lineages = {each: deps.logs[each].lineage for each in partitions}
    ends = {each: await deps.logs[each].last_position() for each in partitions}
    return resume(text, lineages, ends, len(deps.logs))


async def _frames(
    deps: Dependencies,
    streams: Streams,
    where: Where,
    partitions: list[int],
    begin: Resumption | None,
    still_allowed: Callable[[], Awaitable[None]],
) -> AsyncGenerator[bytes, None]:
    epochs = {each: deps.logs[each].lineage[-1].epoch for each in partitions}

    def named(after: Mapping[int, int]) -> str:
        return event_id(epochs, after, len(deps.logs))

    for reset in () if begin is None else begin.resets:
        lost, kept = deps.position_in(reset.partition, reset.position), deps.position_in(reset.partition, reset.after)
        detail = (
            f"what came after {kept}, up to {lost}, was lost with the log and never happened; it goes on after {kept}"
        )
        assert begin is not None  # noqa: S101 (it has resets)
        yield frame(named(begin.after), "reset", StreamNotice(code="EVENTS_LOST", detail=detail, after=kept))
    greeting = f"retry: {RETRY_MS}\n".encode()
    try:
        after = {each: None if begin is None else begin.after[each] for each in partitions}
        async with aclosing(streams.tell(where, after, still_allowed)) as telling:
            async for told in telling:
                if not told.rows:
                    yield greeting + frame(named(told.after))
                    greeting = HEARTBEAT
                    continue
                place = dict(told.after)
                chunks = []
                for row in told.rows:
                    place[row.partition] = row.raw.position
                    chunks.append(frame(named(place), row.type, history_event(deps, row)))
                yield b"".join(chunks)
    except Ended as ended:
        yield frame("", "end", StreamNotice(code=ended.code, detail=ended.detail))
