"""`bahi schema export` and `bahi schema check`."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bahi.schema.folder import check as check_folder
from bahi.schema.folder import export as export_folder
from bahi.schema.problem import Problem

__all__ = ["app"]

app = typer.Typer(help="The published shapes of events and requests: schemas/.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option(help="Where the schemas are.", file_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of a table.")]


@app.command()
def export(folder: Folder = Path("schemas"), as_json: AsJson = False) -> None:
    """Write every schema anew. Exits 1 if a shape cannot be written because old events would not be read."""
    done = export_folder(folder)
    if as_json:
        typer.echo(msgspec.json.encode({"folder": str(folder), **msgspec.to_builtins(done)}))
    else:
        typer.echo(f"{folder}: {len(done.written)} written, {len(done.removed)} removed, {done.unchanged} unchanged")
        _show(done.problems)
    raise typer.Exit(1 if done.problems else 0)


@app.command()
def check(folder: Folder = Path("schemas"), as_json: AsJson = False) -> None:
    """Fail when a file is not what the code does, or when a change would not read old events."""
    if not folder.is_dir():
        message = f"there is no folder {folder}: run this where it is, or name it with --folder"
        typer.echo(msgspec.json.encode({"error": message}) if as_json else message, err=not as_json)
        raise typer.Exit(2)
    problems = check_folder(folder)
    if as_json:
        typer.echo(msgspec.json.encode({"folder": str(folder), "ok": not problems, "problems": problems}))
    elif problems:
        _show(problems)
    else:
        typer.echo(f"{folder}: as the code is, and old events are read")
    raise typer.Exit(1 if problems else 0)


def _show(problems: list[Problem]) -> None:
    if not problems:
        return
    table = Table(title=f"{len(problems)} to mend", title_justify="left", show_lines=True)
    table.add_column("file", no_wrap=True)
    table.add_column("what, why, and what to do", overflow="fold")
    for each in problems:
        table.add_row(each.file, f"[bold]{escape(each.what)}[/]\n{escape(each.why)}\n→ {escape(each.todo)}")
    Console().print(table)
