"""The composition root: settings in, a house out — servers, log, broker, desks — with everything closed at the end."""

import functools
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import structlog
from msgspec import structs
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from sqlalchemy import distinct, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from bahi.clock import SystemClock
from bahi.database.engine import create_engine
from bahi.database.ids import keep_ids_ahead
from bahi.database.instruments import SqlInstruments
from bahi.database.migrate import migrate
from bahi.hints import Hints
from bahi.instruments import CatalogueFollower
from bahi.kite import AllBrokers, Kite, kite_address
from bahi.reads import ReadLimits
from bahi.servers import attach_or_start
from bahi.sessions import BrokerSessions
from bahi.settings import Settings
from bahi.telemetry.logging import register_secret
from bahi.telemetry.metrics import InstrumentedBroker, Metrics, TickToOrder, instrument_log
from brokers.instruments import BUILT_IN, InstrumentCatalogue
from brokers.paper.book import Book
from brokers.paper.broker import PaperBrokers
from brokers.paper.exchange import Exchange, LastPrice
from brokers.paper.plan import Plan
from brokers.paper.seeded import parse_plan
from brokers.port import Broker, Brokers, BrokerUnavailable, Instruments
from domain.calendar import AlwaysOpenCalendar, Calendar, load_nse
from domain.clock import Clock
from domain.facts import Policy
from domain.values import SECOND, Duration, Tick
from eventstore.archive import PostgresArchive
from eventstore.archive_tables import epochs
from eventstore.clients import command, log_client
from eventstore.errors import LogUnavailable, NeedsRecovery, PartitionMismatch
from eventstore.keys import PARTITIONS, Keys, price
from eventstore.log import EventLog
from eventstore.open import open_log
from eventstore.vouching import stopping_in_good_order
from handlers.desk import Desk
from handlers.waits import Waits
from projections.prices import decode_price
from projections.recovery import recover
from projections.replay import Progress
from projections.runtime import DEFAULTS

__all__ = ["House", "open_house", "servers_of"]

log = structlog.get_logger(__name__)

SHORTEST_MASKED = 8
"""A shorter password would be masked out of ordinary words too."""


@dataclass(frozen=True, kw_only=True)
class House:
    """Everything a role works with. `logs` and `desks` are by partition. `catalogue` follows what Kite lists, when
    prices come from Kite; else the built-in instruments are traded."""

    settings: Settings
    clock: Clock
    calendar: Calendar
    policy: Policy
    instruments: Instruments
    catalogue: CatalogueFollower | None
    keys: SecretKeys
    brokers: Brokers
    exchange: Exchange
    kite: Kite
    sessions: BrokerSessions
    hints: Hints
    engine: AsyncEngine
    redis: "Redis"
    logs: list[EventLog]
    desks: list[Desk]
    metrics: Metrics
    tick_to_order: TickToOrder
    redis_url: str
    database_url: str
    paper_file: Path


@asynccontextmanager
async def open_house(
    settings: Settings,
    *,
    clock: Clock | None = None,
    calendar: Calendar | None = None,
    writer: str | None = None,
    metrics: Metrics | None = None,
    plan: Plan | None = None,
    tick_to_order: TickToOrder | None = None,
    limit_reads: bool = True,
    on_order_written: Callable[[int], None] | None = None,
    progress: Progress | None = None,
    member: str = "",
) -> AsyncIterator[House]:
    """Starts or finds the servers, migrates the database, opens the log; closes all of it again. `limit_reads` is off
    for a clock that is turned by hand, against which no window of time can be counted. `progress` hears of a recovery.
    `member` is the name by which this process joins the logs afterwards, if it does.

    Raises SettingsError, ServerError, LogError with what is wrong and what to do.
    """
    settings.check_production()
    _mask_secrets(settings)
    clock = clock or SystemClock()
    metrics = metrics or Metrics(CollectorRegistry())
    calendar = calendar or (AlwaysOpenCalendar() if settings.calendar == "always-open" else load_nse())
    if settings.env == "production":
        calendar.session_on(calendar.wall(clock.now()).date())  # an unknown year refuses
    policy = policy_of(settings)
    async with AsyncExitStack() as stack:
        redis_url, database_url, owned = await servers_of(settings, stack)
        await anyio.to_thread.run_sync(migrate, database_url)
        engine = create_engine(database_url)
        stack.push_async_callback(engine.dispose)
        redis = log_client(redis_url)
        stack.push_async_callback(redis.aclose)
        instruments: Instruments = BUILT_IN
        catalogue: CatalogueFollower | None = None
        if settings.price_feed == "kite":
            listed = InstrumentCatalogue(clock)
            instruments, catalogue = listed, CatalogueFollower(listed, SqlInstruments(engine), clock)
            await catalogue.load()
        paper_file = settings.home.expanduser() / "paper.db"
        book = Book(paper_file)
        stack.callback(book.close)
        exchange = Exchange(
            book,
            clock,
            _last_price(redis),
            instruments=instruments,
            calendar=calendar,
            plan=plan or (parse_plan(settings.paper_plan) if settings.paper_plan else None),
        )
        keys = SecretKeys(key.get_secret_value() for key in settings.key_ring())
        logs: list[EventLog] = []
        sessions = BrokerSessions(engine, SecretBox(keys), clock, log_of=lambda user_id: logs[user_id % len(logs)])
        stack.push_async_callback(sessions.aclose)
        hints = Hints(redis)
        stack.push_async_callback(hints.aclose)
        kite = Kite(
            kite_address(settings),
            sessions,
            instruments,
            clock,
            reads=ReadLimits(redis, clock) if limit_reads else None,
            hints=hints,
            on_order_written=on_order_written,
        )
        stack.push_async_callback(kite.aclose)
        tick_to_order = tick_to_order or TickToOrder(metrics.tick_to_order.observe)
        paper = PaperBrokers(exchange, functools.partial(sessions.connected, "paper"))
        brokers = InstrumentedBrokers(AllBrokers(paper, kite.brokers), metrics, clock, tick_to_order)
        await _same_partitions(redis, engine, settings.partitions)
        for partition in range(settings.partitions):
            opened = await _open_partition(
                settings, redis_url, PostgresArchive(engine, partition), clock, policy, writer, progress, member
            )
            stack.push_async_callback(opened.aclose)
            await keep_ids_ahead(opened, engine)
            logs.append(instrument_log(opened, metrics))
        if owned:
            stack.push_async_exit(functools.partial(_in_good_order, redis, logs))
        desks = [
            Desk(
                log=each,
                clock=clock,
                calendar=calendar,
                policy=policy,
                instruments=instruments,
                brokers=brokers,
                known={},
                look_again=None if catalogue is None else catalogue.look_again,
                waits=Waits(lambda waited: metrics.order_wait.observe(waited / SECOND)),
            )
            for each in logs
        ]
        yield House(
            settings=settings,
            clock=clock,
            calendar=calendar,
            policy=policy,
            instruments=instruments,
            catalogue=catalogue,
            keys=keys,
            brokers=brokers,
            exchange=exchange,
            kite=kite,
            sessions=sessions,
            hints=hints,
            engine=engine,
            redis=redis,
            logs=logs,
            desks=desks,
            metrics=metrics,
            tick_to_order=tick_to_order,
            redis_url=redis_url,
            database_url=database_url,
            paper_file=paper_file,
        )


async def _same_partitions(redis: "Redis", engine: AsyncEngine, wanted: int) -> None:
    """A Redis that was lost does not know any more how many partitions there are; the archive does."""
    if await command(redis, "GET", PARTITIONS) is not None:
        return
    async with engine.connect() as connection:
        stored = await connection.scalar(select(func.count(distinct(epochs.c.partition))))
    if stored and stored != wanted:
        raise PartitionMismatch(
            f"the archive has {stored} partitions, {wanted} were asked for: set BAHI_PARTITIONS={stored}"
        )


async def _open_partition(
    settings: Settings,
    redis_url: str,
    archive: PostgresArchive,
    clock: Clock,
    policy: Policy,
    writer: str | None,
    progress: Progress | None,
    member: str,
) -> EventLog:
    """The log of a partition; one that Redis has lost is restored from the archive first."""
    while True:
        try:
            return await open_log(
                redis_url,
                clock=clock,
                defaults=DEFAULTS,
                writer=writer,
                partition=archive.partition,
                partitions=settings.partitions,
                allow_weak=settings.allow_weak_durability,
                archive=archive,
                member=member,
            )
        except NeedsRecovery as behind:
            log.critical("log_lost", partition=archive.partition, why=str(behind), todo="restoring it from the archive")
            keys = Keys(archive.partition, hashtag=settings.partitions > 1)
            done = await recover(
                redis_url,
                archive,
                keys=keys,
                clock=clock,
                defaults=DEFAULTS,
                policy=policy,
                progress=progress,
                member=member,
            )
            if done is not None:
                log.critical("log_restored", partition=archive.partition, **structs.asdict(done))


def _mask_secrets(settings: Settings) -> None:
    """None of the installation's own secrets shows in a log line, whatever an error's text carries."""
    urls = [url.get_secret_value() for url in (settings.redis_url, settings.database_url) if url is not None]
    secrets = [key.get_secret_value() for key in settings.key_ring()]
    secrets += [password for url in urls if (password := urlsplit(url).password)]
    if settings.alert_webhook is not None:
        secrets.append(settings.alert_webhook.get_secret_value())
    for secret in secrets:
        if len(secret) >= SHORTEST_MASKED:
            register_secret(secret)


def policy_of(settings: Settings) -> Policy:
    """The house rules that the settings say."""
    return Policy(
        send_deadline=_micros(settings.send_deadline),
        request_timeout=_micros(settings.request_timeout),
        skew=_micros(settings.clock_skew),
        entry_patience=_micros(settings.entry_patience),
        retry_backoff=_micros(settings.retry_backoff),
        buy_late_limit=_micros(settings.buy_late_limit),
        mis_cutoff=settings.mis_cutoff,
        quarantine_ambiguous=_micros(settings.quarantine_ambiguous),
        quarantine_dead_sender=_micros(settings.quarantine_crash),
    )


def consumer_name(role: str, number: int = 0) -> str:
    """A name that is the same after a restart of this process on this host."""
    return f"{role}-{socket.gethostname()}-{number}"


async def _in_good_order(
    redis: "Redis", logs: Sequence[EventLog], failure: type[BaseException] | None, *_: Any
) -> None:
    """Whoever stops the Redis of this installation says so beforehand, unless something went wrong."""
    if failure is None:
        try:
            for each in logs:
                await stopping_in_good_order(redis, each.keys)
        except LogUnavailable as error:
            log.warning("not_stopped_in_good_order", why=str(error))


async def servers_of(settings: Settings, stack: AsyncExitStack) -> tuple[str, str, bool]:
    """The addresses of both servers, and whether this process will stop Redis. What is started here lives as long as
    the stack; within it, the same may be asked again."""
    owned = False
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    database_url = settings.database_url.get_secret_value() if settings.database_url else None
    if redis_url is None or database_url is None:
        own_redis, own_postgres = redis_url is None, database_url is None
        servers = await anyio.to_thread.run_sync(
            lambda: attach_or_start(settings.home, redis=own_redis, postgres=own_postgres)
        )
        stack.push_async_callback(anyio.to_thread.run_sync, servers.close)
        servers.watch()
        owned = own_redis and servers.owned
        redis_url = redis_url or servers.redis_url
        database_url = database_url or servers.database_url
    return redis_url, database_url, owned


def _micros(duration: timedelta) -> Duration:
    return duration // timedelta(microseconds=1)


def _last_price(redis: "Redis") -> LastPrice:
    """The market's last price, as the market listener writes it."""

    async def last(symbol: str) -> Tick | None:
        try:
            found = decode_price(await command(redis, "GET", price(symbol)))
        except LogUnavailable as error:
            raise BrokerUnavailable(f"no prices: {error}") from error
        return None if found is None else Tick(symbol, found[0], found[1])

    return last


class InstrumentedBrokers:
    """Brokers whose calls are timed."""

    def __init__(self, brokers: Brokers, metrics: Metrics, clock: Clock, tick_to_order: TickToOrder) -> None:
        self._brokers = brokers
        self._wrap: Callable[[Broker], Broker] = lambda broker: InstrumentedBroker(
            broker, metrics, clock, tick_to_order=tick_to_order
        )
        self._wrapped: dict[int, tuple[Broker, Broker]] = {}

    async def of(self, user_id: int) -> Broker | None:
        broker = await self._brokers.of(user_id)
        if broker is None:
            return None
        known = self._wrapped.get(user_id)
        if known is None or known[0] is not broker:
            known = self._wrapped[user_id] = (broker, self._wrap(broker))
        return known[1]

    async def connected(self) -> list[int]:
        return await self._brokers.connected()
