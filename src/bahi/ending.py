"""The end of a command that somebody else wants to end."""

import multiprocessing
import signal
from contextlib import suppress
from typing import Final

__all__ = ["HEARS", "end_children", "end_in_order"]

HEARS: Final = 10.0
"""Seconds after which a process that was told to end, and has not, is told again: Python loses an exception that is
raised while it destroys something."""


def end_in_order() -> None:
    """From now on SIGTERM and SIGHUP do as Ctrl-C does: servers and processes that were started are stopped. The exit
    code is 128 and the number of the signal. A signal that is ignored, or minded otherwise, is left alone."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        with suppress(ValueError):  # not in the main thread
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _end)


def end_children() -> None:
    """Ends what `multiprocessing` has started here; returns when nothing of it runs."""
    while alive := multiprocessing.active_children():
        for each in alive:
            each.terminate()
        for each in alive:
            each.join(HEARS)


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)
