"""The auditor's readings: events, states, differences, orders, users. Nothing changes but that they are recorded."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from api import answers
from api.audit.access import record_read
from api.audit.listing import AuditCursor, Listing, listing
from api.audit.models import (
    AsOf,
    AuditDiffPage,
    AuditedDifference,
    AuditedState,
    AuditedUser,
    AuditEventPage,
    AuditStatePage,
    AuditUserPage,
    Change,
    OrderStory,
    Verification,
)
from api.audit.points import PointText, as_asked, the_point, the_span
from api.audit.ports import ExportWish, NoExport, NoVerdict, Span, Where
from api.audit.search import search
from api.audit.states import changes, fold, plain_state
from api.dependencies import Dependencies, Deps
from api.history import history_event
from api.openapi import operation
from api.pages import Cursor, Limit
from api.parameters import EventTypes, StrategyFilter, UserFilter
from api.problems import FieldProblem, Problem, invalid, not_found
from api.security.caller import Auditor
from api.streamed import Streamed

__all__ = ["router"]

router: Final = APIRouter(prefix="/audit", tags=["audit"])

GZIP: Final = "application/gzip"

From = Annotated[PointText, Query(alias="from")]
Tag = Annotated[str, Path(pattern=r"^[A-Z0-9]{20}$", description="an order's tag")]


@router.get(
    "/events",
    operation_id="audit_events",
    **operation(answers={200: AuditEventPage}, problems=(400, 403)),
)
async def audit_events(
    request: Request,
    deps: Deps,
    caller: Auditor,
    user_id: UserFilter = None,
    strategy_id: StrategyFilter = None,
    type: EventTypes = None,  # noqa: A002 (the parameter's name)
    from_: From = None,
    until: PointText = None,
    limit: Limit = 50,
    cursor: AuditCursor = None,
) -> Response:
    """What happened, in the log's order (partition by partition), up to when the first page was asked for. A page that
    took too long to fill is short: only one without `next_cursor` is the last."""
    types = None if type is None else ",".join(type)
    filters = {"user_id": user_id, "strategy_id": strategy_id, "type": types, "from": from_, "until": until}
    await record_read(deps, caller, request, "events", **filters, cursor=cursor and "further page", limit=limit)

    async def resolve() -> list[Span]:
        return await the_span(deps, from_, until, await deps.history.ends())

    page = await listing(deps, caller.user_id, "audit/events", list(filters.values()), cursor, resolve)
    where = Where(user_id=user_id, strategy_id=strategy_id, types=tuple(type or ()))
    rows, more = await search(deps.history, _left(page), where, limit)
    next_cursor = None if more is None else page.next(deps, *more)
    events = [history_event(deps, row) for row in rows]
    return answers.json(AuditEventPage(events=events, next_cursor=next_cursor))


@router.get(
    "/state",
    operation_id="audit_state",
    **operation(answers={200: AuditStatePage}, problems=(400, 403, 404)),
)
async def audit_state(
    request: Request,
    deps: Deps,
    caller: Auditor,
    at: PointText = None,
    strategy_id: StrategyFilter = None,
    user_id: UserFilter = None,
    limit: Limit = 50,
    cursor: AuditCursor = None,
) -> Response:
    """Strategies as they were known at a position or an instant (by when events were recorded), else as they are now.
    One, one user's, or all, by their ids."""
    filters = {"at": at, "strategy_id": strategy_id, "user_id": user_id}
    await record_read(deps, caller, request, "state", **filters, cursor=cursor and "further page", limit=limit)

    async def resolve() -> list[Span]:
        return await the_point(deps, at, "at", await deps.history.ends())

    page = await listing(deps, caller.user_id, "audit/state", list(filters.values()), cursor, resolve)
    found, next_cursor = await _strategies(deps, page, strategy_id, user_id, limit)
    moments = {span: await _as_of(deps, span.partition, span.until) for span in {span for span, _ in found}}
    states = []
    for span, each in found:
        (folded,) = await fold(deps.history, span.partition, each, span.until)
        if folded is not None:
            states.append(
                AuditedState(
                    strategy_id=each,
                    user_id=folded.state.user_id,
                    as_of=moments[span],
                    state=plain_state(folded.state),
                    faults=[fault.text for fault in folded.faults],
                )
            )
    if strategy_id is not None and not states:
        raise not_found("strategy at that point of the history")
    return answers.json(AuditStatePage(states=states, next_cursor=next_cursor))


@router.get(
    "/diff",
    operation_id="audit_diff",
    **operation(answers={200: AuditDiffPage}, problems=(400, 403)),
)
async def audit_diff(
    request: Request,
    deps: Deps,
    caller: Auditor,
    from_: From = None,
    to: PointText = None,
    strategy_id: StrategyFilter = None,
    user_id: UserFilter = None,
    limit: Limit = 50,
    cursor: AuditCursor = None,
) -> Response:
    """What became of strategies between two points: from the beginning unless said, until now unless said."""
    filters = {"from": from_, "to": to, "strategy_id": strategy_id, "user_id": user_id}
    await record_read(deps, caller, request, "diff", **filters, cursor=cursor and "further page", limit=limit)

    async def resolve() -> list[Span]:
        ends = await deps.history.ends()
        first = {} if from_ is None else {each.partition: each for each in await the_point(deps, from_, "from", ends)}
        spans = []
        for last in await the_point(deps, to, "to", ends):
            if from_ is not None and last.partition not in first:
                raise invalid([FieldProblem("to", "partition", "is of another partition than `from`")])
            after = first[last.partition].until if from_ is not None else 0
            if after > last.until:
                raise invalid([FieldProblem("to", "range", "is before `from`")])
            spans.append(Span(last.partition, after, last.until))
        return spans

    page = await listing(deps, caller.user_id, "audit/diff", list(filters.values()), cursor, resolve)
    found, next_cursor = await _strategies(deps, page, strategy_id, user_id, limit)
    moments = {
        span: [await _as_of(deps, span.partition, position) for position in (span.after, span.until)]
        for span in {span for span, _ in found}
    }
    differences = []
    for span, each in found:
        before, after = await fold(deps.history, span.partition, each, span.after, span.until)
        if after is None:
            continue
        counts = await deps.history.counts(span.partition, [each], span.after, span.until)
        then = None if before is None else before.state
        differences.append(
            AuditedDifference(
                strategy_id=each,
                user_id=after.state.user_id,
                before=moments[span][0],
                after=moments[span][1],
                changes={name: Change(*both) for name, both in changes(then, after.state).items()},
                events=dict(counts.get(each, {})),
                faults=[fault.text for fault in after.faults],
            )
        )
    return answers.json(AuditDiffPage(differences=differences, next_cursor=next_cursor))


@router.get(
    "/orders/{tag}",
    operation_id="audit_order",
    **operation(answers={200: OrderStory}, problems=(403, 404)),
)
async def audit_order(request: Request, deps: Deps, caller: Auditor, tag: Tag) -> Response:
    """One order explained: what caused it, what was known, what was asked, what came of it, and how long each took."""
    await record_read(deps, caller, request, "order", tag=tag)
    told = await deps.stories.tell(tag)
    if told is None:
        raise not_found("order in the history")
    return answers.json(OrderStory(**told))


@router.get(
    "/users",
    operation_id="audit_users",
    **operation(answers={200: AuditUserPage}, problems=(400, 403)),
)
async def audit_users(
    request: Request, deps: Deps, caller: Auditor, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """Who there is, by number: no names, no addresses."""
    await record_read(deps, caller, request, "users", cursor=cursor and "further page", limit=limit)
    above = deps.cursors.read(cursor, caller.user_id, "audit/users") or 0
    people = await deps.history.people(above=above, limit=limit + 1)
    users = [
        AuditedUser(user_id=each.user_id, role=each.role, created_at=each.created_at, strategies=each.strategies)
        for each in people[:limit]
    ]
    last = users[-1].user_id if len(people) > limit else None
    next_cursor = None if last is None else deps.cursors.write(caller.user_id, "audit/users", last)
    return answers.json(AuditUserPage(users=users, next_cursor=next_cursor))


@router.get(
    "/verify",
    operation_id="audit_verify",
    **operation(answers={200: Verification, 202: Verification}, problems=(403,)),
)
async def audit_verify(request: Request, deps: Deps, caller: Auditor) -> Response:
    """Whether the history is whole and what was sealed, and the live state what it makes of it: `bahi verify`.

    It runs beside the engine, once for all who ask; a verdict of the last minute is given again. 202: it is running,
    ask again.
    """
    await record_read(deps, caller, request, "verify")
    if deps.verifier is None:
        raise Problem(503, "NO_VERDICT", "nothing can be verified here")
    try:
        found = await deps.verifier.verdict()
    except NoVerdict as error:
        raise Problem(503, "NO_VERDICT", f"the verification could not be carried out: {error}") from None
    told = Verification(
        running=found.running,
        began_at=answers.moment(found.began_at),
        ended_at=answers.moment(found.ended_at),
        ok=None if found.verdict is None else bool(found.verdict["ok"]),
        verdict=None if found.verdict is None else dict(found.verdict),
    )
    return answers.json(told, 202, {"Retry-After": "2"}) if found.running else answers.json(told)


@router.get(
    "/export",
    operation_id="audit_export",
    **operation(answers={200: GZIP}, problems=(403, 429)),
)
async def audit_export(
    request: Request,
    deps: Deps,
    caller: Auditor,
    user_id: UserFilter = None,
    strategy_id: StrategyFilter = None,
    type: EventTypes = None,  # noqa: A002 (the parameter's name)
    from_: From = None,
    until: PointText = None,
) -> Response:
    """The archive as a file that proves itself, `bahi archive export`: CloudEvents in JSON Lines, gzipped, with the
    seals and a signed end, by which a file that was cut off is known. `bahi verify --offline` checks it."""
    types = None if type is None else ",".join(type)
    filters = {"user_id": user_id, "strategy_id": strategy_id, "type": types, "from": from_, "until": until}
    await record_read(deps, caller, request, "export", **filters)
    first, since = as_asked(from_, "from", len(deps.logs))
    last, upto = as_asked(until, "until", len(deps.logs))
    if deps.export is None:
        raise Problem(503, "NO_EXPORT", "nothing can be exported here")
    wish = ExportWish(
        since=since,
        until=upto,
        first=first,
        last=last,
        users=() if user_id is None else (user_id,),
        strategies=() if strategy_id is None else (strategy_id,),
        types=tuple(type or ()),
    )
    chunks = deps.export.stream(wish)
    try:
        begin = await anext(chunks)
    except NoExport as error:
        status, code = (429, "TOO_MANY_EXPORTS") if error.busy else (503, "NO_EXPORT")
        raise Problem(status, code, str(error), headers={"Retry-After": "30"}) from None

    async def whole() -> AsyncGenerator[bytes, None]:
        async with aclosing(chunks):
            yield begin
            async for chunk in chunks:
                yield chunk

    return Streamed(whole(), GZIP, {"Content-Disposition": 'attachment; filename="history.jsonl.gz"'})


# --- what is left of a list ------------------------------------------------------------------------------------------


def _left(page: Listing) -> list[Span]:
    """What comes after the place where the page begins, for lists in the order of positions."""
    return [
        Span(span.partition, max(span.after, page.after), span.until) if span.partition == page.partition else span
        for span in page.spans
        if span.partition >= page.partition
    ]


async def _strategies(
    deps: Dependencies, page: Listing, strategy_id: int | None, user_id: int | None, limit: int
) -> tuple[list[tuple[Span, int]], str | None]:
    """The page's strategies, each with its span, and the cursor of the next page."""
    found: list[tuple[Span, int]] = []
    for span in page.spans:
        if span.partition < page.partition or len(found) > limit:
            continue
        above, room = page.after if span.partition == page.partition else 0, limit + 1 - len(found)
        if strategy_id is not None:
            above, room = strategy_id - 1, 1
        ids = await deps.history.strategies(
            span.partition, above=above, after=span.after, until=span.until, user_id=user_id, limit=room
        )
        found += [(span, each) for each in ids if strategy_id in (None, each)]
    if len(found) <= limit:
        return found, None
    span, last = found[limit - 1]
    return found[:limit], page.next(deps, span.partition, last)


async def _as_of(deps: Dependencies, partition: int, position: int) -> AsOf:
    at = await deps.history.recorded_at(partition, position) if position else 0
    return AsOf(position=deps.position_in(partition, position), recorded_at=answers.moment(at))
