"""The place of a drill: a HOME of its own with a Redis and a PostgreSQL, which it starts, kills, damages and restores.

The paper broker's book lies there as well. It is the broker: nothing that happens to the servers happens to it.
"""

import asyncio
import random
import secrets
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from psycopg import sql

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from api.security.tokens import REFRESH_SECONDS, AccessTokens, digest, new_family, new_refresh_token
from bahi.database.accounts import SqlAccounts
from bahi.database.engine import create_engine
from bahi.database.migrate import migrate
from bahi.database.tables import metadata
from bahi.database.users import SqlSessions, SqlUsers
from bahi.drill.damage import tear
from bahi.drill.plan import PAPER_PLAN, USERS
from bahi.servers import EmbeddedPostgres, EmbeddedRedis
from bahi.settings import Settings
from bahi.users import create_user
from domain.events import UserRegistered
from eventstore.keys import Keys

__all__ = ["Stage"]

KEPT: Final = frozenset({"users", "sessions", "broker_accounts"})
"""Tables that stay from one moment to the next: the same users trade."""


class Stage:
    """Use it as a context manager. `home` must be empty or not be there."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.redis = EmbeddedRedis(home)
        self.postgres = EmbeddedPostgres(home)
        self.users: list[int] = []
        self._seed = seed
        self._families: dict[int, str] = {}

    def __enter__(self) -> "Stage":
        with ExitStack() as stack:
            stack.enter_context(self.postgres)
            stack.enter_context(self.redis)
            migrate(self.postgres.url)
            asyncio.run(self._register())
            self._servers = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()

    def environment(self) -> dict[str, str]:
        """What a process of the engine is started with."""
        return {
            "BAHI_HOME": str(self.home),
            "BAHI_REDIS_URL": self.redis.url,
            "BAHI_DATABASE_URL": self.postgres.url,
            "BAHI_CALENDAR": "nse",
            "BAHI_PAPER_PLAN": PAPER_PLAN.format(seed=self._seed),
        }

    def tokens(self) -> dict[int, str]:
        """An access token for each user, as a login gives it; good for some minutes."""
        issuer = AccessTokens(self._keys())
        return {user_id: issuer.issue(user_id, "trader", family) for user_id, family in self._families.items()}

    def clear(self, strategies: int, log_id: str) -> None:
        """As new, but for the users: for the next moment. So many strategies have an id already; `log_id` is the log's
        in order tags, upon which depends what the broker does with an order."""
        self.redis.start()
        self.redis.kill()
        shutil.rmtree(self.redis.folder, ignore_errors=True)
        self.redis.start()
        with self.redis.client() as client:
            client.set(Keys().log_id, log_id)
        self.postgres.start()
        for file in self.home.glob("paper.db*"):
            file.unlink()
        with self.postgres.connect() as connection:
            names = [table.name for table in metadata.sorted_tables if table.name not in KEPT]
            tables = sql.SQL(", ").join(map(sql.Identifier, names))
            connection.execute(sql.SQL("TRUNCATE {}").format(tables))
            connection.execute(sql.SQL("ALTER SEQUENCE strategy_ids RESTART WITH {}").format(strategies + 1))

    # --- what they hold ----------------------------------------------------------------------------------------------

    def redis_position(self) -> int:
        """The last position of the log, as this Redis has it; 0 for none."""
        with self.redis.client() as client:
            return int(client.hget(Keys().position, "position") or 0)

    def streamed(self) -> dict[int, bytes]:
        """The envelopes in the streams, by position."""
        found: dict[int, bytes] = {}
        with self.redis.client() as client:
            for name in Keys().streams.values():
                entries: Any = client.xrange(name)
                found |= {int(entry_id.partition(b"-")[0]): fields[b"e"] for entry_id, fields in entries}
        return found

    def archived(self) -> dict[int, bytes]:
        """The envelopes in the archive, by position."""
        with self.postgres.connect() as connection:
            return dict(connection.execute("SELECT position, envelope FROM events").fetchall())

    # --- what happens to the servers ---------------------------------------------------------------------------------

    def tear(self, rng: random.Random) -> int:
        """Cuts off the end of the append-only file, anywhere in it; how many bytes. Redis must not run."""
        return tear(self.redis.folder, rng)

    def empty_redis(self) -> None:
        shutil.rmtree(self.redis.folder)

    def copy_redis(self) -> None:
        """Sets a copy of the data aside, as a backup of the folder. Nobody may be writing."""
        shutil.rmtree(self._copy("redis"), ignore_errors=True)
        shutil.copytree(self.redis.folder, self._copy("redis"))

    def restore_redis(self) -> None:
        """Puts that copy in the place of the data. Redis must not run."""
        shutil.rmtree(self.redis.folder)
        shutil.copytree(self._copy("redis"), self.redis.folder)

    def copy_postgres(self) -> None:
        """The same for PostgreSQL, which is stopped in good order for it."""
        self.postgres.stop()
        shutil.rmtree(self._copy("postgres"), ignore_errors=True)
        shutil.copytree(self.postgres.folder, self._copy("postgres"))
        self.postgres.start()

    def restore_postgres(self) -> None:
        shutil.rmtree(self.postgres.folder)
        shutil.copytree(self._copy("postgres"), self.postgres.folder)

    def _copy(self, name: str) -> Path:
        return self.home / f"{name}.copy"

    # --- its users ---------------------------------------------------------------------------------------------------

    def _settings(self) -> Settings:
        return Settings.load(home=self.home)

    def _keys(self) -> SecretKeys:
        return SecretKeys(key.get_secret_value() for key in self._settings().key_ring())

    async def _register(self) -> None:
        """Users who are logged in and connected to the paper broker."""

        async def unrecorded(_user_id: int, _event: UserRegistered) -> None:
            """It is appended to the log of each moment."""

        engine = create_engine(self.postgres.url)
        try:
            for number in range(USERS):
                user_id = await create_user(
                    SqlUsers(engine),
                    unrecorded,
                    email=f"drill{number}@example.com",
                    password=secrets.token_urlsafe(24),
                    role="trader",
                )
                family = new_family()
                await SqlSessions(engine).open(user_id, family, digest(new_refresh_token()), REFRESH_SECONDS)
                await SqlAccounts(engine, SecretBox(self._keys())).connect(
                    user_id,
                    broker="paper",
                    broker_user_id=f"PAPER-{user_id}",
                    credentials={},
                    fingerprint="drill",
                    egress_proxy=None,
                )
                self.users.append(user_id)
                self._families[user_id] = family
        finally:
            await engine.dispose()
