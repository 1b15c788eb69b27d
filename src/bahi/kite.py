"""Kite as this house uses it: adapters made of settings, sessions, limits and hints."""

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from decimal import Decimal
from urllib.parse import parse_qsl

import structlog

from bahi.hints import Hints
from bahi.reads import ReadLimits
from bahi.sessions import BrokerSessions
from bahi.settings import Settings
from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.broker import KiteBroker
from brokers.kite.brokers import KiteBrokers
from brokers.kite.merging import merged
from brokers.kite.order_stream import order_updates
from brokers.port import Broker, Brokers, BrokerUnavailable, Instruments, SessionExpired
from domain.clock import Clock
from domain.values import MINUTE, SECOND, Duration, Instant

__all__ = ["AllBrokers", "Kite", "kite_address"]

REFUSED_PAUSE: Duration = MINUTE
"""Until a session that was refused the stream asks for it again."""
LOOK_EVERY: Duration = 5 * SECOND
"""Whether such a session is still the account's."""
STAYS: Duration = 60 * MINUTE
"""How long another session, if there is one, is preferred for the prices: an app without streaming stays without."""

log = structlog.get_logger(__name__)


def kite_address(settings: Settings) -> KiteAddress:
    """Where Kite is, as the settings say."""
    return KiteAddress(
        root=settings.kite_root,
        route_prefix=settings.kite_route_prefix,
        ws_root=settings.kite_ws_root,
        ws_query=tuple(parse_qsl(settings.kite_ws_query, keep_blank_values=True)),
        login=settings.kite_login,
        timeout=settings.request_timeout.total_seconds(),
        algo_id=settings.kite_algo_id or None,
    )


class Kite:
    """Everything that talks to Kite for this house. `aclose` ends the connections; calls under way are answered."""

    def __init__(
        self,
        address: KiteAddress,
        sessions: BrokerSessions,
        instruments: Instruments,
        clock: Clock,
        *,
        reads: ReadLimits | None,
        hints: Hints,
        on_order_written: Callable[[int], None] | None = None,
    ) -> None:
        """`reads` None: readings are not limited. `on_order_written`: see KiteBroker."""
        self.address = address
        self.sessions = sessions
        self._instruments = instruments
        self._clock = clock
        self._reads = reads
        self._hints = hints
        self._on_order_written = on_order_written
        self._refused: dict[KiteAccount, Instant] = {}
        """Sessions to which Kite refused the stream, and when."""
        self.brokers = KiteBrokers(sessions, self._make)

    async def aclose(self) -> None:
        await self.brokers.aclose()

    # --- what belongs to no user: prices, instruments, circuit limits ------------------------------------------------

    async def feed_account(self) -> KiteAccount | None:
        """The session that prices come through: the first that there is, rather one to which Kite did not refuse the
        stream lately."""
        accounts = await self.sessions.all_kite()
        now = self._clock.now()
        self._refused = {each: at for each, at in self._refused.items() if each in accounts and now - at < STAYS}
        return min(accounts, key=lambda each: each in self._refused, default=None)

    async def refused(self, account: KiteAccount) -> None:
        """Kite refuses the stream to this session. It may be good for orders all the same (an app without streaming),
        so whether it is over is asked with a reading, which says so to whom it concerns."""
        self._refused[account] = self._clock.now()
        broker = await self.brokers.of(account.user_id)
        if broker is None:
            return
        with suppress(SessionExpired):  # that is the answer, and the broker has passed it on
            try:
                await broker.positions()
            except BrokerUnavailable as error:
                log.warning("session_not_checked", account=account.kite_user_id, why=str(error))

    async def download(self, exchange: str) -> bytes:
        """The dump of an exchange's instruments. Raises BrokerUnavailable, too, when nobody has a session."""
        return await (await self._anybody()).instruments(exchange)

    async def quote(self, symbols: Sequence[str]) -> dict[str, tuple[Decimal, Decimal, Decimal]]:
        """Last price, lower and upper circuit limit of each. Raises BrokerUnavailable."""
        quotes = await (await self._anybody()).quotes(symbols)
        return {
            symbol: (each.last_price, each.lower_circuit, each.upper_circuit)
            for symbol, each in quotes.items()
            if each.last_price is not None and each.lower_circuit is not None and each.upper_circuit is not None
        }

    async def _anybody(self) -> KiteBroker:
        account = await self.feed_account()
        broker = await self.brokers.of(account.user_id) if account is not None else None
        if broker is None:
            raise BrokerUnavailable("no user has a session at Kite")
        return broker

    # --- adapters ----------------------------------------------------------------------------------------------------

    def _make(self, account: KiteAccount) -> KiteBroker:
        return KiteBroker(
            account,
            self.address,
            clock=self._clock,
            instruments=self._instruments,
            gate=functools.partial(self._gate, account.kite_user_id),
            refused=self.sessions.expire,
            hints=self._hear,
            on_order_written=self._on_order_written,
        )

    async def _gate(self, account: str, reading: str) -> None:
        if self._reads is not None:
            await self._reads.wait(account, "quote" if reading == "quote" else "read")

    def _hear(self, account: KiteAccount) -> AsyncIterator[str]:
        """Of the account's own stream, and from other processes: postbacks, and the stream that brings the prices.
        Raises SessionExpired once the session is over."""
        return merged(self._own_stream(account), self._hints.listen(account.user_id))

    async def _own_stream(self, account: KiteAccount) -> AsyncIterator[str]:
        """A session to which Kite refuses the stream may be good for orders all the same (an app without streaming):
        its postbacks are heard still, and the stream is asked for once a minute, not again and again."""
        told = False
        while True:
            try:
                async with aclosing(order_updates(account, self.address, self._clock)) as updates:
                    async for order_id in updates:
                        told = False
                        yield order_id
            except SessionExpired as error:
                await self.refused(account)
                for _ in range(REFUSED_PAUSE // LOOK_EVERY):
                    if await self.sessions.kite(account.user_id) != account:
                        raise
                    if not told:
                        log.warning("kite_orders_refused", account=account.kite_user_id, why=str(error))
                        told = True
                    await self._clock.sleep(LOOK_EVERY)


class AllBrokers:
    """The `Brokers` port over several brokers; a user has an account at one of them."""

    def __init__(self, *brokers: Brokers) -> None:
        self._brokers = brokers

    async def of(self, user_id: int) -> Broker | None:
        for each in self._brokers:
            broker = await each.of(user_id)
            if broker is not None:
                return broker
        return None

    async def connected(self) -> list[int]:
        return sorted({user_id for each in self._brokers for user_id in await each.connected()})
