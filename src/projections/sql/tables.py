"""The tables of the SQL projections."""

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    Index,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
)

from eventstore.archive_tables import Instant, metadata

__all__ = ["as_json", "moment", "order_logs", "parked", "storable", "strategies"]

Exact = Numeric()
"""As many digits as there are: an average price may lie off the tick grid."""

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


def moment(at: int) -> dt.datetime | None:
    """An instant as these tables have it; 0 stands for none."""
    return _EPOCH + dt.timedelta(microseconds=at) if at else None


def as_json(rows: list[dict[str, Any]]) -> str:
    """Rows as the argument of json_populate_recordset, exactly: a Decimal is a string there. One statement writes
    them all, which costs a tenth of a statement for each."""
    return msgspec.json.encode(rows).decode()


def storable(text: str | None) -> str | None:
    """Text without the one character that PostgreSQL refuses; None for none."""
    return text.replace("\0", "\ufffd") if text else None


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
