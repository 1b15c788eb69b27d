"""Path and query parameters, as strict as bodies are."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Path, Query, Request
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BeforeValidator

from api.problems import FieldProblem, invalid
from domain.events import EVENT_TYPES

__all__ = ["EventTypes", "StrategyFilter", "StrategyId", "UserFilter", "only_known_parameters"]

_LARGEST = 9_007_199_254_740_991


def _digits(value: object) -> object:
    """Only the plain digits of a number: `+7`, `7.0` and `７` name nothing."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("must be a number of digits only")
    return value


StrategyId = Annotated[int, BeforeValidator(_digits), Path(ge=1, le=_LARGEST, description="a strategy's id")]
StrategyFilter = Annotated[
    int | None, BeforeValidator(_digits), Query(ge=1, le=_LARGEST, description="only of this strategy")
]
UserFilter = Annotated[int | None, BeforeValidator(_digits), Query(ge=1, le=_LARGEST, description="only of this user")]


def _types(names: Sequence[str] | None) -> Sequence[str] | None:
    """Only names of the catalogue: a misspelt one would find nothing unnoticed."""
    if names is not None and (unknown := [name for name in names if name not in EVENT_TYPES]):
        raise ValueError(f"there is no event type {unknown[0][:64]!r}")
    return names


EventTypes = Annotated[
    list[str] | None,
    AfterValidator(_types),
    Query(max_length=50, description="only of this type; may be given several times", examples=["ORDER_FILLED"]),
]


async def only_known_parameters(request: Request) -> None:
    """Raises 422 for a query parameter that the operation does not have: a misspelt one would be ignored unnoticed."""
    route = request.scope["route"]
    known = {field.alias for field in route.dependant.query_params} if isinstance(route, APIRoute) else set()
    if unknown := sorted(set(request.query_params) - known):
        raise invalid([FieldProblem(name[:64], "unknown", "is not a parameter of this request") for name in unknown])
