"""Whom TLS connections trust: the certificate authorities, read once for the process.

Reading them takes tens of milliseconds, and urllib3 would do it again for each connection: a stop-loss on an account
that was quiet for a minute would wait for it.
"""

import ssl
from functools import cache
from typing import Any

import requests.adapters

__all__ = ["trust"]


class _Shared(ssl.SSLContext):
    """Threads make connections with it at the same time, so nothing of it changes once it stands. What urllib3 sets
    for each connection is what it is already; anything else is refused, above all to verify less."""

    _stands = False

    def __setattr__(self, name: str, value: Any) -> None:
        if not self._stands:
            super().__setattr__(name, value)
        elif getattr(self, name) != value:
            raise AttributeError(f"TLS settings are shared: {name} cannot become {value!r}")

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        if not self._stands:
            super().set_alpn_protocols(alpn_protocols)

    def load_verify_locations(self, *args: Any, **settings: Any) -> None:
        if self._stands:
            raise AttributeError("TLS settings are shared: whom they trust cannot change")
        super().load_verify_locations(*args, **settings)


def trust() -> ssl.SSLContext:
    """Certificate and host name are verified, with the authorities that `requests` uses; TLS 1.2 at least."""
    return _trust(requests.adapters.DEFAULT_CA_BUNDLE_PATH)  # type: ignore[attr-defined]


@cache
def _trust(bundle: str) -> ssl.SSLContext:
    context = _Shared(ssl.PROTOCOL_TLS_CLIENT)  # with this, certificate and host name are verified
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.hostname_checks_common_name = False
    context.post_handshake_auth = True
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(bundle)
    context._stands = True
    return context
