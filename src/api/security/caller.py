"""Who calls: the access token, and the login behind it as it is now."""

from typing import Annotated, Final

from fastapi import Depends, Request

from api.dependencies import Deps
from api.ports import LoggedIn
from api.problems import Problem
from api.security.tokens import InvalidToken

__all__ = ["AUDITOR", "Auditor", "Caller", "logged_in", "refuse_auditors"]

AUDITOR: Final = "auditor"


async def logged_in(request: Request, deps: Deps) -> LoggedIn:
    """The login of the bearer token. It is looked up, so that a logout or a changed role counts at once.

    Raises 401.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _unauthorized("UNAUTHENTICATED", "send an access token as Authorization: Bearer …")
    try:
        claims = deps.tokens.read(token.strip())
    except InvalidToken:
        raise _unauthorized("INVALID_TOKEN", "the access token is invalid or has expired") from None
    caller = await deps.sessions.find(claims.user_id, claims.family)
    if caller is None:
        raise _unauthorized("LOGGED_OUT", "this login has ended")
    request.state.user_id = caller.user_id
    return caller


def _unauthorized(code: str, detail: str) -> Problem:
    return Problem(401, code, detail, headers={"WWW-Authenticate": 'Bearer realm="bahi"'})


Caller = Annotated[LoggedIn, Depends(logged_in)]


async def _auditor(caller: Caller) -> LoggedIn:
    """Raises 403 for anybody else."""
    if caller.role != AUDITOR:
        raise Problem(403, "ROLE_NOT_ALLOWED", f"this is for auditors, and you are of the role {caller.role}")
    return caller


Auditor = Annotated[LoggedIn, Depends(_auditor)]


def refuse_auditors(caller: LoggedIn) -> None:
    """Raises 403: whoever reads everything changes nothing."""
    if caller.role == AUDITOR:
        raise Problem(403, "ROLE_NOT_ALLOWED", "auditors read; they change nothing")
