"""Settings: what is read, what is refused, what production demands."""

import os
import re
import stat
from datetime import time, timedelta
from pathlib import Path

import pytest

from bahi import wiring
from bahi.settings import Settings, SettingsError

ROOT = Path(__file__).parents[2]
KEY = "k3y-0f-many-different-letters-and-signs!"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("BAHI_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_example_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    listed = [found[1] for line in lines if (found := re.match(r"#? ?(BAHI_[A-Z_]+)=", line))]
    assert sorted(listed) == sorted(f"BAHI_{name.upper()}" for name in Settings.model_fields)
    (tmp_path / ".env").write_text("\n".join(lines))
    assert Settings.load() == Settings()
    assert Settings.load() == Settings.model_validate(Settings(_env_file=None).model_dump())  # type: ignore[call-arg]


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SECRET_KEYS": f"{KEY}-new, {KEY}-old",
        "RETRY_BACKOFF": "0.5",
        "MIS_CUTOFF": "15:10",
        "BUY_LATE_LIMIT": "1.5",
        "FEED": "file:/data/ticks.csv.gz",
    }.items():
        monkeypatch.setenv(f"BAHI_{name}", value)
    settings = Settings.load()
    assert [key.get_secret_value() for key in settings.key_ring()] == [f"{KEY}-new", f"{KEY}-old"]
    assert settings.retry_backoff == timedelta(seconds=0.5)
    assert settings.mis_cutoff == time(15, 10)
    assert settings.buy_late_limit == timedelta(seconds=1.5)
    assert settings.feed == "file:/data/ticks.csv.gz"


def test_the_command_line_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAHI_HTTP_PORT", "8001")
    assert Settings.load(http_port=8002).http_port == 8002


def test_all_malformed_settings_are_named_at_once_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "PARTITIONS": "0",
        "HTTP_PORT": "eighty",
        "TIMEZONE": "Mars/Olympus",
        "CALENDAR": "bse",
        "FEED": "file:",
        "REDIS_URL": "http://user:hunter2@host",
        "SECRET_KEYS": "hunter2",
        "SEND_DEADLINE": "-1",
        "RETRY_BACKOFF": "-1",
        "NO_SUCH": "1",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"BAHI_{name}", value)
    with pytest.raises(SettingsError) as refused:
        Settings.load()
    assert sorted({re.findall(r"BAHI_[A-Z_]+", fault)[0] for fault in refused.value.faults}) == sorted(
        f"BAHI_{name}" for name in wrong
    )
    assert "hunter2" not in str(refused.value)


def test_secrets_do_not_show() -> None:
    settings = Settings(secret_keys=KEY, database_url="postgresql+psycopg://bahi:hunter2@db/bahi")  # type: ignore[arg-type]
    assert KEY not in repr(settings)
    assert "hunter2" not in repr(settings)


def test_prices_come_from_kite_when_its_address_is_set_and_nothing_else_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Settings.load().price_feed == "simulated"
    monkeypatch.setenv("BAHI_KITE_ROOT", "http://127.0.0.1:8765")
    assert Settings.load().price_feed == "kite"
    assert Settings.load(feed="simulated").price_feed == "simulated"


def test_production_names_all_its_faults_at_once() -> None:
    settings = Settings.load(
        env="production",
        allow_weak_durability=True,
        calendar="always-open",
        feed="simulated",
        database_url="postgresql+psycopg://bahi:bahi@db/bahi",
        kite_root="http://api.kite.trade",
    )
    with pytest.raises(SettingsError) as refused:
        settings.check_production()
    told = "\n".join(refused.value.faults)
    for name in ("SECRET_KEYS", "ALLOW_WEAK_DURABILITY", "CALENDAR", "FEED", "DATABASE_URL", "KITE_ROOT"):
        assert f"BAHI_{name}" in told
    with pytest.raises(SettingsError, match="SECRET_KEYS"):
        settings.key_ring()


def test_production_with_proper_settings_and_any_development_pass() -> None:
    Settings.load(
        env="production", secret_keys=KEY, feed="kite", database_url="postgresql+psycopg://bahi:8mV-q@db/bahi"
    ).check_production()
    Settings.load(allow_weak_durability=True).check_production()


@pytest.mark.parametrize("weak", ["a" * 40, "please-change-me-please-change-me-please"])
def test_production_refuses_example_keys(weak: str) -> None:
    with pytest.raises(SettingsError, match="from an example"):
        Settings.load(env="production", secret_keys=weak, feed="kite").check_production()


def test_development_generates_one_key_and_keeps_it(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path / "home")
    first = settings.key_ring()
    assert settings.key_ring() == Settings.load(home=tmp_path / "home").key_ring() == first
    assert len(first) == 1
    assert stat.S_IMODE((tmp_path / "home" / "secret-keys").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["secret-keys"]


def test_an_emptied_key_file_is_an_error_not_a_new_key(tmp_path: Path) -> None:
    (tmp_path / "secret-keys").write_text("")
    with pytest.raises(SettingsError, match="holds no key"):
        Settings.load(home=tmp_path).key_ring()


def test_the_installations_own_secrets_are_masked_in_every_log_line(monkeypatch: pytest.MonkeyPatch) -> None:
    masked: list[str] = []
    monkeypatch.setattr(wiring, "register_secret", masked.append)
    monkeypatch.setenv("BAHI_SECRET_KEYS", f"{KEY}-new,{KEY}-old")
    monkeypatch.setenv("BAHI_REDIS_URL", "redis://user:correct-horse@host/0")
    monkeypatch.setenv("BAHI_DATABASE_URL", "postgresql+psycopg://user:short@host/bahi")
    monkeypatch.setenv("BAHI_ALERT_WEBHOOK", "https://hooks.example/token")
    wiring._mask_secrets(Settings.load())
    assert masked == [f"{KEY}-new", f"{KEY}-old", "correct-horse", "https://hooks.example/token"]
