"""What auditors are told over REST that the command line tells, too."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.cli.places import Places
from bahi.cli.story import as_object, tell
from bahi.cli.times import Times
from bahi.order_history import archived_history
from domain.calendar import EXCHANGE_ZONE
from domain.tags import parse_tag

__all__ = ["SqlStories"]

_EVERYTHING = 2**63 - 1


class SqlStories:
    """`api.audit.ports.Stories` on the archive."""

    def __init__(self, engine: AsyncEngine, partitions: int) -> None:
        self._engine = engine
        self._places = Places(partitions)
        self._times = Times(EXCHANGE_ZONE)

    async def tell(self, tag: str) -> Mapping[str, Any] | None:
        parts = parse_tag(tag)
        for partition in range(self._places.partitions if parts else 0):
            assert parts is not None  # noqa: S101 (else there is nothing to go through)
            history = await archived_history(self._engine, partition, parts, _EVERYTHING)
            story = tell(tag, history.events, self._times, history.others)
            if story is not None:
                return as_object(story, self._times, self._places, partition)
        return None
