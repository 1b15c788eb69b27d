"""Kite's official client, led over our wire. Importing this brings in Twisted, so it is imported at first use only."""

from kiteconnect import KiteConnect

from brokers.kite.account import KiteAddress
from brokers.kite.wire import Wire

__all__ = ["Official"]

UNPREFIXED = "market.instruments"
"""The routes of the instrument dumps stay as they are. Kite Connect docs, sandbox."""


class Official(KiteConnect):  # type: ignore[misc]
    """Builds and sends every request as the official client does; the answer never reaches its error mapping, which
    loses the status, mixes 429 with orders of unknown state, and breaks on bodies without `error_type`."""

    def __init__(
        self, wire: Wire, address: KiteAddress, *, api_key: str, access_token: str | None, proxy: str | None
    ) -> None:
        super().__init__(
            api_key,
            access_token=access_token,
            root=address.root,
            debug=False,  # it would log the Authorization header
            timeout=(address.timeout, address.timeout),
            proxies={"http": proxy, "https": proxy} if proxy else None,
            disable_ssl=False,
        )
        self.reqsession = wire
        prefix = address.route_prefix.strip("/")
        if prefix:
            self._routes = {
                name: path if name.startswith(UNPREFIXED) else f"/{prefix}{path}"
                for name, path in KiteConnect._routes.items()
            }
