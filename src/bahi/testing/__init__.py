"""For tests of your own: words that tell a strategy's story, Hypothesis strategies, and the engine as a state machine.

| for | use |
|---|---|
| a decision | `given(started, bought(qty=10)).when(stoploss_triggered()).then(execute_stoploss(10))` |
| a fold or a codec | `events`, `near_events`, `envelopes`: anything that the wire carries |
| a projection | `logs` and `reordered`: the log of several strategies, and the same in another order |
| a decision, in any state | `histories`, `scenes`, `states`: what valid histories reach |
| a handler that follows the log | `EngineMachine`, on the real engine and a real Redis |

The words are in `bahi.testing.story`. All but them need Hypothesis (`pip install 'bahi[testing]'`), which is imported
when the first of them is used. Nothing of the product imports this package.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bahi.testing.story import Scene, Story, given

if TYPE_CHECKING:
    from bahi.testing.histories import histories, logs, reordered, scenes, states
    from bahi.testing.machine import EngineMachine, fuzz
    from bahi.testing.strategies import (
        configs,
        envelopes,
        events,
        facts,
        instants,
        interleavings,
        near_events,
        prices,
        tags,
        ticks,
        values,
    )
    from bahi.testing.telling import tell
    from bahi.testing.world import World

__all__ = [
    "EngineMachine",
    "Scene",
    "Story",
    "World",
    "configs",
    "envelopes",
    "events",
    "facts",
    "fuzz",
    "given",
    "histories",
    "instants",
    "interleavings",
    "logs",
    "near_events",
    "prices",
    "reordered",
    "scenes",
    "states",
    "tags",
    "tell",
    "ticks",
    "values",
]

_MODULES = {
    "histories": ("histories", "logs", "reordered", "scenes", "states"),
    "machine": ("EngineMachine", "fuzz"),
    "strategies": (
        *("configs", "envelopes", "events", "facts", "instants", "interleavings", "near_events", "prices", "tags"),
        *("ticks", "values"),
    ),
    "telling": ("tell",),
    "world": ("World",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Loads what is named, and with it what it needs. Raises ImportError with what to install."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "hypothesis":
            raise
        raise ImportError(
            f"bahi.testing.{name} needs Hypothesis, which is not installed: pip install 'bahi[testing]'"
        ) from error
    return getattr(module, name)
