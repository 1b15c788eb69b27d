"""HTTP as the endpoints see it: a request that was read completely, and what to do with its connection."""

from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import Struct

from simulation.kite.errors import KiteError, input_error
from simulation.kite.orders import encode

__all__ = ["Act", "Request", "Response", "failure", "html", "json_response", "success"]

JSON = "application/json"
_DECODER = msgspec.json.Decoder(float_hook=Decimal)


class Request:
    """One request. `peer` is the caller's IP address; header names are in lower case."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes, peer: str) -> None:
        self.method = method
        self.headers = headers
        self.body = body
        self.peer = peer
        if "://" in target.partition("?")[0]:  # a proxy's form: with scheme and host
            target = "/" + target.partition("://")[2].partition("/")[2]
        path, _, self._query = target.partition("?")
        self.path = unquote(path)

    @cached_property
    def query(self) -> dict[str, list[str]]:
        """All values of each name; a list repeats its name (`i=NSE:INFY&i=NSE:SBIN`)."""
        values: dict[str, list[str]] = {}
        for name, value in parse_qsl(self._query, keep_blank_values=True):
            values.setdefault(name, []).append(value)
        return values

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else None

    @cached_property
    def form(self) -> dict[str, str]:
        """The fields of a form body. Raises KiteError 400 when it is not text."""
        try:
            text = self.body.decode()
        except UnicodeDecodeError:
            raise input_error("The request body is not text.") from None
        return dict(parse_qsl(text, keep_blank_values=True))

    def json(self) -> Any:
        """The JSON body, its numbers as Decimal where they have a point. Raises KiteError 400 when it is none."""
        try:
            return _DECODER.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise input_error("The request body is not JSON.") from None


class Act(StrEnum):
    """What happens on the connection."""

    ANSWER = "answer"
    HANG = "hang"
    """No answer; the connection stays until the client leaves."""
    DROP = "drop"
    """No answer; the connection is closed."""
    HALF = "half"
    """The connection is closed after half of the body."""


class Response(Struct, frozen=True, kw_only=True):
    """`content_type` None: the header is missing. `compress`: gzip it for clients that take that."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = JSON
    headers: tuple[tuple[str, str], ...] = ()
    compress: bool = False
    act: Act = Act.ANSWER


def json_response(value: object, status: int = 200) -> Response:
    return Response(status=status, body=encode(value))


def success(data: object) -> Response:
    """Kite's envelope."""
    return json_response({"status": "success", "data": data})


def failure(error: KiteError) -> Response:
    return json_response(
        {"status": "error", "message": error.message, "data": None, "error_type": error.error_type}, error.status
    )


def html(status: int) -> Response:
    """What the load balancer in front of the API says."""
    text = {502: "Bad Gateway", 504: "Gateway Time-out"}.get(status, "Error")
    head = f"<html>\r\n<head><title>{status} {text}</title></head>\r\n"
    body = f"{head}<body><center><h1>{status} {text}</h1></center></body>\r\n</html>\r\n"
    return Response(status=status, body=body.encode(), content_type="text/html")
