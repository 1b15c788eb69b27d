"""`bahi replay --diff A B`: what became of strategies between two points, and the events that did it."""

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from bahi.cli.audited import reading
from bahi.cli.common import fail, out, print_json, show, table
from bahi.cli.then import Then, as_of, logs_meant, point_in, states_then

if TYPE_CHECKING:
    from bahi.cli.reader import Reader
    from domain.strategy import State
    from eventstore.log import EventLog

__all__ = ["diff"]

_UNTOLD = ("updated_at", "position_in_log")
"""What changes with every event, and says nothing of its own."""


async def diff(settings: Any, strategy: int | None, points: tuple[str, str], json: bool) -> None:
    from bahi.cli.reader import open_reader

    async with open_reader(settings) as reader:
        logs, ends = await logs_meant(reader, strategy)
        await reading(reader, "diff", {"strategy_id": strategy, "from": points[0], "to": points[1]})
        earlier = {
            each.partition: each for each in await point_in(reader, logs, ends, points[0], strategy, or_nothing=True)
        }
        told = _Table(reader, points)
        known = False
        for point in await point_in(reader, logs, ends, points[1], strategy):
            before = earlier.get(point.partition)
            if before is None:
                fail(f"{points[0]} and {points[1]} are of different partitions")
            if before.position > point.position:
                fail(f"{points[0]} comes after {points[1]}: write them the other way round")
            log = reader.logs[point.partition]
            was, became = [await states_then(log, each, strategy, quiet=json) for each in (before, point)]
            known = known or bool(became.states)
            counts = await _counts(log, before.position, point.position, strategy)
            for strategy_id in sorted(became.states):
                _tell(told, was, became, strategy_id, counts.get(strategy_id, Counter()), json=json)
        if strategy is not None and not known:
            fail(f"there is no strategy {strategy} in this log at {points[1]}")
    if not json:
        told.show()


def _tell(told: "_Table", was: Then, became: Then, strategy_id: int, counts: "Counter[str]", *, json: bool) -> None:
    from domain.strategy import initial
    from projections.runtime import differences

    after: State = became.states[strategy_id]
    before = was.states.get(strategy_id) or initial(strategy_id, after.user_id)
    changed = [name for name in differences(before, after) if name not in _UNTOLD]
    if not changed and not counts:
        return
    old, new = told.plain(before), told.plain(after)
    if json:
        print_json(
            {
                "strategy_id": strategy_id,
                "from": as_of(told.reader, was.point),
                "to": as_of(told.reader, became.point),
                "changes": {name: {"from": old[name], "to": new[name]} for name in changed},
                "events": dict(sorted(counts.items())),
            }
        )
        return
    for name in changed:
        for field, one, other in _changes(name, old[name], new[name]):
            told.add(strategy_id, field, _short(one), _short(other))
    told.add(strategy_id, "events", "", ", ".join(f"{count} {name}" for name, count in counts.most_common()))


class _Table:
    """What changed, a row for each field."""

    def __init__(self, reader: "Reader", points: tuple[str, str]) -> None:
        from bahi.cli.plain import Plain

        self.reader = reader
        self.plain = Plain(reader.times)
        self._between = f"between {points[0]} and {points[1]}"
        ends = (f"at {points[0]}", f"at {points[1]}") if points[0] != points[1] else ("first", "second")
        self._rows = table(f"Changed {self._between}", "strategy", "field", *ends, right=("strategy",), fold=ends)

    def add(self, strategy_id: int, *cells: str) -> None:
        self._rows.add_row(str(strategy_id), *cells)

    def show(self) -> None:
        if self._rows.row_count:
            show(self._rows)
        else:
            out.print(f"nothing changed {self._between}")


async def _counts(log: "EventLog", after: int, until: int, strategy: int | None) -> "dict[int, Counter[str]]":
    """The events of each strategy between the two positions, by type; those that take no version, too."""
    from eventstore.entries import read_entries
    from eventstore.envelope import decode, decode_page, owner_of
    from eventstore.errors import CorruptEvent

    counted: dict[int, Counter[str]] = {}
    if after >= until:
        return counted
    async with aclosing(read_entries(log, after, until, on_hole=lambda _: None)) as pages:
        async for raws in pages:
            page = decode_page(raws)
            for number, raw in enumerate(raws):
                if page is not None:
                    strategy_id, kind = page[number].strategy_id, page[number].event.type
                else:
                    strategy_id = owner_of(raw.envelope).strategy_id
                    try:
                        kind = decode(raw).event.type
                    except CorruptEvent:
                        kind = "unreadable"
                if strategy_id and strategy in (None, strategy_id):
                    counted.setdefault(strategy_id, Counter())[kind] += 1
    return counted


def _changes(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """What changed in a field; of a nested one only what did. An order that became a past one is told in short."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield name, old, new
        return
    for key in {**old, **new}:
        if (one := old.get(key)) != (other := new.get(key)) and (one or other):
            yield from _changes(f"{name}.{key}", one, other)


def _short(value: Any) -> str:
    if value is None or value in ("", {}):
        return "–"
    if isinstance(value, dict):
        if "tag" in value:
            filled = f"{value['filled']} of {value['quantity']}"
            return f"{value['tag']}: {value['kind']}, {filled}, {value['final'] or value['phase']}"
        return ", ".join(f"{name} {_short(each)}" for name, each in value.items() if each) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat(" ") if isinstance(value, dt.datetime) else str(value)
