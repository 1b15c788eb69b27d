"""`bahi archive`: how far the history is archived, and the history as a file, out of the archive and into it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bahi.cli.common import Home, Json, fail, load_settings, run_async, until_closed

__all__ = ["Format", "app"]

app = typer.Typer(
    help="How far the history is archived; and the history as a file that proves itself, out of it and into it.",
    no_args_is_help=True,
)


class Format(StrEnum):
    """How the events are written."""

    JSONL = "jsonl"
    PARQUET = "parquet"


@app.callback()
def _archive() -> None: ...


@app.command()
def status(home: Home = None, json: Json = False) -> None:
    """How far the history is archived and sealed, what each month holds, and what Redis still has.

    Exits 1 when something keeps the history from being archived or sealed.
    """
    from bahi.cli.archive_status import show_status

    raise typer.Exit(run_async(show_status(load_settings(home), json)))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to; - writes to standard output (jsonl only).")],
    kind: Annotated[
        Format,
        typer.Option("--format", help="jsonl: CloudEvents 1.0, gzip. parquet: a table, and its proof beside it."),
    ] = Format.JSONL,
    since: Annotated[
        str | None, typer.Option("--from", help="Only what was recorded from this time on.", metavar="TIME")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only what was recorded up to this time.", metavar="TIME")] = None,
    first: Annotated[str | None, typer.Option(help="Only from this position on.", metavar="N")] = None,
    last: Annotated[str | None, typer.Option(help="Only up to this position.", metavar="N")] = None,
    user: Annotated[list[int] | None, typer.Option(help="Only of this user; may be repeated.", metavar="ID")] = None,
    strategy: Annotated[
        list[int] | None, typer.Option(help="Only of this strategy; may be repeated.", metavar="ID")
    ] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="Only of this type; may be repeated.", metavar="TYPE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Although no seal key opens here: then its end proves nothing.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Write what is archived into a file that proves itself: events, seals, keys and a signed end.

    A filtered file carries the hashes of what it leaves out, so that its seals can be checked all the same. What is not
    archived yet is not in it; nor are users, brokers' credentials, sessions and private keys, which are no history.
    Times are the exchange's: 09:20, 2026-06-15, '2026-06-15 09:20', or RFC 3339. May be asked while trading goes on.
    """
    from bahi.cli.archive_export import Asked, export_archive

    asked = Asked(
        file=file,
        parquet=kind is Format.PARQUET,
        since=since,
        until=until,
        first=first,
        last=last,
        users=tuple(sorted(set(user or ()))),
        strategies=tuple(sorted(set(strategy or ()))),
        types=tuple(type_ or ()),
        force=force,
        unsigned=unsigned,
    )
    with until_closed():
        code = run_async(export_archive(load_settings(home), asked, json))
    raise typer.Exit(code)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `bahi archive export` wrote, without filters.")],
    public_key: Annotated[
        str | None,
        typer.Option(help="The seal key that you trust; several with commas between them.", metavar="FILE|HEX"),
    ] = None,
    trust_file_keys: Annotated[
        bool, typer.Option("--trust-file-keys", help="Take the keys in the file at their word.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Restore an exported history into the archive: an empty one, or one that the file continues.

    The whole file is checked first; then everything is written in one transaction, or nothing. The engine must not run;
    when it starts next, it restores Redis from the archive. Not in a file, and so not restored: users, brokers'
    credentials, sessions, and the private seal keys; a new seal key is made, which vouches for those of the file.
    Exits 1 when the file is not what it was, 2 when it does not fit to what is here.
    """
    from bahi.cli.archive_import import import_archive

    if public_key is not None and trust_file_keys:
        fail("--public-key says whom you trust, --trust-file-keys that you trust anybody: give one of them")
    raise typer.Exit(import_archive(load_settings(home), file, public_key, trust_file_keys, json))
