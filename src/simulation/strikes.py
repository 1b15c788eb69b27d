"""What each fault does to a world when it strikes at a call that waits at its gate."""

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from redis.exceptions import ResponseError

from domain.values import MINUTE, SECOND
from eventstore.keys import GROUP, Keys
from simulation.faults import Fault
from simulation.house import POLICY
from simulation.process import Kind, Process, State
from simulation.roles import WorkerRole
from simulation.wire import Crossing, Verdict

if TYPE_CHECKING:
    from simulation.world import World

__all__ = ["Strikes"]

DEATHS: Final = {
    Fault.WORKER_DIES: Kind.WORKER,
    Fault.SCHEDULER_DIES: Kind.SCHEDULER,
    Fault.MARKET_DIES: Kind.MARKET,
    Fault.UPDATES_DIES: Kind.UPDATES,
    Fault.ARCHIVE_DIES: Kind.ARCHIVE,
}
PAUSES: Final = {
    Fault.PAUSED: (SECOND // 10, 2 * SECOND),
    Fault.PAUSED_PAST_TAKE_OVER: (2 * SECOND, 10 * SECOND),
    Fault.PAUSED_PAST_QUARANTINE: (30 * SECOND, 90 * SECOND),
}


IDLE: Final = 2 * SECOND
"""A message that is pending for so long belongs to a dead worker (`eventstore.delivery`)."""


class Strikes:
    """The faults of one world's calls."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def strike(self, fault: Fault, crossing: Crossing) -> bool:
        """Whether the crossing is dealt with."""
        process = self._world.processes[crossing.wire.name]
        now, chance = self._world.clock.now(), self._world.chance
        postgres = crossing.what == "postgres"
        match fault:
            case Fault.CALL_LOST if not postgres:
                self._tell(fault, crossing)
                self._world.traffic.release(crossing, Verdict.LOSE)
                return True
            case Fault.REPLY_LOST if not postgres:
                self._tell(fault, crossing)
                self._world.traffic.release(crossing, Verdict.SWALLOW)
                self._world.stir()
                return True
            case Fault.ARCHIVE_CALL_LOST if postgres:
                self._tell(fault, crossing)
                self._world.traffic.release(crossing, Verdict.LOSE)
                return True
            case Fault.COMMIT_UNANSWERED if postgres:
                self._tell(fault, crossing)
                self._world.traffic.release(crossing, Verdict.SWALLOW)
                return True
            case Fault.CALL_DELAYED:
                self._tell(fault, crossing)
                self._world.delayed[crossing] = now + chance.choice((SECOND // 20, SECOND, 4 * SECOND))
                return True
            case (
                Fault.WORKER_DIES | Fault.SCHEDULER_DIES | Fault.MARKET_DIES | Fault.UPDATES_DIES | Fault.ARCHIVE_DIES
            ) if process.kind is DEATHS[fault]:
                self._tell(fault, crossing)
                await self._die(process, crossing)
                return True
            case Fault.DIES_WHILE_STARTING if process.state is State.STARTING and process.name in self._world.starts:
                self._tell(fault, crossing)
                await self._die(process, crossing)
                return True
            case Fault.PAUSED | Fault.PAUSED_PAST_TAKE_OVER | Fault.PAUSED_PAST_QUARANTINE:
                self._tell(fault, crossing)
                process.paused_until = now + chance.randint(*PAUSES[fault])
                self._world.hampered += process.paused_until - now
                if process.kind is Kind.WORKER and fault is not Fault.PAUSED:
                    self._world.at(now + IDLE, lambda: self._mind(process.name))
                return True
            case Fault.TAKEN_OVER:
                if process.kind is Kind.WORKER and self.take_over(process.name):
                    self._tell(fault, crossing)
            case Fault.CLOCK_AHEAD | Fault.CLOCK_BEHIND:
                sign = 1 if fault is Fault.CLOCK_AHEAD else -1
                self._tell(fault, crossing)
                process.clock.offset = sign * chance.randrange(POLICY.skew // 2)
            case Fault.REDIS_AWAY:
                self._tell(fault, crossing)
                self._world.redis_away_until = now + chance.choice((SECOND // 2, 3 * SECOND, 12 * SECOND))
                self._world.hampered += self._world.redis_away_until - now
                self._world.at(self._world.redis_away_until, self._world.look_up)
            case Fault.REDIS_RESTARTED:
                self._tell(fault, crossing)
                self._world.change_redis(self._world.stage.restart_redis)
            case Fault.REDIS_TORN:
                self._tell(fault, crossing)
                self._world.change_redis(lambda: self._world.stage.tear_redis(chance))
                self._world.at(now + IDLE, self._sweep)
            case Fault.REDIS_EMPTIED:
                self._tell(fault, crossing)
                self._world.change_redis(self._world.stage.empty_redis)
            case Fault.GROUP_LOST:
                stream = chance.choice(list(Keys().streams.values()))
                self._world.change_redis(lambda: self._destroy_group(stream, crossing))
            case Fault.POSTGRES_AWAY:
                self._tell(fault, crossing)
                self._world.postgres_away_until = now + chance.choice((5 * SECOND, MINUTE, 4 * MINUTE))
                self._world.hampered += self._world.postgres_away_until - now
                self._world.at(self._world.postgres_away_until, self._world.look_up)
        return False

    def _tell(self, fault: Fault, crossing: Crossing) -> None:
        self._world.faults.note(fault)
        self._world.story.tell(self._world.clock.now(), "fault", f"{fault} at {crossing!r}")

    async def _die(self, process: Process, crossing: Crossing | None = None) -> None:
        """Before the call, or after it and before its answer."""
        if crossing is not None and self._world.chance.random() < 0.5:
            self._world.traffic.release(crossing, Verdict.FREEZE)
            await self._world.traffic.rest()
        process.kill()
        await self._world.traffic.rest()
        await process.bury()
        del self._world.processes[process.name]
        self._world.stir()
        away = self._world.chance.choice((0, SECOND // 2, 3 * SECOND, 20 * SECOND))
        if process.kind is Kind.WORKER and away > IDLE:
            self._world.at(self._world.clock.now() + IDLE, lambda: self._mind(process.name))
        self._world.at(self._world.clock.now() + away, lambda: self._world.hire(process.name, process.kind))

    def _mind(self, name: str) -> None:
        """Others take what it had in hand, as soon as there are others, until it is at work again."""
        process, now = self._world.processes.get(name), self._world.clock.now()
        if process is None or process.paused_until > now or process.state is State.STARTING:
            self.take_over(name)
            self._world.at(now + SECOND, lambda: self._mind(name))

    def _destroy_group(self, stream: str, crossing: Crossing) -> None:
        with suppress(ResponseError):  # a Redis that was emptied has no such stream
            if self._world.looker.xgroup_destroy(stream, GROUP):
                self._tell(Fault.GROUP_LOST, crossing)

    def _sweep(self) -> None:
        """Messages of which a torn file knows no longer that they were acknowledged are in nobody's hand; they are
        taken over like any that are pending for too long."""
        workers = [each.name for each in self._world.processes.values() if each.kind is Kind.WORKER]
        if len(workers) < 2:
            self._world.at(self._world.clock.now() + SECOND, self._sweep)
        for name in workers:
            self.take_over(name)

    def take_over(self, name: str) -> bool:
        """Another worker claims what this one has pending, as after two idle seconds."""
        heirs = [each for each in self._world.processes.values() if each.kind is Kind.WORKER and each.name != name]
        if not heirs:
            return False
        heir, taken = self._world.chance.choice(heirs), 0
        streams = list(Keys().streams.values())
        asked = self._world.looker.pipeline(transaction=False)
        for stream in streams:
            asked.xpending_range(stream, GROUP, "-", "+", 1000, name)
        for stream, pending in zip(streams, asked.execute(raise_on_error=False), strict=True):
            if isinstance(pending, ResponseError):  # its group is gone
                continue
            if ids := [each["message_id"] for each in pending]:
                self._world.looker.xclaim(stream, GROUP, heir.name, 0, ids, justid=True)
                taken += len(ids)
        heir.wakes = -1
        if isinstance(heir.role, WorkerRole):
            heir.role.inherit()
        return taken > 0
