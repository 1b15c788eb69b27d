"""The desk: what every handler works with, and how it looks at a strategy."""

from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct, field

from brokers.port import Brokers, Instruments
from domain.calendar import Calendar
from domain.clock import Clock
from domain.decide import Decision, decide_next
from domain.facts import Facts, Halt, Policy
from domain.strategy import State
from domain.values import Product, Quantity
from eventstore.loading import Loaded
from eventstore.log import EventLog
from handlers.waits import Waits
from projections.prices import decode_price
from projections.runtime import CorruptState, decode_state

DecideNext = Callable[[State, Facts], Decision]


class Desk(Struct, frozen=True, kw_only=True):
    """One partition's log with the ports around it."""

    log: EventLog
    clock: Clock
    calendar: Calendar
    policy: Policy
    instruments: Instruments
    brokers: Brokers
    known: dict[int, tuple[int, str]] = {}
    """Owner and symbol of strategies seen, so that everything comes in one round trip; neither ever changes."""
    waits: Waits = field(default_factory=Waits)
    decide: DecideNext = decide_next
    """What a wake-up asks: the rules, unless a test of other rules brings its own."""
    look_again: Callable[[], Awaitable[None]] | None = None
    """Brings `instruments` up to date: processes learn of a new list some seconds apart."""

    async def look(self, strategy_id: int, cause: str = "") -> tuple[State, Facts]:
        """The strategy and the world, as of one moment. Raises LogUnavailable, CorruptState, NoStrategy."""
        if strategy_id not in self.known:
            await self._meet(strategy_id)
        user_id, symbol = self.known[strategy_id]
        loaded = await self._load(strategy_id, user_id, symbol)
        state = decode_state(strategy_id, loaded.strategy, loaded.runtime)
        price = decode_price(loaded.price)
        instrument = self.instruments.find(state.symbol)
        if instrument is None and self.look_again is not None and not (state.open_quantity or state.unresolved):
            await self.look_again()  # with shares at stake nobody waits: an exit needs nothing of the list
            instrument = self.instruments.find(state.symbol)
        return state, Facts(
            now=self.clock.now(),
            log_id=self.log.log_id,
            calendar=self.calendar,
            policy=self.policy,
            price=None if price is None else price[0],
            price_at=0 if price is None else price[1],
            connected=await self.brokers.of(user_id) is not None,
            halt=decode_halt(loaded.halt),
            instrument=instrument,
            foreign=decode_foreign(loaded.foreign, state.symbol, state.product),
            cause=cause,
        )

    async def _meet(self, strategy_id: int) -> None:
        loaded = await self._load(strategy_id)
        if not loaded.strategy:
            raise NoStrategy(f"strategy {strategy_id} is not in this log")
        state = decode_state(strategy_id, loaded.strategy, loaded.runtime)
        self.known[strategy_id] = (state.user_id, state.symbol)

    async def _load(self, strategy_id: int, user_id: int | None = None, symbol: str | None = None) -> Loaded:
        try:
            return await self.log.load(strategy_id, user_id=user_id, symbol=symbol)
        except UnicodeDecodeError as error:
            raise CorruptState(f"strategy {strategy_id}: {error}") from error


class NoStrategy(LookupError):
    """There is no such strategy in this partition of the log."""


def decode_halt(latch: bytes | None) -> Halt | None:
    """The latch as the append script keeps it. One that cannot be read halts: gates fail closed."""
    if latch is None:
        return None
    try:
        return msgspec.json.decode(latch, type=Halt)
    except ValueError:
        return Halt(reason="the latch cannot be read")


def decode_foreign(value: bytes | None, symbol: str, product: Product) -> Quantity:
    """The net quantity of one holding; 0 when nothing is known of it."""
    if value is None:
        return 0
    try:
        return msgspec.json.decode(value, type=dict[str, int]).get(f"{symbol}|{product}", 0)
    except msgspec.MsgspecError:
        return 0
