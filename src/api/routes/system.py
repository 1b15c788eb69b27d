"""Health, readiness, metrics."""

import asyncio
from typing import Final

import structlog
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from api import answers
from api.dependencies import Check, Deps
from api.models import Health, Readiness
from api.openapi import operation

__all__ = ["router"]

router: Final = APIRouter(tags=["system"])

CHECK_SECONDS: Final = 2.0

_log = structlog.get_logger(__name__)


@router.get("/healthz", operation_id="health", **operation(answers={200: Health}, public=True))
async def health() -> Response:
    """The process lives."""
    return answers.json(Health(status="ok"))


@router.get("/readyz", operation_id="readiness", **operation(answers={200: Readiness, 503: Readiness}, public=True))
async def readiness(deps: Deps) -> Response:
    """Whether the engine can trade: log, database, scheduler and feed are there, else 503 and which is not."""
    found = await asyncio.gather(*(_checked(name, check) for name, check in deps.checks.items()))
    checks = dict(zip(deps.checks, found, strict=True))
    ready = all(said == "ok" for said in found)
    return answers.json(Readiness(ready=ready, checks=checks), 200 if ready else 503)


@router.get("/metrics", operation_id="metrics", **operation(answers={200: "text/plain"}, public=True))
async def metrics(deps: Deps) -> Response:
    """For Prometheus."""
    return Response(generate_latest(deps.registry), media_type=CONTENT_TYPE_LATEST)


async def _checked(name: str, check: Check) -> str:
    """`ok`, or in a word what is the matter; the whole of it goes into the log, since anybody may ask here."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except Exception as error:  # a check may fail in any way, and all of them mean: not ready
        _log.warning("not ready", check=name, error=str(error), kind=type(error).__name__)
        return f"failing: {type(error).__name__}"
    return "ok"
