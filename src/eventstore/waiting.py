"""Waiting for whichever comes first: a hint, a stop, or time."""

import asyncio
from collections.abc import Awaitable

__all__ = ["either"]


async def either(*waits: Awaitable[object]) -> None:
    """Until the first is over; the others are given up."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
