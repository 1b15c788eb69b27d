"""`bahi run [ROLE…]`: the engine, until SIGTERM or Ctrl-C; then it drains."""

from typing import Annotated

import typer

from bahi.cli.common import Home, err, fail, load_settings, run_async
from bahi.roles.process import ROLES, run_roles
from bahi.settings import Settings
from bahi.telemetry.logging import configure_logging
from bahi.wiring import open_house


def run(
    roles: Annotated[list[str] | None, typer.Argument(help=f"Among {', '.join(ROLES)}; none named: all.")] = None,
    home: Home = None,
    port: Annotated[int | None, typer.Option(help="The port of the REST application.")] = None,
) -> None:
    """Run the engine's roles until SIGTERM or Ctrl-C, then drain. Logs are JSON lines on standard output."""
    wanted = roles or []
    unknown = sorted(set(wanted) - ROLES.keys())
    if unknown:
        fail(f"no such role: {', '.join(unknown)}; there are {', '.join(ROLES)}")
    given = {} if port is None else {"http_port": port}
    settings = load_settings(home, **given)
    configure_logging("INFO")
    run_async(_run(settings, wanted))


async def _run(settings: Settings, roles: list[str]) -> None:
    async with open_house(settings) as house:

        def started() -> None:
            names = ", ".join(roles or ROLES)
            err.print(f"bahi runs {names}; data in {settings.home}; stop it with Ctrl-C", markup=False, soft_wrap=True)

        await run_roles(house, roles, started)
