"""`bahi rebuild`: compares without touching anything, makes anew from a snapshot or from the first event on."""

import asyncio

from bahi.database.engine import create_engine
from eventstore.archive import PostgresArchive
from projections.snapshotter import take_snapshot
from tests.cli.terminal import Installation

WRONG = "UPDATE strategies SET quantity = quantity + 1, symbol = 'NSE:NONE' WHERE id = 2"


def test_a_sound_installation_needs_nothing(own: Installation) -> None:
    done = own.here("rebuild", "--compare-only", "--json")
    assert done.code == 0, done
    told = done.object
    assert told["ok"] is True
    assert told["redis"] == {"differences": 0, "first": []}
    rows = own.sql("SELECT (SELECT count(*) FROM strategies) + (SELECT count(*) FROM order_logs)")[0][0]
    assert (told["tables"]["rows"], told["tables"]["differences"]) == (rows, 0)
    rebuilt = own.here("rebuild")
    assert rebuilt.code == 0, rebuilt
    assert "nothing was written" in rebuilt.out


def test_what_differs_is_told_and_left_then_put_right(own: Installation) -> None:
    own.sql(WRONG)
    own.redis.hset("runtime:3", "sold", "7")
    told = own.here("rebuild", "--compare-only", "--json")
    assert told.code == 1
    assert [each["strategy_id"] for each in told.object["redis"]["first"]] == [3]
    assert "sold: the log says" in told.object["redis"]["first"][0]["text"]
    first = told.object["tables"]["first"]
    assert [(each["table"], each["key"]) for each in first] == [("strategies", "2")] * 2
    assert {each["text"].split(" is ")[0] for each in first} == {"strategies 2: quantity", "strategies 2: symbol"}
    text = own.here("rebuild", "--compare-only")
    assert text.code == 1
    assert text.out.count("✗") == 2
    assert "Nothing was changed" in text.out
    assert own.sql("SELECT symbol FROM strategies WHERE id = 2") == [("NSE:NONE",)]

    done = own.here("rebuild")
    assert done.code == 0, done
    assert "1 of them differed and were put right" in done.out
    assert own.sql("SELECT count(*) FROM strategies WHERE symbol = 'NSE:NONE'") == [(0,)]


def test_it_begins_with_the_last_snapshot_unless_told_otherwise(own: Installation) -> None:
    point = asyncio.run(_snapshot(own.servers.database_url))
    own.redis.delete("runtime:2")
    last = own.here("rebuild", "--json").object["rebuilt"]
    assert last["since"] == point == own.sql("SELECT max(position) FROM events")[0][0]
    first = own.here("rebuild", "--from-start", "--json").object["rebuilt"]
    assert first["since"] == 0
    assert first["strategies"] == last["strategies"]


async def _snapshot(url: str | None) -> int:
    assert url is not None
    engine = create_engine(url)
    try:
        return await take_snapshot(PostgresArchive(engine))
    finally:
        await engine.dispose()
