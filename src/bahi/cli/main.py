"""The `bahi` command. A command's module is loaded when it is called, so that the others cost nothing."""

from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from bahi import quiet
from bahi.ending import end_in_order

__all__ = ["COMMANDS", "app"]

COMMANDS: Final = {
    "demo": "Run one trading day through the engine, and check that replaying the log gives exactly the live state.",
    "run": "Run the engine's roles until SIGTERM or Ctrl-C, then drain. Logs are JSON lines on standard output.",
    "events": "Print the log, in its order.",
    "replay": "Tell the state of a strategy, or of all, as it was then: from the log alone.",
    "verify": "Check that the log is whole, is what was sealed, and that replaying it gives exactly the live state.",
    "rebuild": "Make every projection anew from the log, in Redis and in PostgreSQL, and put right what differs.",
    "explain": "Tell the story of one order: cause, checks, request, outcome, fills, and how long each took.",
    "archive": "How far the history is archived; and the history as a file that proves itself, out of it and into it.",
    "parked": "Events that could not be handled and were set aside.",
    "keys": "The keys that seal the history, and the rotation of all keys.",
    "instruments": "Show what may be traded at Kite, and how old the list is; or load a dump from a file.",
    "user": "People who may use this installation.",
    "doctor": "Check everything that bahi needs, one by one, and say what to do about what is missing.",
    "kite-sim": "Run a simulated Kite: orders, order book, ticks, sessions and faults. No real order leaves it.",
    "campaign": "Trade at a simulated Kite under every fault and every death of a worker; count what became of it.",
    "backup": "Back up everything into one file, while trading goes on.",
    "restore": "Restore a backup into an empty installation: all of it or nothing.",
    "simulate": "Live the life of a seed, and tell its story: every event, every fault, every start of a process.",
    "drill": "Kill and destroy whatever can be, at many moments of a busy day; count what was lost, time the recovery.",
    "history": "Golden histories: what a release recorded, replayed by the program of today.",
    "prove": "Kill real processes and servers, lose replies, cut Redis' file anywhere, mix versions, fail every call.",
    "schema": "Export the events' schemas, or check the committed ones.",
    "bench": "Measure the hot paths on embedded servers.",
}
"""Every command with the first line of its help, in the order of the list."""

_ELSEWHERE: Final = {
    "schema": "bahi.schema.cli:app",
    "kite-sim": "bahi.cli.kite_sim:kite_sim",
    "campaign": "bahi.cli.campaign:campaign_command",
}
"""Where a command is, if not as NAME or `app` in `bahi.cli.NAME`."""


def load(name: str) -> Any:
    """The click command of that name, its module loaded."""
    module, _, attribute = _ELSEWHERE.get(name, f"bahi.cli.{name}:").partition(":")
    found = quiet.load(module)
    what = getattr(found, attribute) if attribute else getattr(found, "app", None) or getattr(found, name)
    alone = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    if not isinstance(what, typer.Typer):
        alone.command(name)(what)
        return get_command(alone)
    alone.add_typer(what, name=name)
    group: Any = get_command(alone)
    return group.commands[name]


class _Lazy(TyperGroup):
    """Knows the commands' names, and loads the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = {name: TyperCommand(name) for name in COMMANDS}  # what a wrong name is compared with
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        stubs = TyperGroup(
            name=self.name,
            help=self.help,
            params=self.params,
            rich_markup_mode=self.rich_markup_mode,
            commands={name: TyperCommand(name, help=line) for name, line in COMMANDS.items()},
        )
        stubs.format_help(ctx, formatter)


app = typer.Typer(
    cls=_Lazy,
    help="bahi: an event-sourced engine that trades retail strategies. Every command takes --help.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # the other commands do without

        typer.echo(f"bahi {version('bahi')}")
        raise typer.Exit


@app.callback()
def _bahi(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    end_in_order()
