"""Keeping what may be traded up to date: Kite's daily dumps, the day's circuit limits, and each process' copy of both.

Nothing here stops trading: whatever cannot be had is asked for again, and until then what was known stays.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

import structlog
from msgspec import Struct
from sqlalchemy.exc import SQLAlchemyError

from bahi.database.dumps import Stored
from bahi.database.instruments import SqlInstruments
from brokers.instruments import InstrumentCatalogue, Limits
from brokers.kite.dump import DumpError
from brokers.port import BrokerError
from domain.calendar import Calendar, UnknownYear, instant, wall
from domain.clock import Clock
from domain.values import MINUTE, SECOND, Duration, Instant, Price
from eventstore.errors import LogUnavailable
from eventstore.waiting import either

__all__ = [
    "CatalogueFollower",
    "Download",
    "Failed",
    "InstrumentRefresher",
    "LimitsFetched",
    "Outcome",
    "Quote",
    "Wanted",
    "dump_day",
    "log_stored",
]

log = structlog.get_logger(__name__)

Download = Callable[[str], Awaitable[bytes]]
"""The dump of an exchange, as Kite sends it. Raises BrokerError when there is no session, or no answer."""
Quote = Callable[[Sequence[str]], Awaitable[Mapping[str, tuple[Price, Price, Price]]]]
"""Last price, lower and upper circuit limit of up to `MOST_QUOTED` symbols; of unknown ones nothing. Raises
BrokerError."""
Wanted = Callable[[], Awaitable[Collection[str]]]
"""The symbols of armed strategies. Raises LogUnavailable."""

DUMP_AT: Final = dt.time(8, 30)
"""Kite Connect docs: the dump is made once a day; fetch it around half past eight."""
LIMITS_FROM: Final = dt.time(9)
"""The exchanges' circuit limits of the day are out before the pre-open session, which begins then."""
LIMITS_EVERY: Duration = 30 * MINUTE
"""Limits are widened during the day, for shares that have reached them."""
MOST_QUOTED: Final = 500
"""Kite: instruments in one call of /quote."""
BETWEEN_QUOTES: Duration = SECOND
"""Kite: one call of /quote a second."""

LOOK_EVERY: Duration = 10 * SECOND
LOOK_SOON: Duration = SECOND // 2
"""While there is nothing yet, because somebody has just connected and waits to create a strategy; and for a while after
each dump, because those of the other exchanges follow."""
PATIENCE: Final = 1.0
"""Seconds that a strategy waits for the list to be looked at again."""
RETRY_FIRST: Duration = 15 * SECOND
RETRY_LAST: Duration = 5 * MINUTE
RETRY_REFUSED: Duration = 15 * MINUTE
"""After a dump that is none: the next one is hardly better at once."""

_ONE_DOWNLOADS: Final = 0x6261_6865
_ONE_QUOTES: Final = 0x6261_6866
"""Advisory locks: one process does it, whichever comes first."""


class Failed(Struct, frozen=True):
    """A dump that was not stored; yesterday's stays. `refused`: there was an answer, and it was no good."""

    exchange: str
    reason: str
    refused: bool


class LimitsFetched(Struct, frozen=True):
    """Circuit limits that were stored, and how many symbols Kite said nothing usable of."""

    stored: int
    missing: int


Outcome = Stored | Failed | LimitsFetched


def dump_day(now: Instant) -> dt.date:
    """The day of the newest dump there can be at this instant."""
    seen = wall(now)
    return seen.date() if seen.time() >= DUMP_AT else seen.date() - dt.timedelta(days=1)


class InstrumentRefresher:
    """Fetches the dump of each exchange once a day, from 08:30 on and at once when there is none of today, and the
    circuit limits of what armed strategies trade, from 09:00 to the close, every half hour and when one is armed.

    Any number of processes may run one: a lock in PostgreSQL lets one of them do what is due, the others see that it
    is done. A download that fails is tried again after 15 s, then ever later, at most every 5 minutes; a dump that is
    refused after a quarter of an hour. `observe` is told of each outcome.
    """

    def __init__(
        self,
        store: SqlInstruments,
        clock: Clock,
        calendar: Calendar,
        *,
        exchanges: Sequence[str],
        download: Download,
        quote: Quote,
        wanted: Wanted,
        observe: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._calendar = calendar
        self._exchanges = tuple(exchanges)
        self._download = download
        self._quote = quote
        self._wanted = wanted
        self._observe = observe or (lambda _: None)
        self._stored: dict[str, dt.date] = {}
        self._tries: dict[str, tuple[Instant, Duration]] = {}
        self._unchecked = False
        self._period: Instant = 0
        self._asked: set[str] = set()
        self._quote_from: Instant = 0
        self._waits = ""
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Until `stop`."""
        while not self._stopped.is_set():
            await self.step()
            await either(self._clock.sleep(LOOK_EVERY), self._stopped.wait())

    async def stop(self) -> None:
        self._stopped.set()

    async def step(self) -> list[Outcome]:
        """Do what is due now. Says what was done; raises nothing that time can cure."""
        done: list[Outcome] = []
        for fetch in (self.fetch_dumps, self.fetch_limits, self._check_armed):
            try:
                done += await fetch()
            except (SQLAlchemyError, LogUnavailable) as error:
                self._wait_for(f"{type(error).__name__}: {error.__cause__ or error}")
                break
        else:
            self._waits = ""
        for each in done:
            self._observe(each)
        return done

    def _wait_for(self, why: str) -> None:
        if why != self._waits:
            log.warning("instruments_wait", why=why[:200])
        self._waits = why

    # --- dumps -------------------------------------------------------------------------------------------------------

    async def fetch_dumps(self) -> list[Outcome]:
        """The dumps that are due, each stored on its own."""
        day = dump_day(self._clock.now())
        if not self._due(day):
            return []
        async with self._store.alone(_ONE_DOWNLOADS) as alone:
            if not alone:
                return []
            self._stored = {each.exchange: each.downloaded_on for each in await self._store.dumps()}
            done = [await self._fetch_dump(exchange, day) for exchange in self._due(day)]
        self._unchecked = self._unchecked or any(isinstance(each, Stored) for each in done)
        return done

    def _due(self, day: dt.date) -> list[str]:
        now = self._clock.now()
        return [
            exchange
            for exchange in self._exchanges
            if self._stored.get(exchange, dt.date.min) < day and now >= self._tries.get(exchange, (0, 0))[0]
        ]

    async def _fetch_dump(self, exchange: str, day: dt.date) -> Outcome:
        try:
            content = await self._download(exchange)
            stored = await self._store.store(content, [exchange], day=day, at=self._clock.now())
        except (BrokerError, OSError) as error:
            return self._failed(exchange, f"{type(error).__name__}: {error}")
        except DumpError as error:
            return self._refused(exchange, str(error))
        self._stored[exchange] = day
        self._tries.pop(exchange, None)
        log_stored(stored)
        return stored

    def _failed(self, exchange: str, reason: str) -> Failed:
        _, pause = self._tries.get(exchange, (0, 0))
        pause = min(max(RETRY_FIRST, 2 * pause), RETRY_LAST)
        self._tries[exchange] = (self._clock.now() + pause, pause)
        log.warning("instruments_not_downloaded", exchange=exchange, why=reason[:300], again_in_s=pause // SECOND)
        return Failed(exchange, reason, refused=False)

    def _refused(self, exchange: str, reason: str) -> Failed:
        self._tries[exchange] = (self._clock.now() + RETRY_REFUSED, RETRY_FIRST)
        kept = self._stored.get(exchange)
        log.error(
            "instruments_refused",
            exchange=exchange,
            why=reason[:300],
            kept=kept.isoformat() if kept else None,
            again_in_s=RETRY_REFUSED // SECOND,
        )
        return Failed(exchange, reason, refused=True)

    async def _check_armed(self) -> list[Outcome]:
        """After a dump: says so when an armed strategy has a symbol that is gone, because it will not trade."""
        if self._unchecked:
            for symbol, renamed_to in (await self._store.unlisted(await self._wanted())).items():
                log.error("armed_instrument_gone", symbol=symbol, renamed_to=renamed_to)
            self._unchecked = False
        return []

    # --- circuit limits ----------------------------------------------------------------------------------------------

    async def fetch_limits(self) -> list[Outcome]:
        """The circuit limits that are due: of every armed symbol once in each half hour of the session."""
        now = self._clock.now()
        period = self._period_of(now)
        if period is None or now < self._quote_from:
            return []
        if period != self._period:
            self._period, self._asked = period, set()
        due = set(await self._wanted()) - self._asked
        if not due:
            return []
        async with self._store.alone(_ONE_QUOTES) as alone:
            if not alone:
                return []
            known = await self._store.quoted_since(due, period)
            self._asked |= known
            missing = sorted(due - known)
            done: list[Outcome] = []
            for start in range(0, len(missing), MOST_QUOTED):
                if start:
                    await self._clock.sleep(BETWEEN_QUOTES)
                done += await self._fetch_limits(missing[start : start + MOST_QUOTED])
            return done

    async def _fetch_limits(self, symbols: Sequence[str]) -> list[Outcome]:
        try:
            answer = await self._quote(symbols)
        except (BrokerError, OSError) as error:
            self._quote_from = self._clock.now() + RETRY_FIRST
            log.warning("limits_not_fetched", symbols=len(symbols), why=f"{type(error).__name__}: {error}"[:300])
            return []
        limits = {
            symbol: Limits(lower, upper)
            for symbol, (_, lower, upper) in answer.items()
            if symbol in symbols and 0 < lower <= upper
        }
        await self._store.set_limits(limits, at=self._clock.now())
        self._asked.update(symbols)
        if missing := [symbol for symbol in symbols if symbol not in limits]:
            log.warning("limits_unknown", symbols=missing[:20], count=len(missing))
        return [LimitsFetched(len(limits), len(symbols) - len(limits))]

    def _period_of(self, now: Instant) -> Instant | None:
        """The start of the half hour of the session, or of the time before it, that this instant lies in."""
        today = wall(now).date()
        try:
            session = self._calendar.session_on(today)
        except UnknownYear:
            return None  # in a year without a calendar nothing is armed
        start = instant(today, LIMITS_FROM)
        if session is None or not start <= now < session.close_at:
            return None
        return now - (now - start) % LIMITS_EVERY


def log_stored(stored: Stored) -> None:
    """One line about a dump that was stored, and one more when rows of it were left out."""
    log.info(
        "instruments_stored",
        day=stored.day.isoformat(),
        listed=stored.listed,
        added=stored.added.count,
        gone=stored.gone.count,
        renamed=stored.renamed.first,
        changed=stored.changed.count,
        first_gone=stored.gone.first[:10],
        first_changed=stored.changed.first[:10],
        odd_tokens=stored.odd_tokens,
    )
    if stored.left_out:
        rows = [f"line {line}: {reason}" for line, reason in stored.bad[:10]]
        log.error("instruments_left_out", count=stored.left_out, first=rows)


class CatalogueFollower:
    """Keeps a process' catalogue equal to what is stored, about ten seconds behind, the first time half a second. While
    the database does not answer the copy stands."""

    def __init__(self, catalogue: InstrumentCatalogue, store: SqlInstruments, clock: Clock) -> None:
        self._catalogue = catalogue
        self._store = store
        self._clock = clock
        self._versions: dict[str, int] = {}
        self._loaded_at: Instant = 0
        self._silent = False
        self._looks = 0
        self._looking = asyncio.Lock()
        self._stopped = asyncio.Event()

    async def load(self) -> None:
        """Before anything trades. Raises SQLAlchemyError."""
        if await self._store.versions() != self._versions:
            self._versions, snapshot = await self._store.snapshot()
            self._catalogue.replace(snapshot)
            self._loaded_at = self._clock.now()
            log.info("instruments_loaded", instruments=len(self._catalogue), versions=self._versions)
        today = wall(self._clock.now()).date()
        self._catalogue.limit(today, await self._store.limits(today))

    async def look_again(self) -> None:
        """Something is not there that another process may know already: this copy, too, is what is stored now. A
        database that does not answer is not waited for."""
        looks = self._looks
        async with self._looking:
            if self._looks > looks:
                return  # somebody else's look began after we had asked
            self._looks += 1
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.load()
            except (SQLAlchemyError, TimeoutError):
                return  # `run` says so

    async def run(self) -> None:
        """Until `stop`."""
        while not self._stopped.is_set():
            try:
                await self.load()
                self._silent = False
            except SQLAlchemyError as error:
                if not self._silent:
                    log.warning("instruments_not_read", why=str(error.__cause__ or error)[:200])
                self._silent = True
            settled = self._catalogue.loaded and self._clock.now() - self._loaded_at >= LOOK_EVERY
            await either(self._clock.sleep(LOOK_EVERY if settled else LOOK_SOON), self._stopped.wait())

    async def stop(self) -> None:
        self._stopped.set()
