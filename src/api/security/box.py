"""Sealing secrets for storage: AES-256-GCM, bound to the user and the field that they belong to.

A sealed blob is `version (1) | length of key id (1) | key id | nonce (12) | ciphertext and tag`. Its header, the user's
id and the field's name are the associated data, so a blob copied into another user's row, into another column or under
another key id does not open. The nonce is random: 96 bits are enough for 2³² blobs under one key.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from api.security.keys import SecretKeys

__all__ = ["SealBroken", "SecretBox"]

_VERSION = 1
_NONCE = 12


class SealBroken(ValueError):
    """A blob is damaged, or was sealed for another user or field."""


class SecretBox:
    """Seals with the newest key, opens with any."""

    def __init__(self, keys: SecretKeys) -> None:
        self._keys = keys

    def seal(self, plain: bytes, *, user_id: int, field: str) -> bytes:
        key_id = self._keys.newest.encode()
        header = bytes((_VERSION, len(key_id))) + key_id
        nonce = secrets.token_bytes(_NONCE)
        return header + nonce + self._cipher(key_id.decode()).encrypt(nonce, plain, _bound_to(header, user_id, field))

    def open(self, blob: bytes, *, user_id: int, field: str) -> bytes:
        """Raises `UnknownKey` when its key is not among the keys, `SealBroken` when it is damaged or another's."""
        header, nonce, ciphertext = _split(blob)
        try:
            return self._cipher(header[2:].decode()).decrypt(nonce, ciphertext, _bound_to(header, user_id, field))
        except InvalidTag:
            raise SealBroken(f"{field} of user {user_id} does not open: damaged, or sealed for another") from None

    def reseal(self, blob: bytes, *, user_id: int, field: str) -> bytes:
        """The same secret under the newest key; the blob itself if it is under that key already."""
        if self.key_id(blob) == self._keys.newest:
            return blob
        return self.seal(self.open(blob, user_id=user_id, field=field), user_id=user_id, field=field)

    @staticmethod
    def key_id(blob: bytes) -> str:
        """The id of the key that the blob was sealed with."""
        return _split(blob)[0][2:].decode()

    @property
    def newest(self) -> str:
        return self._keys.newest

    def _cipher(self, key_id: str) -> AESGCM:
        return AESGCM(self._keys.subkey("secrets", key_id))


def _split(blob: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, nonce and ciphertext. Raises `SealBroken` for what is no blob of ours."""
    if len(blob) < 2 or blob[0] != _VERSION:
        raise SealBroken(f"not a sealed secret of version {_VERSION}")
    start = 2 + blob[1]
    if len(blob) < start + _NONCE + 16 or not blob[2:start].isascii():
        raise SealBroken(f"a sealed secret of {len(blob)} bytes is cut short or damaged")
    return blob[:start], blob[start : start + _NONCE], blob[start + _NONCE :]


def _bound_to(header: bytes, user_id: int, field: str) -> bytes:
    return header + user_id.to_bytes(8, "big", signed=True) + field.encode()
