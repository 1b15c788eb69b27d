"""One core for those who only ever wait for each other: an answer then wakes nobody on another core, which takes longer
than most answers do. Simulated lives take a fifth less time on one core than on two."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["on_one_core"]


@contextmanager
def on_one_core() -> Iterator[int | None]:
    """This thread, and whatever it starts meanwhile, keeps to a core to which no other of these keeps: the number of
    it. None, and nothing changes, when all are taken, and on systems that do not let it be chosen."""
    if sys.platform != "linux":
        yield None
        return
    before = os.sched_getaffinity(0)
    for core in sorted(before):
        with socket.socket(socket.AF_UNIX) as mark:
            try:
                mark.bind(f"\0bahi on core {core}")  # gone with the process, however that ends
            except OSError:
                continue
            os.sched_setaffinity(0, {core})
            try:
                yield core
            finally:
                os.sched_setaffinity(0, before)
            return
    yield None
