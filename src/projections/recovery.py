"""Recovery: after Redis was lost, or an older copy was put in its place, the log goes on in a new epoch.

1. One process, under a lock in PostgreSQL; the others wait, and find it done.
2. The fence goes up: whoever still lives of the old epoch appends no more. What Redis holds is cleared.
3. Position, groups, strategies, runtimes, timers, sets and halts are restored from the archive.
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
from eventstore.clients import log_client
from eventstore.envelope import Ids, NewEvent
from eventstore.epochs import RESTORING, Epoch, held, judge, record, restoring
from eventstore.errors import LogBehind, LogLost
from eventstore.fencing import begin, clear, fence
from eventstore.keys import Keys
from eventstore.log import EventLog
from projections.live import live_states
from projections.rebuild import rebuild_redis
from projections.replay import Progress
from projections.runtime import encode_change

__all__ = ["Recovered", "in_doubt", "recover"]

_AT_ONCE = 64
"""Strategies that are marked at the same time: their appends share the disk's flushes."""


class Recovered(Struct, frozen=True, kw_only=True):
    """What was done. `held` is how far the Redis reached that was found; `in_doubt` strategies wait for the book."""

    why: str
    epoch: Epoch
    archived: int
    held: int
    strategies: int
    halts: int
    in_doubt: int
    took: Duration


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
    random: Callable[[int], str] = _random,
) -> Recovered | None:
    """Restore a partition from the archive and begin its next epoch; None if that is not needed any more.

    Raises LogUnavailable; LogLost when Redis and the archive are not of one log; LogHole when the archive has a hole.
    """
    redis = log_client(redis_url)
    try:
        with archive_outages():
            async with restoring(archive.engine, archive.partition):
                here = await held(redis, keys)
                known, archived = await archive.identity()
                try:
                    judge(here, known, archived)
                except LogBehind as behind:
                    why = behind.why
                else:
                    return None
                begun = clock.now()
                log = await _empty_log(redis, archive, keys, clock, defaults, known, archived, here.lineage, random)
                try:
                    done = await _restore(log, why, here.position, archived, begun, policy, progress)
                    async with archive.engine.begin() as connection:
                        await record(connection, archive.partition, log.lineage)
                    await begin(redis, keys, log.lineage, [msgspec.json.encode(each) for each in log.lineage])
                finally:
                    await log.aclose()
                return done
    finally:
        await redis.aclose()


async def _empty_log(
    redis: "Redis",
    archive: PostgresArchive,
    keys: Keys,
    clock: Clock,
    defaults: Mapping[str, object],
    known: Sequence[Epoch],
    archived: int,
    found: Sequence[Epoch],
    random: Callable[[int], str],
) -> EventLog:
    """The log of the epoch to come, behind its fence: empty, and ending where the archive does."""
    newest = await archive.entries(archived - 1, archived) if archived else []
    token = RESTORING + random(16)
    await fence(redis, keys, token)
    superseded = found[-1].epoch if found and len(found) < len(known) else None
    await clear(redis, keys, archived, newest[0].recorded_at if newest else 0, keep_as=superseded)
    number = known[-1].number + 1 if known else 1
    epoch = Epoch(number=number, epoch=random(16), log_id=random(4), after=archived, reason="RECOVERY")
    log = EventLog(
        redis,
        keys=keys,
        clock=clock,
        ids=Ids(random(6).lower()),
        epoch=token,
        defaults=defaults,
        archive=archive,
        log_id=epoch.log_id,
        lineage=(*known, epoch),
    )
    log.seen = archived
    return log


async def _restore(
    log: EventLog,
    why: str,
    held_before: int,
    archived: int,
    begun: Instant,
    policy: Policy,
    progress: Progress | None,
) -> Recovered:
    rebuilt = await rebuild_redis(log, progress)
    _, states, _ = await live_states(log)
    doubtful = [state for state in states if in_doubt(state, log.clock.now() + policy.skew)]
    for start in range(0, len(doubtful), _AT_ONCE):
        await asyncio.gather(*(_mark(log, state, policy) for state in doubtful[start : start + _AT_ONCE]))
    epoch = log.lineage[-1]
    done = Recovered(
        why=why,
        epoch=epoch,
        archived=archived,
        held=held_before,
        strategies=rebuilt.strategies,
        halts=rebuilt.halts,
        in_doubt=len(doubtful),
        took=log.clock.now() - begun,
    )
    told = {name: str(getattr(done, name)) for name in ("archived", "strategies", "halts", "in_doubt", "took")}
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


async def _mark(log: EventLog, state: State, policy: Policy) -> None:
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
    if not isinstance(result, Appended):
        raise LogLost(f"while strategy {state.id} was restored, the log answered {result}")
