"""A history of some thousand events, and everything that somebody may do to it behind our back.

It is lived through once; a test gets it back as it was. The older part is in the archive alone, the newest events are
under no seal yet.
"""

import random
from collections.abc import Awaitable, Callable

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from domain.values import Kind
from eventstore.archive_tables import checkpoint, events, seal_keys, seals
from eventstore.clients import command
from eventstore.envelope import Raw
from eventstore.seal_rows import read_seals
from eventstore.seal_trust import key_id, public_bytes, sign
from eventstore.seals import Seal, hints_of, leaf, merkle_root
from projections.sealed import Trusted
from projections.sql.tables import strategies
from projections.verify import Report, verify
from tests.projections.sealed import BOX, sealing
from tests.projections.world import World

STRATEGIES = 120
KEPT = [table.name for table in (events, seals, seal_keys, checkpoint, strategies)]
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)

Tampering = Callable[["Tampered", random.Random], Awaitable[int]]
"""Does something to the history, and says at which position that must be found."""


async def live_through(world: World) -> None:
    """Some strategies are done, some have shares, some wait."""
    for strategy_id in range(1, STRATEGIES + 1):
        match strategy_id % 4:
            case 0:
                await world.create(strategy_id)
                await world.start(strategy_id)
            case 1:
                await world.create(strategy_id)
                await world.start(strategy_id)
                await world.order(strategy_id, Kind.BUY)
            case _:
                await world.day(strategy_id)
    projector = world.new_projector(sealing=sealing(events=60))
    await projector.step()
    last = await world.log.last_position()
    await world.trim(last // 2)
    for table in KEPT:
        async with world.engine.begin() as connection:
            await connection.exec_driver_sql(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")  # noqa: S608


async def keep(world: World) -> dict[bytes, bytes]:
    """All that Redis holds."""
    return {name: await command(world.redis, "DUMP", name) for name in await command(world.redis, "KEYS", "*")}


class Tampered:
    """The history, and what is done to it."""

    def __init__(self, world: World, kept: dict[bytes, bytes], trusted: Trusted) -> None:
        self.world = world
        self._kept = kept
        self._trusted = trusted
        self.last = 0
        self.trimmed = 0

    async def restore(self) -> None:
        """As it was."""
        world = self.world
        await command(world.redis, "FLUSHALL")
        for name, dump in self._kept.items():
            await command(world.redis, "RESTORE", name, 0, dump)
        for table in KEPT:
            await self.sql(f"TRUNCATE {table}")
            await self.sql(f"INSERT INTO {table} SELECT * FROM kept_{table}")  # noqa: S608
        self.last = await world.log.last_position()
        self.trimmed = self.last // 2

    async def verify(self) -> Report:
        return await verify(self.world.log, trusted=self._trusted, partitions=1)

    async def sql(self, statement: str, **values: object) -> None:
        async with self.world.engine.begin() as connection:
            await connection.exec_driver_sql(statement, values or None)

    async def row(self, position: int) -> Raw:
        (found,) = await self.world.archive.entries(position - 1, position)
        return found

    async def seals(self) -> list[Seal]:
        async with self.world.engine.connect() as connection:
            return [seal for seal, _ in await read_seals(connection, 0)]

    async def seal_anew(self, seal: Seal, key: Ed25519PrivateKey) -> None:
        """Over what is there now."""
        leaves = [leaf(raw) for raw in await self.world.archive.entries(seal.first - 1, seal.last)]
        made = sign(key, replace(seal, root=merkle_root(leaves)))
        await self.sql(
            "UPDATE seals SET root = %(root)s, key_id = %(key)s, signature = %(signature)s, hints = %(hints)s"
            " WHERE number = %(number)s",
            root=made.root,
            key=made.key_id,
            signature=made.signature,
            hints=hints_of(leaves),
            number=seal.number,
        )

    async def last_of(self, strategy_id: int) -> int:
        """The position of the strategy's last event."""
        found = await self.world.execute("SELECT max(position) FROM events WHERE strategy_id = :id", id=strategy_id)
        return int(found[0][0])

    async def hot(self, draw: random.Random) -> int:
        """A position that a stream holds, and older ones beside it."""
        position = draw.randint(self.trimmed + 1, self.last)
        stream = self.world.log.keys.streams[(await self.row(position)).stream]  # type: ignore[index]
        ((oldest, _),) = await command(self.world.redis, "XRANGE", stream, "-", "+", "COUNT", 1)
        return position if int(oldest[:-2]) < position else await self.hot(draw)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


async def a_byte_of_an_event(it: Tampered, draw: random.Random) -> int:
    position = draw.randint(1, it.last)
    envelope = bytearray((await it.row(position)).envelope)
    envelope[draw.randrange(len(envelope))] ^= 1 << draw.randrange(8)
    await it.sql(
        "UPDATE events SET envelope = %(new)s WHERE position = %(position)s", new=bytes(envelope), position=position
    )
    return position


async def an_event_deleted(it: Tampered, draw: random.Random) -> int:
    position = draw.randint(1, it.last)
    await it.sql("DELETE FROM events WHERE position = %(position)s", position=position)
    return position


async def an_event_there_twice(it: Tampered, draw: random.Random) -> int:
    position, later = draw.randint(1, it.last), draw.choice([-1, 1])
    await it.sql(
        "INSERT INTO events SELECT partition, position, stream, version, recorded_at + %(later)s, type, strategy_id,"
        " user_id, envelope FROM events WHERE position = %(position)s",
        position=position,
        later=later,
    )
    return position


async def an_event_inserted_at_the_end(it: Tampered, draw: random.Random) -> int:
    await it.sql(
        "INSERT INTO events SELECT partition, position + %(last)s, stream, version, recorded_at, type, strategy_id,"
        " user_id, envelope FROM events WHERE position = %(position)s",
        last=it.last,
        position=(by := draw.randint(1, 5)),
    )
    return it.last + by


async def events_swapped(it: Tampered, draw: random.Random) -> int:
    one, other = sorted(draw.sample(range(1, it.last + 1), 2))
    swapped = "CASE position WHEN %(one)s THEN %(other)s ELSE %(one)s END"
    await it.sql(
        f"UPDATE events SET position = {swapped} WHERE position IN (%(one)s, %(other)s)",  # noqa: S608
        one=one,
        other=other,
    )
    return one


async def a_time_changed(it: Tampered, draw: random.Random) -> int:
    position, by = draw.randint(1, it.last), draw.choice([-(10**13), -1, 1, 1000, 10**13])
    await it.sql(
        "UPDATE events SET recorded_at = recorded_at + %(by)s WHERE position = %(position)s", by=by, position=position
    )
    return position


async def a_version_changed(it: Tampered, draw: random.Random) -> int:
    position, by = draw.randint(1, it.last), draw.choice([1, 2, 7])
    await it.sql("UPDATE events SET version = version + %(by)s WHERE position = %(position)s", by=by, position=position)
    return position


async def a_stream_changed(it: Tampered, draw: random.Random) -> int:
    position = draw.randint(1, it.last)
    await it.sql("UPDATE events SET stream = 'critical' WHERE position = %(position)s", position=position)
    return position


async def a_tail_cut_off(it: Tampered, draw: random.Random) -> int:
    kept = draw.randint(1, it.last - 1)
    await it.sql("DELETE FROM events WHERE position > %(kept)s", kept=kept)
    return kept + 1


async def a_tail_cut_off_with_checkpoint_and_seals(it: Tampered, draw: random.Random) -> int:
    position = await a_tail_cut_off(it, draw)
    await it.sql("UPDATE checkpoint SET position = %(kept)s", kept=position - 1)
    await it.sql("DELETE FROM seals WHERE last >= %(position)s", position=position)
    # the newest seal that is left may end before what was cut off: then that seal is the first that is missing
    newest = max((seal.last for seal in await it.seals()), default=0)
    was = [last for (last,) in await it.world.execute("SELECT last FROM kept_seals ORDER BY last")]
    return min(position, newest + 1) if newest != was[-1] else position


async def a_checkpoint_set_back(it: Tampered, draw: random.Random) -> int:
    at = draw.randint(it.last // 10 * 9, it.last - 1)
    await it.sql("UPDATE checkpoint SET position = %(at)s", at=at)
    return at + 1


async def a_seal_deleted(it: Tampered, draw: random.Random) -> int:
    seal = draw.choice(await it.seals())
    await it.sql("DELETE FROM seals WHERE number = %(number)s", number=seal.number)
    return seal.first


async def an_event_forged_and_sealed_with_a_foreign_key(it: Tampered, draw: random.Random) -> int:
    seal = draw.choice(await it.seals())
    await it.sql(
        "UPDATE events SET envelope = %(forged)s WHERE position = %(position)s",
        forged=(await it.row(1)).envelope,
        position=draw.randint(seal.first, seal.last),
    )
    await it.seal_anew(seal, STRANGER)
    return seal.first


async def a_foreign_key_put_into_the_line(it: Tampered, draw: random.Random) -> int:
    position = await an_event_forged_and_sealed_with_a_foreign_key(it, draw)
    public = public_bytes(STRANGER)
    await it.sql(
        "INSERT INTO seal_keys (number, id, public_key, private_key, endorsement, acceptance)"
        " SELECT 2, %(id)s, %(public)s, private_key, %(word)s, %(word)s FROM seal_keys WHERE number = 1",
        id=key_id(public),
        public=public,
        word=bytes(64),
    )
    return position


async def a_seal_changed(it: Tampered, draw: random.Random) -> int:
    seal = draw.choice(await it.seals())
    what = draw.choice(["until = until + 1", "sealed_at = sealed_at + 1", "root = previous", "first = first + 1"])
    await it.sql(f"UPDATE seals SET {what} WHERE number = %(number)s", number=seal.number)  # noqa: S608
    return seal.first


async def the_hints_changed(it: Tampered, draw: random.Random) -> int:
    seal = draw.choice(await it.seals())
    which = draw.randrange(seal.count)
    await it.sql(
        "UPDATE seals SET hints = overlay(hints PLACING '\\x0000000000000000'::bytea FROM %(at)s)"
        " WHERE number = %(number)s",
        at=8 * which + 1,
        number=seal.number,
    )
    return seal.first + which


async def a_column_changed(it: Tampered, draw: random.Random) -> int:
    position = draw.randint(1, it.last)
    what = draw.choice(["type = 'USER_LOGGED_IN'", "user_id = user_id + 1", "strategy_id = 10000", "user_id = NULL"])
    await it.sql(f"UPDATE events SET {what} WHERE position = %(position)s", position=position)  # noqa: S608
    return position


async def a_row_of_the_table_changed(it: Tampered, draw: random.Random) -> int:
    strategy_id = draw.randint(1, STRATEGIES)
    what = draw.choice(["quantity = quantity + 1", "status = 'failed'", "stop_loss = 1", "user_id = 8", "version = 1"])
    await it.sql(f"UPDATE strategies SET {what} WHERE id = %(id)s", id=strategy_id)  # noqa: S608
    return await it.last_of(strategy_id)


async def a_row_of_the_table_deleted(it: Tampered, draw: random.Random) -> int:
    strategy_id = draw.randint(1, STRATEGIES)
    await it.sql("DELETE FROM strategies WHERE id = %(id)s", id=strategy_id)
    return await it.last_of(strategy_id)


# --- Redis -----------------------------------------------------------------------------------------------------------


async def an_entry_deleted(it: Tampered, draw: random.Random) -> int:
    position = await it.hot(draw)
    for name in it.world.log.keys.streams.values():
        await command(it.world.log.redis, "XDEL", name, f"{position}-0")
    return position


async def an_entry_forged_at_the_end(it: Tampered, draw: random.Random) -> int:
    stream = draw.choice(list(it.world.log.keys.streams.values()))
    by = draw.randint(1, 3)
    entry_id = f"{it.last + by}-0"
    envelope = (await it.row(it.last)).envelope
    await command(it.world.log.redis, "XADD", stream, entry_id, "v", 9, "t", it.world.time.now(), "e", envelope)
    return it.last + by


async def a_runtime_changed(it: Tampered, draw: random.Random) -> int:
    strategy_id = draw.randint(1, STRATEGIES)
    field, value = draw.choice([("bought", "3"), ("status", "failed"), ("stop_loss", "1.05"), ("run", "77")])
    await command(it.world.log.redis, "HSET", it.world.log.keys.runtime(strategy_id), field, value)
    return await it.last_of(strategy_id)


async def a_position_set_back(it: Tampered, draw: random.Random) -> int:
    at = draw.randint(it.trimmed, it.last - 1)
    await command(it.world.log.redis, "HSET", it.world.log.keys.position, "position", at)
    return at + 1


async def an_entry_replaced(it: Tampered, draw: random.Random) -> int:
    """The whole stream is written anew, with another entry in its middle."""
    position = await it.hot(draw)
    redis, entry_id = it.world.log.redis, f"{position}-0".encode()
    for name in it.world.log.keys.streams.values():
        entries = await command(redis, "XRANGE", name, "-", "+")
        if entry_id not in [each for each, _ in entries]:
            continue
        await command(redis, "DEL", name)
        for each, fields in entries:
            if each == entry_id:
                fields[draw.choice([1, 3])] = b"12345"
            await command(redis, "XADD", name, each, *fields)
    return position


async def an_entry_added_beside_another(it: Tampered, _: random.Random) -> int:
    """Its id is no position: only readers that look at nothing else would take it."""
    raw = await it.row(it.last)
    stream = it.world.log.keys.streams[raw.stream]  # type: ignore[index]
    forged = msgspec.msgpack.encode(["forged"])
    await command(it.world.log.redis, "XADD", stream, f"{it.last}-1", "v", 1, "t", raw.recorded_at, "e", forged)
    return it.last


TAMPERINGS: list[Tampering] = [
    a_byte_of_an_event,
    an_event_deleted,
    an_event_there_twice,
    an_event_inserted_at_the_end,
    events_swapped,
    a_time_changed,
    a_version_changed,
    a_stream_changed,
    a_tail_cut_off,
    a_tail_cut_off_with_checkpoint_and_seals,
    a_checkpoint_set_back,
    a_seal_deleted,
    an_event_forged_and_sealed_with_a_foreign_key,
    a_foreign_key_put_into_the_line,
    a_seal_changed,
    the_hints_changed,
    a_column_changed,
    a_row_of_the_table_changed,
    a_row_of_the_table_deleted,
    an_entry_deleted,
    an_entry_forged_at_the_end,
    a_runtime_changed,
    a_position_set_back,
    an_entry_replaced,
    an_entry_added_beside_another,
]
__all__ = ["BOX", "KEPT", "STRATEGIES", "TAMPERINGS", "Tampered", "Tampering", "keep", "live_through"]
