"""Is the log whole after its server was restarted?

A Redis that was killed comes back on its file. Whether the end of the file was torn off cannot be told from the file,
only by who was there: a process that saw the log before and after, and finds it no shorter, vouches for it. If nobody
can, the next start takes the end for lost, and asks the order books (`projections.recovery`).
"""

import asyncio

from redis.asyncio import Redis

from eventstore.clients import command, commands
from eventstore.keys import Keys, alive
from eventstore.log import EventLog

__all__ = ["doubt", "is_vouched_for", "run_id_of", "stopping_in_good_order", "vouch", "vouch_for"]

PATIENCE = 1.5
"""Seconds that a start waits for whoever else is alive to vouch; they look every second."""
_LOOK_EVERY = 0.1
_WITNESSES = ("archive", "worker", "scheduler", "market", "updates")


async def run_id_of(redis: "Redis") -> str:
    """The server's name for its present life. Raises LogUnavailable."""
    info: bytes = await command(redis, "INFO", "server")
    return next(line.partition(b":")[2].strip().decode() for line in info.splitlines() if line.startswith(b"run_id:"))


async def is_vouched_for(redis: "Redis", keys: Keys) -> bool:
    """Whether the log is known to be whole on this server; a log that was never opened, or whose server was stopped in
    good order, is. While others are alive they are given a moment to say so. Raises LogUnavailable."""
    run_id = await run_id_of(redis)
    await command(redis, "SET", keys.server, run_id, "NX")
    beats = await _beats(redis)
    waited = 0.0
    while (await command(redis, "GET", keys.server)) != run_id.encode():
        if await command(redis, "GET", keys.doubted) == run_id.encode():
            return False
        if waited >= PATIENCE or (not any(beats) and await _beats(redis) == beats):
            return False
        await asyncio.sleep(_LOOK_EVERY)
        waited += _LOOK_EVERY
    return True


async def vouch_for(redis: "Redis", keys: Keys) -> None:
    """The log is whole on this server: nothing of it was lost, or what was lost is accounted for."""
    await command(redis, "SET", keys.server, await run_id_of(redis))


async def stopping_in_good_order(redis: "Redis", keys: Keys) -> None:
    """The server is about to be stopped by whoever started it, and nothing is amiss: the next start finds all of it."""
    await command(redis, "DEL", keys.server)


async def vouch(log: EventLog) -> bool:
    """Whether the server was restarted and this process has vouched for the log. Raises LogUnavailable."""
    run_id = await run_id_of(log.redis)
    calls = [
        *(("GET", log.keys.server), ("GET", log.keys.doubted), ("GET", log.keys.epoch)),
        ("HGET", log.keys.position, "position"),
    ]
    answers = await commands(log.redis, calls)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    known, doubted, epoch, position = answers
    if run_id.encode() in (known, doubted) or epoch is None or epoch != log.epoch.encode() or position is None:
        return False
    if not log.seen or int(position) < log.seen:
        return False
    await command(log.redis, "SET", log.keys.server, run_id)
    return True


async def doubt(log: EventLog) -> None:
    """This process knows of events that are gone: nobody who knows less is to vouch for what is left. Raises
    LogUnavailable."""
    await command(log.redis, "SET", log.keys.doubted, await run_id_of(log.redis))


async def _beats(redis: "Redis") -> list[bytes | None]:
    answers: list[bytes | None] = await command(redis, "MGET", *(alive(role) for role in _WITNESSES))
    return answers
