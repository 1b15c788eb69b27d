"""The schema: what the migrations make is what the tables say, however many processes start at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, insert, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import NullPool

from bahi.database import migrate as migrations
from bahi.database.tables import metadata, users
from tests.conftest import HasUrl, _execute, with_database


def test_the_migrations_make_exactly_the_tables(database_url: str) -> None:
    with create_engine(database_url, poolclass=NullPool).connect() as connection:
        options = {
            "compare_type": True,
            "compare_server_default": True,
            # the months of `events` are made when they begin
            "include_name": lambda name, kind, _: kind != "table" or not (name or "").startswith("events_"),
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        assert migrations.revision(connection) == migrations.head()
        assert connection.scalar(text("SELECT count(*) FROM pg_class WHERE relname = 'strategy_ids'")) == 1


def test_many_processes_may_migrate_at_once(postgres_server: HasUrl) -> None:
    url = with_database(postgres_server.url, "test_migrations")
    _execute(postgres_server.url, "CREATE DATABASE test_migrations")
    try:
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(migrations.migrate, [url] * 4)) == {migrations.head()}
        with create_engine(url, poolclass=NullPool).connect() as connection:
            assert set(metadata.tables) <= set(inspect(connection).get_table_names())
    finally:
        _execute(postgres_server.url, "DROP DATABASE test_migrations WITH (FORCE)")


def test_every_migration_is_in_one_line() -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(migrations._config(None))
    assert script.get_heads() == [migrations.head()]
    assert len(list(script.walk_revisions())) == len(list(Path(script.versions).glob("0*.py")))


@pytest.mark.parametrize("values", [{"email": "Upper@example.com"}, {"email": "a@b.example", "role": "root"}])
def test_the_database_itself_refuses_what_must_not_be(database_url: str, values: dict[str, str]) -> None:
    engine = create_engine(database_url, poolclass=NullPool)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(insert(users).values(password_hash="x", **values))
