"""A reading of the history of others is itself in the history before it is answered."""

from fastapi import Request

from api.dependencies import Dependencies
from api.ports import LoggedIn
from api.record import record
from domain.events import AuditRead

__all__ = ["record_read"]


async def record_read(
    deps: Dependencies, caller: LoggedIn, request: Request, what: str, **filters: object | None
) -> None:
    """AUDIT_READ of this request is in the log; and, unless that takes long, everything before it is in the archive,
    so that what is read then tells of everything up to now.

    Raises LogUnavailable, which answers 503: what cannot be recorded is not read.
    """
    given = {name.rstrip("_"): str(value) for name, value in filters.items() if value is not None}
    event = AuditRead(by="api", what=what, filters=given)
    await record(deps, caller.user_id, event, correlation_id=request.state.request_id)
    if deps.acknowledge is not None:
        await deps.acknowledge.settle()
