"""`bahi verify`: is the log whole, and is everything that is derived from it what it must be?"""

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from msgspec import Struct

from bahi.cli.common import (
    CHECK_FAILED,
    OK,
    Home,
    Json,
    bar,
    fail,
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
    from eventstore.seal_chain import Anchor
    from eventstore.seals import Seal
    from projections.replay import Fault
    from projections.sealed import Trusted

__all__ = ["Verdict", "check_all", "show_verdict", "verify", "verify_all"]

CHECKS: Final = {
    "positions_gapless": ("every position is there, once", ("hole",)),
    "entries_readable": ("every entry can be read", ("corrupt",)),
    "versions_gapless": ("the versions of every strategy have no gap", ("version",)),
    "time_forward": ("time never runs backwards", ("time",)),
    "history_legal": ("every event can be folded", ("illegal",)),
    "effects_caused": ("every effect names its cause", ("cause",)),
    "archive_equal": ("the archive and the streams hold the same", ("archive", "deleted")),
    "columns_agree": ("every archived event is found by what it says", ("columns",)),
    "seals_chain": ("the seals follow each other from the first event on", ("seal_chain",)),
    "seals_signed": ("every seal was signed with a key of this installation", ("seal_signature",)),
    "seals_cover": ("what is under a seal is exactly what was sealed", ("seal_cover", "unsealed")),
    "replay_equal": ("replaying the log gives exactly the live state", ("live",)),
    "tables_equal": ("the table of strategies says what the log makes of them", ("table",)),
}
"""What is checked: what it says when it holds, and the kinds of faults that it does not bear."""
SHOWN = 5
PATIENCE = timedelta(minutes=1)
"""Added to three times the age at which a seal is due: then it is not late any more, it does not come."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What came of it. `faults` are in the order of their positions, each with its partition; `kinds` are those of all.
    `heads` are the newest seals, of partitions that have one."""

    events: int
    archived: int
    sealed: int
    seals: int
    strategies: int
    heads: "list[Seal]"
    faults: "list[tuple[int, Fault]]"
    fault_count: int
    kinds: frozenset[str]
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.fault_count

    def holds(self, kinds: tuple[str, ...]) -> bool:
        return self.kinds.isdisjoint(kinds)


def verify(
    offline: Annotated[
        Path | None, typer.Option("--offline", help="An exported file, checked without any server.", metavar="FILE")
    ] = None,
    public_key: Annotated[
        str | None, typer.Option(help="Trust this key alone, and those that it and they vouch for.", metavar="FILE|HEX")
    ] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option(help="A seal that you wrote down when it was made: it must be there.", metavar="NUMBER:HASH"),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Check that the log is whole, is what was sealed, and that replaying it gives exactly the live state.

    Names the first fault and its position, and exits 1, when it is not so. May be asked while trading goes on.
    A history that was changed and sealed anew by somebody who has all the keys is told only by an anchor: keep one.
    """
    if offline is not None:
        from bahi.cli.offline import verify_file

        raise typer.Exit(verify_file(offline, public_key, anchor, json))
    raise typer.Exit(run_async(verify_all(load_settings(home), public_key, anchor or [], json)))


async def verify_all(
    settings: Any, public_key: str | None, anchor: Sequence[str], json: bool, *, recorded: bool = True
) -> int:
    from bahi.cli.audited import reading
    from bahi.cli.reader import open_reader
    from bahi.seal_keys import read_public_key
    from eventstore.seal_chain import parse_anchor

    try:
        known = [parse_anchor(each) for each in anchor]
        key = None if public_key is None else read_public_key(public_key)
    except ValueError as error:
        fail(str(error))
    async with open_reader(settings) as reader:
        if strange := [str(each) for each in known if each.partition >= len(reader.logs)]:
            fail(f"there is no such partition: --anchor {strange[0]}")
        result = await check_all(reader, quiet=json, public_key=key, anchors=known)
        if recorded and result.ok:  # a history that is not right is evidence: nothing is added to it
            await reading(reader, "verify", {"anchor": ",".join(anchor)})
    code = OK if result.ok else CHECK_FAILED
    with until_closed(code):
        if json:
            print_json(as_object(reader, result))
        else:
            show_verdict(reader, result)
    return code


async def check_all(
    reader: "Reader", *, quiet: bool = False, public_key: bytes | None = None, anchors: "Sequence[Anchor]" = ()
) -> Verdict:
    """Every partition. Seals count whose keys open here, or with `public_key` those that it reaches."""
    from projections.verify import MOST_FAULTS
    from projections.verify import verify as check

    begun = time.perf_counter()
    trusted = await _trusted(reader, public_key)
    # what runs must seal; what is stopped has not sealed its last minute yet
    late = 3 * reader.settings.seal_seconds + PATIENCE if "archive" in await reader.running() else None
    reports = []
    for log in reader.logs:
        with bar("verifying", hidden=quiet) as progress:
            report = await check(
                log,
                trusted=trusted,
                anchors=anchors,
                overdue=None if late is None else late // timedelta(microseconds=1),
                partitions=len(reader.logs),
                progress=progress,
            )
        reports.append((log.keys.partition, report))
    faults = [(partition, fault) for partition, report in reports for fault in report.faults]
    return Verdict(
        events=sum(report.events for _, report in reports),
        archived=sum(report.archived for _, report in reports),
        sealed=sum(report.sealed for _, report in reports),
        seals=sum(report.seals for _, report in reports),
        strategies=sum(report.strategies for _, report in reports),
        heads=[report.head for _, report in reports if report.head is not None],
        faults=faults[:MOST_FAULTS],
        fault_count=sum(report.fault_count for _, report in reports),
        kinds=frozenset().union(*(report.kinds for _, report in reports)),
        seconds=round(time.perf_counter() - begun, 3),
    )


async def _trusted(reader: "Reader", public_key: bytes | None) -> "Trusted | None":
    from sqlalchemy import text

    from bahi.cli.keys import box_of
    from bahi.seal_keys import open_keys
    from projections.sealed import Trusted

    if reader.database_url is None:
        return None
    async with reader.database.connect() as connection:
        if await connection.scalar(text("SELECT to_regclass('seal_keys')")) is None:
            fail("the database is of an earlier version of bahi: `bahi run` brings it up to date")
        opened = await open_keys(connection, None if public_key is not None else box_of(reader.settings))
    if public_key is not None:
        return Trusted(opened.keys, [public_key])
    return Trusted(opened.keys, opened.trusted, opened.closed)


def as_object(reader: "Reader", result: Verdict) -> dict[str, Any]:
    """For programs. `checks` says which of them hold."""
    faults = [_fault(reader, partition, fault) for partition, fault in result.faults[:SHOWN]]
    return {
        "ok": result.ok,
        "events": result.events,
        "archived": result.archived,
        "sealed": result.sealed,
        "seals": result.seals,
        "strategies": result.strategies,
        "checks": {name: result.holds(kinds) for name, (_, kinds) in CHECKS.items()},
        "first_fault": faults[0] if faults else None,
        "faults": faults,
        "fault_count": result.fault_count,
        "newest_seals": [_head(reader, seal) for seal in result.heads],
        "seconds": result.seconds,
    }


def _fault(reader: "Reader", partition: int, fault: "Fault") -> dict[str, Any]:
    return {
        "position": reader.places.plain(partition, fault.position),
        "strategy_id": fault.strategy_id or None,
        "kind": fault.kind,
        "text": fault.text,
    }


def _head(reader: "Reader", seal: "Seal") -> dict[str, Any]:
    return {
        "number": seal.number,
        "position": reader.places.plain(seal.partition, seal.last),
        "hash": seal.hash.hex(),
        "key": seal.key_id,
        "anchor": _anchor(reader, seal),
    }


def _anchor(reader: "Reader", seal: "Seal") -> str:
    """What --anchor takes."""
    return f"{reader.places.show(seal.partition, seal.number)}:{seal.hash.hex()}"


def show_verdict(reader: "Reader", result: Verdict) -> None:
    for what, kinds in CHECKS.values():
        verdict(what, result.holds(kinds))
    archived = f"{result.archived:,} of them archived, {result.sealed:,} sealed, " if result.archived else ""
    say(f"{result.events:,} events, {archived}{result.strategies:,} strategies, {result.seconds:.1f} s")
    for seal in result.heads:
        say(f"The newest seal, to write down: --anchor {_anchor(reader, seal)}")
    for number, (partition, fault) in enumerate(result.faults[:SHOWN]):
        first = "The first fault:" if number == 0 else "Then:"
        say(f"{first} position {reader.places.show(partition, fault.position)}: {fault.text}")
    if result.fault_count > SHOWN:
        out.print(f"and {result.fault_count - SHOWN:,} more")
    if result.kinds and result.kinds <= {"live", "table"}:
        out.print("The log itself is whole: `bahi rebuild` makes what follows from it anew.")
