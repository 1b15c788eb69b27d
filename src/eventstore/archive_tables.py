"""The tables of the archive: the log's events for ever, and how far its followers have come.

`metadata` is the one catalogue of all tables of bahi, with its naming rules; `projections.sql.tables` and
`bahi.database.tables` add theirs to it, and the migrations make them.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)

__all__ = [
    "Instant",
    "checkpoint",
    "epochs",
    "events",
    "metadata",
    "seal_keys",
    "seals",
    "snapshot_points",
    "snapshots",
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
    PrimaryKeyConstraint("partition", "position", "recorded_at"),
    Index(
        "ix_events_strategy_id_position", "strategy_id", "position", postgresql_where=text("strategy_id IS NOT NULL")
    ),
    Index("ix_events_user_id_position", "user_id", "position", postgresql_where=text("user_id IS NOT NULL")),
    Index("ix_events_recorded_at", "recorded_at"),
    postgresql_partition_by="RANGE (recorded_at)",
)
# A part for every month (UTC), `events_y2026m11`, made by the archive's writer before the first event of the month;
# `events_other` takes what has no sane time. That a position is there once is held by the checkpoint, which moves in
# the same transaction.

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

epochs = Table(
    "epochs",
    metadata,
    # The incarnations of the log, `number` from 1. The newest is the one that may write: a foreign or emptied Redis is
    # recognised by it. `log_id` is in the order tags of that epoch.
    Column("partition", SmallInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("epoch", Text, nullable=False),
    Column("log_id", Text, nullable=False),
    # The last position before it: its first event has the next one.
    Column("after_position", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("began_at", Instant, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("partition", "number"),
    UniqueConstraint("partition", "epoch"),
)

seals = Table(
    "seals",
    metadata,
    # `eventstore.seals.Seal`, column for field.
    Column("partition", SmallInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("sealed_at", BigInteger, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    # Eight bytes of each leaf hash: they tell which entry was changed when the root does not hold. No evidence.
    Column("hints", LargeBinary),
    PrimaryKeyConstraint("partition", "number"),
    UniqueConstraint("partition", "last"),
)

seal_keys = Table(
    "seal_keys",
    metadata,
    # `number` from 1; the newest seals. The id is the first 16 hex digits of SHA-256 of the public key.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("public_key", LargeBinary, nullable=False),
    # The private key, sealed with BAHI_SECRET_KEYS; NULL once it was destroyed.
    Column("private_key", LargeBinary),
    # The key before vouches for this one, and this one for the key before (NULL for the first).
    Column("endorsement", LargeBinary),
    Column("acceptance", LargeBinary),
    Column("created_at", Instant, nullable=False, server_default=func.now()),
)

snapshots = Table(
    "snapshots",
    metadata,
    # The state of a strategy after its last event at or before `position`, for every strategy that changed since the
    # snapshot point before.
    Column("partition", SmallInteger, nullable=False),
    Column("strategy_id", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    PrimaryKeyConstraint("partition", "strategy_id", "position"),
    Index("ix_snapshots_partition_position", "partition", "position"),
)

snapshot_points = Table(
    "snapshot_points",
    metadata,
    # The positions for which `snapshots` tells every state.
    Column("partition", SmallInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    # A digest of the program that folded: another program's snapshots are worth nothing.
    Column("fold", Text, nullable=False),
    # The users whose kill switch was on.
    Column("halts", LargeBinary, nullable=False),
    # SHA-256 over every state, by strategy: one that is missing or altered is noticed.
    Column("digest", LargeBinary, nullable=False),
    PrimaryKeyConstraint("partition", "position"),
)
