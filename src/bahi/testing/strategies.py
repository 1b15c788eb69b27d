"""Hypothesis strategies for the values of the domain: events, configs, ticks, facts, envelopes.

`events` gives whatever the wire can carry: extreme numbers, any text, any instant of 64 bits. `near_events` gives small
values that often collide, so that events meet the orders and runs of others. Neither knows what may follow what; for
that, see `bahi.testing.histories`.
"""

import datetime as dt
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, TypeVar, get_args, get_origin

import hypothesis.strategies as st
import msgspec
from hypothesis.strategies import SearchStrategy

from bahi.testing.story import DAY, LOG, SYMBOL, Rules, clock_time
from domain.calendar import load_nse
from domain.events import EVENT_TYPES, Event
from domain.facts import Facts, Halt
from domain.tags import make_tag
from domain.values import MINUTE, SECOND, Config, Instant, Price, Product, Tag, Tick
from eventstore.envelope import NewEvent

__all__ = [
    "configs",
    "envelopes",
    "events",
    "facts",
    "instants",
    "interleavings",
    "near_events",
    "prices",
    "tags",
    "ticks",
    "values",
]

T = TypeVar("T")
Leaves = Mapping[Any, SearchStrategy[Any]]

PAISE = Decimal("0.05")
TEXTS = st.text(max_size=40)

WILD: Leaves = {
    int: st.integers(-(2**63), 2**63 - 1),
    str: TEXTS,
    bool: st.booleans(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    dt.date: st.dates(),
    dt.time: st.times(),
    dict: st.dictionaries(TEXTS, TEXTS, max_size=3),
    Tag: TEXTS.map(Tag),
}
"""Whatever the wire carries."""

_TAGS = [make_tag(LOG, 7, run, number) for run in (1, 2) for number in (1, 2)]
NEAR: Leaves = {
    int: st.integers(0, 6),
    str: st.sampled_from(["", "X", str(_TAGS[0])]),
    bool: st.booleans(),
    Decimal: st.sampled_from([Decimal(0), Decimal("94.95"), Decimal(100)]),
    dt.date: st.sampled_from([DAY, DAY + dt.timedelta(days=1)]),
    dt.time: st.sampled_from([dt.time(9, 20), dt.time(15, 10)]),
    dict: st.just({}),
    Tag: st.sampled_from(_TAGS),
}
"""Few of each, so that they meet."""


def values(annotation: Any, leaves: Leaves = WILD) -> SearchStrategy[Any]:
    """Any value of a field's type. `leaves` has a strategy for each plain type, `dict` for those of text to text."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values(parts[0], leaves)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([values(part, leaves) for part in parts])
    if origin is list:
        return st.lists(values(parts[0], leaves), max_size=3)
    if origin is dict:
        return leaves[dict]
    if annotation is type(None):
        return st.none()
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from(list(annotation))
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return _structs(annotation, leaves)
    if annotation not in leaves:
        raise TypeError(f"no strategy is known for {annotation}: add it to the leaves of bahi.testing.strategies")
    return leaves[annotation]


def _structs(cls: type[Any], leaves: Leaves) -> SearchStrategy[Any]:
    """Instances of a Struct; `schema` is always today's."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {name: values(hints[name], leaves) for name in cls.__struct_fields__ if name != "schema"}
    return st.builds(cls, **fields)


def events(*types_: str, leaves: Leaves = WILD) -> SearchStrategy[Event]:
    """Events of these types (`"BUY_TRIGGERED"`), of any when none is named. Raises KeyError for a strange name."""
    chosen = [EVENT_TYPES[name] for name in types_ or EVENT_TYPES]
    return st.sampled_from(chosen).flatmap(lambda cls: _structs(cls, leaves))


def near_events(*types_: str) -> SearchStrategy[Event]:
    """The same with small values that often collide."""
    return events(*types_, leaves=NEAR)


def envelopes(of: SearchStrategy[Event] | None = None) -> SearchStrategy[NewEvent]:
    """Events as they are handed to the log, with any owner, story and cause."""
    ids = st.integers(0, 2**63 - 1)
    return st.builds(
        NewEvent,
        events() if of is None else of,
        strategy_id=ids,
        user_id=ids,
        correlation_id=TEXTS,
        causation_id=TEXTS,
        event_id=st.text(min_size=1, max_size=40),
    )


def instants() -> SearchStrategy[Instant]:
    """Any moment that the log can carry: 64 bits of microseconds, before 1970 and after 9999 too."""
    return st.integers(-(2**63), 2**63 - 1)


def prices(lowest: str = "0.05", highest: str = "100000") -> SearchStrategy[Price]:
    """Prices on the tick grid of 0.05, both ends included."""
    low, high = (int(Decimal(each) / PAISE) for each in (lowest, highest))
    return st.integers(low, high).map(lambda steps: steps * PAISE)


def ticks(symbol: str = SYMBOL, *, price: SearchStrategy[Price] | None = None) -> SearchStrategy[Tick]:
    """Trades of the story's day, within the session."""
    at = st.integers(clock_time("09:15"), clock_time("15:30") - 1)
    return st.builds(Tick, st.just(symbol), prices() if price is None else price, at)


def configs(symbol: str = SYMBOL) -> SearchStrategy[Config]:
    """What a user may ask for: to buy between 09:16 and 11:00, to sell between 11:01 and 15:15."""

    def minutes(first: int, last: int) -> SearchStrategy[dt.time]:
        return st.integers(first, last).map(lambda minute: dt.time(minute // 60, minute % 60))

    return st.builds(
        Config,
        symbol=st.just(symbol),
        quantity=st.integers(1, 100),
        buy_time=minutes(9 * 60 + 16, 11 * 60),
        sell_time=minutes(11 * 60 + 1, 15 * 60 + 15),
        stop_loss=prices("80", "99"),
        product=st.sampled_from(Product),
    )


def tags(log_id: str = LOG) -> SearchStrategy[Tag]:
    """Tags of orders of a log."""
    numbers = (st.integers(1, 36**7 - 1), st.integers(1, 36**5 - 1), st.integers(1, 36**2 - 1))
    return st.builds(lambda strategy, run, number: make_tag(log_id, strategy, run, number), *numbers)


def facts() -> SearchStrategy[Facts]:
    """The world as a decision may find it, on the story's day from before the opening to after the close."""
    return st.builds(
        _facts,
        st.integers(clock_time("08:30"), clock_time("16:00")),
        st.none() | prices("80", "120"),
        st.sampled_from([0, SECOND, 2 * MINUTE]),
        connected=st.booleans(),
        halt=st.none() | st.builds(Halt, st.booleans()),
        instrument=st.none() | st.just(Rules()),
        foreign=st.integers(-3, 3),
        day_spent=st.booleans(),
    )


def _facts(now: Instant, price: Price | None, age: int, **others: Any) -> Facts:
    return Facts(now=now, log_id=LOG, calendar=load_nse(), price=price, price_at=now - age, cause="w-1", **others)


def interleavings(items: Sequence[T], key: Callable[[T], object]) -> SearchStrategy[list[T]]:
    """The items in any order that keeps those of one key in theirs: what independent sources may make of a history."""

    def dealt(order: Sequence[object]) -> list[T]:
        waiting = {each: iter([item for item in items if key(item) == each]) for each in set(order)}
        return [next(waiting[each]) for each in order]

    return st.permutations([key(item) for item in items]).map(dealt)
