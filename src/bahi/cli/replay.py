"""`bahi replay`: the state of a strategy, or of all, as it was then: from the log alone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bahi.cli.common import Home, Json, fail, load_settings, out, print_json, run_async, show, table, until_closed
from bahi.cli.then import Then, as_of, logs_meant, point_in, states_then, title

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

    A time means what was known then: every event that was recorded by that time, whatever time it tells of. Times are
    the exchange's: 09:20, '2026-06-15 09:20', or RFC 3339. One without a date is of the log's last day. --diff tells
    which fields changed from the first point to the second, and counts the events in between; 0 is before everything.
    """
    if at is not None and diff is not None:
        fail("--at and --diff exclude each other")
    settings = load_settings(home)
    with until_closed():
        if diff is None:
            run_async(_replay(settings, strategy, at, json))
        else:
            from bahi.cli.differences import diff as tell_differences

            run_async(tell_differences(settings, strategy, diff, json))


async def _replay(settings: Any, strategy: int | None, at: str | None, json: bool) -> None:
    from bahi.cli.audited import reading
    from bahi.cli.reader import open_reader

    async with open_reader(settings) as reader:
        logs, ends = await logs_meant(reader, strategy)
        await reading(reader, "replay", {"strategy_id": strategy, "at": at})
        points = await point_in(reader, logs, ends, at, strategy)
        moments = [await states_then(reader.logs[each.partition], each, strategy, quiet=json) for each in points]
    rows = sorted(((state, then) for then in moments for state in then.states.values()), key=lambda row: row[0].id)
    if strategy is not None and not rows:
        fail(f"there is no strategy {strategy} in this log" + ("" if at is None else f" at {at}"))
    if json:
        for state, then in rows:
            print_json(_plain(reader, state, then))
    elif strategy is None:
        _show_all(reader, rows)
    else:
        _show_one(reader, *rows[0])


# --- one ------------------------------------------------------------------------------------------------------------


def _plain(reader: "Reader", state: "State", then: Then) -> dict[str, Any]:
    from bahi.cli.plain import Plain

    told = Plain(reader.times)(state)
    strategy_id = told.pop("id")
    return {"strategy_id": strategy_id, **told, "as_of": as_of(reader, then.point)}


def _show_one(reader: "Reader", state: "State", then: Then) -> None:
    told = table(f"Strategy {state.id} {title(reader, then.point)}", "field", "value", fold=("value",))
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

    moments = list({then.point.partition: then for _, then in rows}.values())
    if not rows:
        out.print("no strategy yet")
        return
    told = table(
        f"{len(rows)} strategies {title(reader, moments[0].point)}",
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
        out.print(f"partition {each.point.partition}: {title(reader, each.point)}")
