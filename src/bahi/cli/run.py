"""`bahi run [ROLE…]`: the engine, until SIGTERM or Ctrl-C; then it drains."""

import time
from contextlib import AsyncExitStack
from typing import Annotated

import structlog
import typer

from bahi.cli.common import Home, bar, err, fail, load_settings, run_async
from bahi.roles.process import ROLES, run_roles
from bahi.settings import Settings
from bahi.telemetry.logging import configure_logging
from bahi.wiring import open_house
from eventstore.errors import LogLost

LONG_ENOUGH = 5.0
"""Seconds after which a lost log is a new incident, and not the last one once more."""
MOST_FAILURES = 3
"""Incidents in a row before the process gives up."""

log = structlog.get_logger(__name__)


def run(
    roles: Annotated[list[str] | None, typer.Argument(help=f"Among {', '.join(ROLES)}; none named: all.")] = None,
    home: Home = None,
    port: Annotated[int | None, typer.Option(help="The port of the REST application.")] = None,
) -> None:
    """Run the engine's roles until SIGTERM or Ctrl-C, then drain. Logs are JSON lines on standard output.

    What was killed or lost before is recovered first, by itself; SYSTEM_RECOVERY in the log tells what was done.
    """
    wanted = roles or []
    unknown = sorted(set(wanted) - ROLES.keys())
    if unknown:
        fail(f"no such role: {', '.join(unknown)}; there are {', '.join(ROLES)}")
    given = {} if port is None else {"http_port": port}
    settings = load_settings(home, **given)
    configure_logging("INFO")
    run_async(_run(settings, wanted))


async def _run(settings: Settings, roles: list[str]) -> None:
    """Again and again, while it is the log that was lost under the roles: then all they know is out of date."""

    def started() -> None:
        names = ", ".join(roles or ROLES)
        err.print(f"bahi runs {names}; data in {settings.home}; stop it with Ctrl-C", markup=False, soft_wrap=True)

    failures = 0
    while True:
        begun: float | None = None
        try:
            async with AsyncExitStack() as stack:
                with bar("restoring the log") as progress:
                    house = await stack.enter_async_context(open_house(settings, progress=progress))
                begun = time.monotonic()
                await run_roles(house, roles, started)
            return
        except (LogLost, BaseExceptionGroup) as failure:
            lost, others = BaseExceptionGroup("", [failure]).split(LogLost)
            failures = 0 if begun and time.monotonic() - begun > LONG_ENOUGH else failures + 1
            if begun is None or lost is None or others is not None or failures > MOST_FAILURES:
                raise
            log.critical("log_lost", why=str(_first(lost)), todo="starting anew")


def _first(failures: BaseException) -> BaseException:
    while isinstance(failures, BaseExceptionGroup):
        failures = failures.exceptions[0]
    return failures
