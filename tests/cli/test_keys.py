"""`bahi keys`: the keys of the seals are shown and rotated, and what was sealed before stays proven."""

from pathlib import Path

import pytest

from tests.cli.terminal import Installation

NEW = "a new secret key of forty characters and one"
OTHER = "the secret key of somebody else of forty ...."


def test_the_public_key_that_is_shown_proves_the_history(day: Installation, folder: Path) -> None:
    (key,) = day.here("keys", "show", "--json").object["keys"]
    assert (key["number"], key["closed"]) == (1, None)
    assert key["seals"] == day.sql("SELECT count(*) FROM seals")[0][0] > 0
    shown = day.here("keys", "show")
    assert key["id"] in shown.out
    file = folder / "key.pem"
    file.write_text(day.here("keys", "show", "--public").out)
    assert file.read_text() == key["pem"]
    for given in (file, key["public_key"]):
        assert day.here("verify", "--public-key", given).code == 0
    foreign = day.here("verify", "--public-key", "ab" * 32, "--json")
    assert foreign.code == 1
    assert foreign.object["first_fault"]["position"] == 1
    assert [name for name, holds in foreign.object["checks"].items() if not holds] == ["seals_signed"]
    nonsense = day.here("verify", "--public-key", "nonsense")
    assert nonsense.code == 2
    assert "64 hex digits" in nonsense.err


def test_no_private_key_is_shown(day: Installation) -> None:
    (private,) = day.sql("SELECT encode(private_key, 'hex') FROM seal_keys")[0]
    told = day.here("keys", "show").out + day.here("keys", "show", "--json").out
    assert private[:32] not in told
    assert "PRIVATE" not in told


def test_wrong_secret_keys_are_told_and_the_public_key_still_proves_it(
    day: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = day.here("keys", "show", "--json").object["keys"]
    monkeypatch.setenv("BAHI_SECRET_KEYS", OTHER)
    told = day.here("verify", "--json")
    assert told.code == 1
    assert "not in BAHI_SECRET_KEYS" in told.object["first_fault"]["text"]
    assert day.here("verify", "--public-key", key["public_key"]).code == 0
    doctor = {each["name"]: each for each in day.here("doctor", "--json").object["checks"]}
    assert doctor["seal key"]["state"] == "failed"
    assert doctor["seals"]["state"] == "ok"
    assert day.here("keys", "show", "--json").object["keys"][0]["closed"]
    refused = day.here("keys", "rotate", "seal")
    assert refused.code == 2
    assert "does not open" in refused.err


def test_after_a_rotation_old_seals_stay_valid_and_the_old_secret_may_go(
    own: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = own.here("keys", "show", "--json").object["keys"]
    secret = (own.home / "secret-keys").read_text().strip()
    monkeypatch.setenv("BAHI_SECRET_KEYS", f"{NEW},{secret}")
    done = own.here("keys", "rotate", "--json")
    assert done.code == 0
    assert done.object["private_keys"] == 1
    assert done.object["secrets"] == own.sql("SELECT count(*) FROM broker_accounts")[0][0]
    monkeypatch.setenv("BAHI_SECRET_KEYS", NEW)
    first, second = own.here("keys", "show", "--json").object["keys"]
    assert (first["id"], second["id"]) == (old["id"], done.object["seal_key"])
    assert (first["closed"], second["closed"]) == (None, None)
    for given in ((), ("--public-key", first["public_key"]), ("--public-key", second["public_key"])):
        assert own.here("verify", *given).code == 0
    own.sql("UPDATE seal_keys SET acceptance = endorsement WHERE number = 2")
    unvouched = own.here("verify", "--public-key", second["public_key"], "--json").object
    assert not unvouched["checks"]["seals_signed"]
    monkeypatch.setenv("BAHI_SECRET_KEYS", secret)
    assert own.here("verify").code == 1


def test_a_lost_key_is_followed_by_one_that_nobody_vouches_for(
    own: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = own.here("keys", "show", "--json").object["keys"]
    assert own.here("keys", "rotate", "--unvouched").code == 2  # of the seal's key alone
    monkeypatch.setenv("BAHI_SECRET_KEYS", OTHER)
    done = own.here("keys", "rotate", "seal", "--unvouched")
    assert done.code == 0
    assert "nobody vouches" in done.out
    assert own.here("verify", "--public-key", old["public_key"]).code == 0
