"""Notices when a feed falls silent while ticks are to be expected. Pure."""

from typing import Final

from domain.values import SECOND, Duration, Instant

__all__ = ["LIMIT", "Silence"]

LIMIT: Final[Duration] = 5 * SECOND


class Silence:
    """The time since the last tick, counted only while ticks are expected."""

    def __init__(self, limit: Duration = LIMIT) -> None:
        self.limit = limit
        self.is_silent = False
        self._quiet_since: Instant | None = None
        self._asked_at: Instant = 0

    def heard(self, now: Instant) -> Duration | None:
        """A tick came. If the feed had fallen silent: for how long it was."""
        since, self._quiet_since = self._quiet_since, now
        if not self.is_silent:
            return None
        self.is_silent = False
        return max(0, now - since) if since is not None else 0

    def check(self, now: Instant, expected: bool) -> Duration | None:
        """If the feed falls silent now, once: for how long nothing came. `expected`: whether ticks should come."""
        if self.is_silent:
            return None
        if not expected:
            self._quiet_since = None
            return None
        if self._quiet_since is None or now < self._quiet_since:  # just begun, or the clock was set back
            self._quiet_since = now
        if now - self._quiet_since < self.limit:
            return None
        self.is_silent = True
        return now - self._quiet_since

    def asks(self, now: Instant) -> bool:
        """Whether to ask for a new connection now: at once, and again each time the limit has passed."""
        if not self.is_silent or 0 <= now - self._asked_at < self.limit:
            return False
        self._asked_at = now
        return True
