"""A process that dies before its n-th call to Redis, of one command or of several."""

from typing import Any

import pytest

from eventstore import clients

__all__ = ["Died", "die_before"]


class Died(BaseException):
    """As kill -9: nothing of the process catches it."""


def die_before(patch: pytest.MonkeyPatch, number: int) -> None:
    """After `number` calls, every further one is the death of whoever makes it, until the patch is undone."""
    calls, lend = 0, clients._lend

    async def dying(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > number:
            raise Died
        return await lend(*args)

    patch.setattr(clients, "_lend", dying)
