"""Whose seals count: Ed25519 keys, and how one vouches for the next. Pure.

A key is trusted because somebody says so, or because a trusted key next to it in the line of rotations vouches for it:
the one before by its endorsement, the one after by its acceptance. So one trusted public key reaches all of them.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import pairwise

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from msgspec import Struct
from msgspec.structs import replace

from eventstore.seals import Seal

__all__ = ["SealKey", "Trust", "key_id", "parse_public_key", "public_bytes", "public_pem", "sign", "vouch"]

_PUBLIC = 32


class SealKey(Struct, frozen=True, kw_only=True):
    """A key as others may see it; `number` counts the rotations from 1. The endorsement is a signature of the key
    before, the acceptance one of this key for the key before; the first has neither."""

    number: int
    id: str
    public_key: bytes
    endorsement: bytes | None = None
    acceptance: bytes | None = None


def key_id(public_key: bytes) -> str:
    """The name of a key: 16 hex digits."""
    return sha256(public_key).hexdigest()[:16]


def public_bytes(private: Ed25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return private.public_key().public_bytes_raw()


def public_pem(public_key: bytes) -> str:
    """As other programs read it."""
    key = Ed25519PublicKey.from_public_bytes(public_key)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def parse_public_key(text: str) -> bytes:
    """A public key from 64 hex digits or PEM. Raises ValueError."""
    text = text.strip()
    if text.startswith("-----BEGIN"):
        key = load_pem_public_key(text.encode())
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("the PEM text holds a key of another kind; seals are signed with Ed25519")
        return key.public_bytes_raw()
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != _PUBLIC:
        raise ValueError(f"an Ed25519 public key is {2 * _PUBLIC} hex digits, or PEM; this is neither")
    return raw


def sign(private: Ed25519PrivateKey, seal: Seal) -> Seal:
    """The seal with its signature, and with the name of the key that made it."""
    named = replace(seal, key_id=key_id(public_bytes(private)))
    return replace(named, signature=private.sign(named.body))


def vouch(private: Ed25519PrivateKey, public_key: bytes) -> bytes:
    """This key's word for another one."""
    return private.sign(_word_for(public_key))


def _word_for(public_key: bytes) -> bytes:
    return f"bahi-seal-key/1\n{public_key.hex()}\n".encode()


class Trust:
    """The keys that are trusted, and those that are reached from them."""

    def __init__(self, keys: Sequence[SealKey], trusted: Iterable[bytes]) -> None:
        """`trusted` are raw public keys; they need not be among `keys`."""
        self._keys = {key_id(public): Ed25519PublicKey.from_public_bytes(public) for public in trusted}
        self._numbers = {key.id: key.number for key in keys}
        line = sorted(keys, key=lambda key: key.number)
        for older, newer in pairwise(line):
            self._reach(older, newer, newer.endorsement)
        for newer, older in pairwise(reversed(line)):
            self._reach(newer, older, newer.acceptance)

    def _reach(self, known: SealKey, other: SealKey, word: bytes | None) -> None:
        """`other` is trusted if `known` is and has given its word for it."""
        if known.id not in self._keys or other.id in self._keys or other.id != key_id(other.public_key):
            return
        if word is not None and _is_signed(self._keys[known.id], word, _word_for(other.public_key)):
            self._keys[other.id] = Ed25519PublicKey.from_public_bytes(other.public_key)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def number_of(self, key: str) -> int | None:
        """Which of the line of keys has this id; None for one that is not in it."""
        return self._numbers.get(key)

    def signed(self, by: str, signature: bytes, message: bytes) -> bool:
        """Whether the trusted key of this id signed the message."""
        key = self._keys.get(by)
        return key is not None and _is_signed(key, signature, message)

    def objection(self, seal: Seal) -> str | None:
        """Why this seal does not count; None if a trusted key signed it."""
        if seal.key_id not in self._keys:
            return f"it is signed with key {seal.key_id}, which no trusted key vouches for"
        if not self.signed(seal.key_id, seal.signature, seal.body):
            return f"its signature is not one of key {seal.key_id} over what it says"
        return None


def _is_signed(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
