"""The desk: what every handler works with, and how it looks at a strategy."""

import msgspec
from msgspec import Struct

from brokers.port import Brokers, Instruments
from domain.calendar import Calendar
from domain.clock import Clock
from domain.facts import Facts, Halt, Policy
from domain.strategy import State
from eventstore.log import EventLog
from handlers.limits import Limits
from projections.prices import decode_price
from projections.runtime import decode_state


class Desk(Struct, frozen=True, kw_only=True):
    """One partition's log with the ports around it."""

    log: EventLog
    clock: Clock
    calendar: Calendar
    policy: Policy
    instruments: Instruments
    brokers: Brokers
    limits: Limits | None = None
    """The broker's limits on orders per account; None when it has none."""
    symbols: dict[int, str] = {}
    """Symbols of strategies seen, so that state and price come in one round trip; a strategy's symbol never changes."""

    async def look(self, strategy_id: int, user_id: int, cause: str = "") -> tuple[State, Facts]:
        """The strategy and the world, as of one moment. Raises LogUnavailable, CorruptState."""
        symbol = self.symbols.get(strategy_id)
        loaded = await self.log.load(strategy_id, user_id=user_id, symbol=symbol)
        state = decode_state(strategy_id, loaded.strategy, loaded.runtime)
        if symbol is None and state.symbol:
            self.symbols[strategy_id] = state.symbol
            return await self.look(strategy_id, user_id, cause)
        price = decode_price(loaded.price)
        return state, Facts(
            now=self.clock.now(),
            log_id=self.log.log_id,
            calendar=self.calendar,
            policy=self.policy,
            price=None if price is None else price[0],
            price_at=0 if price is None else price[1],
            connected=await self.brokers.of(user_id) is not None,
            halt=decode_halt(loaded.halt),
            instrument=self.instruments.find(state.symbol),
            cause=cause,
        )


def decode_halt(latch: bytes | None) -> Halt | None:
    """The latch as the append script keeps it. One that cannot be read halts: gates fail closed."""
    if latch is None:
        return None
    try:
        return msgspec.json.decode(latch, type=Halt)
    except ValueError:
        return Halt(reason="the latch cannot be read")
