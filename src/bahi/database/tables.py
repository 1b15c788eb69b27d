"""Every table, as SQLAlchemy Core. The migrations make them; a test holds the two equal.

Three kinds: what only PostgreSQL knows (users, sessions, broker accounts, halts, idempotency keys), what is folded from
the log and may be rebuilt (strategies, order_logs), and the log's own archive (events, with its checkpoint).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    func,
    text,
)

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

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Instant = DateTime(timezone=True)
Exact = Numeric()
"""As many digits as there are: an average price may lie off the tick grid."""

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
    CheckConstraint("status IN ('connected', 'expired')", name="status"),
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


# --- folded from the log: may be dropped and rebuilt -----------------------------------------------------------------

strategies = Table(
    "strategies",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", BigInteger, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("buy_time", Time, nullable=False),
    Column("sell_time", Time, nullable=False),
    Column("stop_loss", Exact, nullable=False),
    Column("product", String(8), nullable=False),
    Column("market_protection", Exact, nullable=False),
    Column("status", String(16), nullable=False),
    Column("position", String(16), nullable=False),
    Column("run", BigInteger, nullable=False, server_default="0"),
    Column("session_date", Date),
    Column("buy_at", Instant),
    Column("sell_at", Instant),
    Column("open_quantity", BigInteger, nullable=False, server_default="0"),
    Column("exit_reason", String(16)),
    Column("realised", Exact),
    # The strategy's version and the log's position of the last event folded into this row.
    Column("version", BigInteger, nullable=False),
    Column("log_position", BigInteger, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Index("ix_strategies_user_id_id", "user_id", "id"),
)

order_logs = Table(
    "order_logs",
    metadata,
    # One row per order, from intent to end.
    Column("tag", String(20), primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("strategy_id", BigInteger, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("run", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("side", String(4), nullable=False),
    Column("symbol", Text, nullable=False),
    Column("product", String(8), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("filled", BigInteger, nullable=False, server_default="0"),
    Column("average_price", Exact),
    Column("order_id", Text),
    Column("status", String(16), nullable=False),
    Column("reason", Text),
    Column("attempt", Integer, nullable=False),
    # The event that woke the decider.
    Column("cause", Text, nullable=False),
    # Where the order's story lies in the log.
    Column("intent_position", BigInteger, nullable=False),
    Column("outcome_position", BigInteger),
    Column("final_position", BigInteger),
    Column("requested_at", Instant, nullable=False),
    Column("answered_at", Instant),
    Column("finalized_at", Instant),
    Index("ix_order_logs_strategy_id_intent_position", "strategy_id", "intent_position"),
    Index("ix_order_logs_user_id_intent_position", "user_id", "intent_position"),
    Index("ix_order_logs_order_id", "order_id"),
)


# --- the archive of the log ------------------------------------------------------------------------------------------

events = Table(
    "events",
    metadata,
    Column("partition", SmallInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("stream", String(8), nullable=False),
    # The strategy's version; 0 for an event that takes none.
    Column("version", BigInteger, nullable=False),
    # Microseconds since 1970, exactly as in the log; never runs backwards within a partition.
    Column("recorded_at", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("strategy_id", BigInteger),
    Column("user_id", BigInteger),
    # The envelope's bytes as they were in the stream: replay and seals read these, the other columns only find them.
    Column("envelope", LargeBinary, nullable=False),
    PrimaryKeyConstraint("partition", "position"),
    Index(
        "ix_events_strategy_id_position", "strategy_id", "position", postgresql_where=text("strategy_id IS NOT NULL")
    ),
    Index("ix_events_user_id_position", "user_id", "position", postgresql_where=text("user_id IS NOT NULL")),
    Index("ix_events_recorded_at", "recorded_at"),
)
# Monthly partitioning, later and without moving a row: within a partition `recorded_at` and `position` rise together,
# so a month is a range of positions too. Give this table a CHECK on its range of recorded_at and a unique index on
# (partition, position, recorded_at), rename it, create `events` anew PARTITION BY RANGE (recorded_at) with that key,
# and ATTACH the old table as its first part. Readers and the archive's writer name `events` and its columns only, so
# they do not change.

checkpoint = Table(
    "checkpoint",
    metadata,
    # How far a follower has come. Written in the transaction that wrote what it stands for.
    Column("name", Text, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("updated_at", Instant, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("name", "partition"),
)

log_identity = Table(
    "log_identity",
    metadata,
    # Which incarnation of the log this archive belongs to: a foreign or emptied Redis is recognised by it.
    Column("partition", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", Text, nullable=False),
    Column("log_id", Text, nullable=False),
    Column("created_at", Instant, nullable=False, server_default=func.now()),
)

parked = Table(
    "parked",
    metadata,
    Column("partition", SmallInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("stream", String(8), nullable=False),
    Column("group", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("who", Text),
    Column("why", Text),
    Column("parked_at", Instant, nullable=False),
    Column("settled_at", Instant),
    PrimaryKeyConstraint("partition", "position", "group"),
    CheckConstraint("state IN ('parked', 'retried', 'dismissed')", name="state"),
)
