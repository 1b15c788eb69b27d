"""One database for a module whose tests are many and small, emptied before each: a copy for each would take longer
than the tests. A module that wants it imports both fixtures."""

import random
from collections.abc import Iterator

import pytest

from bahi.database.tables import metadata
from tests.conftest import HasUrl, _execute, with_database

__all__ = ["emptied", "one_database"]


@pytest.fixture(scope="module", name="database_url")
def one_database(postgres_server: HasUrl, database_template: str) -> Iterator[str]:
    """With the schema; in place of the database of each test."""
    name = f"test_{random.SystemRandom().randrange(16**12):012x}"
    _execute(postgres_server.url, f"CREATE DATABASE {name} TEMPLATE {database_template}")
    yield with_database(postgres_server.url, name)
    _execute(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(autouse=True)
def emptied(database_url: str) -> None:
    """Before each test."""
    _execute(database_url, f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)} CASCADE")
