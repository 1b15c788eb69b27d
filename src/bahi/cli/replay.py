"""`bahi replay`: the state of a strategy, or of all, as it was then: from the log alone."""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct

from bahi.cli.common import Home, Json, bar, fail, load_settings, out, print_json, run_async, show, table, until_closed

if TYPE_CHECKING:
    from bahi.cli.reader import Reader
    from domain.strategy import Order, State
    from eventstore.log import EventLog

__all__ = ["replay"]


def replay(
    strategy: Annotated[int | None, typer.Argument(help="A strategy's id; none: a table of all.", min=1)] = None,
    at: Annotated[
        str | None, typer.Option(help="After this position, or as it was known at this time.", metavar="POSITION|TIME")
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(help="What changed between two positions or times.", metavar="A B", show_default=False),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Tell the state of a strategy, or of all, as it was then: from the log alone.

    Times are the exchange's: 09:20, '2026-06-15 09:20', or RFC 3339. One without a date is of the log's last day.
    """
    if at is not None and diff is not None:
        fail("--at and --diff exclude each other")
    settings = load_settings(home)
    with until_closed():
        run_async(_replay(settings, strategy, at, json) if diff is None else _diff(settings, strategy, diff, json))


class Then(Struct, frozen=True):
    """The states of a partition after the event at `position`, which was recorded at `recorded_at`."""

    partition: int
    position: int
    recorded_at: int
    states: dict[int, Any]


async def _replay(settings: Any, strategy: int | None, at: str | None, json: bool) -> None:
    from bahi.cli.reader import open_reader

    async with open_reader(settings) as reader:
        moments = await _states(reader, strategy, at, json)
    rows = sorted(((state, then) for then in moments for state in then.states.values()), key=lambda row: row[0].id)
    if json:
        for state, then in rows:
            print_json(_plain(reader, state, then))
    elif strategy is None:
        _show_all(reader, rows)
    else:
        _show_one(reader, *rows[0])


async def _states(reader: "Reader", strategy: int | None, at: str | None, quiet: bool) -> list[Then]:
    """The states that are meant, of each partition that is meant. Exits when there is none, and says why."""
    from bahi.cli.places import Place
    from bahi.cli.reader import entry_at
    from projections.replay import Replay

    logs = reader.logs if strategy is None else await reader.logs_of(strategy)
    point = None if at is None else await reader.point(at)
    if isinstance(point, Place) and point.partition is None and len(logs) > 1:
        fail(f"{at} may be of any of {len(logs)} partitions: write 0-{at}")
    found: list[Then] = []
    for log in logs:
        number, last = log.keys.partition, await log.last_position()
        until = last
        if isinstance(point, Place):
            if point.partition not in (None, number):
                continue
            if point.position > last:
                fail(f"the log ends at {reader.places.show(number, last)}")
            until = point.position
        elif point is not None:
            until = await reader.position_at(log, point)
        told = Replay(strategy_id=strategy)
        await _fold(log, told, until, quiet)
        entry = await entry_at(log, until) if until else None
        found.append(Then(number, until, entry.recorded_at if entry else 0, told.states))
    found = [then for then in found if then.states] or found[:1]
    if not any(then.states for then in found):
        await _nothing(reader, strategy, at, found)
    return found


async def _fold(log: "EventLog", told: Any, until: int, quiet: bool) -> None:
    from eventstore.entries import read_entries

    if not until:
        return
    with bar("replaying", hidden=quiet) as progress:
        async for page in read_entries(log, 0, until):
            told.feed(page)
            progress(told.position, until)


async def _nothing(reader: "Reader", strategy: int | None, at: str | None, found: list[Then]) -> None:
    from bahi.cli.reader import entry_at

    if not found:
        fail(f"strategy {strategy} is not in the partition that {at} names")
    first = await entry_at(reader.logs[found[0].partition], 1)
    if at is not None and first is not None and found[0].position == 0:
        fail(f"that is before the first event: the log begins on {reader.times.full(first.recorded_at)}")
    when = "" if at is None else f" at {at}"
    if strategy is not None:
        fail(f"there is no strategy {strategy} in this log{when}")


# --- one ------------------------------------------------------------------------------------------------------------


def _plain(reader: "Reader", state: "State", then: Then) -> dict[str, Any]:
    from bahi.cli.plain import Plain

    told = Plain(reader.times)(state)
    strategy_id = told.pop("id")
    return {"strategy_id": strategy_id, **told, "as_of": _as_of(reader, then)}


def _as_of(reader: "Reader", then: Then) -> dict[str, Any]:
    return {
        "position": reader.places.plain(then.partition, then.position),
        "recorded_at": reader.times.wall(then.recorded_at) if then.recorded_at else None,
    }


def _title(reader: "Reader", then: Then) -> str:
    if not then.position:
        return "before the first event"
    return f"after position {reader.places.show(then.partition, then.position)}, {reader.times.full(then.recorded_at)}"


def _show_one(reader: "Reader", state: "State", then: Then) -> None:
    told = table(f"Strategy {state.id} {_title(reader, then)}", "field", "value", fold=("value",))
    told.show_header = False
    for name, value in _told(reader, state):
        told.add_row(name, value)
    show(told)
    orders = [*state.past.values(), *([state.order] if state.order else [])]
    if orders:
        show(_orders(reader, orders))


def _told(reader: "Reader", state: "State") -> Iterator[tuple[str, str]]:
    """What there is to say of a strategy: what is not set is left out."""
    from bahi.cli.summary import money

    times = reader.times
    yield "user", str(state.user_id)
    yield "status", str(state.status)
    yield "position", str(state.position)
    yield "trades", f"{state.quantity} {state.symbol} {state.product}"
    yield "buy, sell", f"{state.buy_time} and {state.sell_time}"
    yield "stop-loss", f"{money(state.stop_loss)} (revision {state.stop_revision})"
    if state.run:
        yield "run", f"{state.run}, session of {state.session_date}"
        yield "armed for", f"{times.full(state.buy_at)} and {times.full(state.sell_at)}"
    due = [name for name in ("buy_due", "sell_due", "stop_due", "abort_due") if getattr(state, name)]
    asked = [name for name in ("start_requested", "stop_requested", "square_off", "buy_missed") if getattr(state, name)]
    if due:
        yield "became due", ", ".join(due)
    if asked:
        yield "also", ", ".join(asked)
    if state.bought or state.open_quantity:
        parts = f"bought {state.bought}, sold {state.sold}" + (f", settled {state.settled}" if state.settled else "")
        yield "shares", f"{parts}, open {state.open_quantity}"
        yield "worth", f"bought for {money(state.buy_value)}, sold for {money(state.sell_value)}"
    if state.surfaced:
        yield "surfaced", str(state.surfaced)
    yield "lock", state.lock_state
    for label, text in (("exit", state.exit_reason), ("last action", state.last_action)):
        if text:
            yield label, str(text)
    if state.last_price is not None:
        yield "last price", money(state.last_price)
    if state.abort_reason or state.entry_denied:
        yield "why", state.abort_reason or state.entry_denied
    if state.terminated_at:
        yield "ended", times.full(state.terminated_at)
    yield "version", str(state.version)
    last = reader.places.show(reader.logs.index(_log_of(reader, state)), state.position_in_log)
    yield "last event", f"{last}, {times.full(state.updated_at)}"


def _log_of(reader: "Reader", state: "State") -> "EventLog":
    return reader.logs[state.user_id % len(reader.logs)]


def _orders(reader: "Reader", orders: "list[Order]") -> Any:
    from bahi.cli.summary import money

    names = ("tag", "kind", "run", "quantity", "filled", "at", "state", "order")
    told = table("Orders of the day", *names, right=("run", "quantity", "filled", "at"))
    for order in orders:
        price = money(order.average_price) if order.filled else "–"
        ended = str(order.final or order.phase)
        numbers = (str(order.run), str(order.quantity), str(order.filled), price)
        told.add_row(order.tag, str(order.kind), *numbers, ended, order.order_id or "–")
    return told


def _show_all(reader: "Reader", rows: "list[tuple[State, Then]]") -> None:
    from bahi.cli.summary import money

    moments = list({then.partition: then for _, then in rows}.values())
    if not rows:
        out.print("no strategy yet")
        return
    told = table(
        f"{len(rows)} strategies {_title(reader, moments[0])}",
        *("id", "user", "symbol", "status", "position", "stop", "open", "realised", "exit", "ver"),
        right=("id", "user", "stop", "open", "realised", "ver"),
        fold=("symbol", "status", "position"),
    )
    for state, _ in rows:
        realised = state.sell_value - state.buy_value if state.bought and not state.open_quantity else None
        told.add_row(
            str(state.id),
            str(state.user_id),
            state.symbol,
            str(state.status),
            str(state.position),
            money(state.stop_loss),
            str(state.open_quantity),
            money(realised),
            str(state.exit_reason or "–"),
            str(state.version),
        )
    show(told)
    for each in moments[1:]:
        out.print(f"partition {each.partition}: {_title(reader, each)}")


# --- two ------------------------------------------------------------------------------------------------------------


async def _diff(settings: Any, strategy: int | None, points: tuple[str, str], json: bool) -> None:
    from bahi.cli.plain import Plain
    from bahi.cli.reader import open_reader
    from domain.strategy import initial
    from projections.runtime import differences

    async with open_reader(settings) as reader:
        later = await _states(reader, strategy, points[1], json)
        earlier = {then.partition: then for then in await _earlier(reader, strategy, points[0], json)}
    plain = Plain(reader.times)
    ends = (f"at {points[0]}", f"at {points[1]}") if points[0] != points[1] else ("first", "second")
    told = table(
        f"Changed between {points[0]} and {points[1]}", "strategy", "field", *ends, right=("strategy",), fold=ends
    )
    for then in later:
        before = earlier.get(then.partition, Then(then.partition, 0, 0, {}))
        for strategy_id, after in sorted(then.states.items()):
            was = before.states.get(strategy_id) or initial(strategy_id, after.user_id)
            changed = [name for name in differences(was, after) if name not in ("updated_at", "position_in_log")]
            if not changed:
                continue
            old, new = plain(was), plain(after)
            if json:
                changes = {name: {"from": old[name], "to": new[name]} for name in changed}
                between = {"from": _as_of(reader, before), "to": _as_of(reader, then)}
                print_json({"strategy_id": strategy_id, **between, "changes": changes})
            for name in changed:
                for field, one, other in _changes(name, old[name], new[name]):
                    told.add_row(str(strategy_id), field, _short(one), _short(other))
    if not json:
        show(told) if told.row_count else out.print(f"nothing changed between {points[0]} and {points[1]}")


async def _earlier(reader: "Reader", strategy: int | None, at: str, quiet: bool) -> list[Then]:
    """As `_states`; but before its first event a strategy is nothing yet, which is no mistake."""
    from bahi.cli.places import Place
    from bahi.cli.reader import entry_at
    from projections.replay import Replay

    point = await reader.point(at)
    found = []
    for log in reader.logs if strategy is None else await reader.logs_of(strategy):
        if isinstance(point, Place):
            if point.partition not in (None, log.keys.partition):
                continue
            until = min(point.position, await log.last_position())
        else:
            until = await reader.position_at(log, point)
        told = Replay(strategy_id=strategy)
        await _fold(log, told, until, quiet)
        entry = await entry_at(log, until) if until else None
        found.append(Then(log.keys.partition, until, entry.recorded_at if entry else 0, told.states))
    return found


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
