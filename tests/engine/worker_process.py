"""A worker as a process of its own, to be killed: `python worker_process.py REDIS_URL BOOK CONSUMER`."""

import asyncio
import signal
import sys
from pathlib import Path

from brokers.paper.book import Book
from handlers.worker import Worker
from tests.engine.live import desk_of, open_live


async def main(redis_url: str, book: str, consumer: str) -> None:
    log = await open_live(redis_url)
    worker = Worker(desk_of(log, Book(Path(book))), consumer=consumer)
    stopping: list[asyncio.Task[None]] = []
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, lambda: stopping.append(asyncio.create_task(worker.stop()))
    )
    print("working", flush=True)
    await worker.run()
    await log.aclose()
    print("drained", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
