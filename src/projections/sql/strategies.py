"""`strategies`: one row per strategy, as its last event left it."""

import copy
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import Event, StrategyExited, StrategyStarted
from domain.strategy import State, initial
from domain.values import Instant
from eventstore.envelope import Recorded
from projections.replay import apply_recorded
from projections.sql.tables import as_json, moment, storable, strategies

__all__ = ["Strategy", "write_strategies"]


class Strategy(Struct):
    """A strategy's state, and what its row says besides: when it was created, what its last run realised."""

    state: State
    created_at: Instant = 0
    realised: Decimal | None = None

    @classmethod
    def new(cls, strategy_id: int, user_id: int) -> "Strategy":
        return cls(initial(strategy_id, user_id))

    def copy(self) -> "Strategy":
        """Another one, which may be changed."""
        return Strategy(copy.copy(self.state), self.created_at, self.realised)

    def fold(self, it: Recorded) -> None:
        """Take one event of the strategy."""
        apply_recorded(self.state, it.version, it.recorded_at, it.position, it.event)
        self.created_at = self.created_at or it.recorded_at
        self.realise(it.event)

    def realise(self, event: Event) -> None:
        """A run that ends tells what it realised; one that begins has realised nothing."""
        if isinstance(event, StrategyExited):
            self.realised = event.realised
        elif isinstance(event, StrategyStarted):
            self.realised = None

    def skip(self, version: int, recorded_at: Instant, position: int) -> None:
        """Something that cannot be folded took a version of the strategy."""
        self.state.version, self.state.updated_at, self.state.position_in_log = version, recorded_at, position
        self.created_at = self.created_at or recorded_at

    def row(self, partition: int) -> dict[str, Any]:
        state = self.state
        return {
            "id": state.id,
            "user_id": state.user_id,
            "partition": partition,
            "symbol": storable(state.symbol) or "",
            "quantity": state.quantity,
            "buy_time": state.buy_time,
            "sell_time": state.sell_time,
            "stop_loss": state.stop_loss,
            "product": str(state.product),
            "market_protection": state.market_protection,
            "status": str(state.status),
            "position": str(state.position),
            "run": state.run,
            "session_date": state.session_date,
            "buy_at": moment(state.buy_at),
            "sell_at": moment(state.sell_at),
            "open_quantity": state.open_quantity,
            "exit_reason": None if state.exit_reason is None else str(state.exit_reason),
            "realised": self.realised,
            "version": state.version,
            "log_position": state.position_in_log,
            "created_at": moment(self.created_at or 1),
            "updated_at": moment(state.updated_at or 1),
        }


_columns = [column.name for column in strategies.columns if column.name != "id"]
_upsert = text(
    "INSERT INTO strategies SELECT * FROM json_populate_recordset(NULL::strategies, CAST(:rows AS json))"  # noqa: S608
    " ON CONFLICT (id) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _columns)
)


async def write_strategies(connection: AsyncConnection, partition: int, changed: Sequence[Strategy]) -> None:
    """Each one's row becomes what it is now."""
    if changed:
        await connection.execute(_upsert, {"rows": as_json([each.row(partition) for each in changed])})
