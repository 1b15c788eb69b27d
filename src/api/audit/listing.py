"""Pages that end where the history ended when the first of them was asked for.

An auditor's own reading adds to the history: without an end that is pinned, no list would ever come to it.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final

from fastapi import Query
from msgspec import Struct

from api.audit.ports import Span
from api.dependencies import Dependencies
from api.problems import Problem

__all__ = ["AuditCursor", "Listing", "listing"]

AuditCursor = Annotated[
    str | None, Query(max_length=4000, description="`next_cursor` of the page before; with the same filters")
]
_BITS: Final = 54
"""Of a number within its partition: positions and ids are below 2**53."""


class Listing(Struct, frozen=True):
    """What is listed, and where the page begins: after `after` of `partition`. `cursor` makes the next one's."""

    spans: tuple[Span, ...]
    partition: int
    after: int
    of: str
    user_id: int

    def next(self, deps: Dependencies, partition: int, after: int) -> str:
        """The cursor of the page that goes on after this."""
        pinned = [number for span in self.spans for number in (span.partition, span.after, span.until)]
        return deps.cursors.write(self.user_id, self.of, partition << _BITS | after, pinned)


async def listing(
    deps: Dependencies,
    user_id: int,
    what: str,
    filters: Sequence[object | None],
    cursor: str | None,
    resolve: Callable[[], Awaitable[Sequence[Span]]],
) -> Listing:
    """The list of these filters. `resolve` finds out what the first page is of. Raises 400 for a cursor of another
    user, list or filter."""
    of = f"{what}/{hashlib.sha256(repr(list(filters)).encode()).hexdigest()[:16]}"
    if cursor is None:
        return Listing(tuple(await resolve()), 0, 0, of, user_id)
    packed, pinned = deps.cursors.read_pinned(cursor, user_id, of)
    if len(pinned) % 3:
        raise Problem(400, "INVALID_CURSOR", "it is of another version of this program: begin with the first page")
    spans = tuple(Span(*pinned[at : at + 3]) for at in range(0, len(pinned), 3))
    return Listing(spans, packed >> _BITS, packed & (1 << _BITS) - 1, of, user_id)
