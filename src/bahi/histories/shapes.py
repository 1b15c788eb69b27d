"""Every shape of every event, constructed: what no recorded day can promise to hold.

Each type of the catalogue in the smallest form that today's schema allows, the fullest, and the fullest with each part
varied in turn. They are nobody's events: nothing is folded or decided, but every byte must be read for ever.
"""

from typing import Final

import msgspec

from bahi.schema.event import shape
from bahi.schema.samples import samples
from domain.events import EVENT_TYPES, Event, PriceTick
from domain.values import SECOND, Instant
from eventstore.envelope import NewEvent, Raw, encode

__all__ = ["construct"]

NOT_LOGGED: Final = frozenset({PriceTick})
"""Market data goes to a stream of its own and is no history."""
BEGINS: Final[Instant] = 1_781_494_200 * SECOND


def construct() -> list[Raw]:
    """The entries of the log."""
    raws: list[Raw] = []
    for cls in EVENT_TYPES.values():
        if cls in NOT_LOGGED:
            continue
        for sample in samples(shape(cls)):
            event: Event = msgspec.msgpack.decode(msgspec.msgpack.encode(sample), type=cls)
            position = len(raws) + 1
            envelope = encode(NewEvent(event), f"shapes-{position}", "shapes")
            raws.append(Raw(position, event.priority, 0, BEGINS + position * SECOND, envelope))
    return raws
