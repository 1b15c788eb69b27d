"""What becomes of orders once they were taken: interim states, triggers, fills, changes, cancels, lapses.

Nothing runs in the background. Every future change of an order is a step with its instant; `settle` carries out the due
ones in the order of their instants, so the result does not depend on when somebody looked. Prices come by `ticks`.
A fill is made at the market's last price, never outside the order's limit, and only while the market trades.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import StrEnum
from itertools import count
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from domain.calendar import Calendar, Session, UnknownYear
from domain.values import ZERO, Duration, Instant, Price, Quantity, Side, Tick
from simulation.kite.accounts import Account
from simulation.kite.delays import Delays
from simulation.kite.faults import Fault, Play
from simulation.kite.orders import Changes, OrderStatus, OrderType, SimOrder, SimTrade, Validity
from simulation.kite.protection import book_protected

__all__ = ["Exchange", "Listener"]

UNDOCUMENTED_STATUS = "EXCHANGE GATEWAY QUEUED"


class Listener(Protocol):
    """Whom the exchange tells."""

    def on_change(self, account: Account, order: SimOrder, row: dict[str, Any]) -> None:
        """An order traded, was modified, cancelled, rejected or triggered; `row` is what the book shows."""
        ...

    def on_due(self) -> None:
        """Something new will happen at an instant ahead."""
        ...


class Step(StrEnum):
    """What happens to an order at an instant that is already known."""

    ENTER = "enter"
    VALIDATE = "validate"
    PEND = "pend"
    OPEN = "open"
    MATCH = "match"
    RELEASE = "release"
    REJECT = "reject"
    MODIFY_PEND = "modify_pend"
    MODIFY_DONE = "modify_done"
    CANCEL = "cancel"
    EXCHANGE_CANCEL = "exchange_cancel"
    FILL = "fill"
    LAPSE = "lapse"


class _Due(Struct, frozen=True, order=True):
    at: Instant
    number: int
    step: Step
    # Not compared: the number is unique.
    order: SimOrder
    account: Account
    changes: Changes | None = None


class Exchange:
    """The market and all accounts' orders in it. Instants are the clock's; `stamped` turns them into the server's."""

    def __init__(
        self,
        *,
        calendar: Calendar,
        delays: Delays,
        listener: Listener,
        fired: Counter[Fault],
        stamped: Callable[[Instant], Instant],
    ) -> None:
        self.last: dict[str, Tick] = {}
        self._calendar = calendar
        self._delays = delays
        self._listener = listener
        self._fired = fired
        self._stamped = stamped
        self._heap: list[_Due] = []
        self._number = count()
        self._trade_number = count(1)
        self._exchange_number = count(1)
        self._resting: dict[str, dict[str, tuple[SimOrder, Account]]] = {}
        self._session: Session | None = None

    def _last_price(self, symbol: str) -> Price | None:
        tick = self.last.get(symbol)
        return None if tick is None else tick.price

    # --- time

    def next_due(self) -> Instant | None:
        while self._heap and self._heap[0].order.is_terminal:
            heapq.heappop(self._heap)
        return self._heap[0].at if self._heap else None

    def settle(self, now: Instant) -> None:
        """Carries out what is due by `now`."""
        while (at := self.next_due()) is not None and at <= now:
            due = heapq.heappop(self._heap)
            self._carry_out(due)

    def session_at(self, at: Instant) -> Session | None:
        if self._session is None or not self._session.contains(at):
            try:
                self._session = self._calendar.session_at(at)
            except UnknownYear:  # not known to be open: nothing trades
                self._session = None
        return self._session

    def trades_at(self, at: Instant) -> bool:
        session = self.session_at(at)
        return session is not None and session.trades_at(at)

    def next_open(self, at: Instant) -> Instant | None:
        """When the next session begins; None when its year is not known."""
        try:
            return next((session.open_at for session in self._calendar.sessions_from(at) if session.open_at > at), None)
        except UnknownYear:
            return None

    # --- what the outside does

    def ticks(self, ticks: Sequence[Tick], now: Instant) -> None:
        """Sets the last prices and fills what they reach."""
        for tick in ticks:
            self.last[tick.symbol] = tick
            for order, account in tuple(self._resting.get(tick.symbol, {}).values()):
                self._match(order, account, now)

    def enter(self, order: SimOrder, account: Account, at: Instant, *, starts_at: Instant | None = None) -> None:
        """Takes the order; it shows in the book from `at` on. `starts_at`: an AMO, which waits for that instant."""
        if starts_at is not None:
            order.status = OrderStatus.AMO_RECEIVED
            order.waits_for_session = True
            self._schedule(at, Step.ENTER, order, account)
            self._schedule(starts_at, Step.VALIDATE, order, account)
            return
        order.status = OrderStatus.RECEIVED
        self._schedule(at, Step.ENTER, order, account)
        self._schedule(at + self._delays.received, Step.VALIDATE, order, account)

    def lapse(self, account: Account, at: Instant) -> None:
        """Ends what is left of a day that is over, but for orders that wait for the next session."""
        for order in tuple(account.live.values()):
            if not order.waits_for_session:
                self._cancelled(order, account, at, "The order's validity is over.")

    def modify(self, order: SimOrder, account: Account, changes: Changes, now: Instant) -> None:
        order.modifications += 1
        order.acted_at = self._stamped(now)
        order.status = OrderStatus.MODIFY_VALIDATING
        order.record()
        self._schedule(now + self._delays.modifying, Step.MODIFY_PEND, order, account, changes)
        self._schedule(now + 2 * self._delays.modifying, Step.MODIFY_DONE, order, account, changes)

    def cancel(self, order: SimOrder, account: Account, now: Instant, stuck: Play | None = None) -> None:
        """`stuck`: the cancel waits in CANCEL PENDING, in which nothing fills, and may be overtaken by a fill then."""
        order.acted_at = self._stamped(now)
        order.status = OrderStatus.CANCEL_PENDING
        order.record()
        if stuck is None:
            self._schedule(now + self._delays.cancel_pending, Step.CANCEL, order, account)
            return
        order.held = True
        step = Step.FILL if stuck.fault is Fault.F8B_STUCK_THEN_FILLED else Step.CANCEL
        self._schedule(now + stuck.after, step, order, account)

    def fill_now(self, order: SimOrder, account: Account, now: Instant) -> bool:
        """Fills the rest at once, at the last price if that lies inside the limit, else at the limit.

        False when there is neither: nothing fills.
        """
        last = self._last_price(order.symbol)
        book_protected(order, last if last is not None else order.instrument.close)
        if order.price <= 0:
            return False
        price = last if last is not None and order.crosses(last) else order.price
        self._fill(order, account, order.remaining, price, now)
        return True

    # --- steps

    def _schedule(
        self, at: Instant, step: Step, order: SimOrder, account: Account, changes: Changes | None = None
    ) -> None:
        heapq.heappush(self._heap, _Due(at, next(self._number), step, order, account, changes))
        self._listener.on_due()

    def _carry_out(self, due: _Due) -> None:
        order, account, at = due.order, due.account, due.at
        match due.step:
            case Step.ENTER:
                self._enter(order, account, at)
            case Step.VALIDATE:
                self._validate(order, account, at)
            case Step.PEND:
                self._pend(order, account, at)
            case Step.OPEN:
                self._open(order, account, at)
            case Step.MATCH:
                self._match(order, account, at)
            case Step.RELEASE:
                order.held = False
                self._match(order, account, at)
            case Step.REJECT:
                self._reject(order, account, at)
            case Step.MODIFY_PEND:
                if order.status == OrderStatus.MODIFY_VALIDATING:
                    order.status = OrderStatus.MODIFY_PENDING
                    order.record()
            case Step.MODIFY_DONE:
                assert due.changes is not None  # noqa: S101 (a step of `modify`, which gives them)
                self._modified(order, account, due.changes, at)
            case Step.CANCEL:
                self._cancelled(order, account, at, None)
            case Step.EXCHANGE_CANCEL:
                self._cancelled(order, account, at, "The exchange cancelled the rest of the order.")
            case Step.FILL:
                order.held = False
                if not self.fill_now(order, account, at):
                    self._cancelled(order, account, at, None)
            case Step.LAPSE:
                self._cancelled(order, account, at, "The order's validity is over.")

    def _enter(self, order: SimOrder, account: Account, at: Instant) -> None:
        order.received_at = order.acted_at = self._stamped(at)
        account.enter(order)
        order.record()
        if order.expires_at is not None:
            self._schedule(order.expires_at, Step.LAPSE, order, account)

    def _validate(self, order: SimOrder, account: Account, at: Instant) -> None:
        order.waits_for_session = False
        order.status = OrderStatus.VALIDATING
        order.record()
        session = self.session_at(at)
        if session is not None:
            self._schedule(session.close_at, Step.LAPSE, order, account)
        life = order.life
        if life is not None and life.fault is Fault.REJECTED_LATER:
            self._schedule(at + life.after, Step.REJECT, order, account)
            return
        self._schedule(at + self._delays.validating, Step.PEND, order, account)

    def _pend(self, order: SimOrder, account: Account, at: Instant) -> None:
        order.status = OrderStatus.OPEN_PENDING
        life = order.life
        wait: Duration = self._delays.open_pending
        if life is not None and life.fault is Fault.F8A_STUCK_OPEN_PENDING:
            self._fired[life.fault] += 1
            wait = life.after
        elif life is not None and life.fault is Fault.F16_UNKNOWN_STATUS:
            self._fired[life.fault] += 1
            order.record()
            order.status = UNDOCUMENTED_STATUS
            wait = life.after
        order.record()
        self._schedule(at + wait, Step.OPEN, order, account)

    def _open(self, order: SimOrder, account: Account, at: Instant) -> None:
        order.exchange_order_id = f"{1_100_000_000_000_000 + next(self._exchange_number)}"
        order.exchange_at = order.updated_at = self._stamped(at)
        order.status = OrderStatus.TRIGGER_PENDING if order.awaits_trigger else OrderStatus.OPEN
        order.record()
        order.on_market = True
        order.fills_from = at + self._delays.fill
        self._resting.setdefault(order.symbol, {})[order.order_id] = (order, account)
        if self._delays.fill:
            self._schedule(order.fills_from, Step.MATCH, order, account)
        else:
            self._match(order, account, at)

    def _reject(self, order: SimOrder, account: Account, at: Instant) -> None:
        self._fired[Fault.REJECTED_LATER] += 1
        needed = account.margin_of(order.symbol, order.side, order.product, order.quantity, order.price)
        required, available = needed + Decimal("100"), needed
        order.status = OrderStatus.REJECTED
        order.message = (
            f"Insufficient funds. Required margin is {required:.2f} but available margin is {available:.2f}. "
            "Check the orderbook for open orders."
        )
        order.message_raw = (
            f"RMS:Margin Exceeds,Required:{required:.2f}, Available:{available:.2f} for entity "
            f"account-{account.user_id} across exchange across segment across product "
        )
        self._ended(order, account)

    def _modified(self, order: SimOrder, account: Account, changes: Changes, at: Instant) -> None:
        if order.status == OrderStatus.CANCEL_PENDING:
            return  # the cancel came after it and wins
        order.status = OrderStatus.MODIFIED
        order.modified = True
        order.exchange_at = order.updated_at = self._stamped(at)
        order.order_type, order.price = changes.order_type, changes.price
        order.quantity = max(changes.quantity, order.filled)
        order.trigger_price = changes.trigger_price
        order.disclosed = changes.disclosed
        order.validity = changes.validity
        order.protection = changes.protection
        order.held = False
        book_protected(order, self._last_price(order.symbol))
        order.record()
        if order.remaining == 0:
            order.status = OrderStatus.COMPLETE
            self._ended(order, account)
            return
        if order.waits_for_session:
            order.status = OrderStatus.AMO_RECEIVED
        else:
            order.status = OrderStatus.TRIGGER_PENDING if order.awaits_trigger else OrderStatus.OPEN
        self._listener.on_change(account, order, order.record())
        self._match(order, account, at)

    def _cancelled(self, order: SimOrder, account: Account, at: Instant, message: str | None) -> None:
        order.status = OrderStatus.CANCELLED_AMO if order.waits_for_session else OrderStatus.CANCELLED
        order.message = message
        order.updated_at = self._stamped(at)
        self._ended(order, account)

    def _ended(self, order: SimOrder, account: Account) -> None:
        order.on_market = False
        account.live.pop(order.order_id, None)
        self._resting.get(order.symbol, {}).pop(order.order_id, None)
        self._listener.on_change(account, order, order.record())

    # --- matching

    def _match(self, order: SimOrder, account: Account, at: Instant) -> None:
        tick = self.last.get(order.symbol)
        ready = order.on_market and not order.held and not order.is_terminal and at >= order.fills_from
        if ready and tick is not None and self.trades_at(at):
            if order.awaits_trigger and not self._triggered(order, account, tick.price, at):
                return
            if book_protected(order, tick.price):
                order.record()
            if order.crosses(tick.price):
                self._fill_as_it_goes(order, account, tick.price, at)
        if ready and order.validity is Validity.IOC and not order.is_terminal and not order.held:
            self._cancelled(order, account, at, None)

    def _triggered(self, order: SimOrder, account: Account, last: Price, at: Instant) -> bool:
        if not order.triggers(last):
            return False
        order.triggered = True
        order.updated_at = self._stamped(at)
        if order.status == OrderStatus.TRIGGER_PENDING:
            order.status = OrderStatus.OPEN
        self._listener.on_change(account, order, order.record())
        return True

    def _fill_as_it_goes(self, order: SimOrder, account: Account, last: Price, at: Instant) -> None:
        """All that is left; half of it where the order's fate says so."""
        life = order.life
        if life is None or order.halved or life.fault not in _HALVING:
            self._fill(order, account, order.remaining, last, at)
            return
        order.halved = order.held = True
        self._fired[life.fault] += 1
        if (half := order.quantity // 2) > 0:
            self._fill(order, account, half, last, at)
        if life.fault is Fault.F10_HALF_THEN_CANCELLED:
            self._schedule(at + life.after, Step.EXCHANGE_CANCEL, order, account)
        elif life.fault is Fault.HALF_THEN_REST:
            self._schedule(at + life.after, Step.RELEASE, order, account)

    def _fill(self, order: SimOrder, account: Account, quantity: Quantity, price: Price, at: Instant) -> None:
        stamped = self._stamped(at)
        order.filled += quantity
        order.value += quantity * price
        order.updated_at = order.exchange_at = stamped
        account.trades.append(
            SimTrade(
                trade_id=str(50_000_000 + next(self._trade_number)),
                order_id=order.order_id,
                exchange_order_id=order.exchange_order_id,
                instrument=order.instrument,
                product=order.product,
                side=order.side,
                quantity=quantity,
                price=price,
                at=stamped,
            )
        )
        account.position(order).add(order.side, quantity, price)
        if order.remaining == 0:
            order.status = OrderStatus.COMPLETE
            self._ended(order, account)
        else:
            self._listener.on_change(account, order, order.record())

    def foreign(self, order: SimOrder, order_id: str) -> SimOrder:
        """An order like `order` that somebody placed elsewhere, far from the market, so that it rests in the book."""
        far = Decimal("0.5") if order.side is Side.BUY else Decimal("1.5")
        tick = order.instrument.tick_size
        around = self._last_price(order.symbol) or order.price or order.instrument.close or tick
        price = max((around * far / tick).to_integral_value() * tick, tick)
        copy = replace(order, order_id=order_id, guid=f"{order.guid}-2", history=[], life=None, foreign=True)
        copy.order_type, copy.price, copy.protection, copy.system_tags = OrderType.LIMIT, price, None, ()
        copy.filled, copy.value, copy.validity = 0, ZERO, Validity.DAY
        return copy


_HALVING = frozenset({Fault.F10_HALF_THEN_CANCELLED, Fault.F11_HALF_THEN_STUCK, Fault.HALF_THEN_REST})
