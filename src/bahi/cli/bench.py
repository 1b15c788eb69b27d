"""`bahi bench`: the figures of the hot paths, each beside what it is compared with in the same run."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bahi.bench.appending import appends, batches
from bahi.bench.archiving import archiving
from bahi.bench.decoding import decoding
from bahi.bench.exporting import exporting
from bahi.bench.figures import Figure
from bahi.bench.flowing import Sample, flowing
from bahi.bench.kite import kite
from bahi.bench.rebuilding import rebuilding
from bahi.bench.replaying import memory, replay
from bahi.bench.stops import buys_at_once, stops
from bahi.bench.verifying import seals, verifying
from bahi.bench.world import Fsync
from bahi.cli.common import Json, bar, fail, out, print_json, run_async, show, table
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
    "archive": (lambda fsync, quick: archiving(fsync, 16_000 if quick else 400_000), ("always",)),
    "replay": (lambda fsync, quick: replay(fsync, 30_000 if quick else 300_000), ("everysec",)),
    "decode": (lambda _fsync, quick: decoding(100_000 if quick else 500_000), ("everysec",)),
    "seal": (lambda fsync, quick: seals(fsync, 20_000 if quick else 100_000), ("everysec",)),
    "verify": (
        lambda fsync, quick: verifying(fsync, 20_000 if quick else 1_000_000, 500 if quick else 10_000),
        ("everysec",),
    ),
    "export": (
        lambda fsync, quick: exporting(fsync, 10_000 if quick else 200_000, 100 if quick else 2_000),
        ("everysec",),
    ),
    "rebuild": (
        lambda fsync, quick: rebuilding(fsync, 20_000 if quick else 1_000_000, 500 if quick else 10_000),
        ("everysec",),
    ),
    "memory": (lambda fsync, quick: memory(fsync, 500 if quick else 5_000, 30_000), ("everysec",)),
}


def bench(
    names: Annotated[list[str] | None, typer.Argument(help=f"Among {', '.join(MEASURES)}; none named: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer samples: a look, not a measurement.")] = False,
    events: Annotated[int | None, typer.Option(min=1000, help="archive, export, rebuild: how many events.")] = None,
    strategies: Annotated[int | None, typer.Option(min=10, help="rebuild: of how many strategies.")] = None,
    seal: Annotated[
        bool | None, typer.Option("--seal/--no-seal", help="archive: only with seals, or only without; else in turns.")
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="archive: let the events flow through, and look at memory alone.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure the hot paths on embedded servers. Timings are of this machine at this moment: compare within a run."""
    unknown = sorted(set(names or ()) - MEASURES.keys())
    if unknown:
        fail(f"no such measurement: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    if events is not None and names not in (["archive"], ["export"], ["rebuild"]):
        fail("--events is for `bahi bench archive`, `bahi bench export` and `bahi bench rebuild`")
    if strategies is not None and names != ["rebuild"]:
        fail("--strategies is for `bahi bench rebuild`")
    if (seal is not None or memory) and names != ["archive"]:
        fail("--seal and --memory are for `bahi bench archive`")
    if memory and seal is not None:
        fail("--memory always seals: nothing is trimmed that is not sealed")
    configure_logging("ERROR")
    if memory:
        _memory(events or 200_000, json)
        return
    figures: list[Figure] = []
    if events is not None or seal is not None:
        MEASURES["archive"] = (lambda fsync, _: archiving(fsync, events or 400_000, seal=seal), ("always",))
    if events is not None:
        many = max(10, min(10_000, events // 100))
        MEASURES["export"] = (lambda fsync, _: exporting(fsync, events, many), ("everysec",))
    if events is not None or strategies is not None:
        MEASURES["rebuild"] = (lambda f, _: rebuilding(f, events or 1_000_000, strategies or 10_000), ("everysec",))
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), disable=json, console=out
    ) as running:
        for name in names or MEASURES:
            measure, settings = MEASURES[name]
            for fsync in settings:
                task = running.add_task(f"{name}, appendfsync {fsync}", total=1)
                figures += run_async(_measured(measure, fsync, quick))
                running.update(task, completed=1)
    if json:
        print_json(figures)
    else:
        _show(figures)


def _memory(events: int, json: bool) -> None:
    """The samples as they come, and what they come to."""
    samples: list[Sample] = []
    with bar("through the archive", hidden=json) as progress:

        def tell(sample: Sample) -> None:
            samples.append(sample)
            progress(sample.events, events)

        figures = run_async(flowing("always", events, tell=tell))
    if json:
        print_json({"samples": samples, "figures": figures})
        return
    columns = ("events", "seconds", "events/s", "behind", "sealed", "trimmed", "in streams", "Redis MB", "follower MB")
    shown = table("bahi bench archive --memory", *columns, right=columns)
    for each in samples:
        numbers = (each.events, each.seconds, each.rate, each.behind, each.sealed, each.trimmed, each.streams)
        megabytes = (each.redis / 1e6, each.follower / 1e6)
        shown.add_row(*(f"{number:,}" for number in numbers), *(f"{size:,.1f}" for size in megabytes))
    show(shown)
    _show(figures)


async def _measured(measure: Measure, fsync: Fsync, quick: bool) -> list[Figure]:
    return await measure(fsync, quick)


def _show(figures: list[Figure]) -> None:
    shown = Table(
        title="bahi bench: p50 / p99 for latencies", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    shown.add_column("figure", no_wrap=True)
    shown.add_column("fsync", no_wrap=True)
    shown.add_column("value", justify="right", no_wrap=True)
    shown.add_column("goal", no_wrap=True)
    for each in figures:
        verdict = {None: "", True: " [green]✓[/]", False: " [yellow]✗[/]"}[each.met]
        both = _number(each.value) if each.p99 is None else f"{_number(each.value)} / {_number(each.p99)}"
        shown.add_row(each.name, each.fsync, f"{both} {each.unit}", f"{each.goal}{verdict}")
    out.print(shown)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
