"""Errors as RFC 9457 problem documents, each with a stable `code`; those of validation name the field and the rule."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from fastapi.exceptions import RequestValidationError
from msgspec import Struct
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from eventstore.errors import LogUnavailable

__all__ = [
    "HANDLERS",
    "UNAVAILABLE",
    "FieldProblem",
    "Problem",
    "ProblemDocument",
    "invalid",
    "not_found",
    "unavailable",
    "unexpected",
]

_log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"


class FieldProblem(Struct, frozen=True):
    """What is wrong with one field: `rule` is stable, `message` is for people."""

    field: str
    rule: str
    message: str


class ProblemDocument(Struct, frozen=True, kw_only=True):
    """RFC 9457, with the members `code`, `errors` and `request_id`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] = []
    request_id: str = ""
    """Names this request in the log."""


class Problem(Exception):
    """Raised anywhere below a route; becomes the answer."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str = "",
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})

    def response(self, request_id: str) -> Response:
        document = ProblemDocument(
            type=f"urn:bahi:problem:{self.code}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            code=self.code,
            errors=self.errors,
            request_id=request_id,
        )
        return Response(msgspec.json.encode(document), self.status, self.headers, media_type=MEDIA_TYPE)


def invalid(errors: Sequence[FieldProblem]) -> Problem:
    """422: the request is understood, but these fields are not acceptable."""
    return Problem(422, "VALIDATION_FAILED", "; ".join(f"{e.field}: {e.message}" for e in errors), errors=errors)


def not_found(what: str) -> Problem:
    """404, also for what exists but is somebody else's: the two are not told apart."""
    return Problem(404, "NOT_FOUND", f"there is no such {what}")


def unavailable() -> Problem:
    """503: the log or the database is away."""
    headers = {"Retry-After": "1"}
    return Problem(503, "UNAVAILABLE", "a part of the engine is not reachable just now; try again", headers=headers)


def unexpected() -> Problem:
    """500: says nothing of the cause; the log has it under the request's id."""
    return Problem(
        500, "INTERNAL_ERROR", "something went wrong on our side; it has been recorded under this request_id"
    )


UNAVAILABLE: Final[tuple[type[Exception], ...]] = (
    LogUnavailable,
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    ConnectionError,
)
"""The log or the database is away. Nothing was done, or it is unknown whether it was: the caller may repeat."""


def _request_id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - Starlette's signature is wider than what it passes
    return error.response(_request_id(request))


async def _http_error(request: Request, error: Exception) -> Response:
    """What Starlette raises by itself: an unknown path, a method that the path does not have."""
    assert isinstance(error, HTTPException)  # noqa: S101
    known = {404: ("NOT_FOUND", "there is nothing at this path"), 405: ("METHOD_NOT_ALLOWED", "see the Allow header")}
    code, detail = known.get(error.status_code, (HTTPStatus(error.status_code).name, str(error.detail)))
    return Problem(error.status_code, code, detail, headers=error.headers).response(_request_id(request))


async def _parameters_invalid(request: Request, error: Exception) -> Response:
    """Path, query and header parameters; bodies are checked in `api.bodies`."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    errors = [
        FieldProblem(str(one["loc"][-1]), str(one["type"]), str(one["msg"]).removeprefix("Value error, "))
        for one in error.errors()
    ]
    return invalid(errors).response(_request_id(request))


async def _unavailable(request: Request, error: Exception) -> Response:
    _log.error("unavailable", error=type(error).__name__)
    return unavailable().response(_request_id(request))


HANDLERS: Final[dict[Any, Any]] = {
    Problem: _problem,
    HTTPException: _http_error,
    RequestValidationError: _parameters_invalid,
} | dict.fromkeys(UNAVAILABLE, _unavailable)
"""For `FastAPI(exception_handlers=…)`. What no handler takes ends in `api.middleware.Requests`."""
