"""A write: who asks, what for, and at most once per Idempotency-Key.

The key is taken before anything is done and the answer kept for a day. The same key with the same request gets the
same answer; with another request it is refused. An attempt that died is taken over by the next: what it creates has an
id set aside beforehand, and its events carry the key, so that the log recognises what was appended already.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeVar

import structlog
from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from api import models
from api.bodies import parse, read_body
from api.dependencies import Dependencies, Deps
from api.openapi import operation
from api.ports import Answered, BusyKey, LoggedIn, OtherRequest, Taken
from api.problems import UNAVAILABLE, Problem
from api.security.caller import Caller, refuse_auditors
from eventstore.envelope import Dedupe

__all__ = ["Write", "write"]

B = TypeVar("B", bound=models.Request)

_log = structlog.get_logger(__name__)

_REMEMBERED: Final = 23 * 3600
"""Seconds that the log knows a key: less than PostgreSQL does, which therefore always recognises it first."""
_REPLAYED: Final = {"Idempotency-Replayed": "true"}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9_.:~+/=-]+$",
        description="repeat a request with the same key and it is carried out once",
    ),
]


@dataclass
class Write(Generic[B]):
    """One write, as its action sees it. `attempt` is None when the caller sent no key."""

    deps: Dependencies
    caller: LoggedIn
    body: B
    request_id: str
    key: str | None = None
    digest: bytes = b""
    again: bool = False
    """An earlier attempt with this key began and did not come to answer: it may have been carried out."""
    reserved_id: int | None = None

    @property
    def user_id(self) -> int:
        return self.caller.user_id

    def dedupe(self, what: str) -> Dedupe | None:
        """Makes the append of this write repeatable, when the caller sent a key."""
        if self.key is None:
            return None
        name = f"api:{self.user_id}:{what}:{hashlib.sha256(self.key.encode()).hexdigest()}"
        return Dedupe(name, self.digest.hex(), _REMEMBERED)

    async def reserve_id(self) -> int:
        """The id of the strategy that this write creates: the same one, however often it is attempted."""
        if self.reserved_id is None:
            self.reserved_id = await self.deps.readings.next_strategy_id()
            if self.key is not None:
                await self.deps.idempotency.reserve(self.user_id, self.key, self.reserved_id)
        return self.reserved_id


Action = Callable[[Write[B]], Awaitable[Response]]


def write(
    router: APIRouter, method: str, path: str, body: type[B] | None = None, *, answers: dict[int, Any], **kwargs: Any
) -> Callable[[Action[Any]], Action[Any]]:
    """Register an action as the operation `method path`, named after the function and described by its docstring."""

    def register(action: Action[Any]) -> Action[Any]:
        async def endpoint(request: Request, deps: Deps, caller: Caller, key: IdempotencyKey = None) -> Response:
            refuse_auditors(caller)
            raw = await read_body(request) if body is not None else b""
            given = models.Request() if body is None else parse(raw, body)
            digest = hashlib.sha256(f"{method} {path}\n".encode() + raw).digest()
            return await _once(action, Write(deps, caller, given, request.state.request_id, key, digest))

        problems = {403, 409, 422, *kwargs.pop("problems", ())}
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            operation_id=action.__name__,
            name=action.__name__,
            summary=(action.__doc__ or "").partition("\n")[0],
            **operation(body=body, answers=answers, problems=problems, **kwargs),
        )
        return action

    return register


async def _once(action: Action[Any], attempt: Write[Any]) -> Response:
    if attempt.key is None:
        return await action(attempt)
    deps, user_id, key = attempt.deps, attempt.user_id, attempt.key
    match await deps.idempotency.take(user_id, key, attempt.digest):
        case Answered(status, headers, body):
            return Response(body, status, headers | _REPLAYED)
        case OtherRequest():
            raise Problem(422, "IDEMPOTENCY_KEY_REUSED", "this Idempotency-Key was used for another request")
        case BusyKey():
            detail = "the request with this Idempotency-Key is being carried out"
            raise Problem(409, "IDEMPOTENCY_KEY_BUSY", detail, headers={"Retry-After": "1"})
        case Taken() as taken:
            attempt.again, attempt.reserved_id = taken.again, taken.reserved_id
    try:
        response = await action(attempt)
    except Problem as problem:
        if problem.status >= 500 or problem.status == 429:
            await deps.idempotency.give_up(user_id, key)
            raise
        response = problem.response(attempt.request_id)
    except BaseException:
        await deps.idempotency.give_up(user_id, key)
        raise
    await _keep(deps, user_id, key, response)
    return response


async def _keep(deps: Dependencies, user_id: int, key: str, response: Response) -> None:
    if deps.acknowledge is not None:
        await deps.acknowledge.settle()  # a kept answer is given again at once, so it is kept when it may be given
    headers = {name: value for name, value in response.headers.items() if name in ("content-type", "location")}
    try:
        await deps.idempotency.answered(user_id, key, Answered(response.status_code, headers, bytes(response.body)))
    except UNAVAILABLE:
        # It is done, and the caller shall know it. A repetition finds the key held for a while, and then the log knows.
        _log.warning("answer not kept", key_of=user_id, exc_info=True)
