"""Kite as this house uses it: adapters made of settings, sessions, limits and hints."""

import functools
from collections.abc import AsyncIterator, Callable, Sequence
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
from brokers.port import Broker, Brokers, BrokerUnavailable, Instruments
from domain.clock import Clock

__all__ = ["AllBrokers", "Kite", "kite_address"]

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
        self.brokers = KiteBrokers(sessions, self._make)

    async def aclose(self) -> None:
        await self.brokers.aclose()

    # --- what belongs to no user: prices, instruments, circuit limits ------------------------------------------------

    async def feed_account(self) -> KiteAccount | None:
        """The session that prices come through: the first that there is."""
        accounts = await self.sessions.all_kite()
        return accounts[0] if accounts else None

    async def refused(self, account: KiteAccount) -> None:
        """Kite refuses the stream to this session. It may be good for orders all the same (an app without streaming),
        so whether it is over is asked with a reading, which says so to whom it concerns."""
        broker = await self.brokers.of(account.user_id)
        if broker is not None:
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
        """Of the account's own stream, and from other processes: postbacks, and the stream that brings the prices."""
        return merged(order_updates(account, self.address, self._clock), self._hints.listen(account.user_id))


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
