"""`bahi verify`: is the log whole, and is everything that is derived from it what it must be?"""

import time
from typing import TYPE_CHECKING, Any, Final

import typer
from msgspec import Struct

from bahi.cli.common import (
    CHECK_FAILED,
    OK,
    Home,
    Json,
    bar,
    load_settings,
    out,
    print_json,
    run_async,
    say,
    until_closed,
    verdict,
)

if TYPE_CHECKING:
    from bahi.cli.reader import Reader
    from projections.replay import Fault

__all__ = ["Verdict", "check_all", "show_verdict", "verify"]

CHECKS: Final = {
    "positions_gapless": ("every position is there, once", ("hole",)),
    "entries_readable": ("every entry can be read", ("corrupt",)),
    "versions_gapless": ("the versions of every strategy have no gap", ("version",)),
    "time_forward": ("time never runs backwards", ("time",)),
    "history_legal": ("every event can be folded", ("illegal",)),
    "effects_caused": ("every effect names its cause", ("cause",)),
    "archive_equal": ("the archive holds what the log holds", ("archive",)),
    "replay_equal": ("replaying the log gives exactly the live state", ("live",)),
}
"""What is checked: what it says when it holds, and the kinds of faults that it does not bear."""
SHOWN = 5


class Verdict(Struct, frozen=True, kw_only=True):
    """What came of it. `faults` are in the order of their positions, each with its partition."""

    events: int
    archived: int
    strategies: int
    faults: list[tuple[int, Any]]
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.faults

    def holds(self, kinds: tuple[str, ...]) -> bool:
        return not any(fault.kind in kinds for _, fault in self.faults)


def verify(home: Home = None, json: Json = False) -> None:
    """Check that the log is whole and that replaying it gives exactly the live state.

    Names the first fault and its position, and exits 1, when it is not so. May be asked while trading goes on.
    """
    code = run_async(_verify(load_settings(home), json))
    raise typer.Exit(code)


async def _verify(settings: Any, json: bool) -> int:
    from bahi.cli.reader import open_reader

    async with open_reader(settings) as reader:
        result = await check_all(reader, quiet=json)
    code = OK if result.ok else CHECK_FAILED
    with until_closed(code):
        if json:
            print_json(as_object(reader, result))
        else:
            show_verdict(reader, result)
    return code


async def check_all(reader: "Reader", *, quiet: bool = False) -> Verdict:
    """Every partition."""
    from projections.verify import verify as check

    begun = time.perf_counter()
    events = archived = strategies = 0
    faults: list[tuple[int, Any]] = []
    for log in reader.logs:
        with bar("verifying", hidden=quiet) as progress:
            report = await check(log, progress=progress)
        events += report.events
        archived += report.archived
        strategies += report.strategies
        faults += [(log.keys.partition, fault) for fault in report.faults]
    seconds = round(time.perf_counter() - begun, 3)
    return Verdict(events=events, archived=archived, strategies=strategies, faults=faults, seconds=seconds)


def as_object(reader: "Reader", result: Verdict) -> dict[str, Any]:
    """For programs. `checks` says which of them hold."""
    faults = [_fault(reader, partition, fault) for partition, fault in result.faults[:SHOWN]]
    return {
        "ok": result.ok,
        "events": result.events,
        "archived": result.archived,
        "strategies": result.strategies,
        "checks": {name: result.holds(kinds) for name, (_, kinds) in CHECKS.items()},
        "first_fault": faults[0] if faults else None,
        "faults": faults,
        "fault_count": len(result.faults),
        "seconds": result.seconds,
    }


def _fault(reader: "Reader", partition: int, fault: "Fault") -> dict[str, Any]:
    return {
        "position": reader.places.plain(partition, fault.position),
        "strategy_id": fault.strategy_id or None,
        "kind": fault.kind,
        "text": fault.text,
    }


def show_verdict(reader: "Reader", result: Verdict) -> None:
    for what, kinds in CHECKS.values():
        verdict(what, result.holds(kinds))
    archived = f"{result.archived:,} of them archived, " if result.archived else ""
    out.print(f"{result.events:,} events, {archived}{result.strategies:,} strategies, {result.seconds:.1f} s")
    for number, (partition, fault) in enumerate(result.faults[:SHOWN]):
        first = "The first fault:" if number == 0 else "Then:"
        say(f"{first} position {reader.places.show(partition, fault.position)}: {fault.text}")
    if len(result.faults) > SHOWN:
        out.print(f"and {len(result.faults) - SHOWN:,} more")
    if result.faults and all(fault.kind == "live" for _, fault in result.faults):
        out.print("The log itself is whole: `bahi rebuild` makes the live state anew from it.")
