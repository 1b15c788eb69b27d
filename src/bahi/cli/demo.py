"""`bahi demo`: one trading day through the real engine, on the paper broker or at a simulated Kite, in seconds."""

import datetime as dt
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bahi.cli.common import CHECK_FAILED, Home, Json, fail, load_settings, out, print_json, run_async
from bahi.demo import At, Summary, run_demo
from bahi.servers.folder import private_folder
from bahi.telemetry.logging import configure_logging
from domain.calendar import AlwaysOpenCalendar, Calendar, load_nse
from domain.values import Instant, Tick
from simulation.market import generate_day
from simulation.plan import NoSession, survey
from simulation.ticks import TickFile

DATE = dt.date(2026, 6, 15)
"""The day that is generated when no recording is given: a Monday with a regular session."""
TICKS_PER_SYMBOL = 5_000
MARKS = (".demo", "paper.db")
"""Of these a demo's folder has one at least."""


def demo(
    ticks: Annotated[
        Path | None, typer.Option(help="A recorded day: CSV, optionally .gz, timestamp,symbol,ltp,volume.")
    ] = None,
    strategies: Annotated[int, typer.Option(min=1, max=100_000, help="How many strategies trade.")] = 60,
    seed: Annotated[int, typer.Option(help="The same seed gives the same day.")] = 1,
    broker: Annotated[
        At, typer.Option(help="Where the orders go: the paper broker, or a simulated Kite over HTTP and WebSocket.")
    ] = "paper",
    speed: Annotated[float, typer.Option(min=0, help="How many times real time; 0: as fast as possible.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Do not empty the demo's folder first.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Run one trading day through the engine, and check that replaying the log gives exactly the live state."""
    base = load_settings(home)
    folder = base.home / "demo"
    if not keep:
        _begin_anew(folder)
    settings = load_settings(folder, partitions=1)
    configure_logging("ERROR")
    calendar: Calendar = AlwaysOpenCalendar() if settings.calendar == "always-open" else load_nse()
    recording = TickFile(ticks) if ticks is not None else None
    source: Iterable[Tick] = recording if recording is not None else _Generated(seed)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ticks"),
        TimeElapsedColumn(),
        console=out,
        disable=json,
        transient=True,
    ) as bar:
        task = bar.add_task("reading the market", total=None)
        try:
            market = survey(source, calendar)
        except NoSession as error:
            fail(str(error))
        bar.update(task, description=f"{market.session.date} starting", total=market.ticks)
        pace = _Pace(speed)

        def progress(at: Instant, count: int) -> None:
            bar.update(task, advance=count, description=f"{calendar.wall(at):%Y-%m-%d %H:%M}")
            pace.hold(at)

        summary = run_async(
            run_demo(settings, calendar, market, source, strategies=strategies, seed=seed, progress=progress, at=broker)
        )
    if json:
        print_json(summary)
    else:
        _show(summary, recording)
    if not (summary.replay_equal and summary.positions_gapless):
        raise typer.Exit(CHECK_FAILED)


class _Generated:
    """A generated day, that can be iterated again."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __iter__(self) -> Iterator[Tick]:
        return generate_day(DATE, seed=self._seed, ticks_per_symbol=TICKS_PER_SYMBOL)


class _Pace:
    """Holds the day back to `speed` times real time."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first: tuple[Instant, float] | None = None

    def hold(self, at: Instant) -> None:
        if not self._speed:
            return
        if self._first is None:
            self._first = (at, time.monotonic())
        ahead = (at - self._first[0]) / 1e6 / self._speed - (time.monotonic() - self._first[1])
        if ahead > 0:
            time.sleep(ahead)


def _begin_anew(folder: Path) -> None:
    """An empty folder. The last demo's data are removed, also if it was broken off; nothing that no demo has made."""
    if folder.exists():
        if not any((folder / mark).exists() for mark in MARKS) and any(folder.iterdir()):
            fail(f"{folder} is not the folder of an earlier demo: move it away, or choose another one with --home")
        shutil.rmtree(folder)
    private_folder(folder)
    (folder / MARKS[0]).touch()


def _show(summary: Summary, recording: TickFile | None) -> None:
    table = Table(title=f"Trading day {summary.session_date}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    orders = summary.orders
    latency = summary.tick_to_order_ms
    rows = [
        ("strategies", f"{summary.strategies:,}"),
        ("ticks", f"{summary.ticks:,}"),
        ("events in the log", f"{summary.events:,}"),
        ("orders placed", f"{orders.placed:,}"),
        ("orders filled", f"{orders.filled:,}"),
        ("orders rejected by the broker", f"{orders.rejected:,}"),
        ("orders denied before sending", f"{orders.denied:,}"),
        ("exits by stop-loss", f"{summary.stoplosses:,}"),
        ("exits by time", f"{summary.sells:,}"),
        ("tick to order, p50 / p99", f"{latency.p50} / {latency.p99} ms" if latency.p50 is not None else "no stop hit"),
        ("took", f"{summary.duration_seconds} s"),
    ]
    if recording is not None and recording.bad_count:
        rows.append(("rows of the file skipped", f"{recording.bad_count:,}"))
    for name, value in rows:
        table.add_row(name, value)
    out.print(table)
    _verdict("replaying the log gives exactly the live state", summary.replay_equal)
    _verdict("positions are gapless", summary.positions_gapless)
    for fault in summary.faults:
        out.print(f"  {fault}", markup=False)
    if recording is not None:
        for line, reason in recording.bad[:5]:
            out.print(f"  line {line}: {reason}", markup=False)
    bahi = sys.argv[0] if os.sep in sys.argv[0] and not os.path.isabs(sys.argv[0]) else "bahi"
    out.print(
        f"Look at it: {bahi} events --home {summary.home}, {bahi} replay --home {summary.home}",
        markup=False,
        soft_wrap=True,
    )


def _verdict(what: str, holds: bool) -> None:
    out.print(f"[bold green]✓[/] {what}" if holds else f"[bold red]✗ not true:[/] {what}")
