"""Good-till-triggered orders: they wait at the broker, over days and without a session, and place a LIMIT order when
their price comes."""

from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from itertools import count
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec
from msgspec import Struct

from domain.values import DAY, Instant, Price, Product, Quantity, Side, Tick
from simulation.kite.accounts import Account
from simulation.kite.checks import check_market, check_means, check_size, read_terms
from simulation.kite.errors import KiteError, general, input_error
from simulation.kite.instruments import SimInstrument
from simulation.kite.orders import stamp
from simulation.kite.routing import Context, Route
from simulation.kite.sim import KiteSim
from simulation.kite.wire import Response, success

__all__ = ["ROUTES"]

LIFE: Final = 365 * DAY
LISTED: Final = 7 * DAY
"""Kite: the list has the active ones and what ended within the last week."""
FIRST_ID: Final = 112_127


class Kind(StrEnum):
    SINGLE = "single"
    TWO_LEG = "two-leg"

    @property
    def legs(self) -> int:
        return 1 if self is Kind.SINGLE else 2


class Status(StrEnum):
    ACTIVE = "active"
    TRIGGERED = "triggered"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    DELETED = "deleted"


class _Condition(Struct, frozen=True, kw_only=True):
    exchange: str
    tradingsymbol: str
    trigger_values: list[Decimal]
    last_price: Decimal


class _Order(Struct, frozen=True, kw_only=True):
    exchange: str
    tradingsymbol: str
    transaction_type: Side
    quantity: Quantity
    order_type: str
    product: Product
    price: Price


class Trigger(Struct, kw_only=True, eq=False):
    """One GTT. Of two legs the first waits below the price, the second above; a single one where it was set."""

    id: int
    account: Account
    kind: Kind
    instrument: SimInstrument
    values: list[Decimal]
    last_price: Price
    orders: list[_Order]
    created_at: Instant
    updated_at: Instant
    expires_at: Instant
    status: Status = Status.ACTIVE
    results: list[dict[str, Any] | None]

    def leg(self, last: Price) -> int | None:
        """Which leg this price triggers."""
        if self.kind is Kind.TWO_LEG:
            return 0 if last <= self.values[0] else 1 if last >= self.values[1] else None
        below = self.values[0] < self.last_price
        return 0 if (last <= self.values[0] if below else last >= self.values[0]) else None

    def row(self) -> dict[str, Any]:
        name = {"exchange": self.instrument.exchange, "tradingsymbol": self.instrument.tradingsymbol}
        condition = {"last_price": self.last_price, "trigger_values": self.values}
        return {
            "id": self.id,
            "user_id": self.account.user_id,
            "parent_trigger": None,
            "type": self.kind.value,
            "created_at": stamp(self.created_at),
            "updated_at": stamp(self.updated_at),
            "expires_at": stamp(self.expires_at),
            "status": self.status.value,
            "condition": {**name, **condition, "instrument_token": self.instrument.token},
            "orders": [
                {**msgspec.to_builtins(order, builtin_types=(Decimal,)), "result": result}
                for order, result in zip(self.orders, self.results, strict=True)
            ],
            "meta": {},
        }


class _Book:
    """All GTTs of one server. It observes the market, and trades on its own."""

    def __init__(self, sim: KiteSim) -> None:
        self._sim = sim
        self._ids = count(FIRST_ID)
        self.triggers: dict[int, Trigger] = {}
        sim.observers.append(self)

    def next_id(self) -> int:
        return next(self._ids)

    def on_order(self, user_id: str, payload: dict[str, Any]) -> None:
        """Orders do not concern it."""

    def on_ticks(self, ticks: Sequence[Tick]) -> None:
        self.expire()
        for tick in ticks:
            for trigger in tuple(self.triggers.values()):
                if trigger.status is Status.ACTIVE and trigger.instrument.symbol == tick.symbol:
                    leg = trigger.leg(tick.price)
                    if leg is not None:
                        self._trigger(trigger, leg, tick.price)

    def expire(self) -> None:
        now = self._sim.now()
        for trigger in self.triggers.values():
            if trigger.status is Status.ACTIVE and trigger.expires_at <= now:
                trigger.status, trigger.updated_at = Status.EXPIRED, trigger.expires_at

    def _trigger(self, trigger: Trigger, leg: int, last: Price) -> None:
        sim, order = self._sim, trigger.orders[leg]
        trigger.status, trigger.updated_at = Status.TRIGGERED, sim.now()
        form = {name: str(value) for name, value in msgspec.to_builtins(order, builtin_types=(Decimal,)).items()}
        try:
            terms = read_terms("regular", form, sim.instruments)
            check_size(terms)
            check_market(terms, sim.exchange, sim.clock.now())
            check_means(terms, trigger.account, last)
            order_id, why = sim.take(trigger.account, terms).order_id, ""
        except KiteError as error:
            order_id, why = "", error.message
        trigger.results[leg] = {
            **form,
            "account_id": trigger.account.user_id,
            "quantity": order.quantity,
            "price": order.price,
            "validity": "DAY",
            "meta": "{}",
            "timestamp": stamp(sim.now()),
            "triggered_at": last,
            "order_result": {
                "status": "failed" if why else "success",
                "order_id": order_id,
                "rejection_reason": why,
            },
        }


_books: Final[WeakKeyDictionary[KiteSim, _Book]] = WeakKeyDictionary()


def _book(context: Context) -> _Book:
    book = _books.get(context.sim)
    if book is None:
        book = _books[context.sim] = _Book(context.sim)
    book.expire()
    return book


# --- the endpoints


def listed(context: Context) -> Response:
    since = context.sim.now() - LISTED
    return success(
        [
            each.row()
            for each in _book(context).triggers.values()
            if each.account is context.account and (each.status is Status.ACTIVE or each.updated_at >= since)
        ]
    )


def one(context: Context) -> Response:
    return success(_own(context).row())


def place(context: Context) -> Response:
    now, book = context.sim.now(), _book(context)
    kind, condition, orders, instrument = _read(context)
    trigger = Trigger(
        id=book.next_id(),
        account=context.account,
        kind=kind,
        instrument=instrument,
        values=condition.trigger_values,
        last_price=condition.last_price,
        orders=orders,
        created_at=now,
        updated_at=now,
        expires_at=now + LIFE,
        results=[None] * len(orders),
    )
    book.triggers[trigger.id] = trigger
    return success({"trigger_id": trigger.id})


def modify(context: Context) -> Response:
    trigger = _active(context)
    trigger.kind, condition, trigger.orders, trigger.instrument = _read(context)
    trigger.values, trigger.last_price = condition.trigger_values, condition.last_price
    trigger.results = [None] * len(trigger.orders)
    trigger.updated_at = context.sim.now()
    trigger.expires_at = trigger.updated_at + LIFE
    return success({"trigger_id": trigger.id})


def delete(context: Context) -> Response:
    trigger = _active(context)
    trigger.status, trigger.updated_at = Status.DELETED, context.sim.now()
    return success({"trigger_id": trigger.id})


def _own(context: Context) -> Trigger:
    text = context.parameters["trigger_id"]
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 15 else 0
    trigger = _book(context).triggers.get(number)
    if trigger is None or trigger.account is not context.account:
        raise general(404, "Trigger not found.")
    return trigger


def _active(context: Context) -> Trigger:
    trigger = _own(context)
    if trigger.status is not Status.ACTIVE:
        raise input_error(f"The trigger is {trigger.status} already.")
    return trigger


def _read(context: Context) -> tuple[Kind, _Condition, list[_Order], SimInstrument]:
    """What the form asks for. Raises KiteError 400 for what cannot be."""
    form = context.request.form
    if form.get("type") not in {each.value for each in Kind}:
        raise input_error("Invalid `type`.")
    kind = Kind(form["type"])
    condition = _decoded(form, "condition", _Condition)
    orders = _decoded(form, "orders", list[_Order])
    instrument = context.sim.instruments.find(f"{condition.exchange}:{condition.tradingsymbol}")
    if instrument is None or instrument.is_index:
        raise input_error("The instrument does not exist.")
    values = condition.trigger_values
    if len(values) != kind.legs or len(orders) != kind.legs:
        raise input_error(f"A {kind.value} trigger has {kind.legs} trigger value(s) and order(s).")
    last = condition.last_price
    if any(value <= 0 or value == last for value in values) or last <= 0:
        raise input_error("Trigger price cannot be equal to the last price.")
    if kind is Kind.TWO_LEG and not values[0] < last < values[1]:
        raise input_error("Trigger prices must lie on both sides of the last price.")
    for order in orders:
        if (order.exchange, order.tradingsymbol) != (instrument.exchange, instrument.tradingsymbol):
            raise input_error("Invalid `orders`: another instrument.")
        if order.order_type != "LIMIT" or order.quantity <= 0 or order.price <= 0:
            raise input_error("Invalid `orders`: each is a LIMIT order with a quantity and a price.")
    return kind, condition, orders, instrument


def _decoded(form: dict[str, str], name: str, kind: Any) -> Any:
    text = form.get(name, "")
    if not text:
        raise input_error(f"Missing or empty field `{name}`")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise input_error(f"Invalid `{name}`.") from error


ROUTES = (
    Route(method="GET", path="/gtt/triggers", handler=listed),
    Route(method="POST", path="/gtt/triggers", handler=place),
    Route(method="GET", path="/gtt/triggers/{trigger_id}", handler=one),
    Route(method="PUT", path="/gtt/triggers/{trigger_id}", handler=modify),
    Route(method="DELETE", path="/gtt/triggers/{trigger_id}", handler=delete),
)
