"""`bahi prove seeds` and `bahi prove all`: many simulated lives, and the whole campaign with its document."""

import asyncio
import io
import random
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from msgspec import Struct

from bahi.cli.common import CHECK_FAILED, Json, bar, fail, print_json, say, show, sorry, table, verdict
from bahi.prove.lives import LivesReport, live_all, read_seeds

__all__ = ["everything", "seeds"]

SHOWN: Final = 10
FOUND: Final = Path("docs/violations.md")
"""What was found on the way, written by hand; it becomes part of the document."""


class SeedsReport(Struct, kw_only=True):
    """What `bahi prove seeds --json` ends with."""

    ok: bool
    first: int
    report: LivesReport


def seeds(
    first: Annotated[
        int | None, typer.Option("--from", min=0, help="The first seed.", show_default="drawn anew, and said")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="So many, from there on.")] = 100,
    file: Annotated[Path | None, typer.Option(help="The seeds of this file instead, one in a line.")] = None,
    faults: Annotated[list[str] | None, typer.Option(help="As for bahi simulate.", show_default="all")] = None,
    strategies: Annotated[int, typer.Option(min=1, help="Of each life.")] = 5,
    days: Annotated[int, typer.Option(min=1, help="Trading days of each life.")] = 1,
    json: Json = False,
) -> None:
    """Live through many seeds of the simulated world, and say what was violated and how often each fault struck.

    Exits with 1 when something was violated. `bahi simulate --seed N` tells the story of one.
    """
    from bahi.telemetry.logging import configure_logging
    from simulation.faults import UnknownFault, parse_faults
    from simulation.lives import Life

    configure_logging("CRITICAL", stream=io.StringIO())
    if first is None:
        first = random.SystemRandom().randrange(10**9)
    try:
        enabled = parse_faults([name for given in faults or ["all"] for name in given.split(",")])
        chosen = read_seeds(file) if file is not None else [(seed, strategies) for seed in range(first, first + count)]
    except (UnknownFault, ValueError) as error:
        fail(str(error))
    if not json:
        of = f"of {file}" if file is not None else f"from {first} on"
        say(f"{len(chosen):,} seeds {of}")
    done = 0
    with sorry(), tempfile.TemporaryDirectory(prefix="bahi-sim-") as home, bar("lives", hidden=json) as progress:

        def tell(_: Life) -> None:
            nonlocal done
            done += 1
            progress(done, len(chosen))

        report = live_all(Path(home), chosen, enabled, days=days, tell=tell)
    if json:
        print_json(SeedsReport(ok=report.ok, first=first, report=report))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(CHECK_FAILED)


def everything(
    lives: Annotated[int, typer.Option("--seeds", min=0, help="Simulated lives.")] = 20_000,
    first: Annotated[int, typer.Option("--from", min=0, help="The seed of the first life.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Parts that run at the same time.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    home: Annotated[
        Path, typer.Option("--home", help="Where the results are kept: a campaign that was broken off goes on there.")
    ] = Path(".bahi/prove"),
    report: Annotated[Path | None, typer.Option(help="Write the document into this file.")] = None,
    run: Annotated[bool, typer.Option("--run/--no-run", help="Else only tell what was kept so far.")] = True,
    json: Json = False,
) -> None:
    """The whole campaign: lives, crash points, planted defects, real processes, cut files, versions, golden histories.

    Takes hours. Exits with 1 when something was violated, a planted defect survived, or a fault never struck.
    """
    from bahi.prove.parts import PartFailed, kept, parts, run_parts
    from bahi.prove.proof import failures, lives_of, proof

    wanted = parts(first, lives)
    if only:
        wanted = [part for part in wanted if part.name.partition("-")[0] in only]
        if not wanted:
            fail(f"no part is called {', '.join(only)}; there are {', '.join(part.name for part in parts(1, 1))}")
    home.mkdir(parents=True, exist_ok=True)
    with sorry(), bar("campaign", unit="lives' worth", hidden=json) as progress:
        try:
            results = asyncio.run(run_parts(home, wanted, jobs, progress)) if run else kept(home, wanted)
        except BaseExceptionGroup as failed:
            fail("; ".join(str(error) for error in failed.exceptions))
        except PartFailed as error:
            fail(str(error))
    if not results:
        fail(f"nothing is kept in {home}: leave --no-run out")
    found = failures(results)
    if report is not None:
        asked = f"bahi prove all --seeds {lives} --from {first} --jobs {jobs}"
        asked += "".join(f" --only {name}" for name in only or ())
        told = FOUND.read_text() if FOUND.exists() else "None are written down."
        report.write_text(proof(results, found, asked, told))
    if json:
        print_json({"ok": not found, "found": found, "lives": lives_of(results), "parts": sorted(results)})
    else:
        if lives_of(results).lives:
            _show(lives_of(results))
        verdict("nothing was violated, no planted defect survived, every fault struck", not found)
        for each in found[:SHOWN]:
            say(each, indent=2)
    if found:
        raise typer.Exit(CHECK_FAILED)


def _show(report: LivesReport) -> None:
    rate = report.strategy_days / report.seconds if report.seconds else 0.0
    say(
        f"{report.lives:,} lives, {report.strategy_days:,} strategy-days ({rate:.1f} a second), {report.orders:,} "
        f"orders, {report.events:,} events, {report.calls:,} calls"
    )
    shown = table("Faults", "fault", "struck", right=("struck",))
    for name, count in report.fired.items():
        shown.add_row(name, f"{count:,}")
    show(shown)
    verdict("everything held that must, and every life came to its end", report.ok)
    for broken in report.broken[:SHOWN]:
        say(f"{broken.again}: {broken.found[0]}", indent=2)
