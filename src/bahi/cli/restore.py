"""`bahi restore`: a backup into an empty installation."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bahi.cli.common import Home, Json, bar, fail, load_settings, print_json, run_async, say

if TYPE_CHECKING:
    from bahi.backup.file import Manifest
    from bahi.cli.archive_home import ArchiveHome

__all__ = ["restore"]


def restore(
    file: Annotated[Path, typer.Argument(help="What `bahi backup` wrote.")],
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Also when BAHI_SECRET_KEYS do not open the secrets in it.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Restore a backup into an empty installation: all of it or nothing, compared byte for byte with the file.

    Redis is not touched: `bahi run` restores it from the archive, and takes over from the brokers' order books what
    happened since the backup.
    """
    run_async(_restore(load_settings(home), file, without_keys, json))


async def _restore(settings: Any, file: Path, without_keys: bool, json: bool) -> None:
    import psycopg

    from bahi.backup.file import BackupError
    from bahi.backup.restoring import look, restore
    from bahi.cli.archive_home import open_archive

    begun = time.perf_counter()
    book = settings.home.expanduser() / "paper.db"
    with bar("restore", unit="bytes", hidden=json) as progress:

        def told(_: str, done: int) -> None:
            progress(done, max(done, 1))

        try:
            manifest = await asyncio.to_thread(look, file, told)
            missing = _missing(settings, manifest)
            if missing and not without_keys:
                fail(
                    f"nothing was restored: the secrets in {file} are sealed with keys of id {', '.join(missing)}, "
                    "which are not among BAHI_SECRET_KEYS. Set those of that time; or, with --without-keys, users "
                    "connect their brokers anew and the history gets a new seal key"
                )
            if manifest.partitions != settings.partitions:
                fail(
                    f"nothing was restored: the backup is of {manifest.partitions} partitions, and BAHI_PARTITIONS is "
                    f"{settings.partitions}: set BAHI_PARTITIONS={manifest.partitions}"
                )
            async with open_archive(settings, create=True) as archive:
                await _check_redis(archive, manifest)
                done = await asyncio.to_thread(restore, archive.url, book, file, progress=told)
        except (BackupError, psycopg.Error) as error:
            fail(f"nothing was restored: {str(error).splitlines()[0]}")
    seconds = round(time.perf_counter() - begun, 3)
    if json:
        print_json(
            {
                "file": file,
                "made_at": done.made_at,
                "archived": done.archived,
                "rows": done.rows,
                "paper_book": done.book,
                "keys_missing": missing,
                "seconds": seconds,
            }
        )
        return
    events, users = done.rows.get("events", 0), done.rows.get("users", 0)
    say(f"{events:,} events and {users:,} users, as they were at {done.made_at}; {seconds:.1f} s")
    if done.book:
        say("with the order book of the paper broker", 2)
    elif manifest.book:
        say(f"{book} was there, and stays: the broker knows best what it holds", 2)
    say("`bahi run` restores Redis from the archive; `bahi verify` checks all of it then", 2)
    if missing:
        say(f"not opened: secrets sealed with keys of id {', '.join(missing)}. `bahi keys rotate seal --unvouched`", 2)


def _missing(settings: Any, manifest: "Manifest") -> list[str]:
    """The keys that are needed and not there."""
    from api.security.keys import SecretKeys, UnknownKey

    keys = SecretKeys(key.get_secret_value() for key in settings.key_ring())
    missing = []
    for key_id in manifest.key_ids:
        try:
            keys.subkey("secrets", key_id)
        except UnknownKey:
            missing.append(key_id)
    return missing


async def _check_redis(archive: "ArchiveHome", manifest: "Manifest") -> None:
    """Nobody works here, and what Redis holds is of the same log. Exits with 2 otherwise."""
    from eventstore.epochs import held
    from eventstore.keys import Keys

    if archive.redis is None:
        return  # should it hold another log, `bahi run` refuses, and says so
    if running := await archive.running():
        fail(f"nothing was restored: the engine runs here ({', '.join(running)}): stop it first")
    for partition in range(manifest.partitions):
        theirs = [each for each in manifest.lineage if each.partition == partition]
        here = (await held(archive.redis, Keys(partition, hashtag=manifest.partitions > 1))).lineage
        for ours, it in zip(here, theirs, strict=False):
            if (ours.epoch, ours.log_id) != (it.epoch, it.log_id):
                fail(
                    f"nothing was restored: this Redis holds log {ours.log_id}, epoch {ours.epoch}; the backup is of "
                    f"{it.log_id}, epoch {it.epoch}. Restore it where Redis is empty: with another --home, for one"
                )
