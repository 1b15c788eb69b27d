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
from bahi.drill.kept import Kept
from bahi.drill.matrix import play
from bahi.drill.moments import Result
from bahi.drill.plan import STRATEGIES
from bahi.drill.real import play_real
from bahi.drill.report import COLUMNS, DONE, REAL_COLUMNS, cells, document, real_cells
from bahi.drill.rows import EVERY, Row, draw_moment
from bahi.drill.tally import Counted, RealTally, Tally, Violation, real_tally, tally
from bahi.telemetry.logging import configure_logging

__all__ = ["drill"]

SHOWN = 20


class Report(Struct, kw_only=True):
    """What `--json` ends with. `real`: with `bahi run` itself, in real time."""

    ok: bool
    seed: int
    rows: list[Tally]
    real: list[RealTally]

    def violations(self) -> list[Violation]:
        rows: list[Counted] = [*self.rows, *self.real]
        return [violation for each in rows for violation in each.violations]


def drill(
    moments: Annotated[int, typer.Option(min=0, help="Moments of each row.")] = 50,
    row: Annotated[list[Row] | None, typer.Option(help="Only this row; may be given several times.")] = None,
    moment: Annotated[int | None, typer.Option(min=0, help="Only this moment of each row, by its number.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same day and the same moments.")] = 1,
    strategies: Annotated[int, typer.Option(min=1, help="That are armed before the day begins.")] = STRATEGIES,
    real: Annotated[
        int, typer.Option(min=0, help="Moments of each row with `bahi run` itself, in real time; after the others.")
    ] = 0,
    jobs: Annotated[
        int, typer.Option(min=1, help="Moments played at the same time, each on servers of its own; not the real ones.")
    ] = 1,
    results: Annotated[
        Path | None,
        typer.Option(help="Keep each result in this file; what is in it is not played again, and told by --moments 0."),
    ] = None,
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
    asked = f"--moments {moments} --seed {seed} --strategies {strategies}"
    asked += (f" --real {real}" if real else "") + (f" --jobs {jobs}" if jobs > 1 else "")
    asked += "".join(f" --row {each}" for each in row or ()) + (" --results FILE" if results else "")
    found: defaultdict[Row, list[Result]] = defaultdict(list)
    realities: list[RealTally] = []
    with sorry(), _place(home) as folder, bar("drill", unit="moments", hidden=json) as progress:
        kept = _kept(results, strategies)
        known = dict(kept.results) if kept else {}
        wanted = [draw_moment(each, number, seed) for number in numbers for each in rows]
        if kept is not None and not wanted and not real:
            wanted = sorted((it for it in known if it.seed == seed and it.row in rows), key=lambda it: it.number)
        elif kept is not None and any(it not in known for it in wanted):
            kept.begin(asked)
        total, done = len(wanted) + len(rows) * real, 0
        for result in play(folder / "day", wanted, seed, strategies, jobs, known):
            found[result.moment.row].append(result)
            if kept:
                kept.keep(result)
            progress(done := done + 1, total)
        for reality in play_real(folder / "real", rows, real, seed) if real else ():
            realities.append(real_tally(reality, seed))
            progress(done := done + real, total)
    tallies = [tally(each, found[each]) for each in rows if found[each]]
    ok = all(each.ok for each in tallies) and all(each.ok for each in realities)
    said = Report(ok=ok, seed=seed, rows=tallies, real=realities)
    if report is not None:
        report.write_text(document(tallies, realities, asked, kept.asked if kept else ()))
    if json:
        print_json(said)
    else:
        _show(said)
    if not ok:
        raise typer.Exit(CHECK_FAILED)


def _kept(file: Path | None, strategies: int) -> Kept | None:
    try:
        return None if file is None else Kept(file, strategies)
    except ValueError as error:
        fail(str(error))


@contextmanager
def _place(home: Path | None) -> Iterator[Path]:
    """A folder of its own, which is kept if it was named."""
    if home is None:
        with tempfile.TemporaryDirectory(prefix="bahi-drill-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    if home.exists() and any(home.iterdir()):
        fail(f"{home} is not empty: a drill needs a folder of its own")
    home.mkdir(parents=True, exist_ok=True)
    yield home


def _show(said: Report) -> None:
    if said.rows:
        shown = table(f"Kill and loss matrix, seed {said.seed}", *COLUMNS, right=COLUMNS[1:])
        for each in said.rows:
            shown.add_row(*cells(each))
        show(shown)
        for each in said.rows:
            what = DONE[each.row]
            say(f"{each.row}: {what} (processes died in {each.died} of the moments, lived through {each.lived})")
    if said.real:
        shown = table("With bahi run itself, in real time", *REAL_COLUMNS, right=REAL_COLUMNS[1:])
        for reality in said.real:
            shown.add_row(*real_cells(reality))
        show(shown)
    found = said.violations()
    verdict("nothing acknowledged was lost, no position or stop forgotten, no order doubled", not found)
    for violation in found[:SHOWN]:
        say(f"{violation.again}: {violation.what}", indent=2)
    if len(found) > SHOWN:
        out.print(f"  and {len(found) - SHOWN:,} more")
