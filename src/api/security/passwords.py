"""Passwords: argon2id, off the event loop, a few at a time."""

import asyncio
from importlib.resources import files

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

__all__ = ["MAX_LENGTH", "MIN_LENGTH", "Passwords", "weakness"]

MIN_LENGTH = 8
MAX_LENGTH = 256

_COMMON = frozenset(files("api.security").joinpath("common_passwords.txt").read_text().split())


def weakness(password: str, email: str = "") -> str | None:
    """Why a password is not taken, or None. Length and commonness count, not which characters it is made of."""
    folded = password.casefold()
    if folded in _COMMON or folded.rstrip("0123456789!.") in _COMMON or len(set(folded)) < 4:
        return "is one of those that are tried first; take a longer one of your own"
    name = email.partition("@")[0].casefold()
    if folded == email.casefold() or (len(name) >= 6 and folded.strip("0123456789!.") == name):
        return "must not be the e-mail address"
    return None


class Passwords:
    """Hashes and verifies. One hash takes 64 MiB and tens of milliseconds, so at most `at_once` run together."""

    def __init__(self, hasher: PasswordHasher | None = None, *, at_once: int = 2) -> None:
        self._hasher = hasher or PasswordHasher()
        self._room = asyncio.Semaphore(at_once)
        self._dummy = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        async with self._room:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether it is the password. `stored` is None for an unknown user, which takes the same time and is False."""
        async with self._room:
            matches = await asyncio.to_thread(self._matches, self._dummy if stored is None else stored, password)
        return matches and stored is not None

    def outdated(self, stored: str) -> bool:
        """Whether it was made with weaker parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False
