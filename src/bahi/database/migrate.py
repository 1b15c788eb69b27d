"""Bring a database to the schema of this version: alembic, with its migrations inside the package."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

__all__ = ["head", "migrate", "revision"]

LOCK = 0x6261_6869
"""One migration at a time: any number of processes may start at once, the first migrates and the others wait for it."""


def migrate(url: str, target: str = "head") -> str:
    """Upgrade the database at `url` (`postgresql+psycopg://…`) and return its revision. Nothing to do is fine."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        command.upgrade(_config(connection), target)
        return revision(connection) or ""


def revision(connection: Connection) -> str | None:
    """The revision that the database is at, None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The revision that this version of bahi needs."""
    return ScriptDirectory.from_config(_config(None)).get_current_head() or ""


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
