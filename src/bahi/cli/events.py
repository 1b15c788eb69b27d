"""`bahi events`: the log, as a table or as one JSON object per line."""

import asyncio
import heapq
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from msgspec import Struct

from bahi.cli.common import Home, Json, fail, load_settings, out, run_async, until_closed

__all__ = ["events"]


def events(
    strategy: Annotated[int | None, typer.Option(help="Only of this strategy.", metavar="ID")] = None,
    kinds: Annotated[
        list[str] | None, typer.Option("--type", help="Only of this type; may be given several times.", metavar="TYPE")
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="Only what comes after this position, or this time.", metavar="N|TIME")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only up to this position, or this time.", metavar="N|TIME")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then print what comes, until Ctrl-C.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Print the log, in its order.

    Times are the exchange's: 09:20, '2026-06-15 09:20', or RFC 3339. One without a date is of the log's last day.
    """
    if follow and until is not None:
        fail("--follow goes on for ever: --until makes no sense with it")
    wanted = frozenset(_type(kind) for kind in kinds or ())
    with until_closed():
        run_async(_events(load_settings(home), strategy, wanted, after, until, follow, json))


def _type(name: str) -> str:
    """The type that is meant. Exits with near names when there is none."""
    from domain.events import EVENT_TYPES

    meant = name.strip().upper().replace("-", "_")
    if meant == "PRICE_TICK":
        fail("PRICE_TICK is market data, which is never in the log; STOPLOSS_TRIGGERED carries the tick that caused it")
    if meant not in EVENT_TYPES:
        near = get_close_matches(meant, EVENT_TYPES, n=3, cutoff=0.5)
        near = near or [each for each in EVENT_TYPES if meant and meant in each][:5]
        fail(f"there is no event type {name!r}" + (f"; near: {', '.join(near)}" if near else ""))
    return meant


class Row(Struct, frozen=True):
    """An entry of the log; `event` is None, and `error` says why, when it cannot be read."""

    partition: int
    position: int
    stream: str
    version: int
    recorded_at: int
    event_id: str
    strategy_id: int
    user_id: int
    correlation_id: str
    causation_id: str
    writer: str
    event: Any
    error: str = ""


async def _events(
    settings: Any,
    strategy: int | None,
    wanted: frozenset[str],
    after: str | None,
    until: str | None,
    follow: bool,
    json: bool,
) -> None:
    from bahi.cli.audited import reading
    from bahi.cli.reader import open_reader

    async with open_reader(settings) as reader:
        logs = reader.logs if strategy is None else await reader.logs_of(strategy)
        bounds = [await _bounds(reader, log, after, until) for log in logs]
        filters = {
            "strategy_id": strategy,
            "type": ",".join(sorted(wanted)),
            "after": after,
            "until": until,
            "follow": follow or None,
        }
        await reading(reader, "events", filters, partition=logs[0].keys.partition)
        printer = Printer(reader, json)

        def matches(row: Row) -> bool:
            if strategy is not None and row.strategy_id != strategy:
                return False
            return not wanted or (row.event is not None and row.event.type in wanted)

        seen = 0
        sources = [_pages(log, first, last) for log, (first, last) in zip(logs, bounds, strict=True)]
        async for rows in sources[0] if len(sources) == 1 else _merged(sources):
            if strategy is not None and not seen:
                seen += sum(row.strategy_id == strategy for row in rows)
            printer.write([row for row in rows if matches(row)])
        if strategy is not None and not seen and not await _exists(reader, strategy):
            fail(f"there is no strategy {strategy} in this log")
        if follow:
            printer.flush()
            queue: asyncio.Queue[Row] = asyncio.Queue()
            followers = [
                asyncio.create_task(_follow(log, last, queue)) for log, (_, last) in zip(logs, bounds, strict=True)
            ]
            try:
                await _print_live(printer, queue, followers, matches)
            finally:
                for task in followers:
                    task.cancel()
                await asyncio.gather(*followers, return_exceptions=True)


async def _print_live(
    printer: "Printer",
    queue: "asyncio.Queue[Row]",
    followers: "Sequence[asyncio.Task[None]]",
    matches: Callable[[Row], bool],
) -> None:
    """Until a follower fails, and then what it failed with."""
    while True:
        coming = asyncio.ensure_future(queue.get())
        await asyncio.wait((coming, *followers), return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            coming.cancel()
            for task in followers:
                if task.done():
                    task.result()
            return
        if matches(row := coming.result()):
            printer.write([row])
            if queue.empty():
                printer.flush()


async def _exists(reader: Any, strategy: int) -> bool:
    """Whether a strategy of which nothing was printed is one all the same."""
    from eventstore.clients import commands

    found = await commands(reader.redis, [("EXISTS", log.keys.strategy(strategy)) for log in reader.logs])
    return any(each == 1 for each in found)


async def _bounds(reader: Any, log: Any, after: str | None, until: str | None) -> tuple[int, int]:
    """The positions of this log that the options mean: after the first, up to the second."""
    from bahi.cli.places import Place

    end = await log.last_position()

    async def position(text: str, elsewhere: int) -> int:
        point = await reader.point(text)
        if isinstance(point, Place):
            mine = point.partition in (None, log.keys.partition)
            return min(point.position, end) if mine else elsewhere
        found: int = await reader.position_at(log, point)
        return found

    # A position of one partition shows only that partition.
    first = 0 if after is None else await position(after, end)
    last = end if until is None else await position(until, 0)
    return first, max(first, last)


async def _pages(log: Any, after: int, until: int) -> AsyncIterator[list[Row]]:
    from eventstore.entries import read_entries

    if after >= until:
        return
    async with aclosing(read_entries(log, after, until)) as pages:
        async for raws in pages:
            yield _rows(log.keys.partition, raws)


def _rows(partition: int, raws: Sequence[Any]) -> list[Row]:
    from eventstore.envelope import decode_page

    page = decode_page(raws)
    if page is None:
        return [_row(partition, raw) for raw in raws]
    return [
        Row(
            partition,
            raw.position,
            raw.stream,
            raw.version,
            raw.recorded_at,
            it.event_id,
            it.strategy_id,
            it.user_id,
            it.correlation_id,
            it.causation_id,
            it.writer,
            it.event,
        )
        for raw, it in zip(raws, page, strict=True)
    ]


def _row(partition: int, raw: Any) -> Row:
    """One entry, whatever state it is in."""
    from eventstore.envelope import decode, owner_of
    from eventstore.errors import CorruptEvent

    head = (partition, raw.position, raw.stream, raw.version, raw.recorded_at)
    try:
        it = decode(raw)
    except CorruptEvent as error:
        owner = owner_of(raw.envelope)
        return Row(
            *head, owner.event_id, owner.strategy_id, owner.user_id, owner.correlation_id, "", "", None, error.reason
        )
    return Row(*head, it.event_id, it.strategy_id, it.user_id, it.correlation_id, it.causation_id, it.writer, it.event)


async def _merged(sources: Sequence[AsyncIterator[list[Row]]]) -> AsyncIterator[list[Row]]:
    """The partitions in the order of their times; between partitions there is no other."""
    waiting: list[tuple[int, int, int, list[Row]]] = []

    async def more(number: int) -> None:
        async for rows in sources[number]:
            heapq.heappush(waiting, (rows[0].recorded_at, number, 0, rows))
            return

    for number in range(len(sources)):
        await more(number)
    batch: list[Row] = []
    while waiting:
        _, number, index, rows = heapq.heappop(waiting)
        batch.append(rows[index])
        if index + 1 < len(rows):
            heapq.heappush(waiting, (rows[index + 1].recorded_at, number, index + 1, rows))
        else:
            await more(number)
        if len(batch) >= 1000:
            yield batch
            batch = []
    yield batch


async def _follow(log: Any, after: int, queue: "asyncio.Queue[Row]") -> None:
    """What comes, for ever. An entry that cannot be read is told, and passed over."""
    from eventstore.entries import read_entries
    from eventstore.errors import CorruptEvent

    partition = log.keys.partition
    while True:
        try:
            async with aclosing(log.follow(after)) as following:
                async for it in following:
                    after = it.position
                    queue.put_nowait(
                        Row(
                            partition,
                            it.position,
                            str(it.event.priority),
                            it.version,
                            it.recorded_at,
                            it.event_id,
                            it.strategy_id,
                            it.user_id,
                            it.correlation_id,
                            it.causation_id,
                            it.writer,
                            it.event,
                        )
                    )
        except CorruptEvent as error:
            after = error.position
            async for raws in read_entries(log, after - 1, after):
                for raw in raws:
                    queue.put_nowait(_row(partition, raw))


class Printer:
    """Prints rows as they come: nothing of a long log is kept."""

    def __init__(self, reader: Any, json: bool) -> None:
        from bahi.cli.plain import Plain
        from bahi.cli.summary import Summaries

        self._places = reader.places
        self._times = reader.times
        self._write = sys.stdout.write
        self.write: Callable[[Sequence[Row]], None] = self._json if json else self._table
        self._plain = Plain(reader.times)
        self._say = Summaries(reader.times)
        self._terminal = out.is_terminal
        self._width = out.width if self._terminal else 0
        self._styles = _styles()
        self._day = ""
        self._headed = json

    def flush(self) -> None:
        self._head()
        sys.stdout.flush()

    def _json(self, rows: Sequence[Row]) -> None:
        import msgspec

        encode = msgspec.json.Encoder(decimal_format="number").encode
        for row in rows:
            self._write(encode(self._object(row)).decode() + "\n")

    def _object(self, row: Row) -> dict[str, Any]:
        told: dict[str, Any] = {
            "position": self._places.plain(row.partition, row.position),
            "recorded_at": self._times.wall(row.recorded_at),
            "class": row.stream,
            "strategy_id": row.strategy_id or None,
            "user_id": row.user_id or None,
            "version": row.version,
            "type": None if row.event is None else row.event.type,
            "event_id": row.event_id,
            "correlation_id": row.correlation_id,
            "causation_id": row.causation_id,
            "writer": row.writer,
            "data": None if row.event is None else self._plain(row.event),
        }
        if row.error:
            told["error"] = row.error
        return told

    def _head(self) -> None:
        if self._headed:
            return
        self._headed = True
        when = f"{'time':12}" if self._terminal else f"{'time':29}"
        head = f"{'position':>8} {when} {'class':5} {'strat/user':>10} {'ver':>4} {'type':24} what"
        self._write(self._styles["head"].replace("\0", head) + "\n")

    def _table(self, rows: Sequence[Row]) -> None:
        if rows:
            self._head()
        for row in rows:
            if self._terminal and (day := self._times.day(row.recorded_at)) != self._day:
                self._day = day
                self._write(self._styles["head"].replace("\0", f"─── {day} ".ljust(self._width, "─")) + "\n")
            when = (self._times.of_day if self._terminal else self._times.full)(row.recorded_at)
            owner = f"{row.strategy_id or '–'}/{row.user_id or '–'}"
            version = row.version or "–"
            kind, what = ("cannot be read", row.error) if row.event is None else (row.event.type, self._say(row.event))
            start = f"{self._places.show(row.partition, row.position):>8} {when} "
            middle = f"{_SHORT.get(row.stream, row.stream):5} {owner:>10} {version:>4} {kind:24} "
            if self._width and len(start) + len(middle) + len(what) > self._width:
                what = what[: max(0, self._width - len(start) - len(middle) - 1)] + "…"
            style = self._styles.get("error" if row.event is None else row.stream, "\0")
            self._write(start + style.replace("\0", middle) + what + "\n")


_SHORT = {"critical": "crit", "high": "high", "medium": "med", "low": "low"}


def _styles() -> dict[str, str]:
    """How a class looks on this terminal: what is to be shown goes in the place of the zero byte."""
    from rich.style import Style

    looks = {"critical": "bold red", "high": "yellow", "low": "dim", "head": "bold", "error": "bold white on red"}
    system = out._color_system
    return {name: Style.parse(look).render("\0", color_system=system) for name, look in looks.items()}
