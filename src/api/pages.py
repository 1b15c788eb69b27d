"""Pages: an opaque cursor says where the next one begins; it is signed, and bound to its user and its list."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from fastapi import Query
from msgspec import Struct

from api.problems import Problem
from api.security.keys import SecretKeys, UnknownKey

__all__ = ["MAX_PAGE", "Cursor", "Cursors", "Limit"]

MAX_PAGE: Final = 200
_MAC: Final = 16

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="entries per page")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before")]


class _Place(Struct, frozen=True, array_like=True):
    key_id: str
    user_id: int
    of: str
    after: int
    pinned: tuple[int, ...] = ()


class Cursors:
    """Writes and reads cursors. `of` names the list, for example `orders/7`. `pinned` are numbers that the first page
    found out and all further ones are to go by, such as where the list ended then."""

    def __init__(self, keys: SecretKeys) -> None:
        self._keys = keys

    def write(self, user_id: int, of: str, after: int, pinned: Sequence[int] = ()) -> str:
        place = msgspec.msgpack.encode(_Place(self._keys.newest, user_id, of, after, tuple(pinned)))
        return base64.urlsafe_b64encode(self._mac(place, self._keys.newest) + place).rstrip(b"=").decode()

    def read(self, cursor: str | None, user_id: int, of: str) -> int | None:
        """None for the first page. Raises 400 for what we did not write, or wrote for another user or list."""
        return None if cursor is None else self.read_pinned(cursor, user_id, of)[0]

    def read_pinned(self, cursor: str, user_id: int, of: str) -> tuple[int, tuple[int, ...]]:
        """Where the page begins, and what was pinned. Raises 400 as `read` does."""
        try:
            blob = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            place = msgspec.msgpack.decode(blob[_MAC:], type=_Place)
            genuine = hmac.compare_digest(self._mac(blob[_MAC:], place.key_id), blob[:_MAC])
        except (binascii.Error, ValueError, msgspec.DecodeError, UnknownKey):
            raise self._refused() from None
        if not genuine or place.user_id != user_id or place.of != of:
            raise self._refused()
        return place.after, place.pinned

    def _mac(self, place: bytes, key_id: str) -> bytes:
        return hmac.digest(self._keys.subkey("cursors", key_id), place, hashlib.sha256)[:_MAC]

    @staticmethod
    def _refused() -> Problem:
        return Problem(400, "INVALID_CURSOR", "use next_cursor exactly as it was given, or none for the first page")
