"""A measured figure, and the quantiles it is made of."""

from collections.abc import Sequence

from msgspec import Struct

__all__ = ["Figure", "at", "latency"]


class Figure(Struct, frozen=True, kw_only=True):
    """One line of the report: a value, or for latencies its p50 with the p99 beside it.

    `goal` is what we hold ourselves to, empty where there is none; `met` judges it.
    """

    name: str
    fsync: str
    value: float
    p99: float | None = None
    unit: str
    goal: str = ""
    met: bool | None = None
    note: str = ""


def at(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def latency(
    name: str, fsync: str, seconds: Sequence[float], *, p50: float | None = None, p99: float | None = None
) -> Figure:
    """p50 and p99 in milliseconds; the goals are milliseconds to stay under."""
    middle, high = at(seconds, 0.5) * 1000, at(seconds, 0.99) * 1000
    held = [value < goal for value, goal in ((middle, p50), (high, p99)) if goal is not None]
    goals = " / ".join("–" if goal is None else f"{goal:g}" for goal in (p50, p99))
    return Figure(
        name=name,
        fsync=fsync,
        value=round(middle, 3),
        p99=round(high, 3),
        unit="ms",
        goal=f"< {goals}" if held else "",
        met=all(held) if held else None,
        note=f"{len(seconds):,} samples",
    )
