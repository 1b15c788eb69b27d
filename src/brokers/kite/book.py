"""Kite's order book, trades, positions and quotes, row by row.

Tolerant of extra fields, of missing ones that nobody needs, and of numbers as strings; strict on what money depends on.
A reading of the order book is evidence: an order that it does not show is taken for absent in the end. So a row that
cannot be understood makes the reading a partial one, and it is said whether somebody else's tag shows that it is
certainly not ours.

Rows of other products (NRML, MTF, CO, BO …) are never ours, and belong to other positions than those of MIS and CNC:
they are passed over, with a notice. One of them that bears our sign is one that cannot be understood.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from msgspec import Struct

from brokers.kite.reasons import Reason, by_text, by_type, with_maximum
from brokers.port import BookOrder, BookStatus, BrokerPosition, BrokerUnavailable, PartialReading, Trade, Unread
from domain.calendar import EXCHANGE_ZONE
from domain.tags import parse_tag
from domain.values import Instant, Price, Product, Quantity, Side

__all__ = ["Notice", "Quote", "orders", "positions", "quotes", "trades"]

Notice = Callable[[str, Mapping[str, str]], None]
"""Hears of what is odd but harmless: what it is, and the facts. Repeats with every reading."""

Row = Mapping[str, Any]

LONGEST: Final = 16
"""Digits of a number before and after the point."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SYSTEM_TAGS: Final = ("mktp", "autoslice", "iceberg")
"""Kite: tags of its own in `tags`: "mktp", "mktp:2.00", "autoslice:<parent>"."""

# Kite: there may be others. All of them are live, these and whatever else is not terminal.
_KNOWN_LIVE: Final = frozenset(
    {
        "PUT ORDER REQ RECEIVED",
        "VALIDATION PENDING",
        "OPEN PENDING",
        "OPEN",
        "UPDATE",
        "MODIFY VALIDATION PENDING",
        "MODIFY PENDING",
        "MODIFIED",
        "CANCEL PENDING",
        "TRIGGER PENDING",
        "AMO REQ RECEIVED",
    }
)


class Quote(Struct, frozen=True, kw_only=True):
    """A symbol's last price and the day's circuit limits, each None when Kite does not tell."""

    last_price: Price | None
    lower_circuit: Price | None
    upper_circuit: Price | None


class Unreadable(ValueError):
    """A row lacks something that money depends on."""


def orders(data: Any, at: Instant, notice: Notice) -> list[BookOrder]:
    """The rows of GET /orders, read at `at`. Raises PartialReading when some are unreadable, and BrokerUnavailable when
    it is no list of rows."""
    read = []
    unread = []
    for row in _rows(data, "orders"):
        tag, foreign = None, False
        try:
            tag, foreign = _tag(row)
            product = _product(row)
            if product is not None:
                read.append(_order(row, tag, product, at, notice))
            elif parse_tag(tag) is not None:
                raise Unreadable(f"our tag, and product {row.get('product')!r}")
            else:
                notice("kite_order_of_other_product", _named(row))
        except Unreadable as error:
            whose = "kite_foreign_order_unreadable" if foreign else "kite_order_unreadable"
            notice(whose, {**_named(row), "why": str(error)})
            unread.append(Unread(order_id=_known_id(row), tag=tag, why=str(error), foreign=foreign))
    if unread:
        raise PartialReading(read, tuple(unread))
    return read


def trades(data: Any, at: Instant) -> list[Trade]:
    """The rows of GET /trades. Raises BrokerUnavailable when one cannot be understood: they carry no tags."""
    return [_strictly(_trade, row, at) for row in _rows(data, "trades")]


def positions(data: Any, notice: Notice) -> list[BrokerPosition]:
    """The net positions of MIS and CNC; the day's for CNC, what was delivered is with the holdings.

    Raises BrokerUnavailable when a row cannot be understood.
    """
    if not isinstance(data, dict):
        raise BrokerUnavailable("positions that cannot be understood: no object")
    read = []
    for row in _rows(data.get("net"), "positions"):
        position = _strictly(_position, row, notice)
        if position is not None:
            read.append(position)
    return read


def quotes(data: Any) -> dict[str, Quote]:
    """By symbol. A symbol that Kite does not know is left out; what it does not tell of one is None."""
    if not isinstance(data, dict):
        raise BrokerUnavailable("quotes that cannot be understood: no object")
    return {
        symbol: Quote(
            last_price=_price_or_none(row, "last_price"),
            lower_circuit=_price_or_none(row, "lower_circuit_limit"),
            upper_circuit=_price_or_none(row, "upper_circuit_limit"),
        )
        for symbol, row in data.items()
        if isinstance(row, dict)
    }


# --- rows


def _order(row: Row, tag: str | None, product: Product, at: Instant, notice: Notice) -> BookOrder:
    quantity, filled = _quantity(row, "quantity"), _quantity(row, "filled_quantity")
    average = _price(row, "average_price") if filled else None
    if filled and average is None:
        raise Unreadable(f"{filled} filled at no price")
    status = _status(row, quantity, filled, notice)
    said, raw = _text(row, "status_message"), _text(row, "status_message_raw")
    reason = None
    if status is BookStatus.REJECTED:
        reason = by_text(said) or by_text(raw) or by_type(_text(row, "error_type")) or Reason.REJECTED
    return BookOrder(
        order_id=_id(row, "order_id"),
        tag=tag,
        symbol=_symbol(row),
        side=_side(row),
        product=product,
        quantity=quantity,
        filled=filled,
        average_price=average,
        price=_price_or_none(row, "price"),
        status=status,
        placed_at=_instant(row, ("order_timestamp", "exchange_timestamp"), at),
        text=with_maximum(said or raw),
        reason=reason.value if reason else "",
        curable=reason is not None and reason.curable,
        counted=reason is None or reason.counted,
    )


def _trade(row: Row, at: Instant) -> Trade:
    price = _price(row, "average_price")
    if price is None:
        raise Unreadable("no average_price")
    return Trade(
        trade_id=_id(row, "trade_id"),
        order_id=_id(row, "order_id"),
        symbol=_symbol(row),
        side=_side(row),
        quantity=_quantity(row, "quantity"),
        price=price,
        # order_timestamp is a time without its day here
        at=_instant(row, ("fill_timestamp", "exchange_timestamp"), at),
    )


def _position(row: Row, notice: Notice) -> BrokerPosition | None:
    product = _product(row)
    if product is None:
        notice("kite_position_of_other_product", _named(row))
        return None
    quantity = _quantity(row, "quantity", least=None)
    average = _price_or_none(row, "average_price") if quantity else None
    return BrokerPosition(symbol=_symbol(row), product=product, quantity=quantity, average_price=average)


def _status(row: Row, quantity: Quantity, filled: Quantity, notice: Notice) -> BookStatus:
    """Kite: the terminal ones by their beginning ("CANCELLED AMO"), everything else is live, known or not."""
    status = " ".join(_text(row, "status").upper().split())
    if not status:
        raise Unreadable("no status")
    if status.startswith("REJECTED"):
        return BookStatus.REJECTED
    if status.startswith("CANCELLED"):
        return BookStatus.CANCELLED
    if status.startswith("COMPLETE"):
        if filled >= quantity:
            return BookStatus.COMPLETE
        # its fills have not all arrived in the row: ended short, it would be sold again
        notice("kite_order_complete_but_not_filled", _named(row))
        return BookStatus.OPEN
    if status not in _KNOWN_LIVE:
        notice("kite_unknown_status", {"status": status[:60]})
    return BookStatus.OPEN


def _tag(row: Row) -> tuple[str | None, bool]:
    """The order's tag, ours before any other, and whether it is certainly somebody else's order.

    Kite: in `tag`, in `tags`, or in both; one of the two keys is always there.
    """
    if "tag" not in row and "tags" not in row:
        raise Unreadable("no tag and no tags")
    many = row.get("tags")
    if many is not None and not isinstance(many, list):
        raise Unreadable("tags that are no list")
    found = []
    for each in (row.get("tag"), *(many or ())):
        match each:
            case None | "":
                continue
            case bool():
                raise Unreadable("a tag that is no text")
            case str() | int():
                found.append(str(each))
            case _:
                raise Unreadable("a tag that is no text")
    own = [each for each in found if not each.startswith(_SYSTEM_TAGS)]
    ours = [each for each in own if parse_tag(each) is not None]
    tag = next(iter([*ours, *own]), None)
    return tag, bool(own) and not ours


# --- fields


def _rows(data: Any, what: str) -> Iterable[Row]:
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise BrokerUnavailable(f"{what} that cannot be understood: no list of rows")
    return data


def _strictly(read: Callable[..., Any], row: Row, *more: Any) -> Any:
    try:
        return read(row, *more)
    except Unreadable as error:
        raise BrokerUnavailable(f"a row that cannot be understood: {error}; {_named(row)}") from None


def _named(row: Row) -> dict[str, str]:
    """Which row it is, for people."""
    known = ("order_id", "exchange", "tradingsymbol", "product", "status")
    return {name: str(row[name])[:40] for name in known if name in row}


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    return value.strip() if isinstance(value, str) else ""


def _id(row: Row, name: str) -> str:
    match row.get(name):
        case bool():
            pass
        case str() | int() as found if str(found).strip():
            return str(found).strip()
    raise Unreadable(f"no {name}")


def _known_id(row: Row) -> str | None:
    try:
        return _id(row, "order_id")
    except Unreadable:
        return None


def _symbol(row: Row) -> str:
    return f"{_id(row, 'exchange')}:{_id(row, 'tradingsymbol')}"


def _side(row: Row) -> Side:
    try:
        return Side(_text(row, "transaction_type").upper())
    except ValueError:
        raise Unreadable(f"transaction_type {row.get('transaction_type')!r}") from None


def _product(row: Row) -> Product | None:
    """None: one that we never trade."""
    name = _text(row, "product").upper()
    if not name:
        raise Unreadable("no product")
    return Product(name) if name in Product.__members__ else None


def _number(row: Row, name: str) -> Decimal | None:
    value = row.get(name)
    match value:
        case bool():
            raise Unreadable(f"{name} {value!r}")
        case None | "":
            return None
        case int() | str() | Decimal():
            try:
                number = Decimal(value)
            except InvalidOperation:
                raise Unreadable(f"{name} {str(value)[:40]!r}") from None
            if not number.is_finite() or (number and not -LONGEST < number.adjusted() < LONGEST):
                raise Unreadable(f"{name} {str(value)[:40]}")
            return number
        case _:
            raise Unreadable(f"{name} of type {type(value).__name__}")


def _quantity(row: Row, name: str, *, least: Quantity | None = 0) -> Quantity:
    number = _number(row, name)
    if number is None or number != number.to_integral_value() or (least is not None and number < least):
        raise Unreadable(f"{name} {row.get(name)!r}"[:80])
    return int(number)


def _price(row: Row, name: str) -> Price | None:
    """Kite: 0 means none."""
    number = _number(row, name)
    if number is not None and number < 0:
        raise Unreadable(f"{name} {number}")
    return number or None


def _price_or_none(row: Row, name: str) -> Price | None:
    """Of a price that nothing depends on."""
    try:
        return _price(row, name)
    except Unreadable:
        return None


def _instant(row: Row, names: Iterable[str], otherwise: Instant) -> Instant:
    """The first of these stamps that is one; Kite's carry no offset: the exchange's wall clock."""
    for name in names:
        try:
            at = dt.datetime.fromisoformat(_text(row, name))
            zoned = at if at.tzinfo is not None else at.replace(tzinfo=EXCHANGE_ZONE)
            return (zoned - _EPOCH) // dt.timedelta(microseconds=1)
        except (ValueError, OverflowError):
            continue
    return otherwise
