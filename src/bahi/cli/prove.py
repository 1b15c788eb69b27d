"""`bahi prove`: what only real processes, real connections and real files can show, each from a seed."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from msgspec import Struct

from bahi.cli.campaigning import everything, seeds
from bahi.cli.common import CHECK_FAILED, Json, bar, err, fail, print_json, say, show, sorry, table, verdict

if TYPE_CHECKING:
    from bahi.prove.aof import CutResult, Golden
    from bahi.prove.planted import PlantedResult
    from bahi.prove.processes import ProcessRun
    from bahi.prove.rolling import RollingRun
    from simulation.points import Point, PointKind

    Enumeration = Callable[..., Iterator[Point]]

__all__ = ["app"]

app = typer.Typer(
    help="Kill real processes and servers, lose replies, cut Redis' file anywhere, mix versions, fail every call.",
    no_args_is_help=True,
)

app.command("seeds")(seeds)
app.command("all")(everything)

Home = Annotated[
    Path | None, typer.Option("--home", help="Keep everything in this folder.", show_default="a temporary one")
]
Seed = Annotated[int, typer.Option(help="The same seed draws the same faults and the same traders.")]
SHOWN: Final = 20
GOLDEN: Final = 5
"""The seed of a day with a stop that is hit, a rejection and a retry, partial fills and a cancelled rest."""


class ProcessReport(Struct, kw_only=True):
    """What `bahi prove processes --json` ends with. `fired`: of each kind, over all runs; a zero never came."""

    ok: bool
    fired: dict[str, int]
    runs: "list[ProcessRun]"


class CutReport(Struct, kw_only=True):
    """What `bahi prove aof --json` ends with. `cuts` is how many there are, `first` to before `last` were run.
    `recovered` counts why a new epoch began; an empty reason: none did."""

    ok: bool
    seed: int
    cuts: int
    first: int
    last: int
    run: int
    events: int
    orders: int
    recovered: dict[str, int]
    slowest: float
    seconds: float
    violations: list[str]


class PlantedReport(Struct, kw_only=True):
    """What `bahi prove planted --json` ends with."""

    ok: bool
    defects: int
    survived: list[str]
    results: "list[PlantedResult]"


@app.command()
def processes(
    seed: Seed = 1,
    runs: Annotated[int, typer.Option(min=1, help="So many, of this seed and those after it.")] = 1,
    home: Home = None,
    json: Json = False,
) -> None:
    """Kill and stop the processes of bahi run, Redis and PostgreSQL under load, and lose replies on the way.

    A run takes a minute or two. Exits with 1 when something that must hold does not.
    """
    from bahi.prove.processes import KINDS, run

    _quiet()
    done: list[ProcessRun] = []
    with sorry(), _place(home) as folder, bar("processes", unit="runs", hidden=json) as progress:
        progress(0, runs)
        for number in range(seed, seed + runs):
            done.append(run(number, _own(folder / str(number)), tell=_teller(json or runs > 1)))
            progress(len(done), runs)
    report = ProcessReport(
        ok=all(each.ok for each in done),
        fired={kind: sum(each.fired[kind] for each in done) for kind in KINDS},
        runs=done,
    )
    if json:
        print_json(report)
    else:
        _show_processes(report)
    if not report.ok:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def aof(
    first: Annotated[int, typer.Option("--from", min=0, help="The number of the first cut.")] = 0,
    last: Annotated[int | None, typer.Option("--to", min=1, help="The number before which it ends.")] = None,
    every: Annotated[int, typer.Option(min=1, help="One cut in so many; even numbers see one kind of cut only.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the day that is recorded.")] = GOLDEN,
    home: Home = None,
    json: Json = False,
) -> None:
    """Cut Redis' append-only file after every command of a day, and within every command; recover, trade on, check.

    With --home the recorded day is kept, and --from takes the work up where it was left.
    """
    from bahi.prove.aof import cut_everywhere

    _quiet()
    golden: list[tuple[Golden, int]] = []
    results: list[CutResult] = []
    with sorry(), _place(home) as folder, bar("cuts", unit="cuts", hidden=json) as progress:
        asked = cut_everywhere(folder, seed, first, last, every=every, began=lambda *it: golden.append(it))
        for result in asked:
            results.append(result)
            total = golden[0][1]
            progress(len(results), -(-(min(last or total, total) - first) // every))
    if not results:
        fail(f"there is no cut {first}: the day of seed {seed} has {golden[0][1]}")
    day, total = golden[0]
    report = CutReport(
        ok=all(each.ok for each in results),
        seed=seed,
        cuts=total,
        first=first,
        last=min(last or total, total),
        run=len(results),
        events=day.events,
        orders=day.orders,
        recovered=dict(Counter(each.recovered for each in results)),
        slowest=max(each.seconds for each in results),
        seconds=round(sum(each.seconds for each in results), 1),
        violations=[violation for each in results for violation in each.violations],
    )
    if json:
        print_json(report)
    else:
        _show_cuts(report)
    if not report.ok:
        raise typer.Exit(CHECK_FAILED)


class PointsRow(Struct, kw_only=True):
    """One way to fail in one scenario. `kind` names both kinds of a double fault. `otherwise` counts the points after
    which the scenario did not come about as meant, for a reason that the log states."""

    scenario: str
    kind: str
    persistent: bool
    points: int = 0
    fired: int = 0
    otherwise: int = 0
    violations: int = 0


class PointsReport(Struct, kw_only=True):
    """What `bahi prove points --json` ends with. `found` are the points at which something was violated, each with its
    story."""

    ok: bool
    points: int
    fired: int
    calls: dict[str, int]
    rows: list[PointsRow]
    seconds: float
    found: "list[Point]"


@app.command()
def points(
    scenario: Annotated[list[str] | None, typer.Option(help="Of these only.", show_default="all")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="In these only.", show_default="all four")] = None,
    double: Annotated[bool, typer.Option(help="Two faults in each run: the second up to 12 calls later.")] = False,
    second: Annotated[
        list[str] | None, typer.Option(help="With --double, the second in these only.", show_default="as --kind")
    ] = None,
    first: Annotated[int, typer.Option("--from", min=1, help="The number of the first call that fails.")] = 1,
    last: Annotated[int | None, typer.Option("--to", min=1, help="The number after which it ends.")] = None,
    every: Annotated[int, typer.Option(min=1, help="One call in so many.")] = 1,
    home: Home = None,
    json: Json = False,
) -> None:
    """Fail the n-th call to Redis, PostgreSQL or the broker of a short day, for every n, in four kinds; recover, check.

    Kinds: before, after-effect, reply-lost, cancelled; each once, and persistently for ten seconds. With --double each
    pair of kinds, once, in the shortest scenario unless others are named. Exits with 1 when anything is violated.
    """
    from simulation.points import REACH, PointKind, calls
    from simulation.scenarios import SCENARIOS, UnknownScenario
    from simulation.scenarios import scenario as scenario_of
    from simulation.stage import open_stage

    _quiet()
    begun = time.monotonic()
    if second and not double:
        fail("--second says how the second call fails: it goes with --double")
    try:
        chosen = [scenario_of(name) for name in scenario or (["sale"] if double else SCENARIOS)]
        kinds = [PointKind(name) for name in kind or PointKind]
        seconds = [PointKind(name) for name in second] if second else kinds
    except UnknownScenario as error:
        fail(str(error))
    except ValueError as error:
        fail(f"{error}; known are {', '.join(PointKind)}")
    rows: list[PointsRow] = []
    found: list[Point] = []
    with (
        sorry(),
        _place(home) as folder,
        open_stage(folder) as stage,
        bar("points", unit="points", hidden=json) as tell,
    ):
        traces = {each.name: len(calls(stage, each)) for each in chosen}
        numbers = {name: range(first, min(last or count, count) + 1, every) for name, count in traces.items()}
        if not any(numbers.values()):
            counts = ", ".join(f"{name} has {count}" for name, count in traces.items())
            fail(f"there is no call {first}: {counts}")
        total = sum(map(len, numbers.values())) * len(kinds) * (len(seconds) * REACH if double else 2)
        done = 0
        for each in chosen:
            for row, ns in _rows(each.name, kinds, seconds if double else ()):
                rows.append(row)
                for point in ns(stage, each, first=first, step=every):
                    if last is not None and point.n > last:
                        break
                    row.points += 1
                    row.fired += point.fired
                    row.otherwise += not point.as_meant and not point.found
                    if point.found:
                        row.violations += 1
                        found.append(point)
                    done += 1
                    tell(done, max(done, total))
    report = PointsReport(
        ok=not found and all(row.fired for row in rows),
        points=sum(row.points for row in rows),
        fired=sum(row.fired for row in rows),
        calls=traces,
        rows=rows,
        seconds=round(time.monotonic() - begun, 1),
        found=found,
    )
    if json:
        print_json(report)
    else:
        _show_points(report)
    if not report.ok:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def rolling(
    seed: Seed = 1,
    old: Annotated[
        str | None, typer.Option(help="The commit of the other version.", show_default="the one released before")
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Replace the processes of an earlier version one by one while strategies trade, then half of them back.

    Needs the git history of bahi; exits with 2 where there is none, and with 1 when something that must hold does not.
    """
    from bahi.prove.rolling import PREVIOUS, NoHistory, roll

    _quiet()
    with sorry(), _place(home) as folder:
        try:
            done = roll(seed, _own(folder / str(seed)), old=old or PREVIOUS, tell=_teller(json))
        except NoHistory as error:
            fail(str(error))
    if json:
        print_json(done)
    else:
        _show_rolling(done)
    if not done.ok:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def planted(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="This defect; may be repeated.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Lives after which a defect counts as one that survives.")] = 300,
    first: Annotated[int, typer.Option("--seed", help="Of the first life.")] = 1,
    json: Json = False,
) -> None:
    """Test the tests: plant one defect after the other in the engine, and see which check finds it, and how soon.

    Needs a checkout with its tests. Exits with 1 when a defect survives, or a check cries out on the sound code, too.
    """
    from bahi.prove.planted import CheckBroken, UnknownDefect, campaign, chosen
    from bahi.prove.planting import Unfit

    _quiet()
    results: list[PlantedResult] = []
    with sorry(), bar("planted defects", unit="defects", hidden=json) as progress:
        try:
            defects = chosen(only or [])
            progress(0, len(defects))
            for result in campaign(defects, seeds=seeds, first=first):
                results.append(result)
                progress(len(results), len(defects))
        except (UnknownDefect, Unfit, CheckBroken) as error:
            fail(str(error))
    report = PlantedReport(
        ok=all(each.ok for each in results),
        defects=len(results),
        survived=[each.name for each in results if not each.found_by],
        results=results,
    )
    if json:
        print_json(report)
    else:
        _show_planted(report)
    if not report.ok:
        raise typer.Exit(CHECK_FAILED)


# --- what they have in common -----------------------------------------------------------------------------------------


def _quiet() -> None:
    """What the engine says in this process is not what this command says."""
    import io

    from bahi.telemetry.logging import configure_logging

    configure_logging("CRITICAL", stream=io.StringIO())


@contextmanager
def _place(home: Path | None) -> Iterator[Path]:
    if home is not None:
        home.mkdir(parents=True, exist_ok=True)
        yield home
        return
    with tempfile.TemporaryDirectory(prefix="bahi-prove-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _own(folder: Path) -> Path:
    if folder.exists() and any(folder.iterdir()):
        fail(f"{folder} is not empty: a run needs a folder of its own")
    return folder


def _teller(hidden: bool) -> Callable[[str], None]:
    """Tells the story line by line, beside whatever else is shown."""

    def tell(line: str) -> None:
        if not hidden:
            err.print(line, markup=False, soft_wrap=True)

    return tell


def _show_processes(report: ProcessReport) -> None:
    columns = ("seed", "strategies", "orders", "events", "acknowledged", "stops hit", "epochs", "rest s", "violations")
    shown = table("Real processes", *columns, right=columns)
    for each in report.runs:
        numbers = (each.seed, each.strategies, each.orders, each.events, each.acknowledged, each.stops_hit, each.epochs)
        shown.add_row(*(f"{number:,}" for number in numbers), f"{each.rest:.1f}", str(len(each.violations)))
    show(shown)
    fired = table("Faults", "kind", "fired", right=("fired",))
    for kind, count in report.fired.items():
        fired.add_row(kind, f"{count:,}")
    show(fired)
    for ended in Counter(ended for each in report.runs for ended in each.ended).items():
        say(f"{ended[0]} (started again; {ended[1]} times)", indent=2)
    _show_verdict(
        "everything acknowledged is there, every run ended, nobody bought twice or sold what was not there",
        [violation for each in report.runs for violation in each.violations],
    )


def _rows(
    scenario: str, kinds: "Sequence[PointKind]", seconds: "Sequence[PointKind]"
) -> "Iterator[tuple[PointsRow, Enumeration]]":
    """Each way to fail, and what enumerates its points; twice when there are `seconds`."""
    from simulation.points import doubles, points

    for kind in kinds:
        if seconds:
            for second in seconds:
                row = PointsRow(scenario=scenario, kind=f"{kind}, {second}", persistent=False)
                yield row, partial(doubles, kind=kind, second=second)
        else:
            for persistent in (False, True):
                yield (
                    PointsRow(scenario=scenario, kind=kind, persistent=persistent),
                    partial(points, kind=kind, persistent=persistent),
                )


def _show_points(report: PointsReport) -> None:
    numbers = ("points", "fired", "otherwise", "violations")
    shown = table("Crash points", "scenario", "kind", "lasts", *numbers, right=numbers)
    for row in report.rows:
        counted = (row.points, row.fired, row.otherwise, row.violations)
        lasts = "10 s" if row.persistent else "once"
        shown.add_row(row.scenario, row.kind, lasts, *(f"{number:,}" for number in counted))
    show(shown)
    counts = ", ".join(f"{name} {count}" for name, count in report.calls.items())
    say(f"{report.points:,} runs in {report.seconds:,.0f} s. Calls without faults: {counts}.")
    told = []
    for point in report.found:
        at = "; ".join(
            f"{strike.kind}{' for 10 s' if strike.persistent else ''} at {strike.n}" for strike in point.strikes
        )
        told += [f"{point.scenario}, {at} ({'; '.join(point.struck)}): {each}" for each in point.found]
    told += [f"{row.scenario}, {row.kind}: it never fired" for row in report.rows if not row.fired]
    _show_verdict("after every one the scenario came to its end, or was refused for a stated reason", told)


def _show_cuts(report: CutReport) -> None:
    say(
        f"{report.run:,} of {report.cuts:,} cuts of a day with {report.events:,} events and {report.orders:,} orders; "
        f"{report.seconds / report.run:.2f} s each, at most {report.slowest:.1f} s"
    )
    for why, count in sorted(report.recovered.items()):
        say(f"{count:,}: {why or 'the log went on as it was'}", indent=2)
    _show_verdict("after every cut the day came to its end, and the history and the book agree", report.violations)


def _show_rolling(done: "RollingRun") -> None:
    say(
        f"{len(done.replaced)} processes of {done.old[:12]} were replaced by {done.new[:12]}, {len(done.taken_back)} "
        f"went back; {done.strategies:,} strategies, {done.orders:,} orders, {done.events:,} events"
    )
    _show_verdict("both versions lived on one log, and nothing was lost, parked, aborted or doubled", done.violations)


def _show_planted(report: PlantedReport) -> None:
    columns = ("defect", "found by", "seeds", "seconds", "what it said")
    shown = table("Planted defects", *columns, right=("seeds", "seconds"), fold=("found by", "what it said"))
    for each in report.results:
        said = each.finding or each.why or "nobody noticed"
        shown.add_row(
            each.name, each.found_by or "-", str(each.seeds or ""), f"{each.seconds:.1f}", said.splitlines()[0]
        )
    show(shown)
    wrong = [f"{name} survives" for name in report.survived]
    wrong += [f"{each.name}: without it, too: {each.false_alarm}" for each in report.results if each.false_alarm]
    _show_verdict(f"all of {report.defects} planted defects were found, and none was seen where there is none", wrong)


def _show_verdict(what: str, violations: list[str]) -> None:
    verdict(what, not violations)
    for violation in violations[:SHOWN]:
        say(violation, indent=2)
    if len(violations) > SHOWN:
        say(f"and {len(violations) - SHOWN:,} more", indent=2)
