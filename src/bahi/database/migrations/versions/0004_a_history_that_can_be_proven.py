"""A history that can be proven: months, epochs, seals, snapshots"""

import datetime as dt

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LATEST = int(dt.datetime(2200, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000


def upgrade() -> None:
    _partition_events()
    op.create_table(
        "epochs",
        sa.Column("partition", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.Column("log_id", sa.Text(), nullable=False),
        sa.Column("after_position", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("partition", "number", name=op.f("pk_epochs")),
        sa.UniqueConstraint("partition", "epoch", name=op.f("uq_epochs_partition_epoch")),
    )
    op.execute(
        "INSERT INTO epochs (partition, number, epoch, log_id, after_position, reason, began_at)"
        " SELECT partition, 1, epoch, log_id, 0, 'FIRST_START', created_at FROM log_identity"
    )
    op.drop_table("log_identity")
    op.create_table(
        "seals",
        sa.Column("partition", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_at", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("hints", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("partition", "number", name=op.f("pk_seals")),
        sa.UniqueConstraint("partition", "last", name=op.f("uq_seals_partition_last")),
    )
    op.create_table(
        "seal_keys",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("private_key", sa.LargeBinary(), nullable=True),
        sa.Column("endorsement", sa.LargeBinary(), nullable=True),
        sa.Column("acceptance", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_seal_keys")),
        sa.UniqueConstraint("id", name=op.f("uq_seal_keys_id")),
    )
    op.create_table(
        "snapshots",
        sa.Column("partition", sa.SmallInteger(), nullable=False),
        sa.Column("strategy_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "strategy_id", "position", name=op.f("pk_snapshots")),
    )
    op.create_index("ix_snapshots_partition_position", "snapshots", ["partition", "position"], unique=False)
    op.create_table(
        "snapshot_points",
        sa.Column("partition", sa.SmallInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("fold", sa.Text(), nullable=False),
        sa.Column("halts", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "position", name=op.f("pk_snapshot_points")),
    )


def _partition_events() -> None:
    """What is archived already becomes the first part, without moving a row."""
    found = sa.text("SELECT count(*), coalesce(max(recorded_at) FILTER (WHERE recorded_at < :latest), 0) FROM events")
    count, newest = op.get_bind().execute(found, {"latest": LATEST}).one()
    op.execute("ALTER TABLE events RENAME TO events_first")
    op.execute("ALTER TABLE events_first DROP CONSTRAINT pk_events")
    for index in ("recorded_at", "strategy_id_position", "user_id_position"):
        op.execute(f"ALTER INDEX ix_events_{index} RENAME TO ix_events_first_{index}")
    op.create_table(
        "events",
        sa.Column("partition", sa.SmallInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("stream", sa.String(length=8), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("strategy_id", sa.BigInteger(), nullable=True),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "position", "recorded_at", name=op.f("pk_events")),
        postgresql_partition_by="RANGE (recorded_at)",
    )
    op.create_index("ix_events_recorded_at", "events", ["recorded_at"], unique=False)
    for column in ("strategy_id", "user_id"):
        op.create_index(
            f"ix_events_{column}_position",
            "events",
            [column, "position"],
            unique=False,
            postgresql_where=sa.text(f"{column} IS NOT NULL"),
        )
    op.execute("CREATE TABLE events_other PARTITION OF events DEFAULT")
    if not count:
        op.execute("DROP TABLE events_first")
        return
    last = dt.datetime.fromtimestamp(max(newest, 0) // 1_000_000, dt.UTC)
    beyond = dt.datetime(last.year + last.month // 12, last.month % 12 + 1, 1, tzinfo=dt.UTC)
    end = int(beyond.timestamp()) * 1_000_000
    # times that no clock shows, of damaged entries
    op.execute(
        f"WITH beyond AS (DELETE FROM events_first WHERE recorded_at >= {end} RETURNING *)"  # noqa: S608
        " INSERT INTO events_other SELECT * FROM beyond"
    )
    op.execute(f"ALTER TABLE events ATTACH PARTITION events_first FOR VALUES FROM (MINVALUE) TO ({end})")


def downgrade() -> None:
    raise NotImplementedError("an archive of months is not folded back into one table: restore a backup")
