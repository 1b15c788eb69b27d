"""Words for what happened before: several of the others as one."""

from bahi.testing.story.orders import accepted, completed, filled, finalized, intended
from bahi.testing.story.runs import buy_triggered, decided, sell_triggered, stoploss_triggered
from bahi.testing.story.scene import Scene, Word
from domain.values import Final, Kind


def told(*words: Word) -> Word:
    """Several words as one."""

    def word(scene: Scene) -> None:
        for one in words:
            one(scene)

    return word


def bought(qty: int = 10, filled: int | None = None, resting: int = 0, price: str = "100") -> Word:
    """The entry was sent at its time; `filled` of it traded, `resting` is still at the broker."""
    done = qty - resting if filled is None else filled
    words: list[Word] = [buy_triggered, intended(Kind.BUY, qty), accepted()]
    if done:
        words.append(_fill(done, price))
    if not resting:
        words.append(finalized(Final.COMPLETE if done == qty else Final.CANCELLED, done))
    return told(*words)


def _fill(qty: int, price: str) -> Word:
    return filled(qty, price)


def exiting(kind: Kind = Kind.SELL, filled: int = 0, qty: int | None = None) -> Word:
    """An exit is due and live at the broker."""
    trigger = stoploss_triggered() if kind is Kind.STOPLOSS else sell_triggered
    words: list[Word] = [trigger, intended(kind, qty), accepted()]
    if filled:
        words.append(_fill(filled, "99"))
    return told(*words)


def exited(kind: Kind = Kind.SELL, price: str = "101") -> Word:
    """The exit filled wholly, and the run has stopped."""
    return told(exiting(kind), completed(price), decided)
