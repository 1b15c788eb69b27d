"""The months of the archive: each has a part of its own before its first event is written, whatever the clock says."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest
from sqlalchemy import create_engine as blocking_engine
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.database.engine import create_engine
from bahi.database.migrate import migrate
from domain.events import SchedulerResyncRequired
from domain.values import DAY, SECOND, Instant
from eventstore.archive import PostgresArchive
from eventstore.envelope import NewEvent, Raw, encode
from eventstore.months import Months
from tests.conftest import HasUrl, _execute, with_database


def at(year: int, month: int, day: int = 1, *clock: int) -> Instant:
    return int(dt.datetime(year, month, day, *clock, tzinfo=dt.UTC).timestamp()) * SECOND


def entry(position: int, recorded_at: Instant) -> Raw:
    envelope = encode(NewEvent(SchedulerResyncRequired(), position % 7 + 1, 3), f"m-{position}", "m")
    return Raw(position, "medium", position, recorded_at, envelope)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def archive(engine: AsyncEngine) -> PostgresArchive:
    return PostgresArchive(engine)


async def store(archive: PostgresArchive, raws: Iterable[Raw]) -> None:
    async with archive.engine.begin() as connection:
        await archive.store(connection, list(raws))
    archive.committed()


async def parts(archive: PostgresArchive) -> dict[str, int]:
    """How many events each part holds."""
    async with archive.engine.connect() as connection:
        named = await connection.scalars(
            text("SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'events'::regclass")
        )
        return {name: await connection.scalar(text(f"SELECT count(*) FROM {name}")) for name in sorted(named)}  # noqa: S608


async def explain(archive: PostgresArchive, statement: str) -> str:
    async with archive.engine.begin() as connection:
        await connection.execute(text("ANALYZE events"))
        return "\n".join((await connection.scalars(text(f"EXPLAIN {statement}"))).all())


async def test_a_month_is_made_with_its_first_event_and_a_batch_may_cross_the_year(archive: PostgresArchive) -> None:
    assert await parts(archive) == {"events_other": 0}
    new_year = at(2027, 1)
    raws = [entry(position, new_year + (position - 4) * SECOND) for position in range(1, 8)]
    await store(archive, raws)
    assert await parts(archive) == {"events_other": 0, "events_y2026m12": 3, "events_y2027m01": 4}
    await store(archive, [entry(8, at(2027, 1, 31, 23, 59)), entry(9, at(2027, 3))])
    assert await parts(archive) == {
        "events_other": 0,
        "events_y2026m12": 3,
        "events_y2027m01": 5,
        "events_y2027m03": 1,  # nothing happened in February
    }
    assert [raw.position for raw in await archive.entries(0, 9)] == list(range(1, 10))
    assert await archive.entries(2, 5) == raws[2:5]


@pytest.mark.parametrize("around", [1, 4])
async def test_a_time_that_no_clock_shows_needs_no_month(archive: PostgresArchive, around: int) -> None:
    """Wherever in a batch it stands: no months are made for the centuries in between."""
    today = at(2026, 11, 20)
    raws = [entry(position, today) for position in range(1, 6)]
    for place, absurd in ((0, 0), (around, 2**62), (4, -(2**62))):
        raws[place] = entry(place + 1, absurd)
    await store(archive, raws)
    found = await parts(archive)
    assert found == {"events_other": 5 - found["events_y2026m11"], "events_y2026m11": found["events_y2026m11"]}
    assert await archive.entries(0, 9) == raws


async def test_a_month_that_was_rolled_back_is_made_again(archive: PostgresArchive) -> None:
    raws = [entry(1, at(2026, 11))]
    async with archive.engine.connect() as connection:
        await archive.store(connection, raws)
        await connection.rollback()
    assert await parts(archive) == {"events_other": 0}
    await store(archive, raws)
    assert await parts(archive) == {"events_other": 0, "events_y2026m11": 1}


async def test_two_processes_may_begin_a_month_at_once(engine: AsyncEngine) -> None:
    """Of two partitions, so that neither waits for the other's checkpoint."""
    archives = [PostgresArchive(engine, partition) for partition in range(6)]
    await asyncio.gather(*(store(each, [entry(1, at(2026, 12)), entry(2, at(2027, 1))]) for each in archives))
    assert await parts(archives[0]) == {"events_other": 0, "events_y2026m12": 6, "events_y2027m01": 6}


async def test_the_next_month_is_made_before_it_begins(archive: PostgresArchive) -> None:
    await archive.prepare(at(2026, 12, 20))
    assert await parts(archive) == {"events_other": 0, "events_y2026m12": 0}
    await archive.prepare(at(2026, 12, 30))
    await archive.prepare(at(2026, 12, 30))
    assert await parts(archive) == {"events_other": 0, "events_y2026m12": 0, "events_y2027m01": 0}


async def test_making_the_next_month_ahead_waits_for_nobody(archive: PostgresArchive) -> None:
    """Somebody reads the archive for long: then the next attempt will do."""
    async with archive.engine.connect() as reading:
        await reading.execute(text("SELECT count(*) FROM events"))
        with pytest.raises(OperationalError, match="lock timeout"):
            await archive.prepare(at(2026, 12, 30))
    await archive.prepare(at(2026, 12, 30))
    assert "events_y2027m01" in await parts(archive)


async def test_a_month_that_failed_ahead_is_not_taken_for_made(engine: AsyncEngine) -> None:
    months = Months()
    async with engine.connect() as connection:
        await months.ensure(connection, [at(2027, 1)])
        await connection.rollback()
    async with engine.begin() as connection:
        await months.ensure(connection, [at(2026, 12)])
    months.committed()
    async with engine.begin() as connection:
        await months.ensure(connection, [at(2026, 12), at(2027, 1)])
    months.committed()
    assert {"events_y2026m12", "events_y2027m01"} <= (await parts(PostgresArchive(engine))).keys()


async def test_a_page_is_found_by_the_indexes_of_the_months(archive: PostgresArchive) -> None:
    """However many months there are, nothing is read but the page itself, and so nothing else is sorted."""
    begin, count = at(2026, 6), 60_000
    for month in range(7):
        await archive.prepare(at(2026, 6 + month))
    async with archive.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO events"
                " SELECT 0, n, 'high', n, CAST(:begin AS int8) + n * :step, 'X', n % 50, n % 9, '\\x00'"
                " FROM generate_series(CAST(1 AS int8), :count) AS n"
            ),
            {"begin": begin, "step": 200 * DAY // count, "count": count},
        )
    assert len(await parts(archive)) == 8
    where = "FROM events WHERE partition = 0 AND position > 29900 AND position <= 30100 ORDER BY position"
    page = await explain(archive, f"SELECT position, stream, version, recorded_at, envelope {where}")
    assert "Seq Scan on events_y" not in page
    assert [raw.position for raw in await archive.entries(29_900, 30_100)] == list(range(29_901, 30_101))
    mine = "FROM events WHERE partition = 0 AND strategy_id = 3 ORDER BY position DESC LIMIT 20"
    latest = await explain(archive, f"SELECT envelope {mine}")
    assert "Merge Append" in latest
    assert "Sort " not in latest.replace("Sort Key", "")


# --- from one table to months -----------------------------------------------------------------------------------------


@pytest.fixture
def before_months(postgres_server: HasUrl) -> Iterator[str]:
    """A database as it was before there were months."""
    name = "test_before_there_were_months"
    _execute(postgres_server.url, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
    url = with_database(postgres_server.url, name)
    migrate(url, "0003")
    yield url
    _execute(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")


def insert(raws: Iterable[Raw]) -> Iterator[str]:
    for raw in raws:
        row = f"0, {raw.position}, '{raw.stream}', {raw.version}, {raw.recorded_at}, 'X', 1, 1"
        yield f"INSERT INTO events VALUES ({row}, '\\x{raw.envelope.hex()}')"  # noqa: S608


@pytest.mark.parametrize("absurd", [False, True])
async def test_an_archive_of_one_table_goes_on_in_months_without_moving_a_row(before_months: str, absurd: bool) -> None:
    old = [entry(position, at(2026, 10) + position * DAY) for position in range(1, 41)]
    if absurd:
        old[20] = entry(21, 0)
        old[21] = entry(22, 2**62)
    reached = "INSERT INTO checkpoint (name, partition, position) VALUES ('archive', 0, 40)"
    _execute(before_months, *insert(old), reached)
    relation = "SELECT pg_relation_filenode(:name)"
    engine = create_engine(before_months)
    archive = PostgresArchive(engine)
    try:
        async with engine.connect() as connection:
            file = await connection.scalar(text(relation), {"name": "events"})
        migrate(before_months)
        async with engine.connect() as connection:
            assert await connection.scalar(text(relation), {"name": "events_first"}) == file
        beyond = {"events_other": 1} if absurd else {"events_other": 0}
        assert await parts(archive) == {"events_first": 40 - beyond["events_other"]} | beyond
        new = [entry(41, at(2026, 11, 30)), entry(42, at(2026, 12)), entry(43, at(2027, 1))]
        await store(archive, new)
        assert (
            await parts(archive)
            == {
                "events_first": 41 - beyond["events_other"],
                "events_y2026m12": 1,
                "events_y2027m01": 1,
            }
            | beyond
        )
        assert await archive.entries(0, 50) == old + new
        await store(archive, [entry(44, at(2026, 11, 1)), entry(45, 0)])
        assert (await parts(archive))["events_first"] == 43 - beyond["events_other"]
    finally:
        await engine.dispose()


def test_an_empty_archive_begins_with_months(before_months: str) -> None:
    migrate(before_months)
    engine = blocking_engine(before_months)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT to_regclass('events_first')")) is None
    engine.dispose()
