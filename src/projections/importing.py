"""From an exported file into PostgreSQL: events, seals, keys, epochs and SQL projections, in one transaction.

The file must have been checked (`eventstore.export.checking`). It may be the whole history, for an empty archive; or
reach further than what is archived, which it must then continue exactly: what is in both is compared byte for byte.
What is not in a file is not restored: users, their brokers' credentials and sessions, and private keys.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence

from msgspec import Struct
from sqlalchemy import delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from eventstore.archive import PostgresArchive
from eventstore.archive_tables import seals, snapshot_points, snapshots
from eventstore.bulk import fetch_entries
from eventstore.envelope import Raw
from eventstore.export.cloudevents import stored
from eventstore.export.lines import LeftOut, Part, SealLine
from eventstore.export.merkle import Tree
from eventstore.export.reading import Contents
from eventstore.export.stretch import MOST
from eventstore.seals import HINT, Seal, hints_of, leaf
from projections.import_fit import CannotImport, check_fit, check_partitions
from projections.import_rows import raise_sequences, write_epochs, write_keys
from projections.projector import is_unfit
from projections.replay import Fault, Kind, Progress
from projections.sql.projections import Entry, SqlProjections, open_entry
from projections.sql.tables import order_logs, parked, strategies

__all__ = ["CannotImport", "Imported", "import_contents"]

_PAGE = 5_000
_TOLD = 10
_LARGEST_ID = 2**53
"""A greater number is no id that was ever given out: it would use up the sequences."""


class Imported(Struct, frozen=True, kw_only=True):
    """What became of a partition: it was archived up to `before` and is now up to `after`."""

    partition: int
    before: int
    after: int
    seals: int
    faults: int
    """Events that could not be folded, or not be read: they are archived, their projection is not."""
    first_faults: tuple[Fault, ...]


async def import_contents(
    engine: AsyncEngine,
    lines: Iterable[bytes],
    *,
    sha256: str,
    progress: Progress | None = None,
    on_keys: Callable[[AsyncConnection], Awaitable[None]] | None = None,
) -> list[Imported]:
    """`sha256` is what the check found: a file that was changed since is refused. `on_keys` is called when the keys are
    there, before the end of the transaction.

    Raises CannotImport, and what outages raise; then nothing was written.
    """
    contents = Contents(lines)
    manifest = contents.manifest
    async with engine.begin() as connection:
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(text(f"SET LOCAL {setting} = 0"))
        await check_partitions(connection, manifest)
        targets = {part.partition: await _Target.open(engine, connection, part) for part in manifest.parts}
        done, total = 0, sum(max(part.last - part.first + 1, 0) for part in manifest.parts)
        for part, item in contents:
            target = targets[part.partition]
            match item:
                case SealLine():
                    await target.seal(item)
                case LeftOut():
                    await target.left_out(item)
                    done += item.count
                case _:
                    await target.entry(item)
                    done += 1
                    if progress is not None and done % _PAGE == 0:
                        progress(done, total)
        for target in targets.values():
            await target.finish()
        if contents.sha256 != sha256:
            raise CannotImport("the file was changed while it was being read. Nothing was imported")
        await write_keys(connection, manifest.keys)
        for part in manifest.parts:
            await write_epochs(connection, part)
        largest = [(target.largest_strategy, target.largest_user) for target in targets.values()]
        await raise_sequences(connection, max(each[0] for each in largest), max(each[1] for each in largest))
        if on_keys is not None:
            await on_keys(connection)
        if progress is not None:
            progress(total, total)
    return [target.imported for target in targets.values()]


class _Target:
    """A partition of the archive while it is written."""

    def __init__(self, archive: PostgresArchive, connection: AsyncConnection, part: Part, before: int) -> None:
        self._archive = archive
        self._connection = connection
        self._part = part
        self._projections = SqlProjections(archive)
        self._faults = 0
        self._first_faults: list[Fault] = []
        self._page: list[Raw] = []
        self._hints = bytearray()
        """Of the entries since the last seal."""
        self._number = 0
        """The archive's last seal."""
        self._sealed = 0
        self.before = self.reached = before
        self.largest_strategy = self.largest_user = 0

    @classmethod
    async def open(cls, engine: AsyncEngine, connection: AsyncConnection, part: Part) -> "_Target":
        """Locks the partition against the archive's writer. Raises CannotImport when the file does not fit to it."""
        archive = PostgresArchive(engine, part.partition)
        before = await archive.reached(connection, lock=True)
        await check_fit(connection, part, before)
        target = cls(archive, connection, part, before)
        found = select(seals.c.number).where(seals.c.partition == part.partition).order_by(seals.c.number.desc())
        target._number = await connection.scalar(found.limit(1)) or 0
        if not before:
            for table in (strategies, order_logs, parked, snapshots, snapshot_points):
                await connection.execute(delete(table).where(table.c.partition == part.partition))
        return target

    @property
    def imported(self) -> Imported:
        return Imported(
            partition=self._part.partition,
            before=self.before,
            after=self.reached,
            seals=self._sealed,
            faults=self._faults,
            first_faults=tuple(self._first_faults),
        )

    async def entry(self, raw: Raw) -> None:
        if len(self._hints) < MOST * HINT:
            self._hints += leaf(raw)[:HINT]
        self._page.append(raw)
        if len(self._page) >= _PAGE:
            await self._write()

    async def left_out(self, it: LeftOut) -> None:
        """At the beginning of a file that continues an earlier one: the rest of a seal, which must be here."""
        if it.last > self.before or it.first != self._part.first:
            raise CannotImport(
                f"the file leaves out positions {it.first} to {it.last}, and the archive reaches to {self.before}: "
                "only a file of everything can be imported"
            )
        raws = await fetch_entries(self._connection, self._part.partition, it.first - 1, it.last)
        tree = Tree()
        for raw in raws:
            tree.add(leaf(raw))
        if len(raws) != it.count or b"".join(tree.subtrees) != it.hashes:
            raise CannotImport(
                f"positions {it.first} to {it.last} are not in the archive what they are under the seals of the file"
            )
        self._hints += hints_of([leaf(raw) for raw in raws])

    async def seal(self, line: SealLine) -> None:
        seal, hints = line.plain, bytes(self._hints)
        self._hints.clear()
        if seal.number <= self._number:
            await self._compare_seal(seal)
            return
        if seal.number != self._number + 1:
            raise CannotImport(
                f"the archive of partition {seal.partition} has seals up to {self._number}, and the file goes on with "
                f"seal {seal.number}"
            )
        values = {name: getattr(seal, name) for name in Seal.__struct_fields__}
        await self._connection.execute(insert(seals).values(**values, hints=hints))
        self._number = seal.number
        self._sealed += 1

    async def finish(self) -> None:
        await self._write()
        if self.reached < self._part.last:
            raise CannotImport(f"the file ends at {self.reached}, and its manifest says {self._part.last}")

    async def _compare_seal(self, seal: Seal) -> None:
        columns = [seals.c[name] for name in Seal.__struct_fields__]
        found = select(*columns).where(seals.c.partition == seal.partition, seals.c.number == seal.number)
        row = (await self._connection.execute(found)).one_or_none()
        if row is None or Seal(**row._mapping) != seal:
            raise CannotImport(
                f"seal {seal.number} of partition {seal.partition} is another one in the archive than in the file: "
                "they are two histories"
            )

    async def _write(self) -> None:
        """The entries that were read: those that are there already are compared, the others stored and projected."""
        page, self._page = self._page, []
        old = [raw for raw in page if raw.position <= self.before]
        new = page[len(old) :]
        if old:
            await self._compare(old)
        if new:
            await self._store(new)
            self.reached = new[-1].position

    async def _compare(self, raws: Sequence[Raw]) -> None:
        first, last = raws[0].position, raws[-1].position
        here = await fetch_entries(self._connection, self._part.partition, first - 1, last)
        for theirs, ours in zip(raws, here, strict=False):
            if theirs != ours:
                raise CannotImport(
                    f"position {theirs.position} of partition {self._part.partition} is another entry in the archive "
                    "than in the file: they are two histories, or one of them was changed"
                )
        if len(here) != len(raws):
            raise CannotImport(
                f"of the positions {first} to {last} the archive holds {len(here)}, though it says it reaches to "
                f"{self.before}: `bahi verify` tells more"
            )

    async def _store(self, raws: Sequence[Raw]) -> None:
        entries = [open_entry(raw) for raw in raws]
        await self._archive.store(self._connection, raws, reached=self.reached)
        self.reached = raws[-1].position
        for entry in entries:
            self._count(entry)
        await self._project(entries)

    def _count(self, entry: Entry) -> None:
        if entry.error is not None:
            self._fault(Fault(entry.raw.position, entry.strategy_id, Kind.CORRUPT, str(entry.error)))
        elif it := stored(entry.raw.envelope):
            if 0 < it.strategy_id < _LARGEST_ID:
                self.largest_strategy = max(self.largest_strategy, it.strategy_id)
            if 0 < it.user_id < _LARGEST_ID:
                self.largest_user = max(self.largest_user, it.user_id)

    async def _project(self, entries: Sequence[Entry]) -> None:
        """What a single event spoils, is archived without its projection."""
        try:
            async with self._connection.begin_nested():
                changes = await self._projections.fold(self._connection, entries)
                await self._projections.write(self._connection, changes)
        except Exception as error:
            if not is_unfit(error):
                raise
            self._projections.forget()
            if len(entries) > 1:
                for half in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
                    await self._project(half)
                return
            what = f"it cannot be projected: {type(error).__name__}: {error}"
            self._fault(Fault(entries[0].raw.position, entries[0].strategy_id, Kind.ILLEGAL, what))
        else:
            self._projections.keep(changes)
            for fault in changes.faults:
                self._fault(fault)

    def _fault(self, fault: Fault) -> None:
        self._faults += 1
        if len(self._first_faults) < _TOLD:
            self._first_faults.append(fault)
