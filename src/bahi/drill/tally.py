"""What came of the moments of a row, counted."""

from collections.abc import Sequence
from statistics import median

from msgspec import Struct

from bahi.drill.moments import Result
from bahi.drill.real import Real
from bahi.drill.rows import Row
from domain.values import SECOND

__all__ = ["Counted", "RealTally", "Spread", "Tally", "Violation", "real_tally", "tally"]


class Spread(Struct, frozen=True):
    """Of some numbers; None when there are none."""

    p50: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        return cls(round(median(values), 3), round(max(values), 3)) if values else None


class Violation(Struct, frozen=True):
    """What did not hold, and where. `moment` is None where no single one can be played again."""

    row: Row
    moment: int | None
    seed: int
    what: str

    @property
    def again(self) -> str:
        """The options with which to see it again."""
        if self.moment is None:
            return f"--moments 0 --real 10 --row {self.row}"
        return f"--row {self.row} --moment {self.moment} --seed {self.seed}"


class Counted(Struct, frozen=True, kw_only=True):
    """A row."""

    row: Row
    moments: int
    violations: list[Violation]

    @property
    def ok(self) -> bool:
        return not self.violations


class Tally(Counted, frozen=True, kw_only=True):
    """A row of the matrix. Times to trading are seconds of real time, held-back times seconds of the market's."""

    died: int
    """In so many of them the processes of the engine died, too (in the rows of one process: that one)."""
    lived: int
    events: int
    orders: int
    acknowledged: int
    lost_acknowledged: int
    forgotten_positions: int
    forgotten_stops: int
    duplicate_orders: int
    reused_positions: int
    other_violations: int
    only_redis: Spread | None
    """Events that were nowhere but in what was destroyed."""
    restarted: Spread | None
    """From the start of what was killed, the engine's processes among it, until the engine trades."""
    lived_on: Spread | None
    """The same where its processes lived through it."""
    exits_held: Spread | None
    entries_held: Spread | None
    epochs: int
    """How often a new epoch of the log began."""
    seconds: float
    load: Spread | None
    """How many processes wanted the machine's processors meanwhile, its own among them."""


class RealTally(Counted, frozen=True, kw_only=True):
    """A row with `bahi run` itself. `took`: seconds from the start of what was killed until a strategy ran whose start
    was asked for after that."""

    strategies: int
    events: int
    orders: int
    epochs: int
    took: Spread | None


def real_tally(it: Real, seed: int) -> RealTally:
    return RealTally(
        row=it.row,
        moments=len(it.took),
        strategies=it.strategies,
        events=it.events,
        orders=it.orders,
        epochs=it.epochs,
        took=Spread.of(it.took),
        violations=[Violation(it.row, None, seed, what) for what in it.found.all()],
    )


def tally(row: Row, results: Sequence[Result]) -> Tally:
    found = [result.found for result in results]
    held = [result for result in results if result.epochs > 1]
    return Tally(
        row=row,
        moments=len(results),
        died=sum(result.moment.dies for result in results),
        lived=sum(not result.moment.dies for result in results),
        events=sum(result.events for result in results),
        orders=sum(result.orders for result in results),
        acknowledged=sum(result.acknowledged for result in results),
        lost_acknowledged=sum(len(each.lost) for each in found),
        forgotten_positions=sum(len(each.positions) for each in found),
        forgotten_stops=sum(len(each.stops) for each in found),
        duplicate_orders=sum(len(each.duplicates) for each in found),
        reused_positions=sum(len(each.reused) for each in found),
        other_violations=sum(len(each.broken) for each in found),
        only_redis=Spread.of([result.only_redis for result in results]),
        restarted=Spread.of([result.trading_after for result in results if result.restarted]),
        lived_on=Spread.of([result.trading_after for result in results if not result.restarted]),
        exits_held=Spread.of([result.exits_held / SECOND for result in held]),
        entries_held=Spread.of([result.entries_held / SECOND for result in held]),
        epochs=len(held),
        seconds=round(sum(result.seconds for result in results), 1),
        load=Spread.of([result.load for result in results if result.load]),
        violations=[
            Violation(row, result.moment.number, result.moment.seed, what)
            for result in results
            for what in result.found.all()
        ],
    )
