"""A Lua script of this package: called by its hash, sent again when the server has forgotten it."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from eventstore.clients import Argument, command, commands
from eventstore.errors import outages

__all__ = ["Script"]


class Script:
    """`Script("append")` is `append.lua`."""

    def __init__(self, name: str) -> None:
        self.text = (files("eventstore") / f"{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()

    async def __call__(self, redis: "Redis", keys: Sequence[str], *args: Argument) -> Any:
        """Its answer. Raises LogUnavailable: whether it ran is then unknown."""
        try:
            return await command(redis, *self._call(keys, args))
        except NoScriptError:
            await self.load(redis)
            return await command(redis, *self._call(keys, args))

    async def many(
        self, redis: "Redis", calls: Sequence[tuple[Sequence[str], Sequence[str | bytes | int]]]
    ) -> list[Any]:
        """The answers of several calls, sent in one go and run in their order. Raises LogUnavailable."""
        requests = [self._call(keys, args) for keys, args in calls]
        answers = await commands(redis, requests)
        if forgotten := [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]:
            await self.load(redis)
            again = await commands(redis, [requests[i] for i in forgotten])
            for i, answer in zip(forgotten, again, strict=True):
                answers[i] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                with outages():
                    raise answer
        return answers

    async def load(self, redis: "Redis") -> None:
        await command(redis, "SCRIPT LOAD", self.text)

    def _call(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)
