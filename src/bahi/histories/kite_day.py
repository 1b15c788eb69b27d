"""A day at a Kite that fails, with workers that die: a round of the campaign, as a history."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bahi.histories.files import HistoryError
from bahi.histories.recording import Recorder
from bahi.servers import EmbeddedRedis
from eventstore.entries import read_entries
from eventstore.envelope import Raw
from eventstore.open import open_log
from projections.runtime import DEFAULTS
from simulation.kite.campaign import RATES
from simulation.kite.round import Plan, Round

__all__ = ["play_kite"]

STRATEGIES: Final = 48
MORE: Final = 2
"""Times as often as in the campaign do its rarer faults befall: there are few orders here."""
DEATHS: Final = 0.06


async def play_kite(seed: int, strategies: int = STRATEGIES) -> tuple[list[Raw], Recorder]:
    """The log of the round, and what was decided in it. Raises HistoryError when an invariant did not hold."""
    recorder = Recorder()
    rates = {fault: rate * MORE if rate < 0.03 else rate for fault, rate in RATES.items()}
    with _redis() as url:
        played = Round(url, seed, Plan(users=4, strategies=strategies, rates=rates, deaths=DEATHS))
        with recorder.listening():
            await played.play()
        if played.violations:
            raise HistoryError(f"the round of seed {seed} violates an invariant: {played.violations[0]}")
        log = await open_log(url, clock=played.clock, defaults=DEFAULTS, writer="reader", allow_weak=True)
        try:
            return [raw async for page in read_entries(log) for raw in page], recorder
        finally:
            await log.aclose()


@contextmanager
def _redis() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="bahi-history-") as folder,
        EmbeddedRedis(Path(folder), appendfsync="everysec") as server,
    ):
        yield server.url
