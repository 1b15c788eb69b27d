"""`bahi backup`: everything that PostgreSQL holds, as of one moment, in one file."""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bahi.cli.common import Home, Json, bar, fail, load_settings, print_json, run_async, say

__all__ = ["backup"]


def backup(
    file: Annotated[Path, typer.Argument(help="Where to; it must not be there yet. Only its owner can read it.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Back up everything into one file, while trading goes on: history, seals, users, accounts, sessions, settings of
    users, and the paper broker's book.

    The secrets in it are sealed with BAHI_SECRET_KEYS, which are not in it: keep those elsewhere. Redis needs no
    backup. `bahi restore` takes the file.
    """
    run_async(_backup(load_settings(home), file, json))


async def _backup(settings: Any, file: Path, json: bool) -> None:
    import psycopg

    from bahi.backup.file import BackupError
    from bahi.backup.making import make
    from bahi.cli.archive_home import open_archive

    begun = time.perf_counter()
    book = settings.home.expanduser() / "paper.db"
    async with open_archive(settings) as archive:
        try:
            with bar("backing up", unit="bytes", hidden=json) as progress:
                done = await asyncio.to_thread(
                    make, archive.url, book, file, partitions=settings.partitions, progress=progress
                )
        except (BackupError, psycopg.Error) as error:
            fail(f"no backup was made: {str(error).splitlines()[0]}")
    seconds = round(time.perf_counter() - begun, 3)
    if json:
        print_json(
            {
                "file": file,
                "bytes": done.size,
                "archived": done.archived,
                "rows": done.rows,
                "key_ids": done.key_ids,
                "paper_book": done.book,
                "seconds": seconds,
            }
        )
        return
    events, users = done.rows.get("events", 0), done.rows.get("users", 0)
    say(f"{file}: {done.size:,} bytes, {events:,} events, {users:,} users, {seconds:.1f} s")
    if done.book:
        say("with the order book of the paper broker", 2)
    if done.key_ids:
        say(f"its secrets open with the BAHI_SECRET_KEYS of id {', '.join(done.key_ids)}: keep those elsewhere", 2)
