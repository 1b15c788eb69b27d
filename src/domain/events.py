"""The event catalogue: every fact the log can hold, as one frozen Struct each, in the order of `events.md`.

On the wire an event is a msgpack map `{"type": NAME, "schema": VERSION, …}`. A class names its priority (the stream),
whether it takes a version of its strategy, and whether a worker is woken by it.
"""

import datetime as dt
from decimal import Decimal
from typing import Any, ClassVar, get_args

from msgspec import Struct

from domain.values import (
    Abort,
    Code,
    Config,
    Denial,
    Doubt,
    Duration,
    Exit,
    Final,
    Instant,
    Kind,
    Money,
    OrderRequest,
    Price,
    Priority,
    Product,
    Quantity,
    Refusal,
    Severity,
    Tag,
    Tick,
)

CRITICAL, HIGH, MEDIUM, LOW = Priority


class Event(Struct, frozen=True, kw_only=True, tag_field="type", gc=False):
    """The base of all events. `schema` counts the incompatible shapes this type has had."""

    schema: int = 1

    catalogue_id: ClassVar[str] = "+"
    stream: ClassVar[Priority] = MEDIUM
    versioned: ClassVar[bool] = True
    """Takes the next version of its strategy (when it has one)."""
    wakes: ClassVar[bool] = False
    """A worker looks at the strategy when it sees this."""

    @property
    def priority(self) -> Priority:
        return self.stream

    @property
    def type(self) -> str:
        return str(self.__struct_config__.tag)


# --- users ----------------------------------------------------------------------------------------------------------


class UserRegistered(Event, frozen=True, kw_only=True, tag="USER_REGISTERED"):
    catalogue_id: ClassVar[str] = "U1"


class UserLoggedIn(Event, frozen=True, kw_only=True, tag="USER_LOGGED_IN"):
    catalogue_id: ClassVar[str] = "U2"


class BrokerKeySubmitted(Event, frozen=True, kw_only=True, tag="BROKER_KEY_SUBMITTED"):
    catalogue_id: ClassVar[str] = "U3"
    broker: str
    fingerprint: str
    """First characters of a keyed hash of the API key: tells keys apart, reveals none."""


class StrategyCreated(Event, frozen=True, kw_only=True, tag="STRATEGY_CREATED"):
    catalogue_id: ClassVar[str] = "U4"
    config: Config


class StrategyUpdated(Event, frozen=True, kw_only=True, tag="STRATEGY_UPDATED"):
    """The changed fields; the others are None. `buy_at` and `sell_at` are the new instants of a run under way."""

    catalogue_id: ClassVar[str] = "U5"
    wakes: ClassVar[bool] = True
    stop_revision: int
    quantity: Quantity | None = None
    buy_time: dt.time | None = None
    sell_time: dt.time | None = None
    stop_loss: Price | None = None
    product: Product | None = None
    market_protection: Decimal | None = None
    buy_at: Instant | None = None
    sell_at: Instant | None = None


class StrategyStartRequested(Event, frozen=True, kw_only=True, tag="STRATEGY_START_REQUESTED"):
    catalogue_id: ClassVar[str] = "U6"
    wakes: ClassVar[bool] = True


class StrategyStopRequested(Event, frozen=True, kw_only=True, tag="STRATEGY_STOP_REQUESTED"):
    catalogue_id: ClassVar[str] = "U7"
    wakes: ClassVar[bool] = True
    square_off: bool = False
    reason: str = "USER"


class ForceStop(Event, frozen=True, kw_only=True, tag="FORCE_STOP"):
    stream: ClassVar[Priority] = CRITICAL
    wakes: ClassVar[bool] = True
    reason: str


class UserHalted(Event, frozen=True, kw_only=True, tag="USER_HALTED"):
    """The user's kill switch is on; it wakes every strategy of the user."""

    stream: ClassVar[Priority] = CRITICAL
    versioned: ClassVar[bool] = False
    wakes: ClassVar[bool] = True
    square_off: bool = False
    reason: str = "USER"


class UserResumed(Event, frozen=True, kw_only=True, tag="USER_RESUMED"):
    stream: ClassVar[Priority] = CRITICAL
    versioned: ClassVar[bool] = False
    wakes: ClassVar[bool] = True
    reason: str = "USER"


class StrategyStartRefused(Event, frozen=True, kw_only=True, tag="STRATEGY_START_REFUSED"):
    reason: Refusal
    facts: dict[str, str] = {}


# --- the life of a strategy -----------------------------------------------------------------------------------------


class StrategyStarted(Event, frozen=True, kw_only=True, tag="STRATEGY_STARTED"):
    """A run begins; it is named by this event's version."""

    catalogue_id: ClassVar[str] = "S1"
    session_date: dt.date
    open_at: Instant
    close_at: Instant
    buy_at: Instant
    sell_at: Instant
    config: Config
    """The config as armed."""


class StrategyReady(Event, frozen=True, kw_only=True, tag="STRATEGY_READY"):
    catalogue_id: ClassVar[str] = "S2"
    run: int


class StrategyRunning(Event, frozen=True, kw_only=True, tag="STRATEGY_RUNNING"):
    catalogue_id: ClassVar[str] = "S3"
    run: int


class StrategyStopped(Event, frozen=True, kw_only=True, tag="STRATEGY_STOPPED"):
    catalogue_id: ClassVar[str] = "S4"
    run: int
    reason: Exit
    at: Instant
    open_quantity: Quantity = 0


class StrategyExited(Event, frozen=True, kw_only=True, tag="STRATEGY_EXITED"):
    """`realised` is the profit or loss of what was bought and sold again, before charges."""

    catalogue_id: ClassVar[str] = "S5"
    run: int
    reason: Exit
    realised: Money


# --- time -----------------------------------------------------------------------------------------------------------


class BuyTriggered(Event, frozen=True, kw_only=True, tag="BUY_TRIGGERED"):
    catalogue_id: ClassVar[str] = "T1"
    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    run: int
    due_at: Instant


class SellTriggered(Event, frozen=True, kw_only=True, tag="SELL_TRIGGERED"):
    catalogue_id: ClassVar[str] = "T2"
    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    run: int
    due_at: Instant


class SchedulerResyncRequired(Event, frozen=True, kw_only=True, tag="SCHEDULER_RESYNC_REQUIRED"):
    catalogue_id: ClassVar[str] = "T3"


class TriggerMissed(Event, frozen=True, kw_only=True, tag="TRIGGER_MISSED"):
    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    run: int
    due_at: Instant
    lateness: Duration


# --- the market -----------------------------------------------------------------------------------------------------


class PriceTick(Event, frozen=True, kw_only=True, tag="PRICE_TICK"):
    """Market data: it goes to the capped stream `market:ticks`, never to the log."""

    catalogue_id: ClassVar[str] = "M1"
    versioned: ClassVar[bool] = False
    ticks: list[Tick]


class StoplossTriggered(Event, frozen=True, kw_only=True, tag="STOPLOSS_TRIGGERED"):
    catalogue_id: ClassVar[str] = "M2"
    stream: ClassVar[Priority] = CRITICAL
    wakes: ClassVar[bool] = True
    run: int
    stop_revision: int
    tick: Tick
    stop_loss: Price


class PriceStreamDisconnected(Event, frozen=True, kw_only=True, tag="PRICE_STREAM_DISCONNECTED"):
    catalogue_id: ClassVar[str] = "M3"
    stream: ClassVar[Priority] = LOW
    versioned: ClassVar[bool] = False
    silence: Duration
    reason: str


class PriceStreamRestored(Event, frozen=True, kw_only=True, tag="PRICE_STREAM_RESTORED"):
    catalogue_id: ClassVar[str] = "M4"
    stream: ClassVar[Priority] = LOW
    versioned: ClassVar[bool] = False
    gap: Duration


# --- orders ---------------------------------------------------------------------------------------------------------


class Intent(Event, frozen=True, kw_only=True, gc=True):
    """What EXECUTE_* have in common: the complete request, durable before the broker hears of it.

    `at` is when it was decided, `deadline` the last moment it may be sent, `attempt` counts from 1 per kind, `cause`
    names the event that woke the decider.
    """

    stream: ClassVar[Priority] = HIGH
    request: OrderRequest
    tag: Tag
    kind: Kind
    attempt: int
    at: Instant
    deadline: Instant
    cause: str


class ExecuteBuy(Intent, frozen=True, kw_only=True, tag="EXECUTE_BUY"):
    catalogue_id: ClassVar[str] = "E1"


class ExecuteSell(Intent, frozen=True, kw_only=True, tag="EXECUTE_SELL"):
    catalogue_id: ClassVar[str] = "E2"


class ExecuteStoploss(Intent, frozen=True, kw_only=True, tag="EXECUTE_STOPLOSS"):
    catalogue_id: ClassVar[str] = "E3"
    stream: ClassVar[Priority] = CRITICAL


class CancelRequested(Event, frozen=True, kw_only=True, tag="CANCEL_REQUESTED"):
    stream: ClassVar[Priority] = HIGH
    tag: Tag
    order_id: str
    why: str
    at: Instant
    deadline: Instant


class ModifyRequested(Event, frozen=True, kw_only=True, tag="MODIFY_REQUESTED"):
    stream: ClassVar[Priority] = HIGH
    tag: Tag
    order_id: str
    why: str
    price: Price
    at: Instant
    deadline: Instant


class CancelRejected(Event, frozen=True, kw_only=True, tag="CANCEL_REJECTED"):
    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    tag: Tag
    reason: str


class ModifyRejected(Event, frozen=True, kw_only=True, tag="MODIFY_REJECTED"):
    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    tag: Tag
    reason: str


class OrderRetryRequired(Event, frozen=True, kw_only=True, tag="ORDER_RETRY_REQUIRED"):
    """`attempt` is the number of the attempt that failed, `not_before` when the next may be decided."""

    catalogue_id: ClassVar[str] = "E4"
    stream: ClassVar[Priority] = HIGH
    tag: Tag
    kind: Kind
    attempt: int
    counted: bool
    """Whether the failed attempt counts (a 429 or a full limit does not)."""
    not_before: Instant
    reason: str
    last: bool = False
    """The next attempt is the last one."""

    @property
    def priority(self) -> Priority:
        return CRITICAL if self.last or self.kind is not Kind.BUY else HIGH


class OrderFinalized(Event, frozen=True, kw_only=True, tag="ORDER_FINALIZED"):
    catalogue_id: ClassVar[str] = "E5"
    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    tag: Tag
    final: Final
    filled: Quantity = 0
    average_price: Price | None = None


class OrderDenied(Event, frozen=True, kw_only=True, tag="ORDER_DENIED"):
    stream: ClassVar[Priority] = HIGH
    kind: Kind
    reason: Denial
    facts: dict[str, str] = {}
    tag: Tag | None = None


# --- the broker -----------------------------------------------------------------------------------------------------


class BrokerAuthSuccess(Event, frozen=True, kw_only=True, tag="BROKER_AUTH_SUCCESS"):
    catalogue_id: ClassVar[str] = "B1"
    broker: str
    broker_user_id: str


class BrokerAuthFailed(Event, frozen=True, kw_only=True, tag="BROKER_AUTH_FAILED"):
    catalogue_id: ClassVar[str] = "B2"
    broker: str
    reason: str


class OrderAccepted(Event, frozen=True, kw_only=True, tag="ORDER_ACCEPTED"):
    catalogue_id: ClassVar[str] = "B3"
    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    tag: Tag
    order_id: str


class OrderRejected(Event, frozen=True, kw_only=True, tag="ORDER_REJECTED"):
    """`curable`: whether asking again may help. `counted`: whether it uses up an attempt (a 429 does not)."""

    catalogue_id: ClassVar[str] = "B4"
    stream: ClassVar[Priority] = HIGH
    tag: Tag
    order_id: str | None = None
    reason: str
    curable: bool
    counted: bool = True
    text: str = ""


class OrderFilled(Event, frozen=True, kw_only=True, tag="ORDER_FILLED"):
    """`filled` is cumulative, so repeats and reordering are harmless."""

    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    tag: Tag
    order_id: str
    filled: Quantity
    average_price: Price


class OrderCancelled(Event, frozen=True, kw_only=True, tag="ORDER_CANCELLED"):
    stream: ClassVar[Priority] = HIGH
    tag: Tag
    order_id: str
    filled: Quantity


class OrderOutcomeUnknown(Event, frozen=True, kw_only=True, tag="ORDER_OUTCOME_UNKNOWN"):
    stream: ClassVar[Priority] = HIGH
    tag: Tag
    doubt: Doubt
    text: str = ""


class PositionSettled(Event, frozen=True, kw_only=True, tag="POSITION_SETTLED"):
    """`quantity` shares of this strategy were closed elsewhere; `how` says how that is known."""

    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    quantity: Quantity
    how: str


class UnknownOrderSeen(Event, frozen=True, kw_only=True, tag="UNKNOWN_ORDER_SEEN"):
    """An order at the broker that is not ours: reported, counted in the account's position, never adopted."""

    stream: ClassVar[Priority] = HIGH
    versioned: ClassVar[bool] = False
    account: str
    order_id: str
    symbol: str
    side: str
    quantity: Quantity
    filled: Quantity
    status: str
    tag: str | None = None


class PriceFeedConnected(Event, frozen=True, kw_only=True, tag="PRICE_FEED_CONNECTED"):
    catalogue_id: ClassVar[str] = "B5"
    stream: ClassVar[Priority] = LOW
    versioned: ClassVar[bool] = False
    feed: str
    symbols: int


class PriceFeedError(Event, frozen=True, kw_only=True, tag="PRICE_FEED_ERROR"):
    catalogue_id: ClassVar[str] = "B6"
    stream: ClassVar[Priority] = LOW
    versioned: ClassVar[bool] = False
    feed: str
    reason: str


# --- the system -----------------------------------------------------------------------------------------------------


class RuntimeStateLoaded(Event, frozen=True, kw_only=True, tag="RUNTIME_STATE_LOADED"):
    catalogue_id: ClassVar[str] = "X1"
    stream: ClassVar[Priority] = LOW
    versioned: ClassVar[bool] = False
    reached: int
    strategies: int
    took: Duration


class LockAcquired(Event, frozen=True, kw_only=True, tag="LOCK_ACQUIRED"):
    """The lock is the intent itself; this names it for the audit trail, in the intent's stream."""

    catalogue_id: ClassVar[str] = "X2"
    stream: ClassVar[Priority] = HIGH
    tag: Tag
    kind: Kind

    @property
    def priority(self) -> Priority:
        return CRITICAL if self.kind is Kind.STOPLOSS else HIGH


class LockConflict(Event, frozen=True, kw_only=True, tag="LOCK_CONFLICT"):
    catalogue_id: ClassVar[str] = "X3"
    stream: ClassVar[Priority] = LOW
    versioned: ClassVar[bool] = False
    woken_by: str
    held_by: str


class SystemRecovery(Event, frozen=True, kw_only=True, tag="SYSTEM_RECOVERY"):
    catalogue_id: ClassVar[str] = "X4"
    stream: ClassVar[Priority] = LOW
    versioned: ClassVar[bool] = False
    old_epoch: str
    new_epoch: str
    lost: dict[str, str] = {}
    restored: dict[str, str] = {}


class StrategyRecovered(Event, frozen=True, kw_only=True, tag="STRATEGY_RECOVERED"):
    """The end of the log was lost, and with it perhaps an order of this strategy. Nothing is placed until the order
    book was read after `settle_after` and RECOVERY_SETTLED says so, and no entry before `entries_after`."""

    stream: ClassVar[Priority] = HIGH
    epoch: str
    at: Instant
    settle_after: Instant
    entries_after: Instant


class RecoverySettled(Event, frozen=True, kw_only=True, tag="RECOVERY_SETTLED"):
    """The order book shows all that was lost of this strategy: it may act again."""

    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    at: Instant
    readings: int


class OrderRecovered(Event, frozen=True, kw_only=True, tag="ORDER_RECOVERED"):
    """An order of ours that the order book shows and the log does not: its intent was lost. It stands for the intent.

    `run` is 0 when the run was lost as well; `number` is the order's within its run.
    """

    stream: ClassVar[Priority] = HIGH
    wakes: ClassVar[bool] = True
    tag: Tag
    kind: Kind
    run: int
    number: int
    order_id: str
    symbol: str
    quantity: Quantity
    product: Product
    placed_at: Instant


class SafetyAbort(Event, frozen=True, kw_only=True, tag="SAFETY_ABORT"):
    catalogue_id: ClassVar[str] = "X5"
    stream: ClassVar[Priority] = CRITICAL
    wakes: ClassVar[bool] = True
    run: int
    reason: Abort
    facts: dict[str, str] = {}


class AuditRead(Event, frozen=True, kw_only=True, tag="AUDIT_READ"):
    """Somebody looked at the history of others: `by` is `api` (then the event's user is who) or `cli`."""

    stream: ClassVar[Priority] = LOW
    versioned: ClassVar[bool] = False
    by: str
    what: str
    """What was asked for, `events` or `state` for instance."""
    filters: dict[str, str] = {}


class EventParked(Event, frozen=True, kw_only=True, tag="EVENT_PARKED"):
    stream: ClassVar[Priority] = LOW
    versioned: ClassVar[bool] = False
    parked: str
    """The stream and the position of the parked entry, `critical/17`."""
    group: str
    error: str


class ParkedRetried(Event, frozen=True, kw_only=True, tag="PARKED_RETRIED"):
    stream: ClassVar[Priority] = LOW
    wakes: ClassVar[bool] = True
    versioned: ClassVar[bool] = False
    parked: str
    who: str
    why: str


class ParkedDismissed(Event, frozen=True, kw_only=True, tag="PARKED_DISMISSED"):
    stream: ClassVar[Priority] = LOW
    versioned: ClassVar[bool] = False
    parked: str
    who: str
    why: str


class AlertTriggered(Event, frozen=True, kw_only=True, tag="ALERT_TRIGGERED"):
    """An alert of a strategy takes its version, so that the next repetition can be timed from the state."""

    catalogue_id: ClassVar[str] = "L4"
    stream: ClassVar[Priority] = LOW
    severity: Severity
    code: Code
    at: Instant
    facts: dict[str, str] = {}


def _leaves(cls: type[Event]) -> list[type[Event]]:
    below = cls.__subclasses__()
    return [cls] if not below else [leaf for child in below for leaf in _leaves(child)]


EVENT_TYPES: dict[str, type[Event]] = {str(cls.__struct_config__.tag): cls for cls in _leaves(Event)}
"""Every event class by its name on the wire."""

AnyEvent: Any = __import__("typing").Union[tuple(EVENT_TYPES.values())]
"""The union that msgspec decodes into: dispatch is by `type`."""

assert set(get_args(AnyEvent)) == set(EVENT_TYPES.values())  # noqa: S101
