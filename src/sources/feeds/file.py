"""A recording played back against the clock, in real time or faster."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final

from msgspec.structs import replace

from domain.clock import Clock
from domain.values import Instant, Tick
from sources.feeds.port import Connected, Feed, FeedItem

__all__ = ["FileFeed"]

MOST: Final = 512
"""Ticks in a batch."""


class FileFeed:
    """Plays ticks with the distances of their stamps, divided by `speed`, from the moment that it is first iterated.

    With `onto` the recording is laid onto that instant: its first tick is stamped and played then, every other one
    that much later; so a recorded day becomes today's session. What lies before the clock by then is played at once.
    Without it, stamps stay what they were: right for a clock that is turned along with them, and of no use to the
    stops of today's runs.
    """

    def __init__(
        self,
        recording: Callable[[], Iterable[Tick]],
        clock: Clock,
        *,
        speed: int = 1,
        onto: Instant | None = None,
        name: str = "file",
    ) -> None:
        if speed < 1:
            raise ValueError(f"speed must be 1 or more, got {speed}")
        self._recording = recording
        self._clock = clock
        self._speed = speed
        self._onto = onto
        self._name = name
        self._symbols: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self._name

    def subscribe(self, symbols: frozenset[str]) -> None:
        self._symbols = symbols

    def reconnect(self) -> None:
        """A file does not fall silent: when it is quiet, so was the market."""

    async def ticks(self) -> AsyncIterator[FeedItem]:
        yield Connected(len(self._symbols))
        played = self._played()
        following = next(played, None)
        while following is not None:
            if (wait := following[0] - self._clock.now()) > 0:
                await self._clock.sleep(wait)
            else:
                await self._clock.sleep(0)  # far behind: let others run all the same
            now = self._clock.now()
            batch: list[Tick] = []
            while following is not None and following[0] <= now and len(batch) < MOST:
                if following[1].symbol in self._symbols:
                    batch.append(following[1])
                following = next(played, None)
            if batch:
                yield batch

    def _played(self) -> Iterator[tuple[Instant, Tick]]:
        """The ticks, each with the moment to play it. A stamp that steps back does not turn the clock back."""
        begin = self._clock.now() if self._onto is None else self._onto
        first: Instant | None = None
        latest = begin
        for tick in self._recording():
            if first is None:
                first = tick.at
            at = begin + (tick.at - first) // self._speed
            latest = max(latest, at)
            yield latest, tick if self._onto is None else replace(tick, at=at)


_: type[Feed] = FileFeed
