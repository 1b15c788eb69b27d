"""Whose account, and where Kite is. Secrets never show in a `repr`."""

from typing import Any, Final

from msgspec import Struct

from domain.values import Instant

__all__ = ["KiteAccount", "KiteAddress"]

KITE: Final = "https://api.kite.trade"
KITE_STREAM: Final = "wss://ws.kite.trade"
KITE_LOGIN: Final = "https://kite.zerodha.com/connect/login"


class KiteAccount(Struct, frozen=True, kw_only=True):
    """A user's session at Kite. Another session of the same user is another value."""

    user_id: int
    """Ours."""
    kite_user_id: str
    api_key: str
    access_token: str
    egress_proxy: str | None = None
    """`http(s)://[user:password@]host:port` through which the orders of this account leave: its registered address."""
    connected_at: Instant
    """When it was connected here; it tells one session of an account from the next."""
    expires_at: Instant
    """06:00 IST of the day after the login."""

    def __repr__(self) -> str:
        return f"KiteAccount(user_id={self.user_id}, kite_user_id={self.kite_user_id!r})"

    def __rich_repr__(self) -> Any:
        yield "user_id", self.user_id
        yield "kite_user_id", self.kite_user_id


class KiteAddress(Struct, frozen=True, kw_only=True):
    """Where Kite is, and how to talk to it. Zerodha's sandbox has a route prefix and wants more query parameters."""

    root: str = KITE
    route_prefix: str = ""
    """Put before every path, for example `/oms`; the instrument dumps are without it."""
    ws_root: str = KITE_STREAM
    ws_query: tuple[tuple[str, str], ...] = ()
    """Further query parameters of the stream; a value `{user_id}` becomes the account's id at Kite."""
    login: str = KITE_LOGIN
    timeout: float = 7.0
    """Seconds, for the connection and for the whole call."""
    algo_id: str | None = None
    """The exchange's id of a registered strategy, when there is one."""
