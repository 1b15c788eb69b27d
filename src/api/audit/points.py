"""Points in the history as auditors name them: a position (`57`, with several partitions `2-57`), or an instant.

An instant means what was known then: the events *recorded* at or before it, whatever time they tell of.
"""

import datetime as dt
import re
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import Query
from msgspec import Struct

from api import answers
from api.audit.ports import End, History, Span
from api.dependencies import Dependencies
from api.problems import FieldProblem, Problem, invalid
from domain.values import Instant

__all__ = ["LONGEST", "PointText", "as_asked", "the_point", "the_span"]

LONGEST: Final = 40
"""Characters of a point."""
PointText = Annotated[
    str | None,
    Query(
        max_length=LONGEST,
        description="a position (`57`, or `2-57` where there are several partitions), or an RFC 3339 time with its "
        "offset: what was recorded until then",
    ),
]

_PLACE: Final = re.compile(r"(?:([0-9]{1,3})-)?([0-9]{1,18})")
_MOMENT: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)(?:([Zz])|([+ -]\d{2}:\d{2}))"
)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class _Point(Struct, frozen=True):
    """Either a position, of one partition or of the only one, or an instant."""

    partition: int = 0
    position: int = 0
    at: Instant | None = None


def _parse(text: str, field: str, partitions: int) -> _Point:
    if (place := _PLACE.fullmatch(text)) is not None:
        if place[1] is None and partitions > 1:
            example = f"0-{place[2]}"
            raise _invalid(field, "partition", f"say of which of the {partitions} partitions, for instance {example}")
        partition = int(place[1] or 0)
        if partition >= partitions:
            raise _invalid(field, "partition", f"there is no partition {partition}: they are 0 to {partitions - 1}")
        return _Point(partition, int(place[2]))
    if (moment := _MOMENT.fullmatch(text)) is not None:
        # The plus of an offset is a space once a query is decoded, unless it was written %2B.
        offset = "+00:00" if moment[2] else moment[3].replace(" ", "+")
        try:
            at = dt.datetime.fromisoformat(moment[1].upper() + offset)
            return _Point(at=(at - _EPOCH) // dt.timedelta(microseconds=1))
        except (ValueError, OverflowError):
            pass
    raise _invalid(field, "point", "must be a position, 57, or a time with its offset, 2026-06-15T09:20:00+05:30")


def as_asked(text: str | None, field: str, partitions: int) -> tuple[str, str]:
    """A point for whoever reads positions and times apart: the one or the other, in full. Raises 422."""
    if text is None:
        return "", ""
    point = _parse(text, field, partitions)
    if point.at is not None:
        return "", answers.wall(point.at).isoformat()
    return text if partitions > 1 else str(point.position), ""


async def the_point(deps: Dependencies, text: str | None, field: str, ends: Sequence[End]) -> list[Span]:
    """Everything up to the point (none: up to the end), by partition; a position is of its own partition alone.

    Raises 422: BEFORE_FIRST_EVENT and BEYOND_LAST_EVENT, naming when the history begins and ends.
    """
    if text is None:
        return [Span(partition, 0, end.position) for partition, end in enumerate(ends)]
    point = _parse(text, field, len(ends))
    if point.at is None:
        end = ends[point.partition]
        if point.position > end.position:
            raise _beyond(deps, field, text, ends)
        if point.position < 1:
            raise _before(field, text, [end])
        return [Span(point.partition, 0, point.position)]
    if point.at > deps.clock.now():
        raise _beyond(deps, field, text, ends)
    spans = [
        Span(partition, 0, await _at(deps.history, partition, point.at, end)) for partition, end in enumerate(ends)
    ]
    if not any(span.until for span in spans):
        raise _before(field, text, ends)
    return spans


async def the_span(deps: Dependencies, since: str | None, until: str | None, ends: Sequence[End]) -> list[Span]:
    """From one point to another, both included, by partition; a partition without any such event is left out. What
    lies before the beginning or beyond the end is simply not there. Raises 422 for what is no point."""
    first = None if since is None else _parse(since, "from", len(ends))
    last = None if until is None else _parse(until, "until", len(ends))
    spans = []
    for partition, end in enumerate(ends):
        after, upto = 0, end.position
        if first is not None and first.at is not None:
            after = await _at(deps.history, partition, first.at - 1, end)
        elif first is not None:
            after = first.position - 1 if first.partition == partition else upto
        if last is not None and last.at is not None:
            upto = await _at(deps.history, partition, last.at, end)
        elif last is not None:
            upto = min(last.position, upto) if last.partition == partition else 0
        if after < upto:
            spans.append(Span(partition, max(0, after), upto))
    return spans


async def _at(history: History, partition: int, at: Instant, end: End) -> int:
    return end.position if at >= end.recorded_at else min(end.position, await history.position_at(partition, at))


def _invalid(field: str, rule: str, message: str) -> Problem:
    return invalid([FieldProblem(field, rule, message)])


def _before(field: str, text: str, ends: Sequence[End]) -> Problem:
    begun = [end.began_at for end in ends if end.position]
    when = f"it begins on {answers.wall(min(begun)).isoformat()}" if begun else "there is none yet"
    detail = f"{field} = {text} is before the first event of the history: {when}"
    return Problem(422, "BEFORE_FIRST_EVENT", detail, errors=[FieldProblem(field, "range", detail)])


def _beyond(deps: Dependencies, field: str, text: str, ends: Sequence[End]) -> Problem:
    where = ", ".join(
        f"{deps.position_in(partition, end.position)} of {answers.wall(end.recorded_at).isoformat()}"
        for partition, end in enumerate(ends)
        if end.position
    )
    detail = f"{field} = {text} is beyond the end of the history: " + (
        f"its last event is {where}" if where else "none"
    )
    return Problem(422, "BEYOND_LAST_EVENT", detail, errors=[FieldProblem(field, "range", detail)])
