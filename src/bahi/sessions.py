"""The sessions of the broker accounts as the engine sees them: a view of PostgreSQL, about a second old.

While the database does not answer, the last answer stands, at once, and trading goes on. As long as there was none at
all, LogUnavailable is raised, to be asked again: nobody is taken for disconnected whose account could not be read.
Credentials are opened when they are new, and only those of live sessions; a call on the way to an order opens nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Set
from typing import Any, Final

import structlog
from msgspec import Struct
from sqlalchemy import case, null, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.security.box import SealBroken, SecretBox
from api.security.keys import UnknownKey
from bahi.database.accounts import SqlAccounts, at_instant, opened
from bahi.database.tables import broker_accounts
from brokers.kite.account import KiteAccount
from brokers.kite.login import session_end
from domain.clock import Clock
from domain.events import BrokerAuthFailed
from domain.values import SECOND, Duration, Instant
from eventstore.batch import Appended, Duplicate
from eventstore.envelope import Dedupe, NewEvent
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog

__all__ = ["BrokerSessions", "Session"]

KITE: Final = "kite"
ENDED: Final = "Kite ended the session before its time: log in again"
BACK_OFF: Final = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds until an outage is tried again; the last again and again."""

log = structlog.get_logger(__name__)


class Session(Struct, frozen=True, kw_only=True):
    """A user's account at a broker, as it was read. `expires_at` None: it does not end by time."""

    user_id: int
    broker: str
    connected: bool
    connected_at: Instant
    expires_at: Instant | None

    def alive(self, now: Instant) -> bool:
        return self.connected and (self.expires_at is None or now < self.expires_at)


class BrokerSessions:
    """`log_of` gives the log of a user, for the event that tells of an ended session; without it none is told of.

    Any number of tasks of one event loop may use it. `aclose` ends what it does in the background.
    """

    FRESH: Duration = SECOND
    PATIENCE = 1.0
    """Seconds after which the database counts as not answering."""

    def __init__(
        self, engine: AsyncEngine, box: SecretBox, clock: Clock, *, log_of: Callable[[int], EventLog] | None = None
    ) -> None:
        self._engine = engine
        self._box = box
        self._clock = clock
        self._log_of = log_of
        self._accounts = SqlAccounts(engine, box)
        self._sessions: dict[int, Session] | None = None
        self._kite: dict[int, tuple[bytes, KiteAccount | None]] = {}
        """The sealed bytes last opened and what was in them; None for what does not open."""
        self._over: dict[int, Instant] = {}
        """By user: the session that the broker ended, which the database may not know yet."""
        self._ending: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None
        self._begun_at: Instant = 0
        self._answers = True

    # --- reading ----------------------------------------------------------------------------------------------------

    async def session(self, user_id: int) -> Session | None:
        """The user's session, if it is alive. Raises LogUnavailable."""
        found = (await self._read()).get(user_id)
        return found if found is not None and self._alive(found) else None

    async def connected(self, broker: str) -> Collection[int]:
        """The users with a live session at this broker. Raises LogUnavailable."""
        return _Connected(await self._read(), broker, self._alive)

    async def kite(self, user_id: int) -> KiteAccount | None:
        """The user's live session at Kite, secrets included. Raises LogUnavailable."""
        session = await self.session(user_id)
        return self._account(session) if session is not None and session.broker == KITE else None

    async def all_kite(self) -> list[KiteAccount]:
        """All live sessions at Kite, by user. Raises LogUnavailable."""
        sessions = await self._read()
        alive = (sessions[user_id] for user_id in sorted(sessions) if self._alive(sessions[user_id]))
        accounts = (self._account(each) for each in alive if each.broker == KITE)
        return [account for account in accounts if account is not None]

    async def lasts(self, user_id: int, until: Instant) -> bool:
        """Whether the user has a session, of whatever broker, that will be there at `until`. Raises LogUnavailable."""
        session = await self.session(user_id)
        return session is not None and session.alive(until)

    def _alive(self, session: Session) -> bool:
        if self._over.get(session.user_id) == session.connected_at:
            return False
        if not session.alive(self._clock.now()):
            return False
        return session.broker != KITE or self._account(session) is not None

    def _account(self, session: Session) -> KiteAccount | None:
        held = self._kite.get(session.user_id)
        return None if held is None else held[1]

    async def _read(self) -> dict[int, Session]:
        now = self._clock.now()
        if self._reading is None or (self._reading.done() and abs(now - self._begun_at) >= self.FRESH):
            self._begun_at = now
            self._reading = asyncio.create_task(self._refresh(), name="broker sessions")
        if self._answers and not self._reading.done():
            await asyncio.wait({self._reading}, timeout=self.PATIENCE)
            self._answers = self._answers and self._reading.done()
        if self._sessions is None:
            raise LogUnavailable("the broker accounts cannot be read from the database")
        return self._sessions

    async def _refresh(self) -> None:
        try:
            async with self._engine.connect() as connection:
                rows = (await connection.execute(_ROWS)).all()
        except SQLAlchemyError as error:
            log.warning("accounts_not_read", why=str(error.__cause__ or error)[:200])
            self._answers = False
            return
        sessions: dict[int, Session] = {}
        kite: dict[int, tuple[bytes, KiteAccount | None]] = {}
        for row in rows:
            session = sessions[row.user_id] = Session(
                user_id=row.user_id,
                broker=row.broker,
                connected=row.status == "connected",
                connected_at=0 if row.connected_at is None else at_instant(row.connected_at),
                expires_at=None if row.expires_at is None else at_instant(row.expires_at),
            )
            if row.secrets is not None:
                kite[row.user_id] = self._opened(session, row)
        self._over = {
            user_id: ended
            for user_id, ended in self._over.items()
            if (known := sessions.get(user_id)) is not None and known.connected and known.connected_at == ended
        }
        self._sessions, self._kite = sessions, kite
        self._answers = True

    def _opened(self, session: Session, row: Any) -> tuple[bytes, KiteAccount | None]:
        held = self._kite.get(session.user_id)
        if held is not None and held[0] == row.secrets:
            return held
        try:
            secrets = opened(self._box, row.secrets, session.user_id)
            account = KiteAccount(
                user_id=session.user_id,
                kite_user_id=row.broker_user_id,
                api_key=secrets["api_key"],
                access_token=secrets["access_token"],
                egress_proxy=secrets.get("egress_proxy"),
                connected_at=session.connected_at,
                expires_at=session.expires_at or session_end(session.connected_at),
            )
        except (SealBroken, UnknownKey, KeyError) as error:
            # once for each sealing; the user counts as not connected and can connect again
            log.error("credentials_do_not_open", user_id=session.user_id, why=f"{type(error).__name__}: {error}")
            return row.secrets, None
        return row.secrets, account

    # --- ending -----------------------------------------------------------------------------------------------------

    def expire(self, account: KiteAccount, reason: str = ENDED) -> None:
        """Kite says that this session is over. It is over here at once; the database and the log follow, as soon as
        they answer, once for each session, whoever calls how often. A session begun since is left alone."""
        user_id = account.user_id
        if self._over.get(user_id, 0) >= account.connected_at:
            return
        if self._sessions is not None:
            known = self._sessions.get(user_id)
            if known is None or not known.connected or known.connected_at > account.connected_at:
                return
        self._over[user_id] = account.connected_at
        log.warning("session_ended", user_id=user_id, broker=KITE, why=reason)
        task = asyncio.create_task(self._end(account, reason), name=f"session of {user_id} ended")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, account: KiteAccount, reason: str) -> None:
        await _until_done(lambda: self._mark(account))
        if self._log_of is not None:
            await _until_done(lambda: self._tell(account, reason))

    async def _mark(self, account: KiteAccount) -> None:
        await self._accounts.expired(account.user_id, account.connected_at)

    async def _tell(self, account: KiteAccount, reason: str) -> None:
        if self._log_of is None:
            return
        failed = NewEvent(
            BrokerAuthFailed(broker=KITE, reason=reason),
            user_id=account.user_id,
            dedupe=Dedupe(f"session-ended:{account.user_id}:{account.connected_at}", "ended"),
        )
        result = await self._log_of(account.user_id).append([failed])
        if not isinstance(result, Appended | Duplicate):
            log.error("session_end_not_told", user_id=account.user_id, why=repr(result))

    async def settled(self) -> None:
        """When everything known of ended sessions is in the database and in the log."""
        while self._ending:
            await asyncio.wait(set(self._ending))

    async def aclose(self) -> None:
        tasks = [*self._ending, *([self._reading] if self._reading is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connected(Set[int]):
    """The users with a live session at a broker. Whether one of them is among them does not depend on how many there
    are: every look at a strategy asks that."""

    def __init__(self, sessions: Mapping[int, Session], broker: str, alive: Callable[[Session], bool]) -> None:
        self._sessions = sessions
        self._broker = broker
        self._alive = alive

    def __contains__(self, user_id: object) -> bool:
        session = self._sessions.get(user_id) if isinstance(user_id, int) else None
        return session is not None and session.broker == self._broker and self._alive(session)

    def __iter__(self) -> Iterator[int]:
        return (user_id for user_id in self._sessions if user_id in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


async def _until_done(work: Callable[[], Awaitable[None]]) -> None:
    """Through outages of the database and of the log."""
    failures = 0
    while True:
        try:
            await work()
            return
        except (SQLAlchemyError, LogUnavailable) as error:
            log.warning("session_end_not_written", why=f"{type(error).__name__}: {error}"[:200])
        await asyncio.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])
        failures += 1


_ROWS: Final = select(
    *(broker_accounts.c[name] for name in ("user_id", "broker", "broker_user_id", "status")),
    broker_accounts.c.connected_at,
    broker_accounts.c.expires_at,
    case(
        ((broker_accounts.c.broker == KITE) & (broker_accounts.c.status == "connected"), broker_accounts.c.secrets),
        else_=null(),
    ).label("secrets"),
)
