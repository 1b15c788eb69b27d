"""The OpenAPI document: FastAPI lists the operations, the schemas come from the Structs of `api.models`."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import Struct
from starlette.responses import Response

from api import models
from api.problems import MEDIA_TYPE, ProblemDocument

__all__ = ["EVENT_STREAM", "document", "operation"]

EVENT_STREAM = "text/event-stream"

_REF = "#/components/schemas/{name}"
_EVENT = {
    "type": "object",
    "description": "one event of the stream; those named `reset` and `end` are not of the history",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string", "description": "the event's type"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"anyOf": [{"$ref": _REF.format(name=name)} for name in ("HistoryEvent", "StreamNotice")]},
        },
    },
}
_ALWAYS = (500, 503)
_WITH_BODY = (400, 408, 413, 415, 422)
_WITH_CALLER = (401,)
_WITH_PARAMETERS = (422,)


def operation(
    *,
    answers: Mapping[int, type[Struct] | str | None],
    body: type[Struct] | None = None,
    problems: Iterable[int] = (),
    public: bool = False,
    links: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """What a route says about itself, as keyword arguments for `APIRouter.add_api_route`.

    `answers` gives each status its Struct, a media type, or None for an answer without content. The first is the usual
    one. Problems that any operation of this kind may answer are added. `links` say what may be asked next with what the
    usual answer holds.
    """
    expected = {*problems, *_ALWAYS, *(_WITH_BODY if body else _WITH_PARAMETERS), *(() if public else _WITH_CALLER)}
    extra: dict[str, Any] = {"security": [] if public else [{"bearer": []}]}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _reference(body)}}}
    responses: dict[int | str, dict[str, Any]] = {status: _answer(status, of) for status, of in answers.items()}
    if links:
        responses[next(iter(answers))]["links"] = links
    for status in sorted(expected):
        response = responses.setdefault(status, {"description": HTTPStatus(status).phrase})
        response.setdefault("content", {})[MEDIA_TYPE] = {"schema": _reference(ProblemDocument)}
    return {
        "responses": responses,
        "openapi_extra": extra,
        "response_class": Response,
        "response_model": None,
        "status_code": next(iter(answers)),
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(_schemas(_leaves(models.Request), {"type": ["number", "string"]}))
        schemas.update(_schemas(_leaves(models.Notice), {"type": "string"}))
        schemas.update(_schemas([*_leaves(models.Answer), ProblemDocument], {"type": "number"}))
        made["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        app.openapi_schema = made
    return app.openapi_schema


def _answer(status: int, of: type[Struct] | str | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if isinstance(of, str):
        answer["content"] = {of: {"schema": _EVENT if of == EVENT_STREAM else {"type": "string"}}}
    elif of is not None:
        answer["content"] = {"application/json": {"schema": _reference(of)}}
    return answer


def _reference(of: type[Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=of.__name__)}


def _schemas(types: list[type[Struct]], decimal: dict[str, Any]) -> dict[str, Any]:
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    return {name: _with_decimals(schema, decimal) for name, schema in components.items()}


def _with_decimals(schema: Any, decimal: dict[str, Any]) -> Any:
    """msgspec describes a Decimal as a string; we read numbers too, and write numbers only."""
    if isinstance(schema, list):
        return [_with_decimals(one, decimal) for one in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {name: _with_decimals(value, decimal) for name, value in schema.items()}
    if changed.get("format") == "decimal":
        del changed["format"]
        changed |= decimal
    return changed


def _leaves(cls: type[Struct]) -> list[type[Struct]]:
    below = cls.__subclasses__()
    return [cls] if not below else [leaf for child in below for leaf in _leaves(child)]
