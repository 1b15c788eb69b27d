"""Every table, as SQLAlchemy Core. The migrations make them; a test holds the two equal.

Three kinds: what only PostgreSQL knows (users, sessions, broker accounts, halts, idempotency keys) is here; what is
folded from the log and may be rebuilt is `projections.sql.tables`, the log's archive `eventstore.archive_tables`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
)

from eventstore.archive_tables import (
    Instant,
    checkpoint,
    epochs,
    events,
    metadata,
    seal_keys,
    seals,
    snapshot_points,
    snapshots,
)
from projections.sql.tables import order_logs, parked, strategies

__all__ = [
    "broker_accounts",
    "checkpoint",
    "epochs",
    "events",
    "halts",
    "idempotency_keys",
    "instrument_dumps",
    "instruments",
    "metadata",
    "order_logs",
    "parked",
    "seal_keys",
    "seals",
    "sessions",
    "snapshot_points",
    "snapshots",
    "strategies",
    "strategy_ids",
    "user_ids",
    "users",
]

user_ids = Sequence("user_ids", metadata=metadata)
strategy_ids = Sequence("strategy_ids", metadata=metadata)
"""Ids are given out before the event that creates the strategy is appended, so one that was never used leaves a gap."""


# --- what only PostgreSQL knows --------------------------------------------------------------------------------------

users = Table(
    "users",
    metadata,
    Column("id", BigInteger, user_ids, server_default=user_ids.next_value(), primary_key=True),
    Column("email", String(254), nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("role", String(16), nullable=False, server_default="trader"),
    Column("created_at", Instant, nullable=False, server_default=func.now()),
    CheckConstraint("email = lower(email)", name="email_lowercased"),
    CheckConstraint("role IN ('trader', 'auditor', 'operator')", name="role"),
)

sessions = Table(
    "sessions",
    metadata,
    # A refresh token is never stored, only its SHA-256: it is 256 random bits, so a fast hash is enough.
    Column("token_hash", LargeBinary, primary_key=True),
    # A login starts a family; every rotation adds a row to it. A rotated token that comes again revokes the family.
    Column("family", String(32), nullable=False, index=True),
    Column("user_id", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Instant, nullable=False, server_default=func.now()),
    Column("expires_at", Instant, nullable=False, index=True),
    Column("rotated_at", Instant),
    Column("revoked_at", Instant),
)

broker_accounts = Table(
    "broker_accounts",
    metadata,
    Column("user_id", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("broker", String(16), nullable=False),
    Column("broker_user_id", Text),
    # One sealed box with all credentials (`secret_box`); `key_id` repeats its header so that a rotation finds old ones.
    Column("secrets", LargeBinary, nullable=False),
    Column("key_id", String(32), nullable=False, index=True),
    Column("fingerprint", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("connected_at", Instant),
    Column("egress_proxy", Text),
    # When the session ends by itself; None for a broker whose sessions do not.
    Column("expires_at", Instant),
    CheckConstraint("status IN ('connected', 'expired')", name="status"),
    UniqueConstraint("broker", "broker_user_id"),
)

halts = Table(
    "halts",
    metadata,
    Column("user_id", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("square_off", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Instant, nullable=False, server_default=func.now()),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("user_id", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("key", String(255), nullable=False),
    # SHA-256 of the operation and the exact body: the same key with another request is refused.
    Column("digest", LargeBinary, nullable=False),
    # An id set aside for what the request creates, so that a repetition after a crash creates the same thing.
    Column("reserved_id", BigInteger),
    # None while the request is being carried out; whoever finds `locked_until` in the past may take over.
    Column("status", SmallInteger),
    Column("headers", LargeBinary),
    Column("body", LargeBinary),
    Column("locked_until", Instant),
    Column("created_at", Instant, nullable=False, server_default=func.now()),
    Column("expires_at", Instant, nullable=False, index=True),
    PrimaryKeyConstraint("user_id", "key"),
)

instruments = Table(
    "instruments",
    metadata,
    # EXCHANGE:TRADINGSYMBOL: what orders name. Rows are never deleted, so that what is gone can be told from a typo.
    Column("symbol", Text, primary_key=True),
    Column("exchange", String(24), nullable=False),
    # What ticks name. Unique among the listed ones of an exchange, and given away when an instrument is gone.
    Column("token", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("segment", String(24), nullable=False),
    Column("tick_size", Numeric, nullable=False),
    Column("lot_size", BigInteger, nullable=False),
    Column("expiry", Date),
    # Whether it is in the newest dump of its exchange; `downloaded_on` is the day of the last one that it was in.
    Column("listed", Boolean, nullable=False),
    Column("renamed_to", Text),
    Column("downloaded_on", Date, nullable=False),
    # The circuit limits of the day `quoted_on`, for those that somebody needed.
    Column("lower_circuit", Numeric),
    Column("upper_circuit", Numeric),
    Column("quoted_on", Date, index=True),
    Column("quoted_at", Instant),
    Index("ix_instruments_exchange_token", "exchange", "token"),
)

instrument_dumps = Table(
    "instrument_dumps",
    metadata,
    Column("exchange", String(24), primary_key=True),
    # Grows with every dump that is stored: whoever holds a copy in memory sees that it is out of date.
    Column("version", BigInteger, nullable=False),
    Column("downloaded_on", Date, nullable=False),
    Column("downloaded_at", Instant, nullable=False),
    Column("listed", Integer, nullable=False),
    Column("left_out", Integer, nullable=False),
)
