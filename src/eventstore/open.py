"""Opening the log: who it is, whether it can be trusted, and what must exist before the first append."""

import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from redis.asyncio import Redis

from domain.clock import Clock
from domain.events import SystemRecovery
from domain.values import Priority
from eventstore.clients import answers, command, commands, log_client
from eventstore.envelope import Ids, NewEvent
from eventstore.epochs import Epoch, held, judge
from eventstore.errors import LogUnavailable, NeedsRecovery, PartitionMismatch, ServerTooOld, WeakDurability, outages
from eventstore.guard import fact, run_id_in
from eventstore.keys import GROUP, PARTITIONS, Keys
from eventstore.log import Archive, EventLog
from eventstore.vouching import is_vouched_for, vouch_for

__all__ = ["OLDEST_SERVER", "REQUIRED_SETTINGS", "OwnedArchive", "check_server", "create_groups", "open_log"]

OLDEST_SERVER = (6, 2)
REQUIRED_SETTINGS = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
"""What must be set so that an acknowledged append is not lost."""


class OwnedArchive(Archive, Protocol):
    """An archive that knows whose it is."""

    async def identity(self) -> tuple[Sequence[Epoch], int]:
        """The log's lineage as it is known there, and how far the archive reaches. Raises LogUnavailable."""
        ...

    async def claim(self, lineage: Sequence[Epoch]) -> None:
        """From now on it is the archive of this log. Raises LogLost if it is another log's, LogUnavailable."""
        ...


def _random(length: int) -> str:
    return "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(length))


async def open_log(
    redis_url: str,
    *,
    clock: Clock,
    defaults: Mapping[str, object],
    writer: str | None = None,
    partition: int = 0,
    partitions: int = 1,
    cluster: bool = False,
    allow_weak: bool = False,
    archive: OwnedArchive | None = None,
    member: str = "",
    random: Callable[[int], str] = _random,
) -> EventLog:
    """The log of a partition, created at its first start; any number of processes may do so at once.

    `writer` names this process in event ids, random by default; `member` is the name by which it will join the log
    (`eventstore.witness`). Raises ServerTooOld; WeakDurability naming the
    settings, unless `allow_weak`; PartitionMismatch; with an archive NeedsRecovery, when that knows more than this
    Redis does, or Redis was killed and nobody vouches for its end: `projections.recovery` then begins a new epoch;
    LogLost when they are not of one log. With an archive, it is recorded there whose it is before anything is appended.
    Close it with `aclose()`.
    """
    keys = Keys(partition, hashtag=cluster or partitions > 1)
    redis = log_client(redis_url)
    try:
        info = await check_server(redis, allow_weak=allow_weak)
        stored = int(await _set_once(redis, PARTITIONS, str(partitions)))
        if stored != partitions:
            raise PartitionMismatch(
                f"this log has {stored} partitions, {partitions} were asked for: set BAHI_PARTITIONS={stored}"
            )
        if not 0 <= partition < partitions:
            raise PartitionMismatch(f"there is no partition {partition} of {partitions}")
        here = await held(redis, keys)
        existed = bool(here.lineage)
        if not existed and not here.half:  # a log that has lost its id is half of one
            await _set_once(redis, keys.log_id, random(4))
        known: Sequence[Epoch] = ()
        if archive is not None:
            known, archived = await archive.identity()
            judge(here, known, archived)
            if not await is_vouched_for(redis, keys, info, member):
                if existed:
                    raise NeedsRecovery("RESTARTED", archived, here.position)
                await vouch_for(redis, keys)  # killed before the log had begun: nobody can have written into it
        # one that was there and is gone since the first look is not begun anew: it is restored
        begun = not existed and await _create(redis, keys, random(16))
        here = await held(redis, keys)
        if not here.lineage:  # it was lost, or somebody began to restore it, since the first look
            raise LogUnavailable("the log is being restored: open it again")
        if archive is not None and not known:
            await archive.claim(here.lineage)  # so a log that was begun beside this one is nobody's
        newest = here.lineage[-1]
        log = EventLog(
            redis,
            keys=keys,
            clock=clock,
            ids=Ids(writer or random(6).lower()),
            epoch=newest.epoch,
            defaults=defaults,
            archive=archive,
            log_id=newest.log_id,
            lineage=here.lineage,
        )
        log.seen = here.position
        if archive is not None:
            log.guard.run_id = run_id_in(info)
        if not begun and (lost := await create_groups(redis, keys)):
            await _tell_lost_groups(log, lost)
        return log
    finally:
        await redis.aclose()


async def check_server(redis: "Redis", *, allow_weak: bool) -> bytes:
    """What the server's INFO says of itself. Raises ServerTooOld and WeakDurability."""
    asked = [("INFO", "server"), *(("CONFIG GET", name) for name in REQUIRED_SETTINGS)]
    info, *settings = await commands(redis, asked)
    if isinstance(info, Exception):
        with outages():
            raise info
    version = fact(info, "redis_version")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SERVER:
        raise ServerTooOld(f"Redis {version}: 6.2 or newer is needed")
    weak = []
    for (name, required), answer in zip(REQUIRED_SETTINGS.items(), settings, strict=True):
        known = not isinstance(answer, Exception) and answer
        actual = answer[1].decode() if known else f"unknown ({answer or 'it does not say'})"
        if actual != required:
            weak.append(f"{name} is {actual}, must be {required}")
    if weak and not allow_weak:
        raise WeakDurability(
            f"this Redis may lose orders: {'; '.join(weak)}. Set it so, or accept the loss with "
            "BAHI_ALLOW_WEAK_DURABILITY=1"
        )
    return bytes(info)


async def create_groups(redis: "Redis", keys: Keys, after: int = 0) -> list[Priority]:
    """The streams and their group `workers`, which delivers what comes after `after`; existing ones are left. Those of
    which there was none."""
    calls = [("XGROUP CREATE", stream, GROUP, f"{after}-0", "MKSTREAM") for stream in keys.streams.values()]
    created = []
    for each, answer in zip(keys.streams, await commands(redis, calls), strict=True):
        if not isinstance(answer, Exception):
            created.append(each)
        elif not str(answer).startswith("BUSYGROUP"):
            raise answer
    return created


async def _tell_lost_groups(log: EventLog, lost: Sequence[Priority]) -> None:
    """A group was gone, and with it who had which wake-up in hand. Everything that its stream holds is delivered again:
    a wake-up that comes twice is harmless, one that never comes is not."""
    told = {"group": ", ".join(lost)}
    again = {"delivered_again": "from the first entry that the streams hold"}
    await log.append([NewEvent(SystemRecovery(old_epoch=log.epoch, new_epoch=log.epoch, lost=told, restored=again))])


async def _create(redis: "Redis", keys: Keys, token: str) -> bool:
    """Begins the log, unless it has begun; whether it did. Position and groups come before the epoch: without one
    nothing can be appended, so nobody can append to half a log."""
    if await command(redis, "GET", keys.epoch) is not None:
        return False
    await answers(redis, [("HSETNX", keys.position, name, "0") for name in ("position", "recorded_at")])
    await create_groups(redis, keys)
    await _set_once(redis, keys.epoch, token)
    return True


async def _set_once(redis: "Redis", key: str, value: str) -> str:
    kept: bytes | None = None
    while kept is None:  # whoever restores the log may take it away in between
        _, kept = await answers(redis, [("SET", key, value, "NX"), ("GET", key)])
    return kept.decode()
