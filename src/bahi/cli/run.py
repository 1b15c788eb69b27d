"""`bahi run [ROLE…]`: the engine, until SIGTERM or Ctrl-C; then it drains."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Annotated

import structlog
import typer

from bahi.cli.common import Home, bar, err, fail, load_settings, run_async
from bahi.roles.ending import Ending
from bahi.roles.process import ROLES, all_wanted, run_roles
from bahi.settings import Settings
from bahi.telemetry.logging import configure_logging
from bahi.wiring import open_house, servers_of
from eventstore.archive import OUTAGES
from eventstore.errors import LogLost, LogUnavailable

LONG_ENOUGH = 5.0
"""Seconds after which a lost log is a new incident, and not the last one once more."""
MOST_FAILURES = 3
"""Incidents in a row before the process gives up."""
PAUSE = 0.5
"""Seconds between two attempts to start anew."""

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
    """Again and again, while it is the log that was lost under the roles: then all they know is out of date.

    Servers of our own live through it: other processes may be at work on them. Servers that are away are waited for,
    but at the first start.
    """

    def started() -> None:
        names = ", ".join(roles or ROLES)
        err.print(f"bahi runs {names}; data in {settings.home}; stop it with Ctrl-C", markup=False, soft_wrap=True)

    wanted = all_wanted(roles)
    failures = 0
    again = False
    settings.check_production()
    async with AsyncExitStack() as outer:
        await servers_of(settings, outer)
        ending = outer.enter_context(Ending(settings.home, wanted))
        while True:
            begun: float | None = None
            try:
                async with AsyncExitStack() as stack:
                    with bar("restoring the log") as progress:
                        opened = open_house(settings, progress=progress, member=ending.member)
                        house = await stack.enter_async_context(opened)
                    begun = time.monotonic()
                    await run_roles(house, wanted, ending, started)
                return
            except (LogLost, BaseExceptionGroup) as failure:
                lost, others = BaseExceptionGroup("", [failure]).split(LogLost)
                failures = 0 if begun and time.monotonic() - begun > LONG_ENOUGH else failures + 1
                if begun is None or lost is None or others is not None or failures > MOST_FAILURES:
                    raise
                again = True
                log.critical("log_lost", why=str(_first(lost)), todo="starting anew")
            except (LogUnavailable, *OUTAGES) as outage:
                if begun is not None or not again:
                    raise
                log.error("not_started_anew", why=str(outage), todo="trying again")
                await asyncio.sleep(PAUSE)
            outer.enter_context(_ended_by_signals())


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Until the roles run again and drain: SIGTERM and SIGINT end the process, in good order."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 (it is running)
    ended: list[int] = []

    def end(number: int) -> None:
        ended.append(number)
        loop.remove_signal_handler(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    try:
        yield
    except asyncio.CancelledError:
        if not ended:
            raise
        raise typer.Exit(128 + ended[0]) from None


def _first(failures: BaseException) -> BaseException:
    while isinstance(failures, BaseExceptionGroup):
        failures = failures.exceptions[0]
    return failures
