"""What the commands have in common: settings, errors as one clear line, output for people or programs.

Only what every command needs is imported here: `bahi --help` must not wait for a database driver.
"""

import asyncio
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn, TypeVar

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from bahi.settings import Settings

__all__ = [
    "CHECK_FAILED",
    "OK",
    "UNAVAILABLE",
    "Home",
    "Json",
    "bar",
    "err",
    "fail",
    "load_settings",
    "out",
    "print_json",
    "run_async",
    "say",
    "show",
    "sorry",
    "table",
    "until_closed",
    "verdict",
]

T = TypeVar("T")

OK, CHECK_FAILED, UNAVAILABLE = 0, 1, 2
SHORT = 0.7
"""Seconds that nobody needs a progress bar for."""

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="One JSON object (or one per line) for programs.")]
Home = Annotated[
    Path | None, typer.Option("--home", help="The folder of the embedded servers' data.", show_default=".bahi")
]

_EXPLAINED: Final = (
    ("bahi.settings", "SettingsError"),
    ("bahi.servers.folder", "ServerError"),
    ("eventstore.errors", "LogError"),
    ("brokers.paper.seeded", "PlanError"),
    ("simulation.ticks", "TickFileError"),
    ("domain.calendar", "UnknownYear"),
    ("bahi.histories.files", "HistoryError"),
)
"""Errors whose message says what is wrong and what to do. Found among the loaded modules: whoever raised one has it."""


def load_settings(home: Path | None = None, **given: Any) -> "Settings":
    """The settings, with what the command line gives on top. Exits with 2 when they cannot be used."""
    from bahi.settings import Settings

    if home is not None:
        given["home"] = home
    with sorry():
        return Settings.load(**given)


def fail(message: str, code: int = UNAVAILABLE) -> NoReturn:
    """Says what is wrong on standard error and exits."""
    err.print(f"[bold red]bahi:[/] {escape(message)}", markup=True, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def sorry() -> Iterator[None]:
    """Turns what a person can do something about into one clear line and exit code 2."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        message = _explanation(error)
        if message is None:
            raise
        fail(message)


def _explanation(error: BaseException) -> str | None:
    """What to tell a person; None for a defect, which is worth its traceback."""
    if isinstance(error, BaseExceptionGroup):
        return next((text for each in error.exceptions if (text := _explanation(each)) is not None), None)
    if (sqlalchemy := sys.modules.get("sqlalchemy.exc")) and isinstance(error, sqlalchemy.SQLAlchemyError):
        return f"the database does not answer: {str(error.__cause__ or error).splitlines()[0]}"
    if isinstance(error, BrokenPipeError):
        return None
    known = [getattr(sys.modules[module], name) for module, name in _EXPLAINED if module in sys.modules]
    return str(error) if isinstance(error, (OSError, *known)) else None


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine to its end: servers that it started are stopped, however it ends.

    Known errors become one line; Ctrl-C exits with 130, SIGTERM with 143, both without a word.
    """
    import uvloop

    ended: list[int] = []

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (it is running)

        def end(number: int) -> None:
            ended.append(number)
            loop.remove_signal_handler(number)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread
                loop.add_signal_handler(number, end, number)
        return await main

    with sorry():
        try:
            return uvloop.run(guarded())
        except KeyboardInterrupt:
            raise typer.Exit(128 + signal.SIGINT) from None
        except asyncio.CancelledError:
            if not ended:
                raise
            raise typer.Exit(128 + ended[0]) from None


@contextmanager
def until_closed(code: int = OK) -> Iterator[None]:
    """For what prints: whoever reads may stop reading (`| head`). Then the command is over, with `code`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            # What Python still holds for standard output must not fail again when the process ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(code) from None


def print_json(value: Any) -> None:
    """One line. Decimals are numbers, written exactly."""
    import msgspec

    encoder = msgspec.json.Encoder(enc_hook=_hook, decimal_format="number")
    sys.stdout.write(encoder.encode(value).decode() + "\n")
    sys.stdout.flush()


def _hook(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def show(table: RenderableType) -> None:
    """A table: as wide as the terminal, and as wide as it wants to be when it goes into a file or a pipe."""
    with _as_wide_as_it_wants():
        out.print(table)


def say(text: str, indent: int = 0) -> None:
    """A sentence, which may hold any character. In a file or a pipe it stays one line."""
    if out.is_terminal:
        out.print(Padding(Text(text), (0, 0, 0, indent), expand=False))
    else:
        out.print(Text(" " * indent + text), soft_wrap=True)


@contextmanager
def _as_wide_as_it_wants() -> Iterator[None]:
    width = out.width
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = 1_000
    try:
        yield
    finally:
        out.width = width


def verdict(what: str, holds: bool) -> None:
    """A check and how it came out."""
    out.print(f"[bold green]✓[/] {escape(what)}" if holds else f"[bold red]✗ not true:[/] {escape(what)}")


def table(title: str = "", *columns: str, right: Collection[str] = (), fold: Collection[str] = ()) -> Table:
    """A table with these columns, the `right` ones justified so. Where room is scarce those of `fold` are folded, so
    that the others need not be cut: half a price is none."""
    made = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        folded = name in fold
        justify: Literal["left", "right"] = "right" if name in right else "left"
        made.add_column(name, justify=justify, no_wrap=not folded, overflow="fold" if folded else "ellipsis")
    return made


@contextmanager
def bar(what: str, *, unit: str = "events", hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, for the time of the block: call it with (done, of how many). It shows itself
    when that takes a while."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=err, transient=True)
    task = progress.add_task(what, total=None)
    patience = math.inf if hidden or not err.is_terminal else time.monotonic() + SHORT

    def tell(done: int, total: int) -> None:
        nonlocal patience
        if time.monotonic() > patience:
            patience = math.inf
            progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield tell
    finally:
        if progress.live.is_started:
            progress.stop()
