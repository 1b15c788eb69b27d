"""The matrix for people: a table for the terminal, and a document."""

import os
from collections.abc import Sequence
from typing import Final

from bahi.drill.rows import Row
from bahi.drill.tally import Counted, RealTally, Spread, Tally

__all__ = ["COLUMNS", "DONE", "REAL_COLUMNS", "cells", "document", "real_cells"]

DONE: Final = {
    Row.WORKER: "the only worker gets SIGKILL at one of its effects; the others go on without it for up to 90 s",
    Row.SCHEDULER: "the same for the scheduler",
    Row.LISTENER: "the same for the market listener: ticks of that time are lost",
    Row.REDIS: "redis-server gets SIGKILL under the running engine and is started on its append-only file",
    Row.TORN: "engine and redis-server get SIGKILL; up to 32 KiB are cut off the append-only file, at any byte",
    Row.TORN_LIVE: "the same, but the engine's processes live through it",
    Row.EMPTIED: "redis-server gets SIGKILL, its data folder is deleted",
    Row.OLDER_REDIS: "redis-server gets SIGKILL, an earlier copy of its data folder is put back",
    Row.OLDER_ARCHIVE: "PostgreSQL gets SIGKILL, an earlier copy of its cluster is put back",
    Row.POSTGRES: "PostgreSQL gets SIGKILL and stays away for an hour of the market's time; trading goes on",
    Row.BOTH: "redis-server and PostgreSQL get SIGKILL at once and are started again",
}
"""What is done in each row, exactly."""

COLUMNS: Final = (
    "row",
    "moments",
    "lost",
    "positions",
    "stops",
    "doubled",
    "reused",
    "other",
    "only Redis",
    "restarted s",
    "lived on s",
    "exits held",
)
REAL_COLUMNS: Final = ("row", "moments", "violations", "strategies", "orders", "epochs", "trading after s")


def cells(each: Tally) -> list[str]:
    return [
        str(each.row),
        str(each.moments),
        str(each.lost_acknowledged),
        str(each.forgotten_positions),
        str(each.forgotten_stops),
        str(each.duplicate_orders),
        str(each.reused_positions),
        str(each.other_violations),
        _spread(each.only_redis, 0),
        _spread(each.restarted, 2),
        _spread(each.lived_on, 2),
        _spread(each.exits_held, 0),
    ]


def _spread(spread: Spread | None, digits: int) -> str:
    return "–" if spread is None else f"{spread.p50:.{digits}f} / {spread.max:.{digits}f}"


def real_cells(each: RealTally) -> list[str]:
    return [
        str(each.row),
        str(each.moments),
        str(len(each.violations)),
        str(each.strategies),
        str(each.orders),
        str(each.epochs),
        _spread(each.took, 2),
    ]


def document(tallies: Sequence[Tally], realities: Sequence[RealTally], asked: str, before: Sequence[str] = ()) -> str:
    """The matrix as a Markdown document. `asked`: the options that it was made with; `before`: those of the drills
    whose results it is made of."""
    rows: list[Counted] = [*tallies, *realities]
    violations = [violation for each in rows for violation in each.violations]
    told = [f"- `{each.again}`: {each.what}" for each in violations] or [
        "None: nothing acknowledged was lost, no position or stop was forgotten, no order was placed twice."
    ]
    parts = [
        "# What survives: the matrix of kills and losses",
        f"Written by `bahi drill {asked} --report FILE`. One moment is played again with `--row ROW --moment NUMBER`, "
        "the same seed and as many strategies.",
    ]
    if before:
        parts.append("Its results were kept by:\n\n" + "\n".join(f"- `bahi drill {each}`" for each in before))
    if tallies:
        parts += [_table(COLUMNS, [cells(each) for each in tallies]), LEGEND, _sums(tallies)]
    if realities:
        parts += [REALITY, _table(REAL_COLUMNS, [real_cells(each) for each in realities])]
    parts += ["## Violations", "\n".join(told)]
    if tallies:
        done = [[str(each.row), DONE[each.row], str(each.died), str(each.lived)] for each in tallies]
        parts += ["## What is done", _table(("row", "what is broken", "processes died", "lived through it"), done)]
    return "\n\n".join([*parts, EXPLAINED])


LEGEND: Final = """\
*lost*: acknowledged and not in the history. *positions*, *stops*: forgotten. *doubled*: orders placed twice. *reused*:
positions of the log that meant one event and now mean another. *other*: violations of anything else that must hold.
*only Redis*: events that only the destroyed Redis had, p50 / max. *restarted*, *lived on*: seconds of real time from
the start of what was killed until the engine traded, p50 / max, where its processes were started anew, and where they
lived through it. *exits held*: seconds of the market's time for which exits waited for the order book, p50 / max."""

REALITY: Final = """\
## With `bahi run` itself

The same rows in real time: `bahi run` on a HOME with its own servers, which it starts again by itself; traders who
create strategies over HTTP as fast as they are answered, due seconds later. *trading after*: seconds, p50 / max, from
the start of what was killed until a strategy ran whose start was asked for after that."""

EXPLAINED: Final = """\
## How

Each moment is a trading day of its own: 36 strategies that are armed before the open and six that users create in
the course of it, 500 to 700 events, 40 to 50 orders at a paper broker that takes 300 ms to answer, fills in parts,
rejects, loses answers and lets orders surface late. Redis and PostgreSQL are real, the engine's roles run in processes
of their own, which die by SIGKILL; users speak HTTP to the REST application. Only time is not real: the day's clock
stands still while anything can be done, then moves to whatever comes first, so a day takes seconds.

A moment is an effect of the engine that others can see (an append or an acknowledgement in Redis, a change of the
broker's book, a commit in PostgreSQL), and either the instant before it is sent or the one after it was sent and before
its answer is read: a process cannot die at any other moment so that the world could tell. Which one is drawn from the
seed. A process that lives through a moment is stopped by SIGSTOP at that instant and goes on when the damage is done;
in some of these moments the worker has a process of its own. To be hard on the engine, the archive is behind by a
random number of steps, up to minutes of the market's time; in `bahi run` it is some hundredths of a second.

**Acknowledged** is what a user was told, that is a REST answer with success, and what the broker holds. The engine's
own events that only Redis had when it was lost for good cannot be brought back; they are *only Redis had* in the table.
What they stood for is made anew: triggers fire again, orders are found in the broker's book by their tags
(ORDER_RECOVERED). So nothing is placed twice and no position is forgotten, but the price is time: after such a loss
exits wait until the book has been read after every sender has certainly given up (*exits held*: deadline, request
time-out, clock skew and quarantine of `.env.example`, by the market's clock), and entries for the long quarantine.

Afterwards, as soon as nothing is in doubt any more, every strategy's shares are compared with the broker's trades, and
every stop that ought to be watched with those that the listener watches. At the end of the day all of it is audited:
every acknowledged request is in the history; every order of the book has its intent or its ORDER_RECOVERED; nobody
bought more often than was asked for; no position that was archived or acknowledged means another event; positions and
versions are gapless; replay equals the live state field by field; archive and log are equal; the invariants of the
architecture hold; every run has ended and every order is final.

The times are real. *restarted* begins with the start of what was killed, servers and Python interpreter included, and
ends when the house is open, the states are loaded and the worker has done everything that there was to do. *lived on*
begins with the start of the server. For `postgres-down`, where trading never stops, it is the time from the start of
PostgreSQL until the archive has caught up.

Where several processes live through a restart of Redis, none acts on it before all of them have found there what they
knew. In half of these moments the others ask while one is still stopped: they give up on it after 3 s of real time, and
an epoch begins; these 3 s are in *lived on*.

## What it does not hold

A process that was stopped for more than 45 s counts as gone. If it goes on after that, appends in the half second
before it looks at the log again, and Redis is killed in the same half second and loses the end of a file that it had
flushed, then the others do not know that it knew more. No drill does that.
"""


def _sums(tallies: Sequence[Tally]) -> str:
    moments = sum(each.moments for each in tallies)
    return (
        f"{moments:,} moments, {sum(each.events for each in tallies):,} events, "
        f"{sum(each.orders for each in tallies):,} orders at the broker, "
        f"{sum(each.acknowledged for each in tallies):,} acknowledged requests; "
        f"a new epoch of the log began in {sum(each.epochs for each in tallies):,} of the moments." + _load(tallies)
    )


def _load(tallies: Sequence[Tally]) -> str:
    known = [each.load for each in tallies if each.load]
    if not known:
        return ""
    least, most = min(each.p50 for each in known), max(each.max for each in known)
    return (
        f" The times are of a machine with {os.cpu_count()} processors whose load was {least:.0f} to {most:.0f}: the "
        "more it is beyond that number, the longer everything waits."
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
