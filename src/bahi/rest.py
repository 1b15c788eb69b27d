"""The REST application's dependencies, made of the engine's parts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from prometheus_client import CollectorRegistry, Gauge
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from api.acknowledged import Acknowledge, noted
from api.audit.ports import Export, Verifier
from api.dependencies import Check, Dependencies, Hint, nobody_listens
from api.ports import BrokerLogin, Decide, KiteTerms, UnknownStrategy
from api.rate import AuthLimits
from api.routes.broker import PaperLogin
from api.security.box import SecretBox
from api.security.keys import SecretKeys
from api.security.passwords import Passwords
from api.stream.streams import Streams, StreamTerms
from bahi.audit import SqlStories
from bahi.database.accounts import SqlAccounts
from bahi.database.halts import SqlHalts
from bahi.database.history import SqlHistory
from bahi.database.idempotency import SqlIdempotency
from bahi.database.readings import SqlReadings
from bahi.database.users import SqlSessions, SqlUsers
from domain.decide import Decision
from domain.facts import Facts
from domain.strategy import State
from eventstore.archived import ArchiveWatch
from eventstore.envelope import Dedupe
from handlers.decider import Wake, decided, take_turn
from handlers.desk import Desk, NoStrategy

__all__ = ["DeskStrategies", "rest_dependencies"]


class DeskStrategies:
    """`api.ports.Strategies` on the handlers' own way of changing a strategy. `desks` is by partition."""

    def __init__(self, desks: Sequence[Desk]) -> None:
        self._desks = desks

    async def look(self, strategy_id: int, user_id: int) -> State:
        with _known():
            return (await self._desk(user_id).look(strategy_id))[0]

    async def turn(
        self, strategy_id: int, user_id: int, decide: Decide, *, correlation_id: str, dedupe: Dedupe | None = None
    ) -> None:
        def decision(state: State, facts: Facts) -> Decision | None:
            events = decide(state, facts)
            return decided(state, events) if events else None

        with _known():
            wake = Wake(correlation_id=correlation_id)
            await take_turn(self._desk(user_id), strategy_id, decision, wake, dedupe)

    def _desk(self, user_id: int) -> Desk:
        return self._desks[user_id % len(self._desks)]


@contextmanager
def _known() -> Iterator[None]:
    try:
        yield
    except NoStrategy as error:
        raise UnknownStrategy(str(error)) from error


def rest_dependencies(
    *,
    engine: AsyncEngine,
    desks: Sequence[Desk],
    redis: "Redis",
    keys: SecretKeys,
    logins: Mapping[str, BrokerLogin] | None = None,
    kite: KiteTerms | None = None,
    hint: Hint | None = None,
    watches: Sequence[ArchiveWatch] | None = None,
    archive_patience: float | None = None,
    stream_terms: StreamTerms | None = None,
    verifier: Verifier | None = None,
    export: Export | None = None,
    checks: Mapping[str, Check] | None = None,
    auth_limits: AuthLimits | None = None,
    passwords: Passwords | None = None,
    registry: CollectorRegistry | None = None,
) -> Dependencies:
    """`desks` is by partition; `redis` counts the rate limits; `logins` is paper trading alone unless given; `hint`
    tells who reads the order books, nobody unless given. `watches`, by partition, hear how far the archive is. With
    `archive_patience` (seconds) answers wait for it, at most so long. Close `streams` of what is returned, and the
    watches."""
    registry = registry or CollectorRegistry()
    desks = [msgspec.structs.replace(desk, log=noted(desk.log)) for desk in desks]
    desk = desks[0]
    watches = watches or [ArchiveWatch(desk.log) for desk in desks]
    history = SqlHistory(engine, len(desks))
    streams = Streams(history, watches, stream_terms)
    Gauge("bahi_event_streams", "Open event streams", registry=registry).set_function(lambda: streams.open)
    return Dependencies(
        users=SqlUsers(engine),
        sessions=SqlSessions(engine),
        accounts=SqlAccounts(engine, SecretBox(keys)),
        halts=SqlHalts(engine),
        idempotency=SqlIdempotency(engine),
        readings=SqlReadings(engine),
        history=history,
        stories=SqlStories(engine, len(desks)),
        verifier=verifier,
        export=export,
        streams=streams,
        strategies=DeskStrategies(desks),
        logs=[each.log for each in desks],
        redis=redis,
        keys=keys,
        logins={"paper": PaperLogin()} if logins is None else logins,
        kite=kite or KiteTerms(),
        hint=hint or nobody_listens,
        instruments=desk.instruments,
        calendar=desk.calendar,
        clock=desk.clock,
        policy=desk.policy,
        acknowledge=None if archive_patience is None else Acknowledge(watches, archive_patience, registry),
        checks=checks or {},
        auth_limits=auth_limits or AuthLimits(),
        passwords=passwords or Passwords(),
        registry=registry,
    )
