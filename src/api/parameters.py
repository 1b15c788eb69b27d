"""Path and query parameters, as strict as bodies are."""

from typing import Annotated

from fastapi import Path, Request
from fastapi.routing import APIRoute
from pydantic import BeforeValidator

from api.problems import FieldProblem, invalid

__all__ = ["StrategyId", "only_known_parameters"]


def _digits(value: object) -> object:
    """Only the plain digits of a number: `+7`, `7.0` and `７` name nothing."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("must be a number of digits only")
    return value


StrategyId = Annotated[
    int, BeforeValidator(_digits), Path(ge=1, le=9_007_199_254_740_991, description="a strategy's id")
]


async def only_known_parameters(request: Request) -> None:
    """Raises 422 for a query parameter that the operation does not have: a misspelt one would be ignored unnoticed."""
    route = request.scope["route"]
    known = {field.alias for field in route.dependant.query_params} if isinstance(route, APIRoute) else set()
    if unknown := sorted(set(request.query_params) - known):
        raise invalid([FieldProblem(name[:64], "unknown", "is not a parameter of this request") for name in unknown])
