"""The story of a simulated life: a line for everything that happened, the same for the same seed."""

from typing import Any

import msgspec

from domain.calendar import wall
from domain.values import Instant
from eventstore.envelope import Recorded

__all__ = ["Story"]

_LEFT_OUT = frozenset({"type", "schema"})


class Story:
    """`lines` grow as it goes on. Times are those of the exchange."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, at: Instant, who: str, what: str) -> None:
        self.lines.append(f"{_clock(at)}  {who:<14} {what}")

    def event(self, recorded: Recorded) -> None:
        who = f"#{recorded.position}"
        whose = f" strategy {recorded.strategy_id}" if recorded.strategy_id else ""
        whose = whose or (f" user {recorded.user_id}" if recorded.user_id else "")
        fields: dict[str, Any] = msgspec.to_builtins(recorded.event, enc_hook=str)
        told = " ".join(f"{name}={_short(name, value)}" for name, value in fields.items() if name not in _LEFT_OUT)
        self.tell(recorded.recorded_at, who, f"{recorded.event.type}{whose} {told} by {recorded.writer}".rstrip())


def _short(name: str, value: Any) -> str:
    """Instants as the exchange's time; nested values without their defaults."""
    if isinstance(value, int) and value > 1_000_000_000_000_000:
        return _clock(value)
    if isinstance(value, dict):
        inner = ",".join(f"{key}={_short(key, each)}" for key, each in value.items() if key not in _LEFT_OUT)
        return f"({inner})"
    if isinstance(value, list):
        return f"[{','.join(_short(name, each) for each in value)}]"
    return str(value)


def _clock(at: Instant) -> str:
    return f"{wall(at):%H:%M:%S.%f}"[:-3]
