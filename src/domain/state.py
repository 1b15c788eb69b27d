"""What bahi knows of a strategy: its config, the current or last run, its orders. Folded by `domain.strategy`."""

import datetime as dt
from decimal import Decimal

from msgspec import Struct, field

from domain.values import (
    ALIVE,
    ZERO,
    Config,
    Doubt,
    Exit,
    Final,
    Holding,
    Instant,
    Kind,
    Money,
    Phase,
    Price,
    Product,
    Quantity,
    Status,
    Tag,
)

FREE = "free"
UNREACHABLE = "BROKER_UNREACHABLE"
"""The reason code of an order that was certainly not sent: no connection to the broker could be had."""


class Order(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One order, from its intent to its end. `filled` is cumulative; `limit` the price we last changed it to."""

    tag: Tag
    kind: Kind
    run: int
    quantity: Quantity
    attempt: int
    at: Instant
    deadline: Instant
    product: Product = Product.MIS
    phase: Phase = Phase.SENDING
    order_id: str | None = None
    filled: Quantity = 0
    average_price: Price = ZERO
    final: Final | None = None
    reason: str = ""
    curable: bool = True
    counted: bool = True
    denied: bool = False
    """We did not send it (past its deadline, halted): nobody refused it, so rule 8 does not follow up."""
    followed_up: bool = False
    doubt: Doubt | None = None
    limit: Price | None = None
    limit_before: Price | None = None
    """What `limit` was before the last change was asked for."""
    refused: Price | None = None
    """The price of the last change that was refused."""
    changes: int = 0
    changed_at: Instant = 0
    modify_until: Instant = 0
    cancel_until: Instant = 0
    cancel_asked: bool = False
    cancels: int = 0
    """How often a cancel was asked for."""
    surfaced: bool = False
    """It was given up, and then showed up."""

    @property
    def resolved(self) -> bool:
        return self.phase is Phase.FINAL

    @property
    def given_up(self) -> bool:
        """It was taken for one that does not exist: absent from the book, not sent, or refused before it had an id.
        Should it be there all the same, it has surfaced."""
        refused = self.final is Final.REJECTED and self.order_id is None
        return self.resolved and (self.final is Final.NOT_PLACED or refused)

    @property
    def remaining(self) -> Quantity:
        return self.quantity - self.filled


class Tries(Struct, frozen=True, omit_defaults=True, gc=False):
    """How often a kind of order was tried since its last fill, and when it may be tried again."""

    attempts: int = 0
    not_before: Instant = 0
    since: Instant = 0
    """When the first of them was decided that was refused and does not count; 0: none was."""


class State(Struct, kw_only=True):
    """Everything bahi knows of a strategy: its config, the current (or last) run and its orders.

    The fields above `start_requested` live in `strategy:{id}` and stay; those below live in `runtime:{id}`.
    """

    id: int = 0
    user_id: int = 0
    version: int = 0
    symbol: str = ""
    quantity: Quantity = 0
    buy_time: dt.time = dt.time(0)
    sell_time: dt.time = dt.time(0)
    product: Product = Product.MIS
    market_protection: Decimal = Decimal(-1)
    stop_revision: int = 0
    past: dict[Tag, Order] = field(default_factory=dict)
    """The earlier orders of the day, across runs, by tag: one that surfaces or fills late is recognised here."""

    stop_loss: Price = ZERO
    status: Status = Status.CREATED
    position: Holding = Holding.NONE
    start_requested: bool = False
    run: int = 0
    session_date: dt.date | None = None
    open_at: Instant = 0
    close_at: Instant = 0
    buy_at: Instant = 0
    sell_at: Instant = 0
    ready: bool = False
    buy_due: bool = False
    sell_due: bool = False
    stop_due: bool = False
    stop_price: Price | None = None
    """The price of the tick that made the stop due."""
    buy_missed: bool = False
    stop_requested: bool = False
    square_off: bool = False
    stop_reason: str = ""
    abort_due: bool = False
    abort_reason: str = ""
    entered: bool = False
    """A BUY of this run exists or may exist."""
    entry_spent: bool = False
    entry_denied: str = ""
    orders: int = 0
    """Intents of this run so far: the next order's number."""
    order: Order | None = None
    """The current or last order."""
    lock_state: str = FREE
    """The tag of the unresolved order, or `free`."""
    tries: dict[Kind, Tries] = field(default_factory=dict)
    bought: Quantity = 0
    sold: Quantity = 0
    settled: Quantity = 0
    open_quantity: Quantity = 0
    """bought − sold − settled; below zero is over-sold."""
    surfaced: Quantity = 0
    """Shares from fills of earlier runs, or after the end: to be sold again. Below zero is over-sold."""
    buy_value: Money = ZERO
    sell_value: Money = ZERO
    last_exit: Kind | None = None
    exit_reason: Exit | None = None
    last_action: str = ""
    last_price: Price | None = None
    last_buy_order: str = ""
    last_sell_order: str = ""
    last_sl_order: str = ""
    alerted: dict[str, Instant] = field(default_factory=dict)
    """When each alert code was last raised, for its repetition."""
    terminated_at: Instant = 0
    settle_after: Instant = 0
    """Above 0 the end of the log was lost: nothing is placed until the book, read after this, shows what was lost."""
    entries_after: Instant = 0
    """No entry before this: one that was lost might still surface."""
    updated_at: Instant = 0
    """recorded_at of the last event of the strategy (set by whoever folds recorded events)."""
    position_in_log: int = 0

    @property
    def alive(self) -> bool:
        return self.status in ALIVE

    @property
    def unresolved(self) -> bool:
        return self.order is not None and not self.order.resolved

    @property
    def lingering(self) -> tuple[Order, ...]:
        """The past orders that live at the broker: they surfaced after they were given up, and are being cancelled."""
        return tuple(order for order in self.past.values() if order.phase is Phase.LIVE)

    @property
    def config(self) -> Config:
        return Config(
            symbol=self.symbol,
            quantity=self.quantity,
            buy_time=self.buy_time,
            sell_time=self.sell_time,
            stop_loss=self.stop_loss,
            product=self.product,
            market_protection=self.market_protection,
        )

    def tried(self, kind: Kind) -> Tries:
        return self.tries.get(kind, Tries())

    def find(self, tag: Tag) -> Order | None:
        """The order of this tag, current or past."""
        if self.order is not None and self.order.tag == tag:
            return self.order
        return self.past.get(tag)
