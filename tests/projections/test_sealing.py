"""Sealing: whatever happens to the archive's writer, every archived event is under one seal in the end, and the chain
holds; and archiving never waits for it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from bahi.database.engine import create_engine
from bahi.seal_keys import open_keys, reseal_keys, rotate_key
from domain.events import UserRegistered
from domain.values import HOUR, MINUTE, SECOND, Kind
from eventstore import sealing as module
from eventstore.archive import OUTAGES, PostgresArchive
from eventstore.archive_tables import checkpoint
from eventstore.batch import Appended
from eventstore.envelope import NewEvent
from eventstore.open import open_log
from eventstore.seal_rows import read_keys
from eventstore.sealing import Sealing, SealingStopped
from projections.projector import Projector
from projections.runtime import DEFAULTS
from simulation.clock import VirtualClock
from tests.projections.sealed import BOX, NEW, NEWER, OLD, STRANGE, chain, faults, ranges, sealing
from tests.projections.world import MORNING, World


async def test_a_seal_is_made_after_so_many_events_and_the_rest_when_it_is_old(world: World) -> None:
    projector = world.new_projector(sealing=sealing(events=4))
    for strategy in range(1, 11):
        await world.create(strategy)
    await projector.step()
    assert await ranges(world.engine) == [(1, 4), (5, 8)]
    world.time.set(world.time.now() + MINUTE - 2 * SECOND)  # the ninth was recorded a second before the tenth
    assert await projector.seal() == 0
    world.time.set(world.time.now() + SECOND)
    assert await projector.seal() == 1
    assert (await ranges(world.engine))[-1] == (9, 10)
    assert await projector.seal() == 0
    assert await faults(world.engine) == []


async def test_how_the_events_came_does_not_matter_for_the_seals(world: World) -> None:
    await world.day(1)
    await world.new_projector(batch=1, sealing=sealing(events=4)).step()
    one_by_one = await ranges(world.engine)
    assert one_by_one == [(n, n + 3) for n in range(1, await world.log.last_position() - 2, 4)]
    assert await faults(world.engine) == []


async def test_a_clean_stop_seals_everything(world: World) -> None:
    await world.day(1)
    projector = world.new_projector(sealing=sealing())
    await projector.step()
    assert await projector.seal(rest=True) == 1
    assert (await ranges(world.engine))[-1][1] == await world.log.last_position()
    assert await projector.seal(rest=True) == 0


async def test_each_seal_is_logged_with_its_hash_once_it_is_committed(world: World) -> None:
    await world.day(1)
    with capture_logs() as lines:
        await world.new_projector(sealing=sealing()).step()
    told = [line for line in lines if line["event"] == "sealed"]
    assert [(line["number"], line["last"], line["hash"]) for line in told] == [
        (seal.number, seal.last, seal.hash.hex()) for seal in await chain(world.engine)
    ]


async def test_a_clock_that_is_set_back_turns_no_seal_back_and_delays_none(world: World) -> None:
    projector = world.new_projector(sealing=sealing())
    await world.day(1)
    await projector.step()
    await projector.seal(rest=True)
    before = (await chain(world.engine))[-1]
    world.time._now -= HOUR  # type: ignore[attr-defined]
    await world.create(2)
    with capture_logs() as lines:
        await projector.step()
        assert await projector.seal() == 0
        world.time._now += MINUTE  # type: ignore[attr-defined]
        assert await projector.seal() == 1
        await world.create(3)
        await projector.step()
        await projector.seal(rest=True)
    assert [line["event"] for line in lines].count("seal_clock_behind") == 1
    after = await chain(world.engine)
    assert all(seal.sealed_at >= before.sealed_at and seal.until >= before.until for seal in after[-2:])
    assert await faults(world.engine) == []


# --- keys ------------------------------------------------------------------------------------------------------------


async def test_the_first_key_is_made_with_the_first_seal(world: World) -> None:
    async with world.engine.connect() as connection:
        assert await read_keys(connection) == []
    await world.day(1)
    await world.new_projector(sealing=sealing()).step()
    async with world.engine.connect() as connection:
        (key,) = await read_keys(connection)
    assert {seal.key_id for seal in await chain(world.engine)} == {key.id}


async def test_without_a_key_that_opens_archiving_goes_on_and_sealing_catches_up(world: World) -> None:
    await world.day(1)
    projector = world.new_projector(sealing=sealing())
    await projector.step()
    made = await ranges(world.engine)
    states: list[str | None] = []
    wrong = sealing(STRANGE, on_state=states.append)
    projector = world.new_projector(sealing=wrong)
    with capture_logs() as lines:
        for strategy in range(2, 6):
            await world.day(strategy)
            assert await projector.step() > 0
    assert await ranges(world.engine) == made
    assert [(line["event"], line["log_level"]) for line in lines if "sealing" in line["event"]] == [
        ("sealing_stopped", "error")
    ]
    assert "BAHI_SECRET_KEYS" in str(states[0])
    assert states == [wrong.stopped]
    assert await faults(world.engine) == []
    await world.new_projector(sealing=sealing()).seal()
    right = world.new_projector(sealing=sealing())
    await right.step()
    await right.seal(rest=True)
    assert (await ranges(world.engine))[-1][1] == await world.log.last_position()
    assert await faults(world.engine) == []


async def test_sealing_goes_on_by_itself_when_the_key_comes_back(world: World) -> None:
    states: list[str | None] = []
    projector = world.new_projector(sealing=sealing(on_state=states.append))
    await world.day(1)
    await projector.step()
    (kept,) = await world.execute("SELECT private_key FROM seal_keys")
    await rotate_key(world.engine, BOX)
    await world.execute("UPDATE seal_keys SET private_key = '\\x00' WHERE number = 2 RETURNING 1")
    await world.day(2)
    await projector.step()
    assert len(states) == 1
    await world.execute("UPDATE seal_keys SET private_key = :key WHERE number = 2 RETURNING 1", key=kept[0])
    world.time.set(world.time.now() + MINUTE)
    await projector.seal()
    assert "does not open" in str(states[-1])  # it is another key's private half
    await world.execute("DELETE FROM seal_keys WHERE number = 2 RETURNING 1")
    world.time.set(world.time.now() + MINUTE)
    await projector.seal()
    assert states[-1] is None
    assert (await ranges(world.engine))[-1][1] == await world.log.last_position()
    assert await faults(world.engine) == []


async def test_no_new_key_is_made_where_there_are_seals(world: World) -> None:
    projector = world.new_projector(sealing=sealing())
    await world.day(1)
    await projector.step()
    await world.execute("DELETE FROM seal_keys RETURNING 1")
    states: list[str | None] = []
    projector = world.new_projector(sealing=sealing(on_state=states.append))
    await world.day(2)
    assert await projector.step() > 0
    assert "the table seal_keys is empty" in str(states)
    assert await world.execute("SELECT * FROM seal_keys") == []


async def test_a_new_key_is_taken_up_in_the_middle_and_the_old_seals_stay_valid(world: World) -> None:
    projector = world.new_projector(sealing=sealing())
    await world.day(1)
    await projector.step()
    new = await rotate_key(world.engine, NEWER)
    await reseal_keys(world.engine, NEWER)
    projector._sealing = sealing(NEWER)  # the process was started again with the new secret
    await world.day(2)
    await projector.step()
    await world.day(3)
    await projector.step()
    await projector.seal(rest=True)
    made = await chain(world.engine)
    assert len({seal.key_id for seal in made}) == 2
    assert made[-1].key_id == new.id
    assert made[-1].last == await world.log.last_position()
    assert await faults(world.engine, NEWER) == []


async def test_the_running_archive_takes_a_new_key_by_itself(world: World) -> None:
    projector = world.new_projector(sealing=sealing())
    await world.day(1)
    await projector.step()
    new = await rotate_key(world.engine, BOX)
    for strategy in (2, 3):
        await world.day(strategy)
        await projector.step()
    await projector.seal(rest=True)
    made = await chain(world.engine)
    assert (made[-1].key_id, made[-1].last) == (new.id, await world.log.last_position())
    assert await faults(world.engine) == []


async def test_private_keys_are_under_the_newest_secret_after_their_rotation(world: World) -> None:
    await world.day(1)
    await world.new_projector(sealing=sealing()).step()
    await rotate_key(world.engine, BOX)
    assert await reseal_keys(world.engine, NEWER) == 2
    assert await reseal_keys(world.engine, NEWER) == 0
    from api.security.box import SecretBox
    from api.security.keys import SecretKeys

    async with world.engine.connect() as connection:
        only_new = await open_keys(connection, SecretBox(SecretKeys([NEW])))
        only_old = await open_keys(connection, SecretBox(SecretKeys([OLD])))
    assert len(only_new.trusted) == 2
    assert (only_old.trusted, set(only_old.closed)) == ([], {key.id for key in only_new.keys})


async def test_a_key_that_does_not_open_is_only_followed_when_nobody_must_vouch(world: World) -> None:
    await world.day(1)
    await world.new_projector(sealing=sealing()).step()
    with pytest.raises(SealingStopped, match="does not open"):
        await rotate_key(world.engine, STRANGE)
    key = await rotate_key(world.engine, STRANGE, vouched=False)
    assert (key.number, key.endorsement) == (2, None)


async def test_a_public_key_beside_another_private_one_is_not_ours(world: World) -> None:
    await world.day(1)
    await world.new_projector(sealing=sealing()).step()
    await world.execute("UPDATE seal_keys SET public_key = :other RETURNING 1", other=bytes(32))
    async with world.engine.connect() as connection:
        opened = await open_keys(connection, BOX)
    assert opened.trusted == []
    assert "its row was changed" in next(iter(opened.closed.values()))


# --- writers that come and go ----------------------------------------------------------------------------------------


async def test_two_writers_that_alternate_make_one_chain(world: World) -> None:
    one, other = (world.new_projector(sealing=sealing(events=7), batch=5) for _ in range(2))
    for strategy in range(1, 9):
        await world.day(strategy)
        for projector in (one, other)[:: 1 if strategy % 2 else -1]:
            await projector.step()
            await projector.seal(rest=strategy % 3 == 0)
    assert (await ranges(world.engine))[0][0] == 1
    assert await faults(world.engine) == []
    await one.seal(rest=True)
    await other.step()
    await other.seal(rest=True)
    assert (await ranges(world.engine))[-1][1] == await world.log.last_position()
    assert await faults(world.engine) == []


async def test_an_idle_writer_finds_that_another_one_has_sealed(world: World) -> None:
    one, other = (world.new_projector(sealing=sealing()) for _ in range(2))
    await world.create(1)
    await one.step()
    await one.seal()
    await other.step()
    await other.seal()
    assert await other.seal(rest=True) == 1
    assert await one.seal(rest=True) == 0
    await world.day(2)
    await one.step()
    await one.seal(rest=True)
    assert (await ranges(world.engine))[-1][1] == await world.log.last_position()
    assert await faults(world.engine) == []


async def test_a_crash_between_store_and_commit_leaves_no_half_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    seal = Sealing.seal
    killed: list[int] = []

    async def killing(self: Sealing, connection: Any, *args: Any, **how: Any) -> int:
        made = await seal(self, connection, *args, **how)
        if made and not killed:
            pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            with psycopg.connect(database_url.replace("+psycopg", "", 1), autocommit=True) as direct:
                direct.execute("SELECT pg_terminate_backend(%s)", (pid,))
            killed.append(made)
        return made

    monkeypatch.setattr(Sealing, "seal", killing)
    projector = world.new_projector(sealing=sealing())
    for strategy in range(1, 26):
        await world.create(strategy)
    with capture_logs() as lines:
        with pytest.raises(OUTAGES):
            await projector.step()
        assert await chain(world.engine) == []
        assert await world.rows(checkpoint, "name") == []
        await projector.step()
    assert killed
    assert [line["number"] for line in lines if line["event"] == "sealed"] == [1, 2]
    assert await faults(world.engine) == []


async def test_what_was_archived_before_there_were_seals_is_sealed_bit_by_bit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for strategy in range(1, 6):
        await world.day(strategy)
    events = await world.projector.step()
    monkeypatch.setattr(module, "AT_ONCE", 20)
    monkeypatch.setattr(module, "_PAGE", 8)
    projector = world.new_projector(sealing=sealing())
    await world.create(9)
    reached: list[int] = []
    assert await projector.step() == 1
    while await projector.seal():
        reached.append((await ranges(world.engine))[-1][1])
    assert len(reached) >= 3
    await projector.seal(rest=True)
    assert (await ranges(world.engine))[-1][1] == events + 1
    assert await faults(world.engine) == []


async def test_nothing_is_sealed_over_a_hole(world: World) -> None:
    await world.day(1)
    await world.projector.step()
    await world.execute("DELETE FROM events WHERE position = 5 RETURNING 1")
    states: list[str | None] = []
    projector = world.new_projector(sealing=sealing(on_state=states.append))
    await world.day(2)
    assert await projector.step() > 0
    assert await chain(world.engine) == []
    assert "position 5 is missing in the archive" in str(states)


@pytest.fixture
async def two(redis: Redis, redis_url: str, database_url: str) -> AsyncIterator[list[tuple[Any, Projector]]]:
    """Two partitions, each with its archive's writer."""
    clock = VirtualClock(MORNING)
    async with AsyncExitStack() as stack:
        engine = create_engine(database_url)
        stack.push_async_callback(engine.dispose)
        made = []
        for partition in range(2):
            options = {"partition": partition, "partitions": 2, "archive": PostgresArchive(engine, partition)}
            log = await open_log(redis_url, clock=clock, defaults=DEFAULTS, allow_weak=True, **options)
            stack.push_async_callback(log.aclose)
            projector = Projector(log, engine, clock, sealing=sealing(events=5, partition=partition))
            made.append((log, projector))
        yield made


async def test_each_partition_has_its_own_chain_and_all_have_one_key(two: list[tuple[Any, Projector]]) -> None:
    for turn in range(1, 4):
        for partition, (log, projector) in enumerate(two):
            batch = [NewEvent(UserRegistered(), user_id=2 * n + partition) for n in range(4 * turn)]
            assert isinstance(await log.append(batch), Appended)
            await projector.step()
    engine = two[0][1].archive.engine
    made = [await chain(engine, partition) for partition in range(2)]
    assert [[seal.number for seal in some] for some in made] == [[1, 2, 3, 4], [1, 2, 3, 4]]
    assert len({seal.key_id for some in made for seal in some}) == 1
    assert made[0][0].hash != made[1][0].hash
    for partition in range(2):
        assert await faults(engine, partition=partition) == []
    assert await faults(engine, STRANGE) != []


async def test_a_stop_in_the_middle_of_an_order_seals_it_too(world: World) -> None:
    await world.create(1)
    await world.start(1)
    await world.order(1, Kind.BUY)
    projector = world.new_projector(sealing=sealing())
    await projector.step()
    await projector.seal(rest=True)
    assert (await ranges(world.engine))[-1][1] == await world.log.last_position()
