"""Takes secrets out of what comes back from the wire before anybody else sees it."""

from collections.abc import Iterable
from urllib.parse import unquote

__all__ = ["Redactor", "proxy_secrets"]

MASK = "…"
SHORTEST = 4
"""Shorter values are no secrets, and would tear holes into ordinary words."""


class Redactor:
    """Replaces the known secrets in texts and bodies. Its `repr` shows none."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {secret for secret in secrets if len(secret) >= SHORTEST}
        self._texts = sorted(known, key=len, reverse=True)
        self._bytes = [secret.encode() for secret in self._texts]

    def text(self, text: str) -> str:
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text

    def body(self, body: bytes) -> bytes:
        for secret in self._bytes:
            if secret in body:
                body = body.replace(secret, MASK.encode())
        return body


def proxy_secrets(url: str | None) -> list[str]:
    """The password in a proxy's address, as it is written and as it is meant, alone and with the user's name.

    By hand, because an address that cannot be parsed is the one that is complained of.
    """
    login, at, _ = (url or "").rpartition("@")
    if not at:
        return []
    login = login.rpartition("/")[2] if "//" not in login else login.partition("//")[2]
    password = login.partition(":")[2]
    return [text for text in (login, unquote(login), password, unquote(password)) if text]
