"""A Redis that is killed under processes that live on, and these processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bahi.roles.process import report_restart
from bahi.servers.redis import EmbeddedRedis
from eventstore.log import EventLog
from eventstore.witness import Witness, bear_witness


def kill(server: EmbeddedRedis, cut: int = 0) -> None:
    """As a power cut, which leaves all but the last bytes of the file; then it is started again."""
    server.kill()
    # Redis 7 keeps its increments in a folder
    (file,) = [*server.folder.glob("appendonlydir/*.incr.aof"), *server.folder.glob("appendonly.aof")][-1:]
    with file.open("r+b") as aof:
        aof.truncate(max(0, file.stat().st_size - cut))
    server.start()


def size(server: EmbeddedRedis) -> int:
    return [*server.folder.glob("appendonlydir/*.incr.aof"), *server.folder.glob("appendonly.aof")][-1].stat().st_size


@asynccontextmanager
async def on(log: EventLog, name: str, *others: Witness) -> AsyncIterator[Witness]:
    """A process of this name that has joined the log while these others looked at it; it does not leave it."""
    witness = Witness(log, name)
    looking = [asyncio.create_task(bear_witness(each, report_restart)) for each in others]
    try:
        await witness.join()
        for each in looking:
            each.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
        for other in others:
            await other.look()
        yield witness
    finally:
        await witness.aclose()
