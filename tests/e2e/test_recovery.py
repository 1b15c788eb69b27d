"""A house that is opened on damaged, lost or restored data (architecture §7): what it refuses, and what it mends."""

import shutil
import signal
from pathlib import Path

import pytest
from sqlalchemy import text

from bahi.servers import EmbeddedPostgres, EmbeddedRedis, ServerError
from bahi.settings import Settings
from bahi.wiring import House, open_house
from domain.events import UserRegistered
from eventstore.entries import read_entries
from eventstore.envelope import NewEvent
from eventstore.epochs import record
from eventstore.errors import PartitionMismatch
from eventstore.keys import Keys
from tests.e2e.house import House as Processes
from tests.e2e.house import until


async def archive_all(house: House) -> None:
    """As the archive follower would."""
    for log in house.logs:
        archive = log.archive
        assert archive is not None
        async with house.engine.begin() as connection:
            await record(connection, log.keys.partition, log.lineage)
            await archive.store(connection, [raw async for page in read_entries(log) for raw in page])  # type: ignore[attr-defined]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, calendar="always-open", partitions=2)


def empty_redis(settings: Settings) -> None:
    shutil.rmtree(settings.home / "redis")


async def test_what_a_house_finds_when_it_is_opened_again(settings: Settings) -> None:
    """One home, from one loss to the next: each opening starts two servers."""
    registered = NewEvent(UserRegistered(), user_id=40)
    async with open_house(settings) as house:
        epochs = [log.epoch for log in house.logs]
        for log in house.logs:
            await log.append([registered, registered])
        await archive_all(house)

    async with open_house(settings) as house:
        assert [log.epoch for log in house.logs] == epochs, "a stop in good order is no restart"

    empty_redis(settings)
    with pytest.raises(PartitionMismatch, match="set BAHI_PARTITIONS=2"):
        async with open_house(settings.model_copy(update={"partitions": 1})):
            pass
    empty_redis(settings)
    async with open_house(settings) as house:
        assert [len(log.lineage) for log in house.logs] == [2, 2]
        assert [await log.last_position() for log in house.logs] == [4, 4]  # and what tells of it
        # an older copy of PostgreSQL: the ids that it gave out since are known to the log alone
        async with house.engine.begin() as connection:
            assert await connection.scalar(text("SELECT nextval('user_ids')")) == 1
        await house.logs[0].append([NewEvent(UserRegistered(), user_id=90)])
    async with open_house(settings) as house, house.engine.begin() as connection:
        assert await connection.scalar(text("SELECT nextval('user_ids')")) == 91

    with EmbeddedRedis(settings.home) as redis, redis.client() as client:
        client.execute_command("BGREWRITEAOF")
        while client.info("persistence")["aof_rewrite_in_progress"]:
            pass
    file = next(iter([*settings.home.glob("redis/appendonlydir/*.base.rdb"), *settings.home.glob("redis/*.aof")]))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ServerError, match=r"Move .*redis away"):
        async with open_house(settings):
            pass


def test_processes_that_lost_their_log_wait_for_the_database_to_start_anew(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as redis, EmbeddedPostgres(tmp_path) as postgres:
        house = Processes(REDIS_URL=redis.url, DATABASE_URL=postgres.url)
        try:
            worker = house.start("worker").ready()
            postgres.kill()
            with redis.client() as client:
                client.set(Keys().epoch, "another")
            until(lambda: worker.lines("not_started_anew"), 40, "it finds no database")
            with redis.client() as client:
                client.delete(*Keys().streams.values(), Keys().epoch)
            postgres.start()
            until(lambda: len(worker.lines("started")) == 2, 40, "it works again")
            worker.terminate(15)
            ended = house.start("scheduler").ready()
            postgres.kill()
            with redis.client() as client:
                client.set(Keys().epoch, "another")
            until(lambda: ended.lines("not_started_anew"), 40, "it finds no database")
            ended.ended = True
            ended.popen.terminate()
            assert ended.popen.wait(120) == 128 + signal.SIGTERM, ended.said()
        finally:
            house.close()
