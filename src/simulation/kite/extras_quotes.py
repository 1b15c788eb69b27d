"""/quote, /quote/ohlc, /quote/ltp, /instruments/historical and /instruments/trigger_range."""

import datetime as dt
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Final

from domain.calendar import instant, wall
from domain.values import DAY, MINUTE, ZERO, Duration, Instant, Price
from simulation.kite.errors import input_error
from simulation.kite.extras_tape import Candle, Day, circuits, previous_close
from simulation.kite.instruments import SimInstrument
from simulation.kite.limits import Limit
from simulation.kite.orders import stamp
from simulation.kite.routing import Context, Route
from simulation.kite.wire import Response, success

__all__ = ["ROUTES"]

MOST: Final = {"quote": 500, "ohlc": 1_000, "ltp": 1_000}
"""Kite Connect docs: instruments in one call."""
LEVELS: Final = 5
OFFERED: Final = 100
"""Shares in the first level of each side, as on the stream; a level further out has as many more."""
TRIGGERS: Final = Decimal("0.02")
"""How far from the last price a cover order's trigger must lie at most, as a fraction."""

INTERVALS: Final[dict[str, tuple[Duration, int]]] = {
    "minute": (MINUTE, 60),
    "3minute": (3 * MINUTE, 100),
    "5minute": (5 * MINUTE, 100),
    "10minute": (10 * MINUTE, 100),
    "15minute": (15 * MINUTE, 200),
    "30minute": (30 * MINUTE, 200),
    "60minute": (60 * MINUTE, 400),
    "day": (DAY, 2_000),
}
"""Kite: each interval's length, and how many days one call may span."""
OPEN: Final = dt.time(9, 15)
"""Candles of more than a minute are counted from the opening of the day."""

Told = Callable[[SimInstrument, Day | None, Context], dict[str, Any]]


# --- quotes


def quote(context: Context) -> Response:
    return success(_each(context, MOST["quote"], _full))


def ohlc(context: Context) -> Response:
    return success(_each(context, MOST["ohlc"], _ohlc))


def ltp(context: Context) -> Response:
    return success(_each(context, MOST["ltp"], _ltp))


def trigger_range(context: Context) -> Response:
    """Where the trigger of a cover order may lie; the other side of the last price for a sale."""
    side = context.parameters["transaction_type"]
    if side not in ("buy", "sell"):
        raise input_error("Invalid `transaction_type`.")

    def told(instrument: SimInstrument, day: Day | None, context: Context) -> dict[str, Any]:
        last = _last(instrument, day)
        away = _on_grid(instrument, last * (1 - TRIGGERS if side == "buy" else 1 + TRIGGERS), up=side == "buy")
        lower, upper = (away, last) if side == "buy" else (last, away)
        return {**_named(instrument), "lower": lower, "upper": upper, "percentage": TRIGGERS * 100}

    return success(_each(context, MOST["quote"], told))


def _each(context: Context, most: int, told: Told) -> dict[str, Any]:
    """By symbol. Kite: what is unknown, or was never priced, is left out."""
    asked = context.request.query.get("i", [])
    if not asked:
        raise input_error("Missing or empty field `i`")
    if len(asked) > most:
        raise input_error(f"Too many tokens requested. Max permitted is {most}.")
    answer = {}
    for symbol in asked:
        instrument = context.sim.instruments.find(symbol)
        if instrument is None:
            continue
        day = context.sim.tape.day(symbol)
        if day is not None or instrument.close is not None:
            answer[symbol] = told(instrument, day, context)
    return answer


def _named(instrument: SimInstrument) -> dict[str, Any]:
    return {"instrument_token": instrument.token}


def _ltp(instrument: SimInstrument, day: Day | None, context: Context) -> dict[str, Any]:
    return {**_named(instrument), "last_price": _last(instrument, day)}


def _ohlc(instrument: SimInstrument, day: Day | None, context: Context) -> dict[str, Any]:
    close = previous_close(instrument, day) or ZERO
    prices = (ZERO, ZERO, ZERO) if day is None else (day.open, day.high, day.low)
    prices_by_name = dict(zip(("open", "high", "low"), prices, strict=True))
    return {**_ltp(instrument, day, context), "ohlc": {**prices_by_name, "close": close}}


def _full(instrument: SimInstrument, day: Day | None, context: Context) -> dict[str, Any]:
    last, close = _last(instrument, day), previous_close(instrument, day)
    told = {
        **_ohlc(instrument, day, context),
        "timestamp": stamp(context.sim.now()),
        "net_change": ZERO if close is None else last - close,
    }
    if instrument.is_index:
        return told
    lower, upper = circuits(instrument, day)
    step = instrument.tick_size
    buy = [_level(last - n * step, n) for n in range(LEVELS)]
    sell = [_level(last + (n + 1) * step, n) for n in range(LEVELS)]
    return told | {
        "last_trade_time": stamp(day.at if day is not None else None),
        "last_quantity": 0 if day is None else day.last_quantity,
        "average_price": ZERO if day is None else day.average,
        "volume": 0 if day is None else day.volume,
        "buy_quantity": sum(level["quantity"] for level in buy),
        "sell_quantity": sum(level["quantity"] for level in sell),
        "oi": 0,
        "oi_day_high": 0,
        "oi_day_low": 0,
        "lower_circuit_limit": lower,
        "upper_circuit_limit": upper,
        "depth": {"buy": buy, "sell": sell},
    }


def _level(price: Price, number: int) -> dict[str, Any]:
    if price <= 0:
        return {"price": ZERO, "quantity": 0, "orders": 0}
    return {"price": price, "quantity": OFFERED * (number + 1), "orders": number + 1}


def _last(instrument: SimInstrument, day: Day | None) -> Price:
    return day.last if day is not None else instrument.close or ZERO


def _on_grid(instrument: SimInstrument, price: Price, *, up: bool) -> Price:
    tick = instrument.tick_size
    return (price / tick).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR) * tick if tick else price


# --- candles


def historical(context: Context) -> Response:
    """`[time, open, high, low, close, volume]`, with `oi=1` open interest (always 0) behind it."""
    token, interval = context.parameters["instrument_token"], context.parameters["interval"]
    if interval not in INTERVALS:
        raise input_error("Invalid `interval`.")
    instrument = context.sim.instruments.by_token(int(token)) if token.isascii() and token.isdecimal() else None
    if instrument is None:
        raise input_error("invalid token")
    length, days = INTERVALS[interval]
    start, end = _moment(context, "from"), _moment(context, "to")
    if end < start:
        raise input_error("Invalid `from` date: it is after `to`.")
    if end - start > days * DAY:
        raise input_error(f"interval exceeds max limit: {days} days")
    flags = [context.request.parameter(name) or "0" for name in ("continuous", "oi")]
    if not set(flags) <= {"0", "1"}:
        raise input_error("Invalid `continuous` or `oi`.")
    candles: list[Candle] = []
    for minute in context.sim.tape.minutes(instrument.symbol):
        at = _begin(minute.at, length)
        if not start <= at <= end:
            continue
        if candles and candles[-1].at == at:
            candles[-1].add(minute)
        else:
            candles.append(Candle(at, minute.open, minute.high, minute.low, minute.close, minute.volume))
    more = [0] if flags[1] == "1" else []
    return success(
        {
            "candles": [
                [wall(c.at).strftime("%Y-%m-%dT%H:%M:%S%z"), c.open, c.high, c.low, c.close, c.volume, *more]
                for c in candles
            ]
        }
    )


def _begin(at: Instant, length: Duration) -> Instant:
    today = wall(at).date()
    if length == DAY:
        return instant(today, dt.time.min)
    return at - (at - instant(today, OPEN)) % length


def _moment(context: Context, name: str) -> Instant:
    text = context.request.parameter(name) or ""
    for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d"):
        try:
            moment = dt.datetime.strptime(text, form)  # noqa: DTZ007 (the exchange's wall clock)
        except ValueError:
            continue
        return instant(moment.date(), moment.time())
    raise input_error(f"Invalid `{name}` date: it is YYYY-MM-DD HH:MM:SS.")


ROUTES = (
    Route(method="GET", path="/quote", handler=quote, limit=Limit.QUOTES),
    Route(method="GET", path="/quote/ohlc", handler=ohlc, limit=Limit.QUOTES),
    Route(method="GET", path="/quote/ltp", handler=ltp, limit=Limit.QUOTES),
    Route(method="GET", path="/instruments/trigger_range/{transaction_type}", handler=trigger_range),
    Route(
        method="GET",
        path="/instruments/historical/{instrument_token}/{interval}",
        handler=historical,
        limit=Limit.HISTORICAL,
    ),
)
