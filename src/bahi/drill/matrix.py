"""The matrix: every row at so many moments, on one stage."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bahi.drill.moments import Result, Stand
from bahi.drill.plan import STRATEGIES, draw_day
from bahi.drill.rows import Row, draw_moment
from bahi.drill.stage import Stage

__all__ = ["play"]


def play(
    home: Path, rows: Sequence[Row], moments: Sequence[int], seed: int, strategies: int = STRATEGIES
) -> Iterator[Result]:
    """The results as they come, row by row. `home` is a folder for the servers' data, empty or not there."""
    with Stage(home, seed) as stage, Stand(stage, draw_day(seed, strategies)) as stand:
        for row in rows:
            for number in moments:
                yield stand.play(draw_moment(row, number, seed))
