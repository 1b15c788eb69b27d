"""`bahi rebuild`: every projection made anew from the log, in Redis and in PostgreSQL."""

import time
from typing import TYPE_CHECKING, Annotated, Any

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
    from projections.tables import RowDifference, TablesRebuilt

__all__ = ["rebuild"]

SHOWN = 5


def rebuild(
    from_start: Annotated[
        bool,
        typer.Option("--from-start", help="From the first event on, not from the last snapshot. Slower, and the same."),
    ] = False,
    compare_only: Annotated[
        bool, typer.Option("--compare-only", help="Change nothing, only tell what differs; exits 1 if anything does.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also while the engine runs. Safe: whoever appends to a strategy meanwhile wins, and its newer events "
            "are read first; the tables are made beside those that are read. But the workers look at every strategy "
            "again, and the archive waits for rows that are put right.",
        ),
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Make every projection anew from the log, in Redis and in PostgreSQL, and put right what differs. Then verify.

    Exits 1 when the log has faults that rebuilding cannot cure.
    """
    settings = load_settings(home)
    act = _compare(settings, from_start, json) if compare_only else _rebuild(settings, from_start, force, json)
    raise typer.Exit(run_async(act))


async def _rebuild(settings: Any, from_start: bool, force: bool, json: bool) -> int:
    import asyncio

    from bahi.cli.reader import open_reader
    from bahi.cli.verify import as_object, check_all, show_verdict
    from bahi.database.migrate import migrate
    from projections.rebuild import rebuild_redis

    async with open_reader(settings) as reader:
        if (running := await reader.running()) and not force:
            fail(
                f"the engine runs here ({', '.join(running)}): stop it first, or say --force. Then whoever appends to "
                "a strategy meanwhile wins and nothing is lost, but every worker looks at every strategy again"
            )
        begun = time.perf_counter()
        events = since = strategies = halts = 0
        for log in reader.logs:
            with bar("Redis", hidden=json) as progress:
                done = await rebuild_redis(log, progress, from_start=from_start)
            events += done.events
            since += done.since
            strategies += done.strategies
            halts += done.halts
        if (url := reader.database_url) is not None:
            await asyncio.to_thread(migrate, url)
        tables = await _tables(reader, json)
        seconds = round(time.perf_counter() - begun, 3)
        result = await check_all(reader, quiet=json)
    code = OK if result.ok else CHECK_FAILED
    with until_closed(code):
        if json:
            told = {"events": events, "since": since, "strategies": strategies, "halts": halts, "seconds": seconds}
            rebuilt = told | {"archived": tables.events if tables else 0, "tables": _plain(tables)}
            print_json({"rebuilt": rebuilt, "verify": as_object(reader, result)})
            return code
        known = f", the first {since:,} from snapshots" if since else ""
        out.print(f"Redis: {strategies:,} strategies and {halts:,} halts, from {events:,} events{known}")
        _show_tables(tables, events)
        out.print(f"{seconds:.1f} s. And now:")
        show_verdict(reader, result)
    return code


async def _compare(settings: Any, from_start: bool, json: bool) -> int:
    from bahi.cli.reader import open_reader
    from projections.compare import corrupt_strategies

    async with open_reader(settings) as reader:
        begun = time.perf_counter()
        corrupt: dict[int, str] = {}
        for log in reader.logs:
            with bar("Redis", hidden=json) as progress:
                corrupt |= await corrupt_strategies(log, snapshots=not from_start, progress=progress)
        tables = await _tables(reader, json, compare_only=True)
        seconds = round(time.perf_counter() - begun, 3)
    code = CHECK_FAILED if corrupt or (tables and tables.differences) else OK
    with until_closed(code):
        if json:
            first = [{"strategy_id": each, "text": corrupt[each]} for each in sorted(corrupt)[:SHOWN]]
            redis = {"differences": len(corrupt), "first": first}
            print_json({"ok": code == OK, "redis": redis, "tables": _plain(tables), "seconds": seconds})
            return code
        verdict("Redis holds what the log makes of every strategy", not corrupt)
        for strategy_id in sorted(corrupt)[:SHOWN]:
            say(f"strategy {strategy_id}: {corrupt[strategy_id]}", indent=2)
        if len(corrupt) > SHOWN:
            say(f"and {len(corrupt) - SHOWN:,} more", indent=2)
        if tables is not None:
            differing = f"; {tables.differences:,} differ" if tables.differences else ""
            verdict(f"PostgreSQL holds the {tables.rows:,} rows that the log makes{differing}", not tables.differences)
            _differences(tables)
        out.print(f"{seconds:.1f} s. Nothing was changed.")
    return code


class _Tables(Struct):
    """What came of all partitions."""

    events: int = 0
    rows: int = 0
    differences: int = 0
    first: "list[RowDifference]" = []
    switched: bool = False

    def add(self, done: "TablesRebuilt") -> None:
        self.events += done.events
        self.rows += done.rows
        self.differences += done.differences
        self.first = [*self.first, *done.first]
        self.switched = self.switched or done.switched


async def _tables(reader: "Reader", json: bool, *, compare_only: bool = False) -> _Tables | None:
    """The tables of every partition; None where there is no database."""
    from eventstore.archive import PostgresArchive
    from projections.tables import rebuild_sql

    if reader.database_url is None:
        return None
    told = _Tables()
    for log in reader.logs:
        archive = PostgresArchive(reader.database, log.keys.partition)
        with bar("PostgreSQL", hidden=json) as progress:
            told.add(await rebuild_sql(archive, progress, compare_only=compare_only))
    return told


def _plain(tables: _Tables | None) -> dict[str, Any] | None:
    if tables is None:
        return None
    first = [{"table": each.table, "key": each.key, "text": str(each)} for each in tables.first[:SHOWN]]
    told = {"rows": tables.rows, "differences": tables.differences, "first": first, "switched": tables.switched}
    return {"events": tables.events, **told}


def _show_tables(tables: _Tables | None, events: int) -> None:
    if tables is None:
        out.print("PostgreSQL: there is none here")
        return
    behind = f"; {events - tables.events:,} are not archived yet" if tables.events < events else ""
    what = f"{tables.rows:,} rows of strategies, orders and the parked list, from {tables.events:,} archived events"
    out.print(f"PostgreSQL: {what}{behind}")
    if not tables.differences:
        out.print("They are those that are there: nothing was written")
        return
    out.print(f"{tables.differences:,} of them differed and were put right:")
    _differences(tables)


def _differences(tables: _Tables) -> None:
    for each in tables.first[:SHOWN]:
        say(str(each), indent=2)
    if len(tables.first) > SHOWN:
        say("and more", indent=2)
