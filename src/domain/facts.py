"""What a decision may look at besides the state: the world as it was when it was asked, and the house rules."""

import datetime as dt
from decimal import Decimal
from typing import Protocol

from msgspec import Struct

from domain.calendar import Calendar
from domain.values import MINUTE, SECOND, Duration, Instant, Money, Price, Quantity


class Policy(Struct, frozen=True, kw_only=True):
    """The house rules: how long to wait for what, and what not to do."""

    send_deadline: Duration = 2 * SECOND
    """From the intent to the last moment it may be sent."""
    request_timeout: Duration = 7 * SECOND
    """How long a call to the broker may take."""
    skew: Duration = SECOND
    """How far the clocks of two workers may lie apart."""
    entry_patience: Duration = 10 * SECOND
    exit_patience: Duration = 3 * SECOND
    max_changes: int = 25
    """Kite: 25 modifications of one order, then cancel and place again."""
    max_attempts: int = 3
    retry_backoff: Duration = SECOND
    """Before the second attempt; doubled for each further one."""
    limit_backoff: Duration = SECOND
    """After what does not count as an attempt: a 429, a full limit, a broker that cannot be reached."""
    patient_backoff: Duration = MINUTE
    """After a refusal that does not count either, and that seconds do not cure: the broker's limit of the day."""
    refusals_quiet: Duration = 10 * SECOND
    """How long an exit may be refused without counting before it is alerted."""
    session_grace: Duration = 2 * SECOND
    """After an exit was refused for want of a session, before it is said that there is none: the user may just have
    logged in again, and what is known of sessions is a second old."""
    buy_late_limit: Duration = 30 * SECOND
    price_max_age: Duration = 60 * SECOND
    session_patience: Duration = 5 * SECOND
    """How often shares that wait for the user to connect the broker again are looked at, or tried to be sold."""
    square_off_patience: Duration = 30 * SECOND
    """How often shares that no run minds any more, of a square-off or surfaced, are tried to be sold while the broker
    refuses them: the user may put in margin any moment. Longer the more orders the run has had."""
    alert_repeat: Duration = 5 * MINUTE
    mis_cutoff: dt.time = dt.time(15, 15)
    max_notional: Money = Decimal(10_000_000)
    chase_step: Decimal = Decimal("0.01")
    """How far beyond the last price a resting exit is re-priced, as a fraction."""
    quarantine_ambiguous: Duration = 120 * SECOND
    quarantine_dead_sender: Duration = 10 * SECOND
    sufficient_readings: int = 3
    """Successful readings of the book that an absence needs."""


class Rules(Protocol):
    """An instrument's trading rules; `brokers.port.Instrument` is one."""

    @property
    def lot(self) -> Quantity: ...
    @property
    def tick_size(self) -> Decimal: ...
    @property
    def freeze(self) -> Quantity: ...
    @property
    def lower_circuit(self) -> Price | None: ...
    @property
    def upper_circuit(self) -> Price | None: ...


class Halt(Struct, frozen=True):
    """The user's kill switch is on."""

    square_off: bool = False
    reason: str = "USER"


class Facts(Struct, frozen=True, kw_only=True):
    """The world at `now`. `halt` is the latch, `foreign` the net fills in the account that are not ours."""

    now: Instant
    log_id: str
    calendar: Calendar
    policy: Policy = Policy()
    price: Price | None = None
    price_at: Instant = 0
    connected: bool = True
    halt: Halt | None = None
    instrument: Rules | None = None
    foreign: Quantity = 0
    day_spent: bool = False
    """The account may not ask for this order today: the broker's limit of the day is used up."""
    cause: str = ""
    """The event id of the wake-up."""
