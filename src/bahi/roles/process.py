"""One bahi process: starts its roles in an order that loses nothing, and drains them in the reverse one.

The roles that follow a partition share one follower: the position is noted, the states are loaded, the log is followed
from there.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import anyio.to_thread
import structlog

from bahi.quiet import settle_memory
from bahi.roles.archive import ArchiveRole
from bahi.roles.base import Partition, Role
from bahi.roles.heartbeat import beat
from bahi.roles.market import MarketRole
from bahi.roles.rest import RestRole
from bahi.roles.scheduler import SchedulerRole
from bahi.roles.updates import UpdatesRole
from bahi.roles.worker import WorkerRole
from bahi.wiring import House
from brokers.kite.client import load
from domain.events import RuntimeStateLoaded
from eventstore.envelope import NewEvent
from eventstore.errors import CorruptEvent
from eventstore.fanout import Fanout
from handlers.decider import persist
from projections.live import live_states

__all__ = ["ROLES", "UnknownRole", "run_roles"]

log = structlog.get_logger(__name__)


ROLES: Final[dict[str, Callable[[House, Sequence[Partition]], Role]]] = {
    "archive": ArchiveRole,
    "worker": WorkerRole,
    "updates": UpdatesRole,
    "market": MarketRole,
    "scheduler": SchedulerRole,
    "api": RestRole,
}
"""In the order of starting; they are stopped in the reverse one."""
FOLLOWERS: Final = frozenset({"updates", "market", "scheduler"})


class UnknownRole(ValueError):
    """There is no such role."""


async def run_roles(house: House, names: Sequence[str], started: Callable[[], None] = lambda: None) -> None:
    """Runs the roles until SIGTERM or SIGINT, then drains. Raises UnknownRole, LogLost, and what a role raises."""
    unknown = sorted(set(names) - ROLES.keys())
    if unknown:
        raise UnknownRole(f"no such role: {', '.join(unknown)}; there are {', '.join(ROLES)}")
    wanted = [name for name in ROLES if not names or name in names]
    if house.catalogue is not None:
        await anyio.to_thread.run_sync(load)  # Kite's client: the first order does not wait for it
    fanouts: list[Fanout] = []
    partitions: list[Partition] = []
    if FOLLOWERS & set(wanted):
        for number in range(len(house.logs)):
            partition, fanout = await _load(house, number)
            partitions.append(partition)
            fanouts.append(fanout)
    roles = {name: ROLES[name](house, partitions) for name in wanted}
    settle_memory()
    stopping = _on_signals()
    async with asyncio.TaskGroup() as group:
        followers = [group.create_task(fanout.run()) for fanout in fanouts]
        if house.catalogue is not None:
            followers.append(group.create_task(house.catalogue.run()))
        heart = group.create_task(beat(house.redis, wanted, house.clock))
        running = {name: group.create_task(role.run(), name=name) for name, role in roles.items()}
        log.info("started", roles=wanted)
        started()
        ended = asyncio.create_task(stopping.wait())
        await asyncio.wait({ended, *running.values()}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        for name in reversed(wanted):
            log.info("stopping", role=name)
            await roles[name].stop()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running[name]})
        for task in (heart, *followers):
            task.cancel()
    log.info("stopped", roles=wanted)


async def _load(house: House, number: int) -> tuple[Partition, Fanout]:
    """The partition's states and a follower from the position noted before; says so in the log."""
    begun = house.clock.now()
    event_log = house.logs[number]
    position, states, corrupt = await persist(lambda: live_states(event_log), house.clock)
    for strategy_id, why in corrupt.items():
        log.error("corrupt_runtime", strategy_id=strategy_id, why=why)
    loaded = RuntimeStateLoaded(reached=position, strategies=len(states), took=house.clock.now() - begun)
    await persist(lambda: event_log.append([NewEvent(loaded)]), house.clock)
    fanout = Fanout(event_log, position, _report_corrupt)
    return Partition(number, states, fanout), fanout


def _report_corrupt(error: CorruptEvent) -> None:
    log.error("corrupt_event", position=error.position, stream=error.stream, why=error.reason)


def _on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; a second one ends the process at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        stopping.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping
