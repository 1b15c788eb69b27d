"""`bahi history`: golden histories, recorded at a release and replayed by every later program."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bahi.cli.common import CHECK_FAILED, Json, bar, out, print_json, run_async, say, show, sorry, table, verdict

if TYPE_CHECKING:
    from bahi.histories.checking import Checked
    from bahi.histories.differing import Difference

__all__ = ["app"]

app = typer.Typer(
    help="Golden histories: what a release recorded, replayed by the program of today.", no_args_is_help=True
)

SHOWN = 20
DEFAULT = Path("tests/histories")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="One release's folder, or one with those of several.")] = DEFAULT,
    json: Json = False,
) -> None:
    """Fold and decide anew what was recorded, and compare. Exits with 1 when anything differs unexplained."""
    from bahi.histories.checking import check_folder, find_histories

    with sorry():
        histories = [each for release in find_histories(folder) for each in check_folder(release)]
    differences = [each for it in histories for each in it.differences]
    if json:
        print_json({"ok": not differences, "histories": histories})
    else:
        _show(histories)
        verdict("every event is read, every state and every decision is the same", not differences)
        for each in differences[:SHOWN]:
            _tell(each)
        if len(differences) > SHOWN:
            out.print(f"  and {len(differences) - SHOWN:,} more")
    if differences:
        raise typer.Exit(CHECK_FAILED)


def _show(histories: "list[Checked]") -> None:
    names = ("events", "strategies", "decisions", "digests", "explained", "differences")
    shown = table("", "release", "history", *names, right=names)
    for it in histories:
        figures: list[Any] = [it.events, it.strategies, it.decisions, it.digests, it.declared, len(it.differences)]
        shown.add_row(it.release, it.history, *(f"{figure:,}" for figure in figures))
    show(shown)


def _tell(it: "Difference") -> None:
    where = f"{it.history}, position {it.position}" if it.position else it.history
    of = f", strategy {it.strategy}" if it.strategy else ""
    at = f" at version {it.version}" if it.kind == "decision" else ""
    say(f"{where}{of}{at}: {it.kind}: {it.what}: expected {it.expected!r}, is {it.actual!r}", indent=2)
    say(f"→ {it.todo}", indent=4)


@app.command()
def record(
    folder: Annotated[Path, typer.Argument(help="A new folder, tests/histories/vX.Y.")],
    seed: Annotated[int, typer.Option(help="Of the market, the strategies and the broker's faults.")] = 1,
    json: Json = False,
) -> None:
    """Record the histories of this release: days of the real engine on servers of its own, which takes minutes."""
    from bahi.histories.release import PLANNED, record_release
    from bahi.telemetry.logging import configure_logging

    configure_logging("CRITICAL", stream=io.StringIO())  # a log that is lost on purpose is no news
    written = []
    with sorry(), bar("recording", unit="histories", hidden=json) as progress:
        progress(0, len(PLANNED))
        for each in record_release(folder, seed, run_async):
            written.append(each)
            progress(len(written), len(PLANNED))
    if json:
        print_json({"folder": str(folder), "seed": seed, "histories": written})
    else:
        shown = table("", "history", "events", "decisions", "forgotten", right=("events", "decisions", "forgotten"))
        for each in written:
            shown.add_row(each.name, f"{each.events:,}", f"{each.decisions:,}", f"{each.forgotten:,}")
        show(shown)
        out.print(f"{folder} is recorded: commit it, and never change it again.", markup=False)
