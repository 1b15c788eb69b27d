"""Opening the log: once created it stays the same one, and nothing that may lose orders is accepted."""

import asyncio

import msgspec
import pytest
from redis.asyncio import Redis

import eventstore.open as open_module
from bahi.servers import EmbeddedRedis
from domain.events import StrategyStartRequested, SystemRecovery
from eventstore.batch import Appended
from eventstore.envelope import NewEvent
from eventstore.epochs import Epoch, Held, held
from eventstore.errors import LogUnavailable, NeedsRecovery, PartitionMismatch, ServerTooOld, WeakDurability
from eventstore.keys import GROUP, Keys
from eventstore.open import check_server, create_groups, open_log

ASKED = NewEvent(StrategyStartRequested(), strategy_id=42, user_id=7)


async def test_the_first_start_creates_the_log_and_later_ones_find_it(opened):
    first = await opened(writer="a")
    second = await opened(writer="b")
    assert (first.epoch, first.log_id) == (second.epoch, second.log_id)
    assert len(first.log_id) == 4
    assert first.log_id.isalnum()
    assert first.log_id == first.log_id.upper()
    assert await second.last_position() == 0


async def test_many_first_starts_at_once_create_one_log(opened):
    logs = await asyncio.gather(*(opened(writer=f"w{n}") for n in range(8)))
    assert len({(log.epoch, log.log_id) for log in logs}) == 1
    results = await asyncio.gather(*(log.append([ASKED]) for log in logs))
    assert sorted(r.positions for r in results) == [(n,) for n in range(1, 9)]


async def test_the_group_begins_at_the_beginning(log, redis):
    for stream in log.keys.streams.values():
        (group,) = await redis.xinfo_groups(stream)
        assert (group["name"], group["last-delivered-id"]) == (GROUP.encode(), b"0-0")


async def test_a_group_that_is_made_when_there_are_entries_delivers_all_of_them(log, redis):
    await log.append([ASKED])
    (stream,) = [name for name in log.keys.streams.values() if await redis.xlen(name)]
    await redis.xgroup_destroy(stream, GROUP)
    await create_groups(redis, log.keys)
    ((_, entries),) = await redis.xreadgroup(GROUP, "anybody", {stream: ">"})
    assert [entry_id for entry_id, _ in entries] == [b"1-0"]


async def test_another_number_of_partitions_is_refused(opened, partitions):
    await opened()
    with pytest.raises(PartitionMismatch, match=f"this log has {partitions} partitions, 7 were asked for"):
        await opened(partitions=7, partition=0)
    with pytest.raises(PartitionMismatch, match="no partition"):
        await opened(partition=partitions)


async def test_partitions_share_nothing_but_their_server(redis, redis_url, clock):
    logs = [
        await open_log(redis_url, clock=clock, defaults={}, partition=p, partitions=4, allow_weak=True)
        for p in range(4)
    ]
    for log in logs:
        assert (await log.append([ASKED])).positions == (1,)
        assert (await log.load(42)).version == 1
        await log.aclose()
    assert len({log.epoch for log in logs}) == 4
    assert len({log.log_id for log in logs}) == 4
    assert await redis.exists("epoch", "strategy:42") == 0


def test_alone_the_keys_have_the_names_of_the_specification():
    keys = Keys(0)
    assert list(keys.streams.values()) == ["events:critical", "events:high", "events:medium", "events:low"]
    assert (keys.epoch, keys.position, keys.timers) == ("epoch", "position", "timers")
    assert (keys.strategy(42), keys.runtime(42), keys.halt(7)) == ("strategy:42", "runtime:42", "halt:7")
    assert (keys.symbol_strategies("NSE:INFY"), keys.user_strategies(7)) == (
        "symbol:NSE:INFY:strategies",
        "user:7:strategies",
    )
    assert (keys.dedupe("x"), keys.limit("y")) == ("dedupe:x", "limit:y")
    assert keys.class_of(b"events:low") == "low"


def test_in_a_cluster_all_keys_of_a_partition_are_in_one_slot():
    keys = Keys(3, hashtag=True)
    names = [*keys.streams.values(), keys.epoch, keys.position, keys.timers, keys.strategy(42), keys.runtime(42)]
    names += [keys.halt(7), keys.dedupe("x"), keys.limit("y"), keys.user_strategies(7), keys.symbol_strategies("S")]
    assert all(name.startswith("{3}:") for name in names)


@pytest.mark.parametrize(
    ("name", "value"), [("appendonly", "no"), ("appendfsync", "everysec"), ("maxmemory-policy", "allkeys-lru")]
)
async def test_a_server_that_may_lose_orders_is_refused_naming_the_setting(redis, redis_url, clock, name, value):
    names = ("appendonly", "appendfsync", "maxmemory-policy")
    before = {each: (await redis.config_get(each))[each] for each in names}
    try:
        for each, good in zip(names, ("yes", "always", "noeviction"), strict=True):
            await redis.config_set(each, value if each == name else good)
        with pytest.raises(WeakDurability, match=f"{name} is {value}.*BAHI_ALLOW_WEAK_DURABILITY=1") as caught:
            await open_log(redis_url, clock=clock, defaults={})
        assert str(caught.value).count("must be") == 1
        assert await redis.keys("*") == []
        log = await open_log(redis_url, clock=clock, defaults={}, allow_weak=True)
        await log.aclose()
    finally:
        for each, good in before.items():
            await redis.config_set(each, good)


async def test_a_durable_server_is_accepted_and_keeps_what_it_acknowledged(tmp_path_factory, clock):
    home = tmp_path_factory.mktemp("durable")
    async with EmbeddedRedis(home) as server:
        log = await open_log(server.url, clock=clock, defaults={})
        await log.append([ASKED, ASKED])
        epoch = log.epoch
        await log.aclose()
    async with EmbeddedRedis(home) as server:
        log = await open_log(server.url, clock=clock, defaults={})
        assert log.epoch == epoch
        assert await log.append([ASKED], expected=2) == Appended((3,), (3,), clock.now())
        assert [e.position async for e in log.read()] == [1, 2, 3]
        await log.aclose()


class Says:
    """A server of some version, as far as INFO tells; of its settings it tells nothing."""

    def __init__(self, version: str) -> None:
        self._answers = [f"# Server\r\nredis_version:{version}\r\n".encode()]

    def pipeline(self, **_: object) -> "Says":
        return self

    def execute_command(self, *asked: object) -> None:
        if asked[0] != "INFO":
            self._answers.append([])

    async def execute(self, **_: object) -> list[object]:
        return self._answers


async def test_a_server_that_is_too_old_is_refused():
    await check_server(Says("6.2.0"), allow_weak=True)
    await check_server(Says("8.0.1"), allow_weak=True)
    with pytest.raises(ServerTooOld, match=r"6\.0\.16"):
        await check_server(Says("6.0.16"), allow_weak=True)


class Knows:
    """An archive that ends somewhere."""

    def __init__(self, position: int) -> None:
        self._position = position

    async def last_position(self) -> int:
        return self._position

    async def identity(self):
        return (), self._position

    async def claim(self, lineage):
        pass


async def test_a_redis_that_knows_less_than_the_archive_is_lost(opened, redis):
    with pytest.raises(NeedsRecovery, match=r"EMPTY: the archive holds events up to 9, this Redis up to 0"):
        await opened(archive=Knows(9))
    log = await opened(archive=Knows(0))
    await log.append([ASKED, ASKED])
    await opened(archive=Knows(2))
    with pytest.raises(NeedsRecovery, match="OLDER"):
        await opened(archive=Knows(3))


async def test_a_server_killed_before_the_log_had_begun_has_lost_nothing(opened, redis, partitions):
    """Found by `bahi prove aof`: without an epoch nobody can have appended, so there is nothing to recover."""
    keys = Keys(0, hashtag=partitions > 1)
    await redis.set(keys.server, "another life of this server")
    await redis.set(keys.log_id, "ABCD")
    await redis.hset(keys.position, "position", "0")
    log = await opened(archive=Knows(0), partition=0)
    assert log.log_id == "ABCD"
    assert (await log.append([ASKED])).positions == (1,)
    await opened(archive=Knows(1), partition=0)  # and it counts as whole from now on


async def test_a_server_that_is_not_there_is_unavailable(clock):
    with pytest.raises(LogUnavailable):
        await open_log("redis://127.0.0.1:1/0", clock=clock, defaults={})


async def test_a_lost_group_is_made_again_told_of_and_delivers_everything_once_more(opened, redis):
    log = await opened()
    await log.append([ASKED])
    medium = log.keys.streams["medium"]
    await redis.xgroup_destroy(medium, GROUP)
    again = await opened()
    told = [each.event async for each in again.read()]
    assert isinstance(told[-1], SystemRecovery)
    assert told[-1].lost == {"group": "medium"}
    (group,) = await redis.xinfo_groups(medium)
    assert group["last-delivered-id"] == b"0-0"


async def test_a_process_bears_the_log_id_of_the_epoch_that_it_joins(opened, redis, monkeypatch):
    """Another process restores the log while this one opens it: an order under the id of before belonged to nobody."""
    await opened()

    async def restored_meanwhile(client: Redis, keys: Keys) -> Held:
        epoch = Epoch(number=2, epoch="NEXT", log_id="NEXT")
        await redis.set(keys.epoch, epoch.epoch)
        await redis.set(keys.log_id, epoch.log_id)
        await redis.rpush(keys.epochs, msgspec.json.encode(epoch))
        return await held(client, keys)

    monkeypatch.setattr(open_module, "held", restored_meanwhile)
    log = await opened()
    assert (log.epoch, log.log_id) == ("NEXT", "NEXT")
