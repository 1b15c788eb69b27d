"""`bahi bench`: the figures of the hot paths, each beside what it is compared with in the same run."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bahi.bench.appending import appends, batches
from bahi.bench.decoding import decoding
from bahi.bench.figures import Figure
from bahi.bench.kite import kite
from bahi.bench.replaying import memory, replay
from bahi.bench.stops import buys_at_once, stops
from bahi.bench.verifying import seals, verifying
from bahi.bench.world import Fsync
from bahi.cli.common import Json, fail, out, print_json, run_async
from bahi.telemetry.logging import configure_logging

Measure = Callable[[Fsync, bool], Awaitable[list[Figure]]]

MEASURES: dict[str, tuple[Measure, tuple[Fsync, ...]]] = {
    "append": (lambda fsync, quick: appends(fsync, 500 if quick else 5_000), ("always", "everysec")),
    "batch": (lambda fsync, quick: batches(fsync, 10_000 if quick else 100_000), ("always", "everysec")),
    "stops": (
        lambda fsync, quick: stops(fsync, 1_000 if quick else 10_000, 200 if quick else 2_000),
        ("always", "everysec"),
    ),
    "kite": (
        lambda fsync, quick: kite(fsync, 1_000 if quick else 10_000, 100 if quick else 1_000),
        ("always", "everysec"),
    ),
    "buys": (
        lambda fsync, quick: buys_at_once(fsync, 1_000 if quick else 10_000, 200 if quick else 1_000, 400),
        ("always", "everysec"),
    ),
    "replay": (lambda fsync, quick: replay(fsync, 30_000 if quick else 300_000), ("everysec",)),
    "decode": (lambda _fsync, quick: decoding(100_000 if quick else 500_000), ("everysec",)),
    "seal": (lambda fsync, quick: seals(fsync, 20_000 if quick else 100_000), ("everysec",)),
    "verify": (
        lambda fsync, quick: verifying(fsync, 20_000 if quick else 1_000_000, 500 if quick else 10_000),
        ("everysec",),
    ),
    "memory": (lambda fsync, quick: memory(fsync, 500 if quick else 5_000, 30_000), ("everysec",)),
}


def bench(
    names: Annotated[list[str] | None, typer.Argument(help=f"Among {', '.join(MEASURES)}; none named: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer samples: a look, not a measurement.")] = False,
    json: Json = False,
) -> None:
    """Measure the hot paths on embedded servers. Timings are of this machine at this moment: compare within a run."""
    unknown = sorted(set(names or ()) - MEASURES.keys())
    if unknown:
        fail(f"no such measurement: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    configure_logging("ERROR")
    figures: list[Figure] = []
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), disable=json, console=out
    ) as bar:
        for name in names or MEASURES:
            measure, settings = MEASURES[name]
            for fsync in settings:
                task = bar.add_task(f"{name}, appendfsync {fsync}", total=1)
                figures += run_async(_measured(measure, fsync, quick))
                bar.update(task, completed=1)
    if json:
        print_json(figures)
    else:
        _show(figures)


async def _measured(measure: Measure, fsync: Fsync, quick: bool) -> list[Figure]:
    return await measure(fsync, quick)


def _show(figures: list[Figure]) -> None:
    table = Table(
        title="bahi bench: p50 / p99 for latencies", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("figure", no_wrap=True)
    table.add_column("fsync", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("goal", no_wrap=True)
    for each in figures:
        verdict = {None: "", True: " [green]✓[/]", False: " [yellow]✗[/]"}[each.met]
        both = _number(each.value) if each.p99 is None else f"{_number(each.value)} / {_number(each.p99)}"
        table.add_row(each.name, each.fsync, f"{both} {each.unit}", f"{each.goal}{verdict}")
    out.print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
