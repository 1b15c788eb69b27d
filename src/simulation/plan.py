"""What a demonstration trades: users' strategies drawn from a seed, for the market of a day."""

import datetime as dt
import random
from collections.abc import Iterable, Mapping
from decimal import Decimal

from msgspec import Struct

from domain.calendar import Calendar, Session
from domain.values import Config, Instant, Price, Tick

__all__ = ["Market", "draw_strategies", "survey"]


class Market(Struct, frozen=True):
    """A day's market: the session, each symbol's first price in it, and how many ticks there are."""

    session: Session
    opening: Mapping[str, Price]
    ticks: int


class NoSession(ValueError):
    """The ticks are of a day on which the exchange was closed."""


def survey(ticks: Iterable[Tick], calendar: Calendar) -> Market:
    """Reads all ticks once. Raises NoSession."""
    opening: dict[str, Price] = {}
    session: Session | None = None
    count = 0
    first: Instant | None = None
    for tick in ticks:
        count += 1
        if session is None:
            first = tick.at if first is None else first
            session = calendar.session_on(calendar.wall(tick.at).date())
        if session is not None and tick.symbol not in opening and session.contains(tick.at):
            opening[tick.symbol] = tick.price
    if session is None or not opening:
        day = calendar.wall(first).date() if first is not None else "the file"
        raise NoSession(f"{day} has no tick within a trading session: choose another file or BAHI_CALENDAR=always-open")
    return Market(session, opening, count)


def draw_strategies(market: Market, count: int, seed: int, calendar: Calendar, cutoff: dt.time) -> list[Config]:
    """`count` strategies on the market's symbols: bought in the first half of the day, sold near its end, stops close
    enough that many are hit. The same seed draws the same ones."""
    rng = random.Random(f"strategies/{seed}")
    symbols = sorted(market.opening)
    opening = calendar.wall(market.session.open_at)
    length = (market.session.close_at - market.session.open_at) // 60_000_000
    drawn = []
    for _ in range(count):
        symbol = rng.choice(symbols)
        bought = opening + dt.timedelta(minutes=rng.randint(1, max(1, length // 2)), seconds=rng.choice((0, 0, 15, 30)))
        latest = min(cutoff, calendar.wall(market.session.close_at - 1).time())
        last = dt.datetime.combine(opening.date(), latest, opening.tzinfo)
        sold = max(bought + dt.timedelta(seconds=1), last - dt.timedelta(minutes=rng.randint(0, max(0, length // 6))))
        distance = Decimal(rng.randint(10, 250)) / 10_000
        stop = market.opening[symbol] * (1 - distance)
        drawn.append(
            Config(
                symbol=symbol,
                quantity=rng.choice((1, 5, 10, 25, 50, 100)),
                buy_time=bought.time().replace(tzinfo=None),
                sell_time=min(sold, last).time().replace(microsecond=0, tzinfo=None),
                stop_loss=stop.quantize(Decimal("0.1")).quantize(Decimal("0.05")),
            )
        )
    return drawn
