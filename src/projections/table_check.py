"""Whether the table `strategies` says of each strategy what the log makes of it.

The tables of orders and parked events are not compared here: that needs every order ever placed in memory, or a second
table; `bahi rebuild` does it.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.strategy import State
from projections.replay import Fault, Kind
from projections.sql.strategies import Strategy
from projections.sql.tables import strategies

__all__ = ["check_strategies"]

_PAGE = 500
_BY_EVENTS = ("created_at", "realised")
"""What a state does not tell."""


async def check_strategies(
    connection: AsyncConnection,
    partition: int,
    states: Mapping[int, State],
    *,
    reached: int,
    end: int,
    tell: Callable[[Fault], None],
) -> None:
    """`states` are those after position `end`; the table is at `reached` or later. What moved on meanwhile is not
    judged."""
    left = {each.id for each in states.values() if each.position_in_log <= reached}
    async for row in _rows(connection, partition):
        left.discard(row["id"])
        state = states.get(row["id"])
        if row["log_position"] > end or (state is not None and state.position_in_log > reached):
            continue
        if state is None:
            tell(_fault(row["id"], row["log_position"], "has a row in the table, and there is no event of it"))
            continue
        made = Strategy(state).row(partition)
        for name, value in made.items():
            if name not in _BY_EVENTS and row[name] != value:
                text = f".{name}: the log says {value}, the table {row[name]}"
                tell(_fault(state.id, state.position_in_log, text))
                break
    for strategy_id in sorted(left):
        tell(_fault(strategy_id, states[strategy_id].position_in_log, "is missing in the table"))


def _fault(strategy_id: int, position: int, text: str) -> Fault:
    gap = "" if text.startswith(".") else " "
    return Fault(position, strategy_id, Kind.TABLE, f"strategy {strategy_id}{gap}{text}")


async def _rows(connection: AsyncConnection, partition: int) -> AsyncIterator[Any]:
    after = -(2**63)
    while True:
        found = (
            select(strategies)
            .where(strategies.c.partition == partition, strategies.c.id > after)
            .order_by(strategies.c.id)
            .limit(_PAGE)
        )
        rows = (await connection.execute(found)).mappings().all()
        for row in rows:
            yield row
        if len(rows) < _PAGE:
            return
        after = rows[-1]["id"]
