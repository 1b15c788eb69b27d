"""Register, log in, refresh, log out.

These doors are open to anybody, so they are rate limited. They take no Idempotency-Key: their answers hold tokens,
which are never stored; a registration that is repeated finds its e-mail address taken, the others may be repeated.
"""

from typing import Final

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from api import answers
from api.bodies import parse, read_body
from api.dependencies import Dependencies, Deps
from api.models import Login, Logout, Refresh, Register, Tokens
from api.openapi import operation
from api.ports import EmailTaken, LoggedOut, Reused, Rotated
from api.problems import FieldProblem, Problem, invalid
from api.rate import peer
from api.record import record
from api.security.passwords import weakness
from api.security.tokens import ACCESS_SECONDS, REFRESH_SECONDS, digest, new_family, new_refresh_token
from domain.events import UserLoggedIn, UserRegistered

__all__ = ["router"]

router: Final = APIRouter(prefix="/auth", tags=["auth"])

_log = structlog.get_logger(__name__)


@router.post(
    "/register",
    operation_id="register",
    **operation(body=Register, answers={201: Tokens}, problems=(409, 429), public=True),
)
async def register(request: Request, deps: Deps) -> Response:
    """Create an account and log in."""
    await deps.rate_limits.knock(peer(request))
    asked = parse(await read_body(request), Register)
    email = asked.email.lower()
    if (why := weakness(asked.password, email)) is not None:
        raise invalid([FieldProblem("password", "weak", why)])
    password_hash = await deps.passwords.hash(asked.password)
    try:
        # The event comes before the commit: should the log be away, there is no user either.
        async with deps.users.registering(email, password_hash) as user_id:
            await record(deps, user_id, UserRegistered(), correlation_id=request.state.request_id)
    except EmailTaken:
        raise Problem(409, "EMAIL_TAKEN", "there is an account with this e-mail address") from None
    return answers.json(await _log_in(deps, user_id, "trader"), 201)


@router.post(
    "/login",
    operation_id="login",
    **operation(body=Login, answers={200: Tokens}, problems=(401, 429), public=True),
)
async def login(request: Request, deps: Deps) -> Response:
    """Log in with e-mail address and password."""
    await deps.rate_limits.knock(peer(request))
    asked = parse(await read_body(request), Login)
    email = asked.email.lower()
    await deps.rate_limits.login(email)
    user = await deps.users.by_email(email)
    right = await deps.passwords.verify(None if user is None else user.password_hash, asked.password)
    if user is None or not right:
        _log.warning("login refused", known=user is not None, user_id=user and user.user_id)
        raise Problem(401, "BAD_CREDENTIALS", "the e-mail address or the password is wrong")
    if deps.passwords.outdated(user.password_hash):
        await deps.users.rehashed(user.user_id, await deps.passwords.hash(asked.password))
    await record(deps, user.user_id, UserLoggedIn(), correlation_id=request.state.request_id)
    return answers.json(await _log_in(deps, user.user_id, user.role))


@router.post(
    "/refresh",
    operation_id="refresh",
    **operation(body=Refresh, answers={200: Tokens}, problems=(401, 429), public=True),
)
async def refresh(request: Request, deps: Deps) -> Response:
    """Exchange a refresh token, which is good for one exchange. One that comes twice ends the login."""
    await deps.rate_limits.knock(peer(request))
    asked = parse(await read_body(request), Refresh)
    successor = new_refresh_token()
    match await deps.sessions.rotate(digest(asked.refresh_token), digest(successor), REFRESH_SECONDS):
        case Rotated(user_id, role, family):
            return answers.json(_tokens(deps, user_id, role, family, successor))
        case Reused(user_id):
            _log.warning("refresh token used twice: login ended", user_id=user_id)
            raise Problem(401, "TOKEN_REUSED", "this refresh token was used before; the login has been ended")
        case LoggedOut():
            raise Problem(401, "INVALID_TOKEN", "the refresh token is unknown, expired or revoked")


@router.post(
    "/logout",
    operation_id="logout",
    **operation(body=Logout, answers={204: None}, problems=(429,), public=True),
)
async def logout(request: Request, deps: Deps) -> Response:
    """End the login of a refresh token, its access tokens included."""
    await deps.rate_limits.knock(peer(request))
    asked = parse(await read_body(request), Logout)
    await deps.sessions.close(digest(asked.refresh_token))
    return Response(status_code=204)


async def _log_in(deps: Dependencies, user_id: int, role: str) -> Tokens:
    family, token = new_family(), new_refresh_token()
    await deps.sessions.open(user_id, family, digest(token), REFRESH_SECONDS)
    return _tokens(deps, user_id, role, family, token)


def _tokens(deps: Dependencies, user_id: int, role: str, family: str, refresh_token: str) -> Tokens:
    return Tokens(
        user_id=user_id,
        access_token=deps.tokens.issue(user_id, role, family),
        refresh_token=refresh_token,
        token_type="Bearer",  # noqa: S106 - RFC 6750's word
        expires_in=ACCESS_SECONDS,
    )
