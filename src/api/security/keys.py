"""The installation's secret keys, newest first. Each purpose has subkeys of its own, derived from them."""

import base64
import binascii
import re
import secrets
from collections.abc import Iterator
from functools import cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["SecretKeyError", "SecretKeys", "UnknownKey"]

_ENTRY = re.compile(r"(?P<id>[A-Za-z0-9._-]{1,32}):(?P<key>[A-Za-z0-9+/_=-]+)")


class SecretKeyError(ValueError):
    """BAHI_SECRET_KEYS cannot be used; the message says why and holds no key."""


class UnknownKey(LookupError):
    """Something was sealed or signed with a key that is not among the keys."""

    def __init__(self, key_id: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"key {key_id!r} is not in BAHI_SECRET_KEYS (known: {', '.join(known)}); add it back to read this"
        )
        self.key_id = key_id


class SecretKeys:
    """The keys by id. The first one seals and signs; all of them open and verify."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        if not keys:
            raise SecretKeyError("BAHI_SECRET_KEYS is empty; it needs at least one ID:BASE64")
        self._keys = dict(keys)

    @classmethod
    def parse(cls, text: str) -> "SecretKeys":
        """`ID:BASE64,ID:BASE64`, newest first; a key is 32 bytes, in either base64. Raises `SecretKeyError`."""
        keys: dict[str, bytes] = {}
        for number, entry in enumerate((entry.strip() for entry in text.split(",") if entry.strip()), 1):
            found = _ENTRY.fullmatch(entry)
            if found is None:
                raise SecretKeyError(
                    f"BAHI_SECRET_KEYS, entry {number}: expected ID:BASE64, the id of 1–32 [A-Za-z0-9._-]"
                )
            encoded = found["key"].replace("+", "-").replace("/", "_").rstrip("=")
            try:
                key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            except binascii.Error:
                raise SecretKeyError(f"BAHI_SECRET_KEYS, entry {number} ({found['id']}): not base64") from None
            if len(key) != 32:
                raise SecretKeyError(
                    f"BAHI_SECRET_KEYS, entry {number} ({found['id']}): 32 bytes wanted, got {len(key)}"
                )
            if found["id"] in keys:
                raise SecretKeyError(f"BAHI_SECRET_KEYS: the id {found['id']} is there twice")
            keys[found["id"]] = key
        return cls(keys)

    @staticmethod
    def generate(key_id: str) -> str:
        """A new entry for BAHI_SECRET_KEYS."""
        return f"{key_id}:{secrets.token_urlsafe(32)}"

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
