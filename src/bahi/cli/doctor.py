"""`bahi doctor`: everything that bahi needs, checked one by one, and what to do about what is missing."""

from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from bahi.cli.common import CHECK_FAILED, OK, Home, Json, out, print_json, run_async, show, until_closed

__all__ = ["doctor"]

_MARKS = {"ok": "[bold green]✓[/]", "warning": "[bold yellow]![/]", "failed": "[bold red]✗[/]", "skipped": "[dim]–[/]"}


def doctor(home: Home = None, json: Json = False) -> None:
    """Check everything that bahi needs, one by one, and say what to do about what is missing.

    Nothing is made and no secret is shown. Exits 1 when a check fails; `!` is worth a look, `–` does not apply yet.
    """
    from bahi.cli.checks import examine

    checks = run_async(examine(home))
    failed = [check for check in checks if check.state == "failed"]
    code = CHECK_FAILED if failed else OK
    with until_closed(code):
        if json:
            print_json({"ok": not failed, "checks": checks})
        else:
            _show(checks, len(failed))
    raise typer.Exit(code)


def _show(checks: list[Any], failed: int) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        told = Text(check.found)
        if check.todo:
            told.append(f"\n→ {check.todo}", style="bold" if check.state == "failed" else "")
        table.add_row(_MARKS[check.state], check.name, told)
    show(table)
    warned = sum(check.state == "warning" for check in checks)
    if failed:
        out.print(f"[bold red]{failed} to mend[/]" + (f", {warned} worth a look" if warned else ""))
    else:
        out.print("[bold green]all is well[/]" + (f", {warned} worth a look" if warned else ""))
