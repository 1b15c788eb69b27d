"""How long the interim states of an order last."""

from msgspec import Struct

from domain.values import Duration

__all__ = ["Delays"]


class Delays(Struct, frozen=True, kw_only=True):
    """Each is the time spent in the state before the next one; 0: no time at all, the row is written all the same."""

    received: Duration = 0
    validating: Duration = 0
    open_pending: Duration = 0
    fill: Duration = 0
    """From OPEN until the market may fill it."""
    modifying: Duration = 0
    """In each of the two interim states of a change."""
    cancel_pending: Duration = 0

    @classmethod
    def of_each(cls, duration: Duration) -> "Delays":
        """The same for every state."""
        return cls(
            received=duration,
            validating=duration,
            open_pending=duration,
            fill=duration,
            modifying=duration,
            cancel_pending=duration,
        )
