"""What is broken: the rows of the matrix."""

import random
from enum import StrEnum
from typing import Final

from msgspec import Struct

from domain.values import SECOND, Duration

__all__ = ["ALL", "EVERY", "SPLIT", "Layout", "Moment", "Row", "draw_moment"]

ALL: Final = ("api", "worker", "scheduler", "market", "updates", "archive")
AGAIN: Final = 0.25
"""The share of moments that are followed by another death."""
LONGEST: Final[Duration] = 90 * SECOND
Layout = tuple[tuple[str, ...], ...]
"""The roles of each process; the first is the one that is broken."""


class Row(StrEnum):
    WORKER = "worker-killed"
    SCHEDULER = "scheduler-killed"
    LISTENER = "listener-killed"
    REDIS = "redis-killed"
    TORN = "torn-aof"
    TORN_LIVE = "torn-aof-live"
    EMPTIED = "redis-emptied"
    OLDER_REDIS = "redis-older"
    OLDER_ARCHIVE = "archive-older"
    POSTGRES = "postgres-down"
    BOTH = "both-killed"


EVERY: Final = tuple(Row)

SPLIT: Final = {Row.WORKER: "worker", Row.SCHEDULER: "scheduler", Row.LISTENER: "market"}
"""The rows in which one process is killed and the others go on, with its role."""
_LIVE: Final = {Row.REDIS, Row.TORN_LIVE, Row.POSTGRES}
_DEAD: Final = {*SPLIT, Row.TORN}


class Moment(Struct, frozen=True, kw_only=True):
    """One moment of a row: everything that is left to chance. The same for the same row, number and seed.

    `at` is the share of the day's events after which it comes, and `then` the so many-th effect from then on.
    `copied_at` is the share after which an older copy was made. `dies`: the processes of the engine die with it, else
    they live through it; `outage` is how long by the market's time they are away then. `again`: what was broken is
    killed once more after so many effects, while it recovers or soon after; 0: it is not. `archives` is how probable it
    is that the archive catches up when everything else is done. `apart` is the role that has a process of its own;
    empty: all are in one.
    """

    row: Row
    number: int
    seed: int
    at: float
    then: int
    copied_at: float
    dies: bool
    outage: Duration
    again: int
    archives: float
    apart: str

    @property
    def layout(self) -> Layout:
        return ((self.apart,), tuple(role for role in ALL if role != self.apart)) if self.apart else (ALL,)

    @property
    def alone(self) -> bool:
        """Whether only the first process dies, and the others go on without it."""
        return self.row in SPLIT

    @property
    def copies(self) -> bool:
        """Whether an older copy is put in the place of what is broken."""
        return self.row in (Row.OLDER_REDIS, Row.OLDER_ARCHIVE)

    def rng(self) -> random.Random:
        """For what is drawn when it comes."""
        return random.Random(f"moment/{self.seed}/{self.row}/{self.number}/then")


def draw_moment(row: Row, number: int, seed: int) -> Moment:
    rng = random.Random(f"moment/{seed}/{row}/{number}")
    at = rng.uniform(0.02, 0.7 if row is Row.POSTGRES else 0.97)
    dies = row in _DEAD or (row not in _LIVE and number % 2 == 0)
    apart = SPLIT.get(row, "worker" if not dies and rng.random() < 0.4 else "")
    outage = rng.choice((0, rng.randint(0, LONGEST))) if dies else 0
    again = rng.randint(1, 60) if row is not Row.POSTGRES and rng.random() < AGAIN else 0
    return Moment(
        row=row,
        number=number,
        seed=seed,
        at=at,
        then=rng.randint(1, 8),
        copied_at=rng.uniform(0, at),
        dies=dies,
        outage=outage,
        again=again,
        archives=rng.choice((1.0, 0.3, 0.05)),
        apart=apart,
    )
