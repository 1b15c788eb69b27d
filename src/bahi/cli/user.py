"""`bahi user create`: the only way to an auditor or an operator."""

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from bahi.cli.common import Home, Json, err, fail, load_settings, out, print_json, run_async

__all__ = ["Role", "app"]

app = typer.Typer(help="People who may use this installation.", no_args_is_help=True)

LONGEST = 4096
"""Characters read as a password; far more than one may have."""


class Role(StrEnum):
    """What a person may do."""

    TRADER = "trader"
    AUDITOR = "auditor"
    OPERATOR = "operator"


@app.callback()
def _user() -> None: ...


@app.command()
def create(
    email: Annotated[str, typer.Option(help="The name to log in with.")],
    role: Annotated[Role, typer.Option(help="trader: trades; auditor: reads all; operator: keeps it running.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Make a user. The password is asked for, or read with --password-stdin: never an argument."""
    password = _password(password_stdin)
    user_id = run_async(_create(load_settings(home), email.strip(), password, role))
    if json:
        print_json({"user_id": user_id, "email": email.strip().lower(), "role": role.value})
    else:
        out.print(f"user {user_id}: {email.strip().lower()}, {role.value}", markup=False)


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline(LONGEST).rstrip("\r\n")
    if not sys.stdin.isatty():
        fail("there is no terminal to ask for the password: use --password-stdin")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt="Once more", err=True)
    return password


async def _create(settings: Any, email: str, password: str, role: Role) -> int:
    from bahi.cli.reader import has_data
    from bahi.database.users import SqlUsers
    from bahi.telemetry.logging import configure_logging
    from bahi.users import Unacceptable, create_user
    from bahi.wiring import open_house
    from domain.events import UserRegistered
    from eventstore.batch import Appended
    from eventstore.envelope import NewEvent
    from eventstore.errors import LogUnavailable

    configure_logging("ERROR")
    if settings.redis_url is None and not has_data(settings.home.expanduser(), "redis"):
        err.print(f"bahi: this begins a new installation in {settings.home}", markup=False, soft_wrap=True)
    async with open_house(settings, writer=None) as house:

        async def record(user_id: int, event: UserRegistered) -> None:
            result = await house.logs[user_id % len(house.logs)].append([NewEvent(event, user_id=user_id)])
            if not isinstance(result, Appended):
                raise LogUnavailable(f"the log did not take it: {result}")

        try:
            return await create_user(SqlUsers(house.engine), record, email=email, password=password, role=role.value)
        except Unacceptable as error:
            fail(str(error))
