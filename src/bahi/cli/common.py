"""What the commands have in common: settings, errors as one clear line, output for people or programs."""

import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
import uvloop
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from bahi.servers import ServerError
from bahi.settings import Settings, SettingsError
from brokers.paper.seeded import PlanError
from eventstore.errors import LogError
from simulation.ticks import TickFileError

__all__ = ["Home", "Json", "fail", "load_settings", "out", "print_json", "run_async", "sorry"]

T = TypeVar("T")

OK, CHECK_FAILED, UNAVAILABLE = 0, 1, 2

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="One JSON object (or one per line) for programs.")]
Home = Annotated[
    Path | None, typer.Option("--home", help="The folder of the embedded servers' data.", show_default=".bahi")
]


def load_settings(home: Path | None = None, **given: Any) -> Settings:
    """The settings, with what the command line gives on top. Exits with 2 when they cannot be used."""
    if home is not None:
        given["home"] = home
    with sorry():
        return Settings.load(**given)


def fail(message: str, code: int = UNAVAILABLE) -> NoReturn:
    """Says what is wrong on standard error and exits."""
    err.print(f"[bold red]bahi:[/] {message}", markup=True, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def sorry() -> Iterator[None]:
    """Turns what a person can do something about into one clear line and exit code 2."""
    try:
        yield
    except (SettingsError, ServerError, LogError, PlanError, TickFileError, OSError) as error:
        fail(_plain(error))
    except SQLAlchemyError as error:
        fail(f"the database does not answer: {str(error.__cause__ or error).splitlines()[0]}")
    except BaseExceptionGroup as group:
        known, rest = group.split((SettingsError, ServerError, LogError, OSError))
        if rest is not None or known is None:
            raise
        first: BaseException = known
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        fail(_plain(first))


def _plain(error: BaseException) -> str:
    return str(error).replace("[", "\\[")


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine; known errors become one line, Ctrl-C exits with 130."""
    with sorry():
        try:
            return uvloop.run(main)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def print_json(value: Any) -> None:
    """One line. Decimals are numbers, written exactly."""
    sys.stdout.write(_encoder.encode(value).decode() + "\n")
    sys.stdout.flush()


def _hook(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=_hook)
