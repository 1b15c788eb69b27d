"""Everything that can be set, from the environment (`BAHI_…`) or a `.env` file; `.env.example` lists all of it."""

import os
import secrets
from collections.abc import Iterable
from datetime import time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ["Settings", "SettingsError"]

#: What stands in examples; production refuses them.
WELL_KNOWN = frozenset({"bahi", "postgres", "password", "secret", "changeme", "change-me", "guest", "redis", "admin"})
SHORTEST_KEY = 32
#: Names with our prefix that are for the tests, not for the engine.
FOR_TESTS = "BAHI_TEST_"


class SettingsError(ValueError):
    """Settings that cannot be used: one line for each fault, all of them at once, no values of secrets."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("settings are not usable:\n" + "\n".join(f"  - {fault}" for fault in self.faults))


def _split(value: object) -> object:
    """`a, b` as environment variables write a list."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _seconds(value: object) -> object:
    """`1.5`, as environment variables write a duration."""
    if isinstance(value, str):
        try:
            return timedelta(seconds=float(value))
        except (ValueError, OverflowError):
            raise ValueError("is a number of seconds") from None
    return value


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]


class Settings(BaseSettings):
    """The settings of one bahi process. Immutable; secrets do not show in `repr`. Made by `Settings.load()`."""

    model_config = SettingsConfigDict(
        env_prefix="BAHI_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    env: Literal["development", "production"] = "development"
    """`production` refuses, at boot, everything that only a trial may have."""

    home: Path = Path(".bahi")
    """The folder of the embedded servers' data and the generated keys."""

    redis_url: SecretStr | None = None
    """A Redis to use, `redis://`, `rediss://` or `unix://`. Without it bahi starts one of its own in HOME."""

    database_url: SecretStr | None = None
    """A PostgreSQL to use, `postgresql+psycopg://…`. Without it bahi starts one of its own in HOME."""

    allow_weak_durability: bool = False
    """Trade on a Redis that may forget acknowledged writes. Never in production."""

    partitions: Annotated[int, Field(ge=1, le=256)] = 1
    """Engines side by side; a user's is `user_id % PARTITIONS`. Fixed at the first start of a log."""

    worker_concurrency: Annotated[int, Field(ge=4, le=1024)] = 8
    """Strategies that one worker process advances at the same time, over its four lanes."""

    http_host: str = "127.0.0.1"
    """The address the REST application listens on."""

    http_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Its port; 0 takes a free one."""

    secret_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys for tokens and stored credentials, comma-separated, newest first, each of 32 characters or more.
    Older ones still read, only the first writes. In development one is generated and kept in HOME/secret-keys."""

    timezone: str = "Asia/Kolkata"
    """The exchange's zone: buy and sell times are its wall clock."""

    calendar: Literal["nse", "always-open"] = "nse"
    """Trading sessions. `always-open` is for trials."""

    feed: str = ""
    """Where prices come from: `simulated`, `file:PATH` (a tick file) or `kite`. Empty: `kite` when KITE_ROOT or
    KITE_WS_ROOT is set, else `simulated`."""

    paper_plan: str = ""
    """What goes wrong at the paper broker: empty for nothing, or `seed=7,partial=0.1,timeout_exists=0.02`."""

    kite_root: str = "https://api.kite.trade"
    """Kite's REST address."""

    kite_route_prefix: str = ""
    """Put before every path of Kite's REST routes, for a gateway in between."""

    kite_ws_root: str = "wss://ws.kite.trade"
    """Kite's tick stream."""

    kite_ws_query: str = ""
    """Further query parameters of the stream, as in a URL; `{user_id}` stands for the account's id at Kite."""

    kite_login: str = "https://kite.zerodha.com/connect/login"
    """The page on which users log in at Kite."""

    kite_exchanges: str = "NSE,BSE"
    """The exchanges whose instruments may be traded through Kite, comma-separated."""

    kite_algo_id: str = ""
    """The exchange's id of a registered strategy, sent with every order; empty for the broker's generic one."""

    kite_family: bool = False
    """All Kite accounts here are one family's: their orders may leave from one address. Else each account needs its
    own egress proxy, as the exchange's rules for algorithmic orders want it."""

    buy_late_limit: Seconds = timedelta(seconds=30)
    """A BUY later than this many seconds is missed, not sent."""

    mis_cutoff: time = time(15, 15)
    """The latest sell time of an intraday (MIS) strategy: the broker squares off after it."""

    retry_backoff: Seconds = timedelta(seconds=1)
    """Seconds to wait before the second attempt of an order; doubled for each further one."""

    send_deadline: Seconds = timedelta(seconds=2)
    """An intent older than this many seconds is not sent any more."""

    request_timeout: Seconds = timedelta(seconds=7)
    """The longest that a call to the broker takes, in seconds: until then a sender that is silent may yet send."""

    clock_skew: Seconds = timedelta(seconds=1)
    """How far the clocks of two hosts may lie apart, in seconds."""

    quarantine_ambiguous: Seconds = timedelta(seconds=120)
    """Seconds before an order whose answer was lost may be called absent."""

    quarantine_crash: Seconds = timedelta(seconds=10)
    """The same for an order whose sender died, while the order book is healthy."""

    entry_patience: Seconds = timedelta(seconds=10)
    """Seconds an entry may rest unfilled before its rest is cancelled."""

    hot_hours: Annotated[int, Field(ge=1)] = 72
    """Hours of events that Redis keeps after they are archived."""

    seal_events: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """The archive seals its history after this many events …"""

    seal_seconds: Seconds = timedelta(seconds=60)
    """… or when the oldest unsealed event is this old."""

    snapshot_events: Annotated[int, Field(ge=1000)] = 100_000
    """A snapshot of every strategy's state is taken after this many events; a restart reads what came after it."""

    archive_patience: Seconds = timedelta(seconds=1)
    """How long a write over REST waits, at most, until its events are in the archive too, before it is answered."""

    alert_webhook: SecretStr | None = None
    """An https address that critical alerts are posted to."""

    @field_validator("secret_keys", mode="before")
    @classmethod
    def _from_commas(cls, value: object) -> object:
        return _split(value)

    @field_validator("secret_keys")
    @classmethod
    def _long_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < SHORTEST_KEY for key in keys):
            raise ValueError(f"each key has {SHORTEST_KEY} characters or more")
        return keys

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"no time zone {zone!r}") from error
        return zone

    @field_validator("feed")
    @classmethod
    def _known_feed(cls, feed: str) -> str:
        if feed in {"", "simulated", "kite"} or (feed.startswith("file:") and len(feed) > len("file:")):
            return feed
        raise ValueError("is simulated, file:PATH or kite")

    @field_validator("redis_url", "database_url", "alert_webhook")
    @classmethod
    def _known_scheme(cls, url: SecretStr | None, info: Any) -> SecretStr | None:
        allowed = {
            "redis_url": ("redis", "rediss", "unix"),
            "database_url": ("postgresql+psycopg",),
            "alert_webhook": ("https", "http"),
        }[info.field_name]
        if url is not None and urlsplit(url.get_secret_value()).scheme not in allowed:
            raise ValueError(f"starts with {' or '.join(f'{scheme}://' for scheme in allowed)}")
        return url

    @field_validator(
        "buy_late_limit",
        "send_deadline",
        "request_timeout",
        "clock_skew",
        "quarantine_ambiguous",
        "quarantine_crash",
        "entry_patience",
        "retry_backoff",
        "seal_seconds",
        "archive_patience",
    )
    @classmethod
    def _positive(cls, duration: timedelta) -> timedelta:
        if duration <= timedelta(0):
            raise ValueError("is more than 0 seconds")
        return duration

    @classmethod
    def load(cls, **given: Any) -> Self:
        """The settings of this process; `given` (the command line) beats the environment, which beats `.env`.

        Raises SettingsError naming every setting that is malformed and every BAHI_ name that does not exist.
        """
        known = {f"BAHI_{name.upper()}" for name in cls.model_fields}
        faults = [
            f"{name} is no setting"
            for name in sorted(os.environ)
            if name.startswith("BAHI_") and not name.startswith(FOR_TESTS) and name not in known
        ]
        try:
            settings = cls(**given)
        except ValidationError as error:
            faults += [
                f"BAHI_{str(fault['loc'][0]).upper()}: {fault['msg'].removeprefix('Value error, ')}"
                for fault in error.errors(include_input=False, include_context=False, include_url=False)
            ]
            raise SettingsError(faults) from None
        if faults:
            raise SettingsError(faults)
        return settings

    @property
    def zone(self) -> ZoneInfo:
        """The exchange's zone."""
        return ZoneInfo(self.timezone)

    @property
    def price_feed(self) -> str:
        """Where prices come from: FEED, or what the addresses of Kite say about it."""
        at_kite = {"kite_root", "kite_ws_root"} & self.model_fields_set
        return self.feed or ("kite" if at_kite else "simulated")

    def check_production(self) -> None:
        """Refuse, in production, what only a trial may have. Raises SettingsError with all faults at once.

        What needs a look at the running servers (Redis' durability, the calendar's years) is checked at boot.
        """
        if self.env != "production":
            return
        faults = []
        if not self.secret_keys:
            faults.append("BAHI_SECRET_KEYS is not set: production does not generate its own")
        if any(_is_weak(key.get_secret_value()) for key in self.secret_keys):
            faults.append("BAHI_SECRET_KEYS holds a key from an example, or of one repeated character")
        if self.allow_weak_durability:
            faults.append("BAHI_ALLOW_WEAK_DURABILITY is set: an acknowledged order intent could be forgotten")
        if self.calendar == "always-open":
            faults.append("BAHI_CALENDAR is always-open: orders would be sent to a closed market")
        if self.price_feed != "kite":
            faults.append(
                f"BAHI_FEED is {self.price_feed.split(':')[0]}: stops would follow prices that are not the market's"
            )
        for name, url in (("REDIS_URL", self.redis_url), ("DATABASE_URL", self.database_url)):
            if url is not None and (urlsplit(url.get_secret_value()).password or "").lower() in WELL_KNOWN:
                faults.append(f"BAHI_{name} holds a password from an example")
        for name, address in (("KITE_ROOT", self.kite_root), ("KITE_WS_ROOT", self.kite_ws_root)):
            if urlsplit(address).scheme not in {"https", "wss"}:
                faults.append(f"BAHI_{name} is not encrypted: access tokens would travel in the clear")
        if faults:
            raise SettingsError(faults)

    def key_ring(self) -> tuple[SecretStr, ...]:
        """The secret keys, newest first: those set, else (development only) the generated one of this HOME."""
        if self.secret_keys:
            return self.secret_keys
        if self.env == "production":
            raise SettingsError(["BAHI_SECRET_KEYS is not set: production does not generate its own"])
        path = self.home.expanduser() / "secret-keys"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            new = path.with_name(f".secret-keys-{secrets.token_hex(8)}")
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(secrets.token_urlsafe(48) + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(new, path)  # of two processes that start at once, one wins and both read the same key
            except FileExistsError:
                pass
            finally:
                new.unlink()
        found = tuple(SecretStr(line.strip()) for line in path.read_text().splitlines() if line.strip())
        if not found or any(len(key.get_secret_value()) < SHORTEST_KEY for key in found):
            raise SettingsError([f"{path} holds no key of {SHORTEST_KEY} characters or more"])
        return found


def _is_weak(key: str) -> bool:
    return len(set(key)) < 8 or any(word in key.lower() for word in ("change-me", "changeme", "example"))
