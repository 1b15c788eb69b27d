"""The OpenAPI document, from the REST application."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from prometheus_client import CollectorRegistry

from bahi.schema.event import Schema

if TYPE_CHECKING:
    from api.dependencies import Dependencies

__all__ = ["openapi_document"]


def openapi_document() -> Schema:
    """What the application says of itself, without anything that it works with: the routes and their Structs tell all.

    Imports the application only when called: it loads all of `api`.
    """
    from api.app import create_app

    nothing = SimpleNamespace(registry=CollectorRegistry())
    return create_app(cast("Dependencies", nothing)).openapi()
