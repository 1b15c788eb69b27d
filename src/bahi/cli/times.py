"""Moments, as the exchange's clock shows them, and as people type them."""

import datetime as dt
import re

from domain.values import Instant

__all__ = ["BadMoment", "Times"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_TIME_OF_DAY = re.compile(r"\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?")
_DATE_AND_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}.*")


class BadMoment(ValueError):
    """It names no moment; the message says what would."""


class Times:
    """The exchange's clock."""

    def __init__(self, zone: dt.tzinfo) -> None:
        self._zone = zone

    def wall(self, at: Instant) -> dt.datetime:
        """What the exchange's clock shows, exactly."""
        return (_EPOCH + at * _MICROSECOND).astimezone(self._zone)

    def full(self, at: Instant) -> str:
        """`2026-06-15 09:20:00.000+05:30`; a dash for none."""
        return self.wall(at).isoformat(" ", "milliseconds") if at else "–"

    def of_day(self, at: Instant) -> str:
        """`09:20:00.000`"""
        return self.wall(at).time().isoformat("milliseconds")

    def day(self, at: Instant) -> str:
        """`Monday 2026-06-15 +05:30`"""
        wall = self.wall(at)
        return f"{wall:%A} {wall.date().isoformat()} {wall.isoformat()[-6:]}"

    def read(self, text: str, today: dt.date) -> Instant:
        """The moment that a person means: RFC 3339, or `YYYY-MM-DD HH:MM[:SS[.ffffff]]` on the exchange's clock, or
        only the time of day, of `today`. Raises BadMoment."""
        text = text.strip()
        try:
            if _TIME_OF_DAY.fullmatch(text):
                moment = dt.datetime.combine(today, dt.time.fromisoformat(text), self._zone)
            elif _DATE_AND_TIME.fullmatch(text):
                moment = dt.datetime.fromisoformat(text.upper())
            else:
                raise ValueError(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=self._zone)
            return (moment - _EPOCH) // _MICROSECOND
        except (ValueError, OverflowError):
            raise BadMoment(
                f"{text!r} is no moment: write 09:20, 09:20:00.5, '2026-06-15 09:20' or 2026-06-15T09:20:00+05:30"
            ) from None
