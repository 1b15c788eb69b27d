"""The application: routers, what surrounds them, and the OpenAPI document."""

from importlib.metadata import version

from fastapi import Depends, FastAPI

from api.acknowledged import ArchivedFirst
from api.dependencies import Dependencies
from api.middleware import BodyLimit, Metrics, Requests, SecurityHeaders
from api.openapi import document
from api.parameters import only_known_parameters
from api.problems import HANDLERS
from api.routes import audit, auth, broker, halt, strategy, stream, system

__all__ = ["create_app"]


def create_app(deps: Dependencies) -> FastAPI:
    """The REST application of architecture §10. It opens and closes nothing: what it works with is the caller's."""
    app = FastAPI(
        title="bahi",
        version=version("bahi"),
        description="An event-sourced trading engine. Errors are RFC 9457 problem documents with a stable `code`.",
        docs_url=None,
        redoc_url=None,
        exception_handlers=HANDLERS,
        redirect_slashes=False,
    )
    app.state.dependencies = deps
    for resource in (auth, broker, strategy, halt, stream, audit):
        app.include_router(resource.router, dependencies=[Depends(only_known_parameters)])
    app.include_router(system.router)
    # The last one added is the outermost.
    app.add_middleware(ArchivedFirst)
    app.add_middleware(BodyLimit)
    app.add_middleware(Metrics, registry=deps.registry)
    app.add_middleware(Requests)
    app.add_middleware(SecurityHeaders)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app
