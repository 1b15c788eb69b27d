"""Recovery: after Redis was lost, was killed, or an older copy was put in its place, the log goes on in a new epoch.

1. One process, under a lock in PostgreSQL; the others wait, and find it done.
2. The fence goes up: whoever still lives of the old epoch appends no more.
3. What Redis holds of an older log is cleared, and position, groups, strategies, runtimes, timers, sets and halts are
   restored from the archive. A Redis that came back on its file keeps all of it: nobody has more.
4. What the archive cannot know is what happened in the last moments: a strategy that may have lost an order places
   nothing (STRATEGY_RECOVERED) until the order book was read and the order, if there is one, was adopted
   (ORDER_RECOVERED, RECOVERY_SETTLED). Its tag names the epoch before, so it is nobody else's.
5. SYSTEM_RECOVERY tells all of it; the epoch begins, in PostgreSQL first, then in Redis, and trading goes on.

A crash anywhere before the end leaves the fence up, and the next start begins anew.
"""

import asyncio
import secrets
import string
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from domain.clock import Clock
from domain.events import AlertTriggered, StrategyRecovered, SystemRecovery
from domain.facts import Policy
from domain.strategy import State, evolve
from domain.values import Code, Duration, Instant, Severity
from eventstore.archive import PostgresArchive, archive_outages
from eventstore.batch import Appended
from eventstore.clients import command, log_client
from eventstore.envelope import Ids, NewEvent
from eventstore.epochs import REJOINING, RESTORING, Epoch, Held, held, judge, next_log_id, record, restoring
from eventstore.errors import LogLost, NeedsRecovery
from eventstore.fencing import begin, clear, fence
from eventstore.keys import Keys
from eventstore.log import EventLog
from eventstore.vouching import is_vouched_for, vouch_for
from projections.live import live_states
from projections.rebuild import rebuild_redis
from projections.replay import Progress
from projections.runtime import encode_change

__all__ = ["Recovered", "in_doubt", "mark", "recover"]

RESTARTED = "RESTARTED"
TOLD = 20
"""Strategies named in an alert."""
_AT_ONCE = 64
"""Strategies that are marked at the same time: their appends share the disk's flushes."""


class Recovered(Struct, frozen=True, kw_only=True):
    """What was done. `held` is how far the Redis reached that was found, `strategies` how many there are; those that
    are `in_doubt` wait for the book."""

    why: str
    epoch: Epoch
    archived: int
    held: int
    strategies: int
    halts: int
    in_doubt: int
    took: Duration
    unsound: tuple[int, ...] = ()
    """Strategies in whose history something is wrong (0: nobody knows whose), made of it as well as could be."""


def _random(length: int) -> str:
    return "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(length))


async def recover(
    redis_url: str,
    archive: PostgresArchive,
    *,
    keys: Keys,
    clock: Clock,
    defaults: Mapping[str, object],
    policy: Policy,
    progress: Progress | None = None,
    member: str = "",
    random: Callable[[int], str] = _random,
) -> Recovered | None:
    """Restore a partition from the archive and begin its next epoch; None if that is not needed any more, or
    a follower that had read on before the loss has archived more meanwhile: then look, and perhaps restore, again.

    Raises LogUnavailable; LogLost when Redis and the archive are not of one log; LogHole when the archive has a hole.
    """
    redis = log_client(redis_url)
    try:
        with archive_outages():
            async with restoring(archive.engine, archive.partition):
                here = await held(redis, keys)
                known, archived = await archive.identity()
                if (why := await _why(redis, keys, here, known, archived, member)) is None:
                    return None
                begun = clock.now()
                token = (
                    f"{REJOINING}{here.lineage[-1].epoch}:{random(16)}" if why == RESTARTED else RESTORING + random(16)
                )
                await fence(redis, keys, token)
                lineage = known if len(known) >= len(here.lineage) else here.lineage
                end = here.position if why == RESTARTED else archived
                epoch = Epoch(
                    number=len(lineage) + 1,
                    epoch=random(16),
                    log_id=next_log_id(lineage, random),
                    after=end,
                    reason=f"RECOVERY: {why}",
                )
                if why != RESTARTED:
                    await _clear(redis, keys, archive, archived, here.lineage if len(here.lineage) < len(known) else ())
                log = EventLog(
                    redis,
                    keys=keys,
                    clock=clock,
                    ids=Ids(random(6).lower()),
                    epoch=token,
                    defaults=defaults,
                    archive=archive,
                    log_id=epoch.log_id,
                    lineage=(*lineage, epoch),
                )
                log.seen = end
                try:
                    done = await _restore(log, why, here.position, archived, begun, policy, progress)
                    async with archive.engine.begin() as connection:
                        if await archive.reached(connection, lock=True) > end:
                            return None
                        await record(connection, archive.partition, log.lineage)
                    await vouch_for(redis, keys)
                    await begin(redis, keys, token, log.lineage, [msgspec.json.encode(each) for each in log.lineage])
                finally:
                    await log.aclose()
                return done
    finally:
        await redis.aclose()


async def _why(
    redis: "Redis", keys: Keys, here: Held, known: Sequence[Epoch], archived: int, member: str
) -> str | None:
    """What makes it necessary, if anything does."""
    try:
        judge(here, known, archived)
    except NeedsRecovery as needed:
        return needed.why
    info = await command(redis, "INFO", "server")
    return None if await is_vouched_for(redis, keys, info, member) else RESTARTED


async def _clear(
    redis: "Redis", keys: Keys, archive: PostgresArchive, archived: int, superseded: Sequence[Epoch]
) -> None:
    """An empty log that ends where the archive does. What an earlier epoch left is set aside: it may hold events that
    were lost, and that nobody else has."""
    newest = await archive.entries(archived - 1, archived) if archived else []
    recorded_at = newest[0].recorded_at if newest else 0
    await clear(redis, keys, archived, recorded_at, keep_as=superseded[-1].epoch if superseded else None)


async def _restore(
    log: EventLog,
    why: str,
    held_before: int,
    archived: int,
    begun: Instant,
    policy: Policy,
    progress: Progress | None,
) -> Recovered:
    halts, unsound = 0, set[int]()
    if why != RESTARTED:
        rebuilt = await rebuild_redis(log, progress)
        halts, unsound = rebuilt.halts, {fault.strategy_id for fault in rebuilt.faults}
    _, states, corrupt = await live_states(log)
    doubtful = [state for state in states if in_doubt(state, log.clock.now() + policy.skew)]
    for start in range(0, len(doubtful), _AT_ONCE):
        some = doubtful[start : start + _AT_ONCE]
        if not all(await asyncio.gather(*(mark(log, state, policy) for state in some))):
            raise LogLost("somebody else wrote while the log was being restored")
    epoch = log.lineage[-1]
    done = Recovered(
        why=why,
        epoch=epoch,
        archived=archived,
        held=held_before,
        strategies=len(states),
        halts=halts,
        in_doubt=len(doubtful),
        took=log.clock.now() - begun,
        unsound=tuple(sorted(unsound | corrupt.keys())),
    )
    told = {name: str(getattr(done, name)) for name in ("archived", "strategies", "halts", "in_doubt", "took")}
    if done.unsound:
        told["unsound"] = ", ".join(str(each) for each in done.unsound[:TOLD])
    before = log.lineage[-2].epoch if len(log.lineage) > 1 else ""
    lost = {"redis": why, "held": str(held_before)}
    report = SystemRecovery(old_epoch=before, new_epoch=epoch.epoch, lost=lost, restored=told)
    alert = AlertTriggered(severity=Severity.CRITICAL, code=Code.RECOVERY, at=log.clock.now(), facts={**lost, **told})
    await log.append([NewEvent(report), NewEvent(alert)])
    return done


def in_doubt(state: State, now: Instant) -> bool:
    """Whether an order of the strategy may have been placed of which the archive does not know: it has shares or an
    order, or its entry is due. One that merely waits for its time has nothing to lose."""
    at_stake = state.open_quantity != 0 or state.surfaced != 0 or state.unresolved
    return at_stake or (state.alive and (state.buy_due or state.buy_at <= now))


async def mark(log: EventLog, state: State, policy: Policy) -> bool:
    """The strategy places nothing until the book shows what it may have lost; False if it moved meanwhile, for then
    somebody knows it who was there."""
    now = log.clock.now()
    heard = now + policy.send_deadline + policy.request_timeout + policy.skew
    event = StrategyRecovered(
        epoch=log.lineage[-1].epoch,
        at=now,
        settle_after=heard + policy.quarantine_dead_sender,
        entries_after=heard + policy.quarantine_ambiguous,
    )
    result = await log.append(
        [NewEvent(event, state.id, state.user_id)],
        expected=state.version,
        runtime=encode_change(state, evolve(state, event), now),
        strategy_id=state.id,
        user_id=state.user_id,
    )
    return isinstance(result, Appended)
