"""A quiet garbage collector: what is loaded at the start stays, so the collector need not look at it again and again.

Thousands of strategies are hundreds of thousands of objects; a full collection over them stops the process for tens of
milliseconds, in the middle of a stop-loss if it happens so.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

__all__ = ["load", "loading", "settle_memory", "settled_memory"]


def settle_memory() -> None:
    """Call it once everything is loaded, before the work begins."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@contextmanager
def settled_memory() -> Iterator[None]:
    """The same for a while: simulated lives take a sixth less of the processor's time."""
    before = gc.get_threshold()
    settle_memory()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def loading() -> Iterator[None]:
    """Modules are loaded meanwhile, and stay: they make hardly any garbage, but to look for it while they are loaded,
    once more right after it and again at the end takes a third of what a short command takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def load(module: str) -> ModuleType:
    """The module of that name, loaded in this way unless it is there already."""
    if module in sys.modules:
        return sys.modules[module]
    with loading():
        return import_module(module)
