"""What may be found: the rules by their names, and one breach of one of them."""

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Finding", "Rule"]


class Rule(StrEnum):
    """In brackets the invariant of architecture §4.2 that it is part of."""

    LINE = "line"
    """A line of the history is not an exported event, or lacks what its type must carry."""
    UNREADABLE = "unreadable"
    """An entry whose bytes nobody can read."""
    ROW = "row"
    """A row of the book is no order or no trade."""
    BOOK = "book"
    """The book contradicts itself: an order's filled quantity is not the sum of its trades."""

    POSITION = "position"
    """Positions are gapless, each one once, in order (8)."""
    VERSION = "version"
    """Versions are gapless per strategy (8)."""
    EVENT_ID = "event-id"
    """No event id twice (8)."""
    CAUSE = "cause"
    """A cause stands before its effect (8)."""
    TIME = "time"
    """The recorded time never runs backwards."""
    OWNER = "owner"
    """All events of a strategy are its user's (10)."""

    LIFE = "life"
    """A run begins when none is alive, and ends once."""
    TAG = "tag"
    """A tag is well formed, and says the strategy and the run that it was made for."""
    TAG_TWICE = "tag-twice"
    """No two intents have the same tag (9)."""
    LOCK = "lock"
    """An intent is appended together with its lock."""
    CONFIG = "config"
    """An intent asks for what the strategy was told: symbol, side, and of an entry the quantity and the product."""
    UNTRIGGERED = "untriggered"
    """An entry needs its trigger, a stop-loss exit the tick that reached the stop."""
    UNRESOLVED = "unresolved"
    """At most one order of a strategy is unresolved, surfaced ones aside (1)."""
    SECOND_BUY = "second-buy"
    """At most one entry per run, unless the earlier one is known not to exist (3)."""
    SELLS_TOO_MUCH = "sells-too-much"
    """No exit is asked for of more than is held (2)."""
    AFTER_EXIT = "after-exit"
    """Once an exit filled the whole quantity, no other order of the run is placed (5)."""
    AFTER_STOP = "after-stop"
    """After the run's end only what surfaced is sold, or what a square-off was asked for (6)."""
    HALTED = "halted"
    """No entry while the user is halted."""
    UNASKED = "unasked"
    """What is told of an order concerns one that was asked for (9)."""
    FINAL_TWICE = "final-twice"
    """An order ends once, unless it surfaced (9)."""
    RUN_OPEN = "run-open"
    """At the end no run is alive."""
    NOT_FINAL = "not-final"
    """At the end every intent is finalized (9)."""

    NO_INTENT = "no-intent"
    """Every order at the broker was asked for (9)."""
    TOO_EARLY = "too-early"
    """No order is at the broker before its intent (9)."""
    ASKED = "asked"
    """An order at the broker is what its intent asked for: symbol, side, quantity, product (9)."""
    ACCOUNT = "account"
    """An order is in the account of its strategy's user (10)."""
    PLACED_TWICE = "placed-twice"
    """No two orders at the broker have the same tag (9)."""
    TWO_BUYS = "two-buys"
    """No two entries of a run that the broker did not reject (3)."""
    OVERSOLD = "oversold"
    """At no trade more is sold than was bought, but by an order that surfaced (2)."""
    NO_ALERT = "no-alert"
    """Where such an order sold too much, a critical alert says so (2)."""
    NOT_IN_BOOK = "not-in-book"
    """What the history says was accepted or filled is in the book."""
    ORDER_ID = "order-id"
    """The history has the broker's id of the order."""
    FILLS = "fills"
    """The fills told are the book's trades: quantity and average price."""
    FINAL = "final"
    """The end told is the one that the book shows."""
    REALISED = "realised"
    """The profit or loss told is what the trades give."""
    STOP = "stop"
    """What is held while the market trades at or under its stop is exited (4)."""


class Finding(NamedTuple):
    """One breach: of which rule, with the facts, and where in the history or in the book."""

    rule: Rule
    what: str
    position: int | None = None
    order_id: str | None = None
    partition: int = 0

    def __str__(self) -> str:
        where = [f"partition {self.partition}"] if self.partition else []
        where += [] if self.position is None else [f"position {self.position}"]
        where += [] if self.order_id is None else [f"order {self.order_id}"]
        return f"{', '.join(where) or 'somewhere'}: {self.rule}: {self.what}"


def in_order(findings: list[Finding]) -> list[Finding]:
    """By partition and position; what has none comes after, by order id."""
    return sorted(
        findings,
        key=lambda one: (
            one.position is None,
            one.partition,
            one.position or 0,
            len(one.order_id or ""),
            one.order_id or "",
            one.rule.value,
            one.what,
        ),
    )
