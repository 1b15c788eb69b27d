"""Is the log whole after its server was restarted?

A Redis that was killed comes back on its file. Whether the end of the file was torn off cannot be told from the file,
only by who was there: processes that saw the log before and after vouch for it, all of them (`eventstore.witness`). If
none is left, or one does not answer, the end is taken for lost, and the order books are asked (`projections.recovery`).
"""

from redis.asyncio import Redis

from eventstore.clients import answers, command
from eventstore.guard import fact, run_id_in
from eventstore.keys import Keys
from eventstore.patience import TIMER
from eventstore.witness import PATIENCE

__all__ = ["is_vouched_for", "stopping_in_good_order", "vouch_for"]

_LOOK_EVERY = 0.1
_DECIDED = 1.0
"""Seconds after which whoever looks has looked; and, once they have, that they need to agree or to give up."""


async def is_vouched_for(redis: "Redis", keys: Keys, info: bytes, member: str = "") -> bool:
    """Whether the log is known to be whole on this server; a log that was never opened, or whose server was stopped in
    good order, is. Its members are given the time to say so, from the start of the server on. `info` is what INFO told
    of the server a moment ago; `member` the name of whoever asks, whose namesake has died. Raises LogUnavailable."""
    run_id = run_id_in(info).encode()
    timer = TIMER.get()
    waited = min(timer.uptime(float(fact(info, "uptime_in_seconds"))), PATIENCE - _DECIDED)
    looks: list[tuple[str | bytes, ...]] = [("GET", keys.doubted), ("GET", keys.server), ("HGETALL", keys.members)]
    asked = [("SET", keys.server, run_id, "NX"), *looks]
    while True:
        doubted, server, fields = (await answers(redis, asked))[-len(looks) :]
        asked = looks  # `info` grows old: what it says is written down at once or not at all
        if doubted == run_id:
            return False
        if server == run_id:
            return True
        words = {name.decode(): word.split(b"|") for name, word in zip(fields[::2], fields[1::2], strict=True)}
        others = [word for name, word in words.items() if name not in ("#", member)]
        looking = any(run_id in word for word in others)
        if not others or waited > PATIENCE + _DECIDED or (waited >= PATIENCE and not looking):
            return False
        await timer.sleep(_LOOK_EVERY)
        waited += _LOOK_EVERY


async def vouch_for(redis: "Redis", keys: Keys) -> None:
    """The log is whole on this server: nothing of it was lost, or what was lost is accounted for."""
    await command(redis, "SET", keys.server, run_id_in(await command(redis, "INFO", "server")))


async def stopping_in_good_order(redis: "Redis", keys: Keys) -> None:
    """The server is about to be stopped by whoever started it, and nothing is amiss: the next start finds all of it."""
    await command(redis, "DEL", keys.server)
