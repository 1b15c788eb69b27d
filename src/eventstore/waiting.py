"""Waiting for whichever comes first: a hint, a stop, or time; and standing back for others."""

import asyncio
from collections.abc import Awaitable

__all__ = ["either", "others_first"]


async def others_first() -> None:
    """Whatever is ready goes first: for a reader that has just made work for others, and would ask for more."""
    await asyncio.sleep(0)


async def either(*waits: Awaitable[object]) -> None:
    """Until the first is over; the others are given up."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
