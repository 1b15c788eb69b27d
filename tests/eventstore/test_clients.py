"""The clients of Redis: whatever the defaults are, ours send each command once and never wait without an end."""

import asyncio

import pytest

from eventstore.clients import BLOCK_MS, command, log_client, reader_client, sibling
from eventstore.errors import LogUnavailable


@pytest.mark.parametrize("url", ["redis://127.0.0.1:6379/0", "rediss://127.0.0.1:6379/0", "unix:///none.sock"])
@pytest.mark.parametrize("kind", ["log", "reader", "sibling"])
def test_no_client_repeats_a_command_or_waits_for_ever(url, kind):
    client = log_client(url)
    if kind != "log":
        client = (reader_client if kind == "reader" else sibling)(client)
    connection = client.connection_pool.make_connection()
    assert connection.retry.get_retries() == 0
    assert connection.retry_on_error in (None, [])
    assert not connection.retry_on_timeout
    assert connection.health_check_interval == 0
    assert connection.protocol == 2
    assert not connection.encoder.decode_responses
    assert connection.socket_connect_timeout == 2
    assert connection.socket_timeout == (BLOCK_MS / 1000 + 3 if kind == "reader" else 5)
    assert client.single_connection_client == (kind == "reader")
    assert not client.response_callbacks
    assert BLOCK_MS <= 1000


def test_replies_are_parsed_by_hiredis():
    connection = log_client("unix:///none.sock").connection_pool.make_connection()
    assert type(connection._parser).__name__ == "_AsyncHiredisParser"


async def test_a_command_whose_reply_is_lost_is_sent_once(redis, lossy):
    client = log_client(lossy.url)
    await command(client, "PING")
    lossy.lose = True
    with pytest.raises(LogUnavailable):
        await command(client, "INCR", "count")
    lossy.lose = False
    assert await redis.get("count") == b"1"
    await client.aclose()


async def test_a_task_is_cancelled_at_once_even_while_it_only_sends(redis, redis_url):
    client = log_client(redis_url)

    async def busy():
        while True:
            await command(client, "PING")

    for _ in range(20):
        task = asyncio.create_task(busy())
        await command(client, "PING")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 2)
    await client.aclose()
