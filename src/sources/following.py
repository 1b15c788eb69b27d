"""A follower that is closed when its reader ends, so that its connection does not outlive it."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

__all__ = ["following"]

T = TypeVar("T")


@asynccontextmanager
async def following(follower: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """`async with following(log.follow()) as events: async for recorded in events`."""
    try:
        yield follower
    finally:
        if isinstance(follower, AsyncGenerator):
            await follower.aclose()
