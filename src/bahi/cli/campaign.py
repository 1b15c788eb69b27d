"""`bahi campaign`: thousands of orders at a Kite that fails in every known way, and what became of each."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bahi.cli.common import CHECK_FAILED, Json, out, print_json, verdict
from bahi.cli.common import table as new_table
from bahi.ending import end_in_order
from bahi.servers import EmbeddedRedis
from bahi.telemetry.logging import configure_logging
from simulation.crashes import CrashPoint
from simulation.kite.campaign import STRATEGIES, campaign
from simulation.kite.faults import Fault
from simulation.kite.tally import CLEAN, Outcome, Tally

ELSEWHERE = {fault.value for fault in Fault if fault.name.startswith(("F12", "F14", "F15", "F17", "F20"))}
"""Faults of the stream and of the instruments, which concern no order: shown when they have played."""


class Report(Struct, kw_only=True):
    """What `--json` ends with. `rows`: outcomes by fault or death."""

    seed: int
    rounds: int
    orders: int
    unknown: int
    duplicates: int
    without_intent: int
    sold_twice: int
    surfaced_sales: int
    unresolved: int
    violations: list[str]
    alerts: dict[str, int]
    fired: dict[str, int]
    rows: dict[str, dict[str, int]]


def campaign_command(
    orders: Annotated[int, typer.Option(min=1, help="Until so many orders have reached the broker.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Of the first round; each further one has the next.")] = 1,
    strategies: Annotated[int, typer.Option(min=1, help="Of a round.")] = STRATEGIES,
    stream: Annotated[bool, typer.Option("--stream", help="Ticks come over the stream, with its faults.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Rounds at a time.")] = os.cpu_count() or 1,
    write: Annotated[Path | None, typer.Option(help="Also write the table into this file, as Markdown.")] = None,
    json: Json = False,
) -> None:
    """Trade at a simulated Kite under every fault and every death of a worker; count what became of it."""
    total, played, violations = Tally(), 0, list[str]()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("orders"),
        TimeElapsedColumn(),
        console=out,
        disable=json,
        transient=True,
    ) as bar:
        task = bar.add_task("trading", total=orders)
        rounds = campaign(
            _redis, orders=orders, seed=seed, jobs=jobs, strategies=strategies, stream=stream, prepare=_prepare
        )
        for each in rounds:
            total.add(each.tally)
            played += 1
            violations += [f"seed {each.seed}: {violation}" for violation in each.violations]
            faulty = f", {len(violations)} violations" if violations else ""
            bar.update(task, completed=total.orders, description=f"{played} rounds{faulty}")
    report = _report(total, seed, played, violations)
    if write is not None:
        asked = f"--orders {orders} --seed {seed} --strategies {strategies}" + (" --stream" if stream else "")
        write.write_text(_markdown(report, asked))
    if json:
        print_json(report)
    else:
        _show(report)
    if violations:
        raise typer.Exit(CHECK_FAILED)


@contextmanager
def _redis() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="bahi-campaign-") as folder,
        EmbeddedRedis(Path(folder), appendfsync="everysec") as server,
    ):
        yield server.url


def _prepare() -> None:
    end_in_order()
    configure_logging("CRITICAL")


def _report(total: Tally, seed: int, rounds: int, violations: list[str]) -> Report:
    return Report(
        seed=seed,
        rounds=rounds,
        orders=total.orders,
        unknown=total.unknown,
        duplicates=len(total.duplicates),
        without_intent=len(total.strangers),
        sold_twice=len(total.sold_twice),
        surfaced_sales=len(total.surfaced_sales),
        unresolved=len(total.open),
        violations=violations,
        alerts={str(code): count for code, count in sorted(total.alerts.items())},
        fired=dict(sorted(total.fired.items())),
        rows={row: {str(outcome): count for outcome, count in counts.items()} for row, counts in total.rows.items()},
    )


def _lines(report: Report) -> Iterator[tuple[str, int, Counter[str]]]:
    """Every fault and every death, in the order of the catalogue, with how often it played."""
    names = [CLEAN, *(fault.value for fault in Fault), *(point.value for point in CrashPoint)]
    for name in (each for each in names if each not in ELSEWHERE or report.fired.get(each)):
        counts = Counter(report.rows.get(name, {}))
        yield name, sum(counts.values()) if name == CLEAN else report.fired.get(name, 0), counts


def _show(report: Report) -> None:
    names = ["fired", *(str(outcome) for outcome in Outcome)]
    table = new_table("", "fault or death", *names, right=names, fold={"fault or death", *names})
    for name, fired, counts in _lines(report):
        table.add_row(name, f"{fired:,}", *(f"{counts[outcome]:,}" if counts[outcome] else "" for outcome in Outcome))
    out.print(table)
    out.print(_sentence(report))
    verdict("no order was placed twice", report.duplicates == 0)
    verdict("no order was placed without an intent before it", report.without_intent == 0)
    verdict("no position was sold twice", report.sold_twice == 0)
    verdict("every unknown outcome was resolved", report.unresolved == 0)
    verdict("every invariant holds", not report.violations)
    for violation in report.violations[:20]:
        out.print(f"  {violation}", markup=False, soft_wrap=True)


def _sentence(report: Report) -> str:
    alerts = ", ".join(f"{count:,} {code}" for code, count in report.alerts.items())
    return (
        f"{report.orders:,} orders in {report.rounds:,} rounds from seed {report.seed}; "
        f"{report.unknown:,} outcomes were unknown for a time; {report.surfaced_sales} strategies sold beyond what "
        f"they held by an order that surfaced after its quarantine, and were alerted; alerts: {alerts or 'none'}."
    )


def _markdown(report: Report, asked: str) -> str:
    """`asked`: the options that made it."""
    outcomes = list(Outcome)
    lines = [
        "# The campaign at a failing Kite",
        "",
        f"Made by `bahi campaign {asked} --write FILE`.",
        "Every order trades over HTTP at a [simulated Kite](../README.md#trading-on-kite), on the real log, handlers",
        "and adapter; only time is simulated. A row counts the orders that its fault or death befell; faults of",
        "readings and sessions befall no single order. Each round ends with every invariant checked against the log",
        "and the broker's own book.",
        "",
        _sentence(report),
        "",
        "| | |",
        "|---|---:|",
        f"| orders placed twice | {report.duplicates} |",
        f"| orders without an intent before them | {report.without_intent} |",
        f"| positions sold twice | {report.sold_twice} |",
        f"| sold beyond by an order that surfaced after its quarantine, and alerted | {report.surfaced_sales} |",
        f"| unknown outcomes never resolved | {report.unresolved} |",
        f"| violations of any invariant | {len(report.violations)} |",
        "",
        f"| fault or death | fired | {' | '.join(outcomes)} |",
        f"|---|---:|{'---:|' * len(outcomes)}",
    ]
    for name, fired, counts in _lines(report):
        lines.append(f"| {name} | {fired:,} | {' | '.join(f'{counts[o]:,}' if counts[o] else '' for o in outcomes)} |")
    return "\n".join([*lines, *(f"\n{violation}" for violation in report.violations), ""])
