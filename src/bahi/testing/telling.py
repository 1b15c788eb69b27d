"""A log in lines that a person reads: when, whose, what, and the facts that matter."""

from collections.abc import Iterable

from bahi.cli.summary import Summaries
from bahi.cli.times import Times
from domain.calendar import EXCHANGE_ZONE
from eventstore.envelope import Recorded

__all__ = ["tell"]


def tell(log: Iterable[Recorded]) -> str:
    """One line an event, `09:20:00.000  strategy 42  BUY_TRIGGERED  due 09:20:00`."""
    times = Times(EXCHANGE_ZONE)
    summary = Summaries(times)
    lines = []
    for it in log:
        whose = f"strategy {it.strategy_id}" if it.strategy_id else f"user {it.user_id}" if it.user_id else "all"
        lines.append(f"{times.of_day(it.recorded_at)}  {whose:<12}  {it.event.type:<24}  {summary(it.event)}".rstrip())
    return "\n".join(lines)
