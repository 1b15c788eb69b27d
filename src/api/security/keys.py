"""The installation's secret keys, newest first. Each purpose has subkeys of its own, derived from them."""

import secrets
from collections.abc import Iterable, Iterator
from functools import cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["SHORTEST", "SecretKeyError", "SecretKeys", "UnknownKey"]

SHORTEST = 32
"""Characters. A key is a random text: it is not stretched as a password would have to be."""


class SecretKeyError(ValueError):
    """The keys cannot be used; the message says why and holds no key."""


class UnknownKey(LookupError):
    """Something was sealed or signed with a key that is not among the keys."""

    def __init__(self, key_id: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"it was sealed with key {key_id!r}, which is not in BAHI_SECRET_KEYS (those are {', '.join(known)}); "
            "put that key back behind the newest one, or the secret cannot be read"
        )
        self.key_id = key_id


class SecretKeys:
    """The first key seals and signs, all of them open and verify. A key's id is derived from it and reveals nothing."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Texts of BAHI_SECRET_KEYS, newest first. Raises `SecretKeyError`."""
        self._keys: dict[str, bytes] = {}
        for number, text in enumerate(keys, 1):
            if len(text) < SHORTEST:
                raise SecretKeyError(
                    f"key {number} of BAHI_SECRET_KEYS has {len(text)} characters, at least {SHORTEST}"
                )
            key = text.encode()
            self._keys[_derive(key, "key id").hex()[:8]] = key
        if not self._keys:
            raise SecretKeyError("BAHI_SECRET_KEYS is empty; it needs at least one key")

    @staticmethod
    def generate() -> str:
        """A new key for BAHI_SECRET_KEYS."""
        return secrets.token_urlsafe(32)

    @property
    def newest(self) -> str:
        """The id of the key that seals and signs."""
        return next(iter(self._keys))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def subkey(self, purpose: str, key_id: str | None = None) -> bytes:
        """32 bytes derived from a key (the newest unless named) for this purpose alone. Raises `UnknownKey`."""
        chosen = self.newest if key_id is None else key_id
        if chosen not in self._keys:
            raise UnknownKey(chosen, tuple(self))
        return _derive(self._keys[chosen], purpose)

    def __repr__(self) -> str:
        return f"SecretKeys({', '.join(self)})"


@cache
def _derive(key: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"bahi/" + purpose.encode()).derive(key)
