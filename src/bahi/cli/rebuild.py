"""`bahi rebuild`: every projection dropped and made anew from the log, in Redis and in PostgreSQL."""

import time
from typing import Annotated, Any

import typer

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
    until_closed,
)

__all__ = ["rebuild"]


def rebuild(
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also while the engine runs. Safe: whoever appends to a strategy meanwhile wins, and its newer events "
            "are read first. But the workers look at every strategy again, and the archive waits for the tables.",
        ),
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Drop every projection, in Redis and in PostgreSQL, and make it anew from the log. Then verify.

    Exits 1 when the log has faults that rebuilding cannot cure.
    """
    raise typer.Exit(run_async(_rebuild(load_settings(home), force, json)))


async def _rebuild(settings: Any, force: bool, json: bool) -> int:
    import asyncio

    from bahi.cli.reader import open_reader
    from bahi.cli.verify import as_object, check_all, show_verdict
    from bahi.database.migrate import migrate
    from projections.rebuild import rebuild_redis, rebuild_sql

    async with open_reader(settings) as reader:
        if (running := await reader.running()) and not force:
            fail(
                f"the engine runs here ({', '.join(running)}): stop it first, or say --force. Then whoever appends to "
                "a strategy meanwhile wins and nothing is lost, but every worker looks at every strategy again"
            )
        begun = time.perf_counter()
        events = strategies = halts = archived = 0
        for log in reader.logs:
            with bar("Redis", hidden=json) as progress:
                done = await rebuild_redis(log, progress)
            events += done.events
            strategies += done.strategies
            halts += done.halts
        if (url := reader.database_url) is not None:
            from eventstore.archive import PostgresArchive

            await asyncio.to_thread(migrate, url)
            for log in reader.logs:
                with bar("PostgreSQL", hidden=json) as progress:
                    archived += await rebuild_sql(PostgresArchive(reader.database, log.keys.partition), progress)
        seconds = round(time.perf_counter() - begun, 3)
        result = await check_all(reader, quiet=json)
    code = OK if result.ok else CHECK_FAILED
    told = {"events": events, "strategies": strategies, "halts": halts, "archived": archived, "seconds": seconds}
    with until_closed(code):
        if json:
            print_json({"rebuilt": told, "verify": as_object(reader, result)})
            return code
        out.print(f"Redis: {strategies:,} strategies and {halts:,} halts, from {events:,} events")
        if url is None:
            out.print("PostgreSQL: there is none here")
        else:
            behind = f"; {events - archived:,} are not archived yet" if archived < events else ""
            out.print(f"PostgreSQL: strategies, orders and the parked list, from {archived:,} archived events{behind}")
        out.print(f"{seconds:.1f} s. And now:")
        show_verdict(reader, result)
    return code
