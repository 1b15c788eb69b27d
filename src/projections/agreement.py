"""Whether the streams and the archive hold the same where both hold something, and together everything, once."""

from collections.abc import Callable, Sequence

from eventstore.envelope import Raw
from projections.holdings import Hot, Row
from projections.replay import Fault, Kind

__all__ = ["Agreement"]


class Agreement:
    """`reached` is how far the archive goes by its checkpoint, `before_epoch` the last position that Redis cannot hold
    since it was restored."""

    def __init__(self, reached: int, before_epoch: int, tell: Callable[[Fault], None]) -> None:
        self._reached = reached
        self._before_epoch = before_epoch
        self._tell = tell

    def page(self, after: int, until: int, hot: Hot, rows: Sequence[Row]) -> tuple[Sequence[Raw], Sequence[Raw]]:
        """The entries of the positions after + 1 … until that are anywhere, in order, each once: as the engine reads
        them, and those of the archive as it holds them. They differ where the two stores do."""
        for position in hot.again:
            self._fault(position, Kind.CORRUPT, "the streams hold another entry of this position")
        if not hot.entries and _is_whole(rows, after, until):
            return rows, rows
        entries: list[Raw] = []
        archived: list[Raw] = []
        cold: dict[int, Row] = {}
        for row in rows:
            if row.position in cold:
                self._fault(row.position, Kind.ARCHIVE, "the archive holds it twice")
            else:
                cold[row.position] = row
        for position in range(after + 1, until + 1):
            here, there = hot.entries.get(position), cold.get(position)
            raw: Raw | None = there
            if there is None:
                raw = here
                if position <= self._reached:
                    self._fault(position, Kind.ARCHIVE, f"the archive reaches to {self._reached} and lacks it")
            elif here is None:
                self._mind_deleted(there, hot)
            elif _differ(here, there):
                raw = here
                self._fault(position, Kind.ARCHIVE, "the stream and the archive hold different entries")
            if raw is None:
                self._fault(position, Kind.HOLE, "neither the streams nor the archive hold it")
                continue
            entries.append(raw)
            if position <= self._reached:
                archived.append(there or raw)
        return entries, archived

    def _mind_deleted(self, row: Row, hot: Hot) -> None:
        """A stream is trimmed from its beginning: an entry that is gone while an older one is there was deleted."""
        oldest = hot.oldest.get(row.stream)
        if oldest is not None and max(oldest, self._before_epoch) < row.position:
            text = f"it was deleted from the stream {row.stream}, which holds older ones"
            self._fault(row.position, Kind.DELETED, text)

    def _fault(self, position: int, kind: str, text: str) -> None:
        self._tell(Fault(position, 0, kind, text))


def _is_whole(rows: Sequence[Row], after: int, until: int) -> bool:
    if len(rows) != until - after:
        return False
    return all(row.position == position for position, row in enumerate(rows, after + 1))


def _differ(here: Raw, there: Row) -> bool:
    if here.envelope != there.envelope or here.version != there.version:
        return True
    return here.recorded_at != there.recorded_at or here.stream != there.stream
