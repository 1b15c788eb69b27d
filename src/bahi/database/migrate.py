"""Bring a database to the schema of this version: alembic, with its migrations inside the package.

Alembic takes a fifth of a second to load; a process that finds nothing to do, as nearly every one does, goes without.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["head", "migrate", "revision"]

MIGRATIONS: Final = Path(__file__).parent / "migrations"
LOCK = 0x6261_6869
"""One migration at a time: any number of processes may start at once, the first migrates and the others wait for it."""


def migrate(url: str, target: str = "head") -> str:
    """Upgrade the database at `url` (`postgresql+psycopg://…`) and return its revision. Nothing to do is fine."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        if revision(connection) != (head() if target == "head" else target):
            from alembic import command

            command.upgrade(_config(connection), target)
        return revision(connection) or ""


def revision(connection: Connection) -> str | None:
    """The revision that the database is at, None for an empty one."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def head() -> str:
    """The revision that this version of bahi needs: its last, as their files are numbered."""
    return max(file.name for file in (MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]


def _config(connection: Connection | None) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
