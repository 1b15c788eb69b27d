"""The role `archive`: writes every event, the SQL projections, the seals and the checkpoint; takes snapshots; and trims
what Redis need not hold any longer."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from api.security.box import SecretBox
from bahi.roles.base import Partition
from bahi.seal_keys import SqlSealKeys
from bahi.telemetry.event_lines import write_event_lines
from bahi.wiring import House
from domain.events import AlertTriggered, SystemRecovery
from domain.values import HOUR, MINUTE, SECOND, Code, Duration, Instant, Severity
from eventstore.archive import OUTAGES
from eventstore.envelope import Dedupe, NewEvent
from eventstore.errors import LogError, LogUnavailable
from eventstore.sealing import Sealing
from eventstore.seals import Seal
from eventstore.trimming import ArchiveIncomplete, trim
from eventstore.waiting import either
from projections.projector import Lag, Projector
from projections.snapshotter import Snapshotter

__all__ = ["ArchiveRole"]

TEND_EVERY: Duration = MINUTE
WORTH_TELLING: Duration = 10 * SECOND
"""An outage of PostgreSQL that took so long is told in the log, when everything has been caught up with."""

log = structlog.get_logger(__name__)


class ArchiveRole:
    """One follower for each partition; and for all of them together a task that tends what is stored."""

    def __init__(self, house: House, partitions: Sequence[Partition]) -> None:
        self._house = house
        self._lags: dict[int, Lag] = {}
        self._stopped_sealing: dict[int, str] = {}
        """Why, by partition, as long as nobody was alarmed."""
        self._dark_since: dict[int, Instant] = {}
        """Since when PostgreSQL has not answered, by partition."""
        self._caught_up: dict[int, SystemRecovery] = {}
        """What is to be told of outages that are over, by partition."""
        self._alarmed = asyncio.Event()
        self._held: dict[int, object] = {}
        self.projectors = [self._projector(number) for number in range(len(house.logs))]
        every = house.settings.snapshot_events
        self._snapshotters = [Snapshotter(each.archive, every=every) for each in self.projectors]

    def _projector(self, partition: int) -> Projector:
        house = self._house
        sealing = Sealing(
            partition,
            SqlSealKeys(SecretBox(house.keys)),
            events=house.settings.seal_events,
            age=house.settings.seal_seconds // timedelta(microseconds=1),
            on_state=self._sealing_state(partition),
            on_sealed=self._sealed,
        )
        return Projector(
            house.logs[partition],
            house.engine,
            house.clock,
            sealing=sealing,
            lines=write_event_lines,
            on_lag=self._measure(partition),
            on_trouble=self._troubled(partition),
        )

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            tending = group.create_task(self._tend())
            for snapshotter in self._snapshotters:
                group.create_task(snapshotter.run())
            async with asyncio.TaskGroup() as projectors:
                for projector in self.projectors:
                    projectors.create_task(projector.run())
            tending.cancel()

    async def stop(self) -> None:
        for projector in self.projectors:
            await projector.stop()
        for snapshotter in self._snapshotters:
            await snapshotter.stop()

    # --- looking after what is stored ---------------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Every minute, and when there is something to be told."""
        while True:
            await either(self._house.clock.sleep(TEND_EVERY), self._alarmed.wait())
            self._alarmed.clear()
            for partition in range(len(self.projectors)):
                try:
                    await self._alert(partition)
                    await self._tell_caught_up(partition)
                    await self.trim(partition)
                    await self.projectors[partition].archive.prepare(self._house.clock.now())
                except (LogUnavailable, *OUTAGES) as error:
                    _report(error)

    async def trim(self, partition: int) -> None:
        """Let Redis forget what the archive has. Raises LogUnavailable, LogLost."""
        house = self._house
        archive = self.projectors[partition].archive
        hot = house.settings.hot_hours * HOUR
        try:
            done = await trim(house.logs[partition], archive, hot=hot, now=house.clock.now())
        except ArchiveIncomplete as error:
            log.error("archive_incomplete", partition=partition, why=str(error))
            return
        house.metrics.trimmed_position.labels(partition).set(done.upto)
        if done.entries:
            log.info("trimmed", partition=partition, upto=done.upto, entries=done.entries)
        if done.held != self._held.get(partition, {}):
            self._held[partition] = done.held
            said = "trimming_held_back" if done.held else "trimming_free"
            log.info(said, partition=partition, **{str(name): why for name, why in done.held.items()})

    async def _alert(self, partition: int) -> None:
        why = self._stopped_sealing.get(partition)
        if why is None:
            return
        house = self._house
        facts = {"partition": str(partition), "why": why[:500]}
        alert = AlertTriggered(severity=Severity.CRITICAL, code=Code.SEALING_STOPPED, at=house.clock.now(), facts=facts)
        once_a_day = Dedupe(key=f"sealing-stopped:{partition}", digest="")
        await house.logs[partition].append([NewEvent(alert, dedupe=once_a_day)])
        self._stopped_sealing.pop(partition, None)

    async def _tell_caught_up(self, partition: int) -> None:
        if (report := self._caught_up.get(partition)) is not None:
            await self._house.logs[partition].append([NewEvent(report)])
            del self._caught_up[partition]

    # --- telling ----------------------------------------------------------------------------------------------------

    def _measure(self, partition: int) -> Callable[[Lag], None]:
        metrics = self._house.metrics

        def measured(lag: Lag) -> None:
            self._lags[partition] = lag
            metrics.archive_lag.set(sum(each.positions for each in self._lags.values()))
            metrics.archive_lag_seconds.set(max(each.seconds for each in self._lags.values()))
            position = self.projectors[partition].position
            if position is not None:
                metrics.archived_position.labels(partition).set(position)
            if not lag.positions and partition in self._dark_since:
                self._over(partition, position)

        return measured

    def _troubled(self, partition: int) -> Callable[[Exception], None]:
        def troubled(error: Exception) -> None:
            _report(error)
            if not isinstance(error, LogError):  # which would be Redis, or a hole in the log
                self._dark_since.setdefault(partition, self._house.clock.now())

        return troubled

    def _over(self, partition: int, position: int | None) -> None:
        """PostgreSQL is back, and has all that happened meanwhile."""
        dark = self._house.clock.now() - self._dark_since.pop(partition)
        epoch = self._house.logs[partition].epoch
        if dark >= WORTH_TELLING:
            self._caught_up[partition] = SystemRecovery(
                old_epoch=epoch,
                new_epoch=epoch,
                lost={"postgresql": f"away for {dark // SECOND} s"},
                restored={"archived": str(position)},
            )
            self._alarmed.set()

    def _sealed(self, seal: Seal) -> None:
        self._house.metrics.sealed_position.labels(seal.partition).set(seal.last)

    def _sealing_state(self, partition: int) -> Callable[[str | None], None]:
        stopped = self._house.metrics.sealing_stopped.labels(partition)

        def told(why: str | None) -> None:
            stopped.set(why is not None)
            if why is None:
                self._stopped_sealing.pop(partition, None)
            else:
                self._stopped_sealing[partition] = why
                self._alarmed.set()

        return told


def _report(error: Exception) -> None:
    log.warning("archive_waits", why=str(error).splitlines()[0])
