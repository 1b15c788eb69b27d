"""`bahi user create`: people are made here, and their passwords are never shown."""

import pytest

from domain.events import UserRegistered
from tests.cli.terminal import Installation, bahi

PASSWORD = "quite-a-long-lantern-7"


def test_an_operator_is_made_and_it_is_in_the_log(own: Installation) -> None:
    options = ("user", "create", "--email", "Asha@Example.com", "--role", "operator", "--password-stdin")
    done = own.here(*options, "--json", stdin=f"{PASSWORD}\n")
    assert done.code == 0
    told = done.object
    assert (told["email"], told["role"]) == ("asha@example.com", "operator")
    ((user_id, email, role, password_hash),) = own.sql(
        "SELECT id, email, role, password_hash FROM users WHERE email LIKE %s", "asha@%"
    )
    assert (user_id, email, role) == (told["user_id"], "asha@example.com", "operator")
    assert password_hash.startswith("$argon2id$")
    it = own.events()[-1]
    assert isinstance(it.event, UserRegistered)
    assert it.user_id == user_id
    again = own.here(*options, stdin=f"{PASSWORD}\n")
    assert again.code == 2
    assert "there is a user asha@example.com already" in again.err
    assert PASSWORD not in done.out + done.err + again.out + again.err


@pytest.mark.parametrize(
    ("email", "role", "password", "said"),
    [
        ("nobody", "trader", PASSWORD, "not an e-mail address"),
        ("a@example.com", "king", PASSWORD, "king"),
        ("a@example.com", "trader", "short", "characters"),
        ("a@example.com", "trader", "", "characters"),
        ("a@example.com", "trader", "x" * 5000, "characters"),
    ],
)
def test_what_is_refused_makes_nobody(day: Installation, email: str, role: str, password: str, said: str) -> None:
    before = day.sql("SELECT count(*) FROM users")
    done = day.here("user", "create", "--email", email, "--role", role, "--password-stdin", stdin=f"{password}\n")
    assert done.code == 2
    assert said in done.err
    assert day.sql("SELECT count(*) FROM users") == before
    assert not password or password not in done.err


def test_without_a_terminal_nobody_can_be_asked(day: Installation) -> None:
    done = bahi("user", "create", "--email", "a@example.com", "--role", "trader", "--home", day.home)
    assert done.code == 2
    assert "--password-stdin" in done.err
