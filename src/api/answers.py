"""Answers as JSON: money as exact numbers, moments as RFC 3339 with the exchange's offset."""

import datetime as dt
import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from domain.calendar import EXCHANGE_ZONE, wall
from domain.values import Instant

__all__ = ["encode", "json", "local", "moment", "plain", "tagged", "wall"]

_encoder: Final = msgspec.json.Encoder(decimal_format="number")
encode = _encoder.encode
"""Any value as JSON; a Decimal keeps its digits and becomes a number."""


def json(body: Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(body), status, dict(headers or {}), media_type="application/json")


def tagged(body: Struct, request: Request) -> Response:
    """With an ETag of the content: 304 without a body if the caller has just that."""
    content = encode(body)
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, 200, headers, media_type="application/json")


def moment(at: Instant | None) -> dt.datetime | None:
    """An instant as the exchange's clock shows it (+05:30); nothing for none and for the zero of an unset field."""
    return wall(at) if at else None


def local(at: dt.datetime | None) -> dt.datetime | None:
    """A moment of PostgreSQL's on the exchange's clock."""
    return None if at is None else at.astimezone(EXCHANGE_ZONE)


def plain(value: Any, of: Any = Any) -> Any:
    """A domain Struct as plain values for people: instants, which are integers inside, as moments."""
    if isinstance(value, Struct):
        return {told: plain(getattr(value, name), hint) for name, told, hint in _fields(type(value))}
    if isinstance(value, (list, tuple)):
        inner = (*get_args(of), Any)[0]
        return [plain(one, inner) for one in value]
    if isinstance(value, dict):
        inner = (*get_args(of), Any, Any)[1]
        return {name: plain(one, inner) for name, one in value.items()}
    if isinstance(value, int) and _is_instant(of):
        return moment(value)
    return value


@cache
def _fields(cls: type[Struct]) -> list[tuple[str, str, Any]]:
    """Each field's name, the name that it is told by, and its type."""
    hints = get_type_hints(cls, include_extras=True)
    return [(field.name, field.encode_name, hints[field.name]) for field in msgspec.structs.fields(cls)]


def _is_instant(of: Any) -> bool:
    parts = get_args(of)
    if any(isinstance(part, Meta) and (part.extra or {}).get("kind") == "instant" for part in parts):
        return True
    return any(_is_instant(part) for part in parts if not isinstance(part, Meta))
