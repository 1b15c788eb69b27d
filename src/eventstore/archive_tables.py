"""The tables of the archive: the log's events for ever, and how far its followers have come.

`metadata` is the one catalogue of all tables of bahi, with its naming rules; `projections.sql.tables` and
`bahi.database.tables` add theirs to it, and the migrations make them.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    func,
    text,
)

__all__ = ["Instant", "checkpoint", "events", "log_identity", "metadata"]

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
