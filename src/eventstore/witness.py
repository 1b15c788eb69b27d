"""A process as one of those on a log: it tells what it knows of it, and hears whether that is what all of them know.

A Redis that lost the end of its file and lives on would show a shorter log to processes that know more of it and to
such that know less. So nobody acts on a restarted server before every process that had joined has found there all
that it knew; if one does not answer, it may have known more, and then nobody goes on with what is left.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from eventstore.clients import sibling
from eventstore.errors import LogLost, LogUnavailable
from eventstore.log import EventLog
from eventstore.patience import TIMER
from eventstore.script import Script

__all__ = ["PATIENCE", "Witness", "bear_witness"]

PATIENCE: Final = 3.0
"""Seconds that the members of a log wait for each other after a restart of its server."""
LOOK_EVERY: Final = 0.5
"""Seconds between two looks on an ordinary day."""
_SOON: Final = 0.05
_BEAT_MS: Final = 10_000
_GONE_MS: Final = 45_000
_script = Script("witness")


class Witness:
    """One process on one log. `name` is the same after it died and was started again, and nobody else's."""

    def __init__(self, log: EventLog, name: str) -> None:
        self.log = log
        self.name = name
        self.vouched = False
        """Whether the server was restarted, and this process was the last to find the log whole; who reports that takes
        it back."""
        self._redis = sibling(log.redis, redis_connect_func=None)
        self._timer = TIMER.get()
        self._token = secrets.token_hex(8)
        self._life = log.guard.run_id
        self._round = 0
        self._unaware = 0
        self._waiting = ("", 0.0)
        """In which life of the server, and since when."""

    async def join(self) -> None:
        """From now on nobody acts on a restarted server without the word of this process; the others know of it when
        this returns, so that its joining cannot be lost without notice. Its connections are guarded from now on.

        Raises LogLost when the server was restarted since the log was opened; LogUnavailable.
        """
        self._judge(await self._say("join"))
        until = self._timer.now() + PATIENCE  # whoever has not heard of it by then is dead or hangs
        pause = _SOON
        while self._unaware and self._timer.now() < until:
            await self._timer.sleep(pause)
            await self.look()
            pause = min(2 * pause, LOOK_EVERY)

    async def look(self) -> bool:
        """Whether the log is whole, by the word of every member; False while some have yet to look after a restart.

        Raises LogLost, also when somebody else knows of more than there is; LogUnavailable.
        """
        life, since = self._waiting
        impatient = bool(life) and self._timer.now() - since > PATIENCE
        return self._judge(await self._say("doubt" if impatient else "look"))

    async def leave(self) -> None:
        """In good order: what this process knew is in the log. Raises LogUnavailable."""
        await self._say("leave")

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def _say(self, what: str) -> Any:
        keys = self.log.keys
        return await _script(
            self._redis,
            [keys.epoch, keys.position, keys.server, keys.doubted, keys.members],
            *(what, self.name, self._token, self.log.epoch, self.log.seen, self._life, self._round),
            *(_BEAT_MS, _GONE_MS),
        )

    def _judge(self, answer: Any) -> bool:
        match answer:
            case [b"Lost", epoch]:
                raise LogLost(f"the epoch was {self.log.epoch} and is {epoch.decode() if epoch else 'gone'}")
            case [b"Doubted", b"shorter", seen, at]:
                raise LogLost(f"the log ended at {seen} or later and now ends at {at.decode()}")
            case [b"Doubted", *why]:
                raise LogLost(f"Redis was restarted: {b' '.join(why).decode()}")
            case [b"Waiting", run_id, *_]:
                if self._waiting[0] != run_id.decode():
                    self._waiting = (run_id.decode(), self._timer.now())
                return False
            case [b"Whole" | b"Vouched" as word, position, run_id, number, unaware]:
                self.log.seen = max(self.log.seen, position)
                self._life, self._round, self._unaware = run_id.decode(), number, unaware
                self._waiting = ("", 0.0)
                self.vouched = self.vouched or word == b"Vouched"
                self.log.guard.admit_only(self._life)
                return True
        raise TypeError(f"witness.lua answered {answer!r}")


async def bear_witness(
    witness: Witness,
    report: Callable[[EventLog], Awaitable[None]],
    trouble: Callable[[LogUnavailable], None] = lambda _: None,
) -> None:
    """Until cancelled. `report` is called once after each restart that was survived, by one of the processes; it may
    raise LogUnavailable, and is called again then. Raises LogLost.

    When it ends, for whatever reason, what still waits for a restarted server has lost its log."""
    try:
        await _look_for_ever(witness, report, trouble)
    finally:
        witness.log.guard.give_up()


async def _look_for_ever(
    witness: Witness, report: Callable[[EventLog], Awaitable[None]], trouble: Callable[[LogUnavailable], None]
) -> None:
    while True:
        try:
            calm = await witness.look()
            if calm and witness.vouched:
                await report(witness.log)
                witness.vouched = False
        except LogUnavailable as error:
            trouble(error)
            calm = False
        if not calm:
            await asyncio.sleep(_SOON)
            continue
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY):
                await witness.log.guard.refused.wait()
