"""Users made from the command line: the only way to an auditor or an operator."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from api.models import Email
from api.ports import EmailTaken, Users
from api.security.passwords import MAX_LENGTH, MIN_LENGTH, Passwords, weakness
from domain.events import UserRegistered

__all__ = ["ROLES", "Unacceptable", "create_user"]

ROLES: Final = ("trader", "auditor", "operator")


class Unacceptable(ValueError):
    """The user cannot be made so; the message says why, for the person at the terminal."""


async def create_user(
    users: Users,
    record: Callable[[int, UserRegistered], Awaitable[None]],
    *,
    email: str,
    password: str,
    role: str,
    passwords: Passwords | None = None,
) -> int:
    """A new user's id. `record` appends USER_REGISTERED of the user; should it fail, there is no user.

    Raises `Unacceptable`.
    """
    if role not in ROLES:
        raise Unacceptable(f"no such role: {role!r}; one of {', '.join(ROLES)}")
    try:
        email = msgspec.convert(email, Email).lower()
    except msgspec.ValidationError:
        raise Unacceptable(f"not an e-mail address: {email!r}") from None
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise Unacceptable(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters, this one {len(password)}")
    if (why := weakness(password, email)) is not None:
        raise Unacceptable(f"the password {why}")
    password_hash = await (passwords or Passwords()).hash(password)
    try:
        async with users.registering(email, password_hash, role) as user_id:
            await record(user_id, UserRegistered())
    except EmailTaken:
        raise Unacceptable(f"there is a user {email} already") from None
    return user_id
