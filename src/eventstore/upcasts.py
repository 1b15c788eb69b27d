"""Old events are read for ever: how an event of an earlier schema becomes one of today.

When the shape of an event changes incompatibly, its class gets the next `schema` as its default, and here goes the
step that makes the one from the other, on the plain map of the wire. A step may also change `type`: then the steps of
the new type go on from there.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["UPCASTS", "Upcast", "Upcasts", "upcast"]

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
Upcasts = dict[str, dict[int, Upcast]]

UPCASTS: Upcasts = {}
"""`type → {schema: the step from that schema to the next}`."""


def upcast(event: dict[str, Any], upcasts: Upcasts) -> dict[str, Any]:
    """The event after every step that applies, one schema at a time."""
    while (step := upcasts.get(str(event.get("type")), {}).get(event.get("schema", 1))) is not None:
        before = (event["type"], event.get("schema", 1))
        event = step(dict(event))
        if (event["type"], event.get("schema", 1)) == before:
            event["schema"] = before[1] + 1
    return event
