"""Access tokens: JWT with one algorithm, for ten minutes. Refresh tokens: 256 random bits, stored as their hash."""

import base64
import hashlib
import secrets
import time

import jwt
from msgspec import Struct

from api.security.keys import SecretKeys, UnknownKey

__all__ = [
    "ACCESS_SECONDS",
    "REFRESH_SECONDS",
    "AccessTokens",
    "Claims",
    "InvalidToken",
    "digest",
    "new_family",
    "new_refresh_token",
]

ACCESS_SECONDS = 600
REFRESH_SECONDS = 30 * 24 * 3600

_ALGORITHM = "HS256"
_TYPE = "at+jwt"
_ISSUER = "bahi"
_AUDIENCE = "bahi-api"


class InvalidToken(Exception):
    """The access token is not one of ours, or no longer. The reason is for the log, not for the caller."""


class Claims(Struct, frozen=True):
    """What a valid access token says: whose it is, and of which login."""

    user_id: int
    role: str
    family: str


class AccessTokens:
    """Issues with the newest key and reads with any, so that keys can be rotated under live sessions.

    Only HS256 with our own keys, found by `kid` among ours; a token's `alg`, `jku`, `jwk` and `x5u` are never followed.
    """

    def __init__(self, keys: SecretKeys) -> None:
        self._keys = keys

    def issue(self, user_id: int, role: str, family: str) -> str:
        now = int(time.time())
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": str(user_id),
            "role": role,
            "sid": family,
            "iat": now,
            "nbf": now,
            "exp": now + ACCESS_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }
        headers = {"typ": _TYPE, "kid": self._keys.newest}
        return jwt.encode(claims, self._keys.subkey("access tokens"), algorithm=_ALGORITHM, headers=headers)

    def read(self, token: str) -> Claims:
        """Raises `InvalidToken`."""
        try:
            header = jwt.get_unverified_header(token)
            if header.get("typ") != _TYPE or header.get("alg") != _ALGORITHM:
                raise InvalidToken(f"typ {header.get('typ')!r}, alg {header.get('alg')!r}")
            claims = jwt.decode(
                token,
                self._keys.subkey("access tokens", str(header.get("kid"))),
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                leeway=5,
                options={"require": ["exp", "iat", "nbf", "iss", "aud", "sub", "sid", "role", "jti"]},
            )
            if claims["exp"] - claims["iat"] > ACCESS_SECONDS:
                raise InvalidToken("lives longer than any token of ours")
            return Claims(int(claims["sub"]), str(claims["role"]), str(claims["sid"]))
        except (jwt.PyJWTError, UnknownKey, ValueError, TypeError) as error:
            raise InvalidToken(f"{type(error).__name__}: {error}") from error


def new_refresh_token() -> str:
    return secrets.token_urlsafe(32)


def new_family() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(18)).decode()


def digest(refresh_token: str) -> bytes:
    """What is stored of a refresh token."""
    return hashlib.sha256(refresh_token.encode()).digest()
