"""Several streams of hints as one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

__all__ = ["merged"]


async def merged(*streams: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    """What any of them brings, as it comes. Ends with the last of them; what one of them raises ends it at once."""
    arrived: asyncio.Queue[str | BaseException | None] = asyncio.Queue(1)

    async def carry(stream: AsyncIterator[str]) -> None:
        try:
            async for hint in stream:
                await arrived.put(hint)
        except Exception as error:
            await arrived.put(error)
        else:
            await arrived.put(None)

    carriers = [asyncio.create_task(carry(stream), name="hints") for stream in streams]
    try:
        going = len(carriers)
        while going:
            item = await arrived.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                going -= 1
            else:
                yield item
    finally:
        for carrier in carriers:
            carrier.cancel()
        await asyncio.gather(*carriers, return_exceptions=True)
        for stream in streams:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
