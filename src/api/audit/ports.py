"""What auditors' readings need from the outside: the archive, the stories of orders, a verification, an export."""

import datetime as dt
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from domain.values import Instant
from eventstore.envelope import Raw

__all__ = [
    "End",
    "Export",
    "ExportWish",
    "History",
    "HistoryRow",
    "NoExport",
    "NoVerdict",
    "Person",
    "Span",
    "Stories",
    "Verdict",
    "Verifier",
    "Where",
]


class End(Struct, frozen=True):
    """How far the archive of a partition reaches: its last position, and when its first and its last event were
    recorded (0 while it is empty)."""

    position: int = 0
    began_at: Instant = 0
    recorded_at: Instant = 0


class Span(Struct, frozen=True):
    """The positions after + 1 … until of a partition."""

    partition: int
    after: int
    until: int


class Where(Struct, frozen=True, kw_only=True):
    """Which events: those for which all of this holds."""

    user_id: int | None = None
    strategy_id: int | None = None
    types: tuple[str, ...] = ()
    users: tuple[int, ...] | None = None
    """Of any of these users."""


class HistoryRow(Struct, frozen=True):
    """An archived event as its columns find it; `raw` is what counts."""

    partition: int
    raw: Raw
    type: str
    strategy_id: int | None
    user_id: int | None


class Person(Struct, frozen=True):
    """A user as auditors see one: neither a name nor an address."""

    user_id: int
    role: str
    created_at: dt.datetime
    strategies: int


class History(Protocol):
    """The archive. Positions are of one partition. Raises what a database that is away raises."""

    async def ends(self) -> Sequence[End]:
        """By partition."""
        ...

    async def events(self, partition: int, after: int, until: int, where: Where, limit: int) -> list[HistoryRow]:
        """The first ones of positions after + 1 … until, in order."""
        ...

    async def position_at(self, partition: int, at: Instant) -> int:
        """Of the last event that was recorded at or before this instant; 0: none was."""
        ...

    async def recorded_at(self, partition: int, position: int) -> Instant:
        """When the event at this position was recorded; 0 if there is none."""
        ...

    async def strategies(
        self, partition: int, *, above: int, after: int, until: int, user_id: int | None, limit: int
    ) -> Sequence[int]:
        """The first ids above `above` of strategies to which something happened at positions after + 1 … until."""
        ...

    async def of_strategy(self, partition: int, strategy_id: int, after: int, until: int, limit: int) -> Sequence[Raw]:
        """The first entries of one strategy's own history, in order."""
        ...

    async def counts(
        self, partition: int, strategy_ids: Sequence[int], after: int, until: int
    ) -> Mapping[int, Mapping[str, int]]:
        """How many events of each type a strategy had at positions after + 1 … until."""
        ...

    async def people(self, *, above: int, limit: int) -> Sequence[Person]:
        """The first users with ids above `above`."""
        ...


class Stories(Protocol):
    async def tell(self, tag: str) -> Mapping[str, Any] | None:
        """An order's story, as `bahi explain --json` tells it; None when no order of the archive has this tag."""
        ...


class NoVerdict(Exception):
    """The verification could not be carried out; the message says why, and holds no secret."""


class Verdict(Struct, frozen=True):
    """The last verification. While one runs, `verdict` is the one before it, if there is any."""

    running: bool
    began_at: Instant
    ended_at: Instant
    verdict: Mapping[str, Any] | None


class Verifier(Protocol):
    async def verdict(self) -> Verdict:
        """The verdict, if one is fresh; else it is made anew, by one at a time. Answers within seconds, at the latest
        with `running`. Raises NoVerdict."""
        ...


class ExportWish(Struct, frozen=True, kw_only=True):
    """What is to be exported, as `bahi archive export` is told it: times, or positions; all unless said."""

    since: str = ""
    until: str = ""
    first: str = ""
    last: str = ""
    users: tuple[int, ...] = ()
    strategies: tuple[int, ...] = ()
    types: tuple[str, ...] = ()


class NoExport(Exception):
    """It cannot be exported, or not wholly; the message says why. `busy`: not now."""

    def __init__(self, why: str, *, busy: bool = False) -> None:
        super().__init__(why)
        self.busy = busy


class Export(Protocol):
    def stream(self, wish: ExportWish) -> AsyncGenerator[bytes, None]:
        """The archive as JSON Lines, gzipped, with manifest, seals and a signed end: piece by piece, as it is taken.

        Raises NoExport: at the first piece when there is nothing to begin with; later, what was told is worth nothing.
        """
        ...
