"""Every table, as SQLAlchemy Core. The migrations make them; a test holds the two equal.

Three kinds: what only PostgreSQL knows (users, sessions, broker accounts, halts, idempotency keys) is here; what is
folded from the log and may be rebuilt is `projections.sql.tables`, the log's archive `eventstore.archive_tables`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    LargeBinary,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
)

from eventstore.archive_tables import Instant, checkpoint, events, log_identity, metadata
from projections.sql.tables import order_logs, parked, strategies

__all__ = [
    "broker_accounts",
    "checkpoint",
    "events",
    "halts",
    "idempotency_keys",
    "log_identity",
    "metadata",
    "order_logs",
    "parked",
    "sessions",
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
