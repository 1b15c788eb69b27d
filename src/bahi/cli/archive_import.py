"""`bahi archive import`: the work of it."""

import asyncio
import time
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from bahi.cli.archive_home import ArchiveHome, open_archive
from bahi.cli.common import CHECK_FAILED, OK, bar, fail, print_json, run_async, say
from bahi.cli.offline import Examined, as_object, examine, file_lines, public_keys, show_faults
from bahi.cli.places import Places
from bahi.database.migrate import migrate
from bahi.seal_keys import succeed_lost_key
from bahi.telemetry.logging import configure_logging
from eventstore.clients import command
from eventstore.epochs import held
from eventstore.export.files import Unreadable
from eventstore.export.lines import Manifest
from eventstore.keys import PARTITIONS, Keys
from projections.importing import CannotImport, Imported, import_contents

__all__ = ["import_archive"]

NOT_IN_IT = "users, brokers' credentials and sessions"


def import_archive(settings: Any, file: Path, public_key: str | None, trust_file_keys: bool, json: bool) -> int:
    """The exit code; exits with 2 for what does not fit."""
    trusted = public_keys(public_key)
    if trusted is None and not trust_file_keys:
        fail(
            "whose history is it? Name the seal key that you trust with --public-key, or say --trust-file-keys: then "
            "only whether the file agrees with itself is checked"
        )
    configure_logging("ERROR")
    begun = time.perf_counter()
    it = examine(file, trusted, quiet=json)
    manifest = it.checker.manifest
    if not it.ok or manifest is None:
        return _refused(it, json)
    if manifest.partitions != settings.partitions:
        fail(
            f"the file is of a log of {manifest.partitions} partitions, and BAHI_PARTITIONS is {settings.partitions}: "
            f"set BAHI_PARTITIONS={manifest.partitions}"
        )
    done, new_key = run_async(_restore(settings, it, manifest, json))
    told = {
        "file": file,
        "log": manifest.parts[0].source,
        "partitions": [_part(each) for each in done],
        "events": sum(each.after - each.before for each in done),
        "seals": sum(each.seals for each in done),
        "new_seal_key": new_key,
        "keys_trusted": it.trusted,
        "not_restored": ["users", "broker_accounts", "sessions", "private seal keys"],
        "seconds": round(time.perf_counter() - begun, 3),
    }
    if json:
        print_json(told)
    else:
        _show(told, done, manifest)
    return OK


async def _restore(settings: Any, it: Examined, manifest: Manifest, json: bool) -> tuple[list[Imported], str | None]:
    """What became of the partitions, and the new seal key, if one was made."""
    made: list[str] = []

    async def go_on(connection: AsyncConnection) -> None:
        box = SecretBox(SecretKeys(key.get_secret_value() for key in settings.key_ring()))
        if (key := await succeed_lost_key(connection, box)) is not None:
            made.append(key.id)

    async with open_archive(settings, create=True) as home:
        await _check_quiet(home, manifest)
        await asyncio.to_thread(migrate, home.url)
        done = await _import(home, it, go_on, json)
    return done, made[0] if made else None


async def _import(home: ArchiveHome, it: Examined, go_on: Any, json: bool) -> list[Imported]:
    def differs(_: int, position: int, text: str) -> None:
        fail(f"the file was changed while it was being read: position {position}: {text}")

    try:
        with file_lines(it.file, differs) as lines, bar("import", hidden=json) as progress:
            return await import_contents(home.engine, lines, sha256=it.checker.sha256, progress=progress, on_keys=go_on)
    except (CannotImport, Unreadable, ValueError) as error:
        fail(f"nothing was imported: {error}")


def _refused(it: Examined, json: bool) -> int:
    if json:
        print_json({**as_object(it), "imported": False})
    else:
        say(f"{it.file} is not what was exported: nothing was imported")
        show_faults(it)
    return CHECK_FAILED


async def _check_quiet(home: ArchiveHome, manifest: Manifest) -> None:
    """Nobody works here, and what Redis holds is of the same log. Exits with 2 otherwise."""
    if home.redis is None:
        if home.settings.redis_url is not None:
            fail("Redis does not answer: whether it is empty, or of the same log, must be known before")
        return
    if running := await home.running():
        fail(f"the engine runs here ({', '.join(running)}): stop it first")
    stored = await command(home.redis, "GET", PARTITIONS)
    if stored is not None and int(stored) != manifest.partitions:
        fail(f"the log in this Redis has {int(stored)} partitions, the file's {manifest.partitions}")
    for part in manifest.parts:
        await _check_same_log(home.redis, part, manifest.partitions)


async def _check_same_log(redis: "Redis", part: Any, partitions: int) -> None:
    here = await held(redis, Keys(part.partition, hashtag=partitions > 1))
    lineage = [reign.plain for reign in part.epochs]
    for ours, theirs in zip(here.lineage, lineage, strict=False):
        if (ours.epoch, ours.log_id) != (theirs.epoch, theirs.log_id):
            fail(
                f"this Redis holds log {ours.log_id}, epoch {ours.epoch}, up to position {here.position}; the file is "
                f"of {theirs.log_id}, epoch {theirs.epoch}: they are two histories. Import it where Redis is empty, "
                "with another --home for one: Redis is restored from the archive when the engine starts"
            )
    if len(here.lineage) > len(lineage) and here.lineage[len(lineage)].after < part.last:
        gone_on = here.lineage[len(lineage)]
        fail(
            f"here the log went on in epoch {gone_on.epoch} after position {gone_on.after}; the file tells of the "
            f"epoch before, up to {part.last}"
        )


# --- telling ----------------------------------------------------------------------------------------------------------


def _part(each: Imported) -> dict[str, Any]:
    return {
        "partition": each.partition,
        "archived_before": each.before,
        "archived": each.after,
        "seals": each.seals,
        "faults": each.faults,
        "first_faults": [
            {"position": fault.position, "kind": fault.kind, "text": fault.text} for fault in each.first_faults
        ],
    }


def _show(told: dict[str, Any], done: list[Imported], manifest: Manifest) -> None:
    places = Places(manifest.partitions)
    if not told["events"]:
        say("Everything in the file is in the archive already, byte for byte: nothing was to be imported")
    else:
        say(f"{told['events']:,} events and {told['seals']:,} seals of {told['log']}, {told['seconds']:.1f} s")
    for each in done:
        say(f"archived up to position {places.show(each.partition, each.after)}", 2)
        for fault in each.first_faults:
            say(f"position {places.show(each.partition, fault.position)}: {fault.text}", 2)
    if not told["keys_trusted"]:
        say("Only the file's own consistency was checked: whose keys it names, you said you know")
    if told["new_seal_key"]:
        say(
            f"Seal key {told['new_seal_key']} seals from now on, and vouches for those of the file: hand out its "
            "public key (`bahi keys show --public`)"
        )
    say(f"Not in a file, and so not restored: {NOT_IN_IT}. Restore those with PostgreSQL's own backup")
    if told["events"]:
        say("`bahi run` restores Redis from the archive; `bahi verify` checks all of it then")
