"""`bahi parked`: the events that could not be handled and were set aside, and what is to become of them."""

import getpass
import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct

from bahi.cli.common import Home, Json, fail, load_settings, out, print_json, run_async, show, table, until_closed

if TYPE_CHECKING:
    from bahi.cli.reader import Reader

__all__ = ["app", "parked_now"]

app = typer.Typer(help="Events that could not be handled and were set aside.", no_args_is_help=True)

Which = Annotated[
    list[str] | None, typer.Argument(help="As the list names them: critical/17, or just 17.", metavar="WHICH…")
]
All = Annotated[bool, typer.Option("--all", help="All that are parked now.")]
Why = Annotated[str, typer.Option(help="Recorded in the log, for whoever asks later.", metavar="TEXT")]
Who = Annotated[str | None, typer.Option(help="Recorded too.", show_default="you, at this machine", metavar="NAME")]


class Parked(Struct, kw_only=True):
    """A parked event: `name` is its stream and position, `state` parked, retried or dismissed."""

    partition: int
    name: str
    position: int
    parked_at: int
    parked_by: str
    error: str
    strategy_id: int
    user_id: int
    event_id: str
    state: str = "parked"
    who: str = ""
    why: str = ""
    settled_at: int = 0


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also the retried and the dismissed ones.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """List what is parked."""
    with until_closed():
        run_async(_list(load_settings(home), everything, json))


@app.command()
def retry(
    why: Why, which: Which = None, all_: All = False, who: Who = None, home: Home = None, json: Json = False
) -> None:
    """Have the strategy of a parked event looked at again, after its cause was removed. Recorded as PARKED_RETRIED."""
    run_async(_settle(load_settings(home), which or [], all_, _who(who), why, json, retried=True))


@app.command()
def dismiss(
    why: Why, which: Which = None, all_: All = False, who: Who = None, home: Home = None, json: Json = False
) -> None:
    """Take a parked event off the list: nothing is to be done about it. Recorded as PARKED_DISMISSED."""
    run_async(_settle(load_settings(home), which or [], all_, _who(who), why, json, retried=False))


def _who(given: str | None) -> str:
    return (given or f"{getpass.getuser()}@{socket.gethostname()}").strip()


async def _list(settings: Any, everything: bool, json: bool) -> None:
    from rich.text import Text

    from bahi.cli.reader import open_reader

    async with open_reader(settings) as reader:
        found = [each for each in await _parked(reader) if everything or each.state == "parked"]
    if json:
        for each in found:
            print_json(_plain(reader, each))
        return
    if not found:
        out.print("nothing is parked" if not everything else "nothing was ever parked")
        return
    what = "error, and what became of it"
    listed = table(
        f"{sum(each.state == 'parked' for each in found)} parked",
        *("which", "parked", "strategy", "state", what),
        fold=(what,),
    )
    for each in found:
        told = each.error
        if each.state != "parked":
            told += f"\n{each.state} by {each.who}, {reader.times.full(each.settled_at)}: {each.why}"
        strategy = str(each.strategy_id or "–")
        listed.add_row(_name(reader, each), reader.times.full(each.parked_at), strategy, each.state, Text(told))
    show(listed)


def _name(reader: "Reader", it: Parked) -> str:
    stream, _, _ = it.name.partition("/")
    return f"{stream}/{reader.places.show(it.partition, it.position)}"


def _plain(reader: "Reader", it: Parked) -> dict[str, Any]:
    return {
        "which": _name(reader, it),
        "position": reader.places.plain(it.partition, it.position),
        "state": it.state,
        "error": it.error,
        "parked_at": reader.times.wall(it.parked_at),
        "strategy_id": it.strategy_id or None,
        "user_id": it.user_id or None,
        "who": it.who or None,
        "why": it.why or None,
        "settled_at": reader.times.wall(it.settled_at) if it.settled_at else None,
    }


async def _parked(reader: "Reader") -> list[Parked]:
    """Everything that was ever parked, as the log tells it: rare events, found by their names in the entries."""
    from domain.events import EventParked, ParkedDismissed, ParkedRetried
    from eventstore.entries import read_entries
    from eventstore.envelope import decode
    from eventstore.errors import CorruptEvent

    found: dict[tuple[int, str], Parked] = {}
    for log in reader.logs:
        number = log.keys.partition
        async for page in read_entries(log):
            for raw in page:
                if b"PARKED" not in raw.envelope:
                    continue
                try:
                    it = decode(raw)
                except CorruptEvent:
                    continue
                event = it.event
                if isinstance(event, EventParked):
                    position = event.parked.rpartition("/")[2]
                    found[number, event.parked] = Parked(
                        partition=number,
                        name=event.parked,
                        position=int(position) if position.isdecimal() else 0,
                        parked_at=it.recorded_at,
                        parked_by=it.event_id,
                        error=event.error,
                        strategy_id=it.strategy_id,
                        user_id=it.user_id,
                        event_id=it.causation_id,
                    )
                elif isinstance(event, ParkedRetried | ParkedDismissed) and (was := found.get((number, event.parked))):
                    was.state = "retried" if isinstance(event, ParkedRetried) else "dismissed"
                    was.who, was.why, was.settled_at = event.who, event.why, it.recorded_at
    return sorted(found.values(), key=lambda each: (each.partition, each.position))


async def parked_now(reader: "Reader") -> list[Parked]:
    """What is parked and neither retried nor dismissed."""
    return [each for each in await _parked(reader) if each.state == "parked"]


async def _settle(
    settings: Any, which: list[str], everything: bool, who: str, why: str, json: bool, *, retried: bool
) -> None:
    from bahi.cli.reader import open_reader

    if not why.strip() or len(why) > 500 or not why.isprintable():
        fail("--why is a line of 1 to 500 characters")
    if bool(which) is everything:
        fail("name what is meant, as `bahi parked list` does, or say --all")
    async with open_reader(settings) as reader:
        there = await parked_now(reader)
        meant = there if everything else [_find(reader, there, name) for name in which]
        if not meant:
            fail("nothing is parked")
        for each in {(it.partition, it.name): it for it in meant}.values():
            await _append(reader, each, who, why.strip(), retried)
            each.state, each.who, each.why = "retried" if retried else "dismissed", who, why.strip()
            if json:
                print_json(_plain(reader, each))
            else:
                out.print(f"{_name(reader, each)} {each.state}", markup=False)
        if retried and not json and "worker" not in await reader.running():
            out.print("No worker runs now: the next one will look at it.")


def _find(reader: "Reader", there: list[Parked], name: str) -> Parked:
    wanted = name.strip()
    having = [it for it in there if wanted in (_name(reader, it), _name(reader, it).rpartition("/")[2])]
    if not having:
        have = ", ".join(_name(reader, each) for each in there[:10]) or "nothing"
        fail(f"{name!r} is not parked; parked: {have}")
    return having[0]


async def _append(reader: "Reader", it: Parked, who: str, why: str, retried: bool) -> None:
    """The event that says so. Of a user's event every strategy of the user is to be looked at: one event each."""
    from domain.events import ParkedDismissed, ParkedRetried
    from eventstore.batch import MAX_EVENTS, Appended
    from eventstore.envelope import NewEvent
    from eventstore.members import user_strategies

    log = reader.logs[it.partition]
    event = (ParkedRetried if retried else ParkedDismissed)(parked=it.name, who=who, why=why)
    strategies = [it.strategy_id]
    if retried and not it.strategy_id and it.user_id:
        strategies = await user_strategies(log, it.user_id) or [0]
    for start in range(0, len(strategies), MAX_EVENTS):
        batch = [
            NewEvent(event, strategy_id, it.user_id, causation_id=it.parked_by)
            for strategy_id in strategies[start : start + MAX_EVENTS]
        ]
        result = await log.append(batch)
        if not isinstance(result, Appended):
            fail(f"the log did not take it: {result}")
