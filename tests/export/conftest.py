"""Two installations' archives, each in a database that is emptied before every test: a new one would take longer than
most of the tests."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from bahi.database.tables import metadata
from tests.conftest import HasUrl, _execute, with_database
from tests.export.world import Archived


@pytest.fixture(scope="module")
def databases(postgres_server: HasUrl, database_template: str) -> Iterator[list[str]]:
    """With the schema."""
    with ExitStack() as stack:
        made = []
        for _ in range(2):
            name = f"test_{random.SystemRandom().randrange(16**12):012x}"
            _execute(postgres_server.url, f"CREATE DATABASE {name} TEMPLATE {database_template}")
            stack.callback(_execute, postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")
            made.append(with_database(postgres_server.url, name))
        yield made


def empty(url: str) -> str:
    """Rows are few: to delete them is faster than to truncate."""
    deletes = [str(table.delete()) for table in reversed(metadata.sorted_tables)]
    starts = [f"ALTER SEQUENCE {name} RESTART WITH 1" for name in ("user_ids", "strategy_ids")]
    _execute(url, "; ".join([*deletes, *starts]))
    return url


@pytest.fixture
async def archived(databases: list[str]) -> AsyncIterator[Archived]:
    """The one that things are exported from."""
    made = Archived(empty(databases[0]))
    yield made
    await made.engine.dispose()


@pytest.fixture
async def other(databases: list[str]) -> AsyncIterator[Archived]:
    """Another installation, empty."""
    made = Archived(empty(databases[1]))
    yield made
    await made.engine.dispose()
