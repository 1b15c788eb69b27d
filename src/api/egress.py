"""Egress proxies: the address that a user's orders leave from. A proxy's own credentials are a secret.

NSE's rules for retail algorithms (in force since 2026-04-01): orders come from an IP address that is registered for
the client, and one address serves one client, or one family.
"""

import re
from typing import Final
from urllib.parse import urlsplit

__all__ = ["PROXY", "Egress", "egress_of", "masked"]

_USER = r"[A-Za-z0-9._~!$&'()*+,;=%-]{1,200}"
PROXY: Final = rf"^https?://({_USER}(:{_USER})?@)?[A-Za-z0-9]([A-Za-z0-9.-]{{0,178}}[A-Za-z0-9])?:[0-9]{{1,5}}$"
"""http(s)://[USER[:PASSWORD]@]HOST:PORT. What is special in a URL is percent-encoded in user and password."""

Egress = tuple[str, int] | None
"""Host and port of a proxy; None: this installation's own address."""


def egress_of(proxy: str | None) -> Egress:
    """Where calls leave through this proxy, masked or not. Raises ValueError for a port that there is not."""
    if proxy is None:
        return None
    there = urlsplit(proxy)
    if there.hostname is None or not there.port:
        raise ValueError("the port of the proxy is a number from 1 to 65535")
    return there.hostname.lower().rstrip("."), there.port


def masked(proxy: str | None) -> str | None:
    """The proxy without its user and password, as it may be stored and shown."""
    return None if proxy is None else re.sub(r"://[^@/]*@", "://***@", proxy)
