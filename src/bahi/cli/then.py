"""States as they were at a point of the history, for commands: which point is meant, and what was known then."""

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from bahi.cli.common import bar, fail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bahi.cli.reader import Reader
    from eventstore.log import EventLog

__all__ = ["Point", "Then", "as_of", "logs_meant", "point_in", "states_then", "title"]


class Point(Struct, frozen=True):
    """A place in one partition: after the event at `position`, or before everything (0)."""

    partition: int
    position: int
    recorded_at: int


class Then(Struct, frozen=True):
    """The states of a partition at a point."""

    point: Point
    states: dict[int, Any]


async def logs_meant(reader: "Reader", strategy: int | None) -> "tuple[list[EventLog], dict[int, int]]":
    """The logs that tell of it, and where each ends now: what comes while the command runs is not looked at."""
    logs = reader.logs if strategy is None else await reader.logs_of(strategy)
    return list(logs), {log.keys.partition: await log.last_position() for log in logs}


async def point_in(
    reader: "Reader",
    logs: "Sequence[EventLog]",
    ends: "Mapping[int, int]",
    text: str | None,
    strategy: int | None,
    *,
    or_nothing: bool = False,
) -> list[Point]:
    """What is meant by `57`, `2-57` or a time, in each partition that it is of; the end, if nothing is said.

    Exits, naming when the history begins or ends, for what lies outside of it; with `or_nothing` position 0 is fine.
    """
    from bahi.cli.places import Place

    point = None if text is None else await reader.point(text)
    if isinstance(point, Place) and point.partition is None and len(logs) > 1:
        fail(f"{text} may be of any of {len(logs)} partitions: write 0-{text}")
    if isinstance(point, int) and point > reader.clock.now():
        fail(f"{text} has not come yet: {_ends(reader, ends)}")
    found: list[Point] = []
    for log in logs:
        number, until = log.keys.partition, ends[log.keys.partition]
        if isinstance(point, Place):
            if point.partition not in (None, number):
                continue
            if point.position > until:
                fail(_ends(reader, {number: until}))
            until = point.position
        elif point is not None:
            until = min(until, await _position_at(reader, log, point))
        found.append(Point(number, until, await _recorded_at(log, until)))
    if not found:
        fail(f"strategy {strategy} is not in the partition that {text} names")
    if text is not None and not any(each.position for each in found) and not (or_nothing and isinstance(point, Place)):
        begun = [at for log in logs if (at := await _recorded_at(log, 1))]
        when = f"the log begins on {reader.times.full(min(begun))}" if begun else "the log is empty"
        fail(f"{text} is before the first event: {when}")
    return found


async def states_then(log: "EventLog", point: Point, strategy: int | None, *, quiet: bool) -> Then:
    """As they were known at the point. One is folded from its own events; for all, snapshots help."""
    from eventstore.errors import LogUnavailable
    from projections.replay import replay_states
    from projections.time_travel import state_at, states_at

    if not point.position:
        return Then(point, {})
    with bar("replaying", hidden=quiet) as progress:
        try:
            if strategy is None:
                return Then(point, (await states_at(log, point.position, progress=progress)).states)
            state = await state_at(log, strategy, point.position)
            return Then(point, {} if state is None else {strategy: state})
        except LogUnavailable:  # the archive is away; what the streams still hold may be all that there is
            of = await replay_states(log, until=point.position, strategy_id=strategy, progress=progress)
            return Then(point, of)


def as_of(reader: "Reader", point: Point) -> dict[str, Any]:
    return {
        "position": reader.places.plain(point.partition, point.position),
        "recorded_at": reader.times.wall(point.recorded_at) if point.recorded_at else None,
    }


def title(reader: "Reader", point: Point) -> str:
    if not point.position:
        return "before the first event"
    where = reader.places.show(point.partition, point.position)
    return f"after position {where}, {reader.times.full(point.recorded_at)}"


async def _position_at(reader: "Reader", log: "EventLog", at: int) -> int:
    from eventstore.errors import LogUnavailable
    from projections.time_travel import position_at

    try:
        return await position_at(log, at)
    except LogUnavailable:  # the archive is away: the streams may hold enough
        return await reader.position_at(log, at)


async def _recorded_at(log: "EventLog", position: int) -> int:
    from bahi.cli.reader import entry_at

    entry = await entry_at(log, position) if position else None
    return entry.recorded_at if entry else 0


def _ends(reader: "Reader", ends: "Mapping[int, int]") -> str:
    return "the log ends at " + ", ".join(reader.places.show(*each) for each in sorted(ends.items()))
