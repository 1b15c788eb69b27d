"""Half an hour of trading each weekday, with a break of two minutes in it: much happens near its edges."""

import datetime as dt

from domain.calendar import Break, Calendar, Session, instant

MONDAY = dt.date(2026, 6, 15)


class ShortDays(Calendar):
    def session_on(self, date: dt.date) -> Session | None:
        if date.weekday() >= 5:
            return None
        return Session(
            date=date,
            open_at=instant(date, dt.time(9, 15)),
            close_at=instant(date, dt.time(9, 45)),
            name="Short",
            breaks=(Break(start_at=instant(date, dt.time(9, 33)), end_at=instant(date, dt.time(9, 35))),),
        )


CALENDAR = ShortDays()
