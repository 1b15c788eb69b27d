"""Users made at the command line."""

from collections.abc import Awaitable, Callable

import pytest

from bahi.users import Unacceptable, create_user
from domain.events import UserRegistered
from eventstore.envelope import NewEvent
from eventstore.errors import LogUnavailable
from tests.api.world import PASSWORD, World


def recorder(world: World) -> Callable[[int, UserRegistered], Awaitable[None]]:
    async def record(user_id: int, event: UserRegistered) -> None:
        await world.log.append([NewEvent(event, user_id=user_id)])

    return record


@pytest.mark.parametrize("role", ["trader", "auditor", "operator"])
async def test_a_user_of_any_role_is_made_and_may_log_in(world: World, role: str) -> None:
    made = await create_user(
        world.deps.users,
        recorder(world),
        email="Ops@Example.com",
        password=PASSWORD,
        role=role,
        passwords=world.deps.passwords,
    )
    answer = await world.client.post("/auth/login", json={"email": "ops@example.com", "password": PASSWORD})
    assert answer.json()["user_id"] == made
    login = await world.deps.users.by_email("ops@example.com")
    assert login is not None
    assert login.role == role
    assert [one.user_id for one in await world.history(UserRegistered)] == [made]


@pytest.mark.parametrize(
    ("email", "password", "role", "why"),
    [
        ("no address", PASSWORD, "trader", "not an e-mail address"),
        ("a@b.example", "short", "trader", "8 to 256 characters"),
        ("a@b.example", "password123", "trader", "tried first"),
        ("a@b.example", PASSWORD, "root", "no such role"),
        ("alice@example.com", PASSWORD, "trader", "already"),
    ],
)
async def test_what_is_unacceptable_is_said_and_nothing_is_made(
    world: World, email: str, password: str, role: str, why: str
) -> None:
    await world.trader("alice@example.com")
    with pytest.raises(Unacceptable, match=why):
        await create_user(world.deps.users, recorder(world), email=email, password=password, role=role)
    assert len(await world.history(UserRegistered)) == 1


async def test_without_the_log_there_is_no_user(world: World) -> None:
    async def away(user_id: int, event: UserRegistered) -> None:
        raise LogUnavailable("no answer")

    with pytest.raises(LogUnavailable):
        await create_user(world.deps.users, away, email="a@b.example", password=PASSWORD, role="trader")
    assert await world.deps.users.by_email("a@b.example") is None
