"""`bahi drill`: whatever may be killed or lost is, at many moments of a busy day; and what came of it."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct

from bahi.cli.common import CHECK_FAILED, Home, Json, bar, fail, out, print_json, say, show, sorry, table, verdict
from bahi.drill.matrix import play
from bahi.drill.moments import Result
from bahi.drill.report import COLUMNS, DONE, cells, document
from bahi.drill.rows import EVERY, Row
from bahi.drill.tally import Tally, tally
from bahi.telemetry.logging import configure_logging

__all__ = ["drill"]

SHOWN = 20


class Report(Struct, kw_only=True):
    """What `--json` ends with."""

    ok: bool
    seed: int
    rows: list[Tally]


def drill(
    moments: Annotated[int, typer.Option(min=1, help="Moments of each row.")] = 50,
    row: Annotated[list[Row] | None, typer.Option(help="Only this row; may be given several times.")] = None,
    moment: Annotated[int | None, typer.Option(min=0, help="Only this moment of each row, by its number.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same day and the same moments.")] = 1,
    report: Annotated[Path | None, typer.Option(help="Also write the matrix into this file, as Markdown.")] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Kill and destroy whatever can be, at many moments of a busy day; count what was lost, time the recovery.

    A row and a moment that failed can be repeated with --row, --moment and --seed; with --home its data are kept.
    """
    configure_logging("CRITICAL")
    rows = list(row or EVERY)
    numbers = [moment] if moment is not None else list(range(moments))
    results: defaultdict[Row, list[Result]] = defaultdict(list)
    with sorry(), _place(home) as folder, bar("drill", unit="moments", hidden=json) as progress:
        total = len(rows) * len(numbers)
        for done, result in enumerate(play(folder, rows, numbers, seed), 1):
            results[result.moment.row].append(result)
            progress(done, total)
    tallies = [tally(each, results[each]) for each in rows]
    ok = all(each.ok for each in tallies)
    if report is not None:
        report.write_text(document(tallies, len(numbers), seed))
    if json:
        print_json(Report(ok=ok, seed=seed, rows=tallies))
    else:
        _show(tallies, seed)
    if not ok:
        raise typer.Exit(CHECK_FAILED)


@contextmanager
def _place(home: Path | None) -> Iterator[Path]:
    """A folder of its own, which is kept if it was named."""
    if home is None:
        with tempfile.TemporaryDirectory(prefix="bahi-drill-") as folder:
            yield Path(folder)
        return
    if home.exists() and any(home.iterdir()):
        fail(f"{home} is not empty: a drill needs a folder of its own")
    yield home


def _show(tallies: list[Tally], seed: int) -> None:
    shown = table(f"Kill and loss matrix, seed {seed}", *COLUMNS, right=COLUMNS[1:], fold=COLUMNS[1:])
    for each in tallies:
        shown.add_row(*cells(each))
    show(shown)
    for each in tallies:
        say(f"{each.row}: {DONE[each.row]} (processes died in {each.died}, lived in {each.lived} of the moments)")
    found = [violation for each in tallies for violation in each.violations]
    verdict("nothing acknowledged was lost, no position or stop forgotten, no order doubled", not found)
    for violation in found[:SHOWN]:
        say(f"--row {violation.row} --moment {violation.moment} --seed {violation.seed}: {violation.what}", indent=2)
    if len(found) > SHOWN:
        out.print(f"  and {len(found) - SHOWN:,} more")
