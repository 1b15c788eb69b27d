"""The fixtures every other test stands on."""

import asyncio

import psycopg
from redis.asyncio import Redis


async def test_redis_is_empty_and_speaks_bytes(redis: Redis) -> None:
    assert await redis.dbsize() == 0
    await redis.set("left", "over")
    assert await redis.get("left") == b"over"


async def test_redis_is_empty_again(redis: Redis) -> None:
    assert await redis.dbsize() == 0


async def test_the_client_retries_nothing(redis: Redis) -> None:
    assert redis.get_retry()._retries == 0  # type: ignore[union-attr]


def test_each_test_has_a_database_of_its_own(database_url: str) -> None:
    with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE mine (n int)")


async def test_and_leaves_nothing_behind(database_url: str) -> None:
    def tables() -> list[tuple[str]]:
        with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
            return connection.execute("SELECT tablename FROM pg_tables WHERE tablename = 'mine'").fetchall()

    assert await asyncio.to_thread(tables) == []
