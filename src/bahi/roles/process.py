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

from bahi import quiet
from bahi.roles.base import Partition, Role
from bahi.roles.ending import Ending
from bahi.roles.heartbeat import beat
from bahi.wiring import House
from brokers.kite.client import load
from domain.events import Event, RuntimeStateLoaded, SystemRecovery
from eventstore.batch import AppendResult, WrongEpoch
from eventstore.envelope import NewEvent
from eventstore.errors import CorruptEvent, LogLost, LogUnavailable
from eventstore.fanout import Fanout
from eventstore.log import EventLog
from eventstore.witness import Witness, bear_witness
from handlers.decider import persist
from handlers.desk import Desk
from handlers.repair import repair
from projections.compare import corrupt_strategies
from projections.live import live_states
from projections.runtime import CorruptState

__all__ = ["ROLES", "UnknownRole", "all_wanted", "load_role", "report_restart", "run_roles"]

log = structlog.get_logger(__name__)


ROLES: Final = {
    "archive": "bahi.roles.archive:ArchiveRole",
    "worker": "bahi.roles.worker:WorkerRole",
    "updates": "bahi.roles.updates:UpdatesRole",
    "market": "bahi.roles.market:MarketRole",
    "scheduler": "bahi.roles.scheduler:SchedulerRole",
    "api": "bahi.roles.rest:RestRole",
}
"""In the order of starting; they are stopped in the reverse one."""
FOLLOWERS: Final = frozenset({"updates", "market", "scheduler"})


class UnknownRole(ValueError):
    """There is no such role."""


def all_wanted(names: Sequence[str]) -> list[str]:
    """The roles that these names mean, in the order of starting; no names: all. Raises UnknownRole."""
    unknown = sorted(set(names) - ROLES.keys())
    if unknown:
        raise UnknownRole(f"no such role: {', '.join(unknown)}; there are {', '.join(ROLES)}")
    return [name for name in ROLES if not names or name in names]


def load_role(name: str) -> Callable[[House, Sequence[Partition]], Role]:
    """Now and not before, so that a process starts sooner without what its roles do not need."""
    module, _, attribute = ROLES[name].partition(":")
    found: Callable[[House, Sequence[Partition]], Role] = getattr(quiet.load(module), attribute)
    return found


async def run_roles(
    house: House, wanted: Sequence[str], ending: Ending, started: Callable[[], None] = lambda: None
) -> None:
    """Runs the roles until SIGTERM or SIGINT, then drains. Raises LogLost, and what a role raises.

    From before its first append to after its last one the process is a witness of each log."""
    if house.catalogue is not None:
        await anyio.to_thread.run_sync(load)  # Kite's client: the first order does not wait for it
    witnesses = [Witness(each, ending.member) for each in house.logs]
    try:
        for witness in witnesses:
            await persist(witness.join, house.clock)
        async with asyncio.TaskGroup() as group:
            looking = [group.create_task(bear_witness(each, report_restart, _no_witness)) for each in witnesses]
            if ending.killed:
                await _report_killed(house, ending.name)
                ending.killed = False
            await _run(house, wanted, started)
            for task in looking:
                task.cancel()
        for witness in witnesses:
            await _leave(witness)
    finally:
        for witness in witnesses:
            await witness.aclose()
    log.info("stopped", roles=wanted)


async def _leave(witness: Witness) -> None:
    try:
        await witness.leave()
    except LogUnavailable as error:
        log.warning("not_left_in_good_order", why=str(error))


async def _run(house: House, wanted: Sequence[str], started: Callable[[], None]) -> None:
    if "worker" in wanted:
        for desk in house.desks:
            await _repair_corrupt(desk)
    fanouts: list[Fanout] = []
    partitions: list[Partition] = []
    if FOLLOWERS & set(wanted):
        for number in range(len(house.logs)):
            partition, fanout = await _load(house, number)
            partitions.append(partition)
            fanouts.append(fanout)
    roles = {name: load_role(name)(house, partitions) for name in wanted}
    quiet.settle_memory()
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


async def _report_killed(house: House, name: str) -> None:
    """The process before this one was killed; what it had begun is found again in the log and at the broker."""
    log.warning("killed_before", process=name)
    for each in house.logs:
        report = SystemRecovery(
            old_epoch=each.epoch,
            new_epoch=each.epoch,
            lost={"process": name},
            restored={"position": str(await each.last_position())},
        )
        await _persistently(house, each, report)


async def _repair_corrupt(desk: Desk) -> None:
    """A runtime that is not the fold of its events is written anew, and its run aborted; the others go on."""
    corrupt = await persist(lambda: corrupt_strategies(desk.log), desk.clock)
    for strategy_id, why in corrupt.items():
        try:
            await repair(desk, strategy_id, CorruptState(why))
        except CorruptState as error:
            log.error("corrupt_runtime", strategy_id=strategy_id, why=str(error))


async def report_restart(event_log: EventLog) -> None:
    """Redis came back with all that any process saw of the log. Raises LogLost, LogUnavailable."""
    position = str(await event_log.last_position())
    log.warning("redis_restarted", partition=event_log.keys.partition, position=position)
    report = SystemRecovery(
        old_epoch=event_log.epoch,
        new_epoch=event_log.epoch,
        lost={"redis": "RESTARTED"},
        restored={"position": position},
    )
    _still_ours(event_log, await event_log.append([NewEvent(report)]))


def _no_witness(error: LogUnavailable) -> None:
    log.debug("no_witness", why=str(error))


async def _persistently(house: House, event_log: EventLog, event: Event) -> None:
    """Append an event of no strategy, however long that takes. Raises LogLost."""
    _still_ours(event_log, await persist(lambda: event_log.append([NewEvent(event)]), house.clock))


def _still_ours(event_log: EventLog, result: AppendResult) -> None:
    if isinstance(result, WrongEpoch):
        raise LogLost(f"this process belongs to epoch {event_log.epoch}, the log is at {result.actual}")


async def _load(house: House, number: int) -> tuple[Partition, Fanout]:
    """The partition's states and a follower from the position noted before; says so in the log."""
    begun = house.clock.now()
    event_log = house.logs[number]
    position, states, corrupt = await persist(lambda: live_states(event_log), house.clock)
    for strategy_id, why in corrupt.items():  # a worker repairs it when it starts, or looks at it
        log.error("corrupt_runtime", strategy_id=strategy_id, why=why)
    loaded = RuntimeStateLoaded(reached=position, strategies=len(states), took=house.clock.now() - begun)
    await _persistently(house, event_log, loaded)
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
