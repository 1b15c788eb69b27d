"""What surrounds every request: its id and its log line, the last resort for errors, headers, the body's limit."""

import time
import uuid
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, unexpected

__all__ = ["MAX_BODY", "BodyLimit", "Metrics", "Requests", "SecurityHeaders"]

MAX_BODY: Final = 64 * 1024

_log = structlog.get_logger(__name__)


class Requests:
    """Gives each request an id, writes its line, and answers 500 for what nobody expected.

    The line has the path without its query, and no header: neither tokens nor what a broker appends to a redirect.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        started = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, watched)
            except Exception:
                _log.exception("request failed", method=scope["method"], path=scope["path"])
                if status:
                    raise
                await unexpected().response(request_id)(scope, receive, watched)
            finally:
                took = round((time.perf_counter() - started) * 1000, 3)
                who = scope["state"].get("user_id")
                _log.info("request", method=scope["method"], path=scope["path"], status=status, ms=took, user_id=who)


class SecurityHeaders:
    """Headers for answers that are data: never framed, never sniffed, never cached unless a route says how."""

    _always: Final = (
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"strict-transport-security", b"max-age=31536000"),
        (b"cross-origin-resource-policy", b"same-origin"),
    )
    _default: Final = (
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
        (b"cache-control", b"no-store"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                missing = [(name, value) for name, value in self._default if name not in there]
                message["headers"] = [*message["headers"], *self._always, *missing]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class BodyLimit:
    """413 for a body above `limit` bytes: at once when it is declared, else as soon as so much has come."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or int(declared[:20]) > self._limit:
            await self._too_large().response(scope["state"]["request_id"])(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> Problem:
        return Problem(413, "BODY_TOO_LARGE", f"a body may have {self._limit} bytes", headers={"Connection": "close"})


class Metrics:
    """Counts requests and times them, by method, route (never the path, which holds ids) and status."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        labels = ("method", "route", "status")
        self._seconds = Histogram("bahi_http_request_seconds", "Requests by route", labels[:2], registry=registry)
        self._answers = Counter("bahi_http_requests", "Answers by route and status", labels, registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._seconds.labels(method, route).observe(time.perf_counter() - started)
            self._answers.labels(method, route, status).inc()


_METHODS: Final = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})
