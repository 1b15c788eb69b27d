"""Whoever reads the history of others at the command line is in the history, too: as the user of this machine.

It is recorded before anything is read, as well as that can be done: a log that is damaged, behind its archive or away
must stay readable, so then it is said on standard error, and the reading goes on.
"""

import getpass
import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.markup import escape

from bahi.cli.common import err

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from sqlalchemy.ext.asyncio import AsyncEngine

    from bahi.cli.reader import Reader
    from eventstore.keys import Keys

__all__ = ["reading", "record_read"]


async def reading(reader: "Reader", what: str, filters: Mapping[str, object | None], *, partition: int = 0) -> None:
    """As `record_read`, in the installation of the reader."""
    engine = reader.database if reader.database_url is not None else None
    await record_read(reader.redis, engine, what, filters, partition=partition)


async def record_read(
    redis: "Redis | None",
    engine: "AsyncEngine | None",
    what: str,
    filters: Mapping[str, object | None],
    *,
    partition: int = 0,
) -> None:
    """AUDIT_READ by whoever runs this command, with the filters that were given."""
    from redis.exceptions import RedisError

    from eventstore.archive import OUTAGES
    from eventstore.errors import LogError

    given = {name: str(value) for name, value in filters.items() if value not in (None, "", ())}
    try:
        why = await _record(redis, engine, what, partition, given | {"os_user": _who()})
    except (LogError, RedisError, *OUTAGES) as error:
        why = str(error).splitlines()[0]
    if why:
        err.print(f"[bold yellow]bahi:[/] this reading could not be recorded: {escape(why)}", soft_wrap=True)


async def _record(
    redis: "Redis | None", engine: "AsyncEngine | None", what: str, partition: int, filters: dict[str, str]
) -> str:
    """Why it was not recorded; empty when it was. Raises what an outage raises, LogError."""
    from bahi.clock import SystemClock
    from domain.events import AuditRead
    from eventstore.batch import Appended
    from eventstore.clients import command
    from eventstore.envelope import Ids, NewEvent
    from eventstore.keys import PARTITIONS, Keys
    from eventstore.log import EventLog
    from projections.runtime import DEFAULTS

    if redis is None:
        return "Redis does not answer"
    partitions = int(await command(redis, "GET", PARTITIONS) or 0)
    if not partitions:
        return "there is no log in Redis"
    keys = Keys(partition, hashtag=partitions > 1)
    if not (epoch := await _trusted_epoch(redis, engine, keys)):
        return "the log is lost, or being restored"
    ids = Ids(f"cli{secrets.token_hex(3)}")
    log = EventLog(redis, keys=keys, clock=SystemClock(), ids=ids, epoch=epoch, defaults=DEFAULTS)
    try:
        result = await log.append([NewEvent(AuditRead(by="cli", what=what, filters=filters))])
    finally:
        await log.aclose()
    return "" if isinstance(result, Appended) else f"the log did not take it: {result}"


async def _trusted_epoch(redis: "Redis", engine: "AsyncEngine | None", keys: "Keys") -> str:
    """The epoch that may be appended to; empty if there is none. Raises LogError for a log that lacks what its archive
    has: what is appended to it would take the place of what was lost."""
    from eventstore.archive import PostgresArchive
    from eventstore.epochs import held, judge

    here = await held(redis, keys)
    if engine is not None:
        judge(here, *await PostgresArchive(engine, keys.partition).identity())
    return here.lineage[-1].epoch if here.lineage else ""


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number
        return f"uid {os.getuid()}"
