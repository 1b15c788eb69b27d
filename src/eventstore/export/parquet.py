"""The events of an exported file as a Parquet table; and the rest of it, which proves them, in a file beside it.

`NAME.parquet` holds a row for every event; `NAME.parquet.proof.jsonl.gz` every line of the file that is no event, the
same as if it had been written as JSON Lines. From the two the lines follow again, all of them, byte for byte: so that
is what is checked and imported, and as much is proven. Needs pyarrow: `pip install 'bahi[parquet]'`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from eventstore.envelope import Raw
from eventstore.export.cloudevents import CORRUPT, Source, Stored, as_line, stored
from eventstore.export.files import Unreadable
from eventstore.export.lines import BadLine, LeftOut, ManifestLine, SealLine, kind_of, read
from eventstore.export.reading import entry_of, sources_of

__all__ = ["MAGIC", "Rows", "joined_lines", "proof_of"]

MAGIC: Final = b"PAR1"
ROWS: Final = 20_000
"""Of a row group: as many are in memory at a time."""
_BIGGEST = 2**63 - 1

Differs = Callable[[int, int, str], None]


def proof_of(table: Path) -> Path:
    """The file beside the table."""
    return table.with_name(table.name + ".proof.jsonl.gz")


class Rows:
    """Takes the lines of an exported file: the events become rows of `table`, the others go to `proof`.

    `close` it when all are written. Raises ImportError when there is no pyarrow.
    """

    def __init__(self, table: IO[bytes], proof: Callable[[bytes], None]) -> None:
        import pyarrow.parquet

        self._arrow: Any = pyarrow
        self._proof = proof
        self._schema = _schema(pyarrow)
        self._writer: Any = pyarrow.parquet.ParquetWriter(
            table,
            self._schema,
            compression="zstd",
            use_dictionary=["stream", "type", "writer"],
            write_page_checksum=True,
        )
        self._sources: Sequence[Source] = ()
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}

    def write(self, lines: Iterable[bytes]) -> None:
        """The next lines, without their line feeds."""
        for line in lines:
            if line.startswith(b'{"specversion":'):
                source, raw = entry_of(line, self._sources)
                _append(self._columns, source, raw, stored(raw.envelope))
                if len(self._columns["position"]) >= ROWS:
                    self._flush()
                continue
            if not self._sources and isinstance(it := read(line, kind_of(line)), ManifestLine):
                self._sources = sources_of(it.manifest)
            self._proof(line + b"\n")

    def close(self) -> None:
        if self._columns["position"]:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._arrow.table(self._columns, schema=self._schema))
        for values in self._columns.values():
            values.clear()


def joined_lines(table: IO[bytes], proof: Iterable[bytes], differs: Differs) -> Iterator[bytes]:
    """The lines of the file as they would have been without Parquet. `differs` hears (partition, position, column) of
    a row that is not what its envelope says. Raises Unreadable, OSError; ImportError when there is no pyarrow."""
    lines = iter(proof)
    head = next(lines, None)
    if head is None:
        return
    yield head
    try:
        it = read(head, "bahi")
    except BadLine:
        return  # the checker says what is wrong with it
    assert isinstance(it, ManifestLine)  # noqa: S101 (what `bahi` reads as)
    sources = sources_of(it.manifest)
    order = {source.partition: number for number, source in enumerate(sources)}
    rows = _read_rows(table, sources, differs)
    row = next(rows, None)
    for line in lines:
        upto = _place(line, order)
        while row is not None and (order.get(row[0], 0), row[1]) <= upto:
            yield row[2]
            row = next(rows, None)
        yield line
    while row is not None:
        yield row[2]
        row = next(rows, None)


def _place(line: bytes, order: dict[int, int]) -> tuple[int, int]:
    """Where a line stands: behind the events of this place."""
    try:
        kind = kind_of(line)
        found = None if kind == "specversion" else read(line, kind)
    except BadLine:
        return 0, 0
    match found:
        case SealLine():
            return order.get(found.seal.partition, 0), found.seal.last
        case LeftOut():
            return order.get(found.partition, 0), found.first - 1
    return len(order), 0


def _read_rows(table: IO[bytes], sources: Sequence[Source], differs: Differs) -> Iterator[tuple[int, int, bytes]]:
    """Partition, position and line of each event."""
    import pyarrow
    import pyarrow.parquet

    by_partition = {source.partition: source for source in sources}
    schema = _schema(pyarrow)
    try:
        file = pyarrow.parquet.ParquetFile(table, page_checksum_verification=True)
        if not file.schema_arrow.equals(schema):
            raise Unreadable("its columns are not those that `bahi archive export` writes")
        for batch in file.iter_batches(ROWS):
            yield from _read_batch(pyarrow, batch, schema, by_partition, differs)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unreadable(f"the table is damaged: {error}") from None


def _read_batch(
    arrow: Any, batch: Any, schema: Any, by_partition: dict[int, Source], differs: Differs
) -> Iterator[tuple[int, int, bytes]]:
    times = batch.column("recorded_at").cast(arrow.int64()).to_pylist()
    cells = [batch.column(name).to_pylist() for name in ("partition", "position", "stream", "version", "envelope")]
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    found: list[tuple[int, int, bytes]] = []
    for partition, position, stream, version, envelope, at in zip(*cells, times, strict=True):
        source = by_partition.get(partition)
        if source is None:
            raise Unreadable(f"a row at position {position} is of partition {partition}, which the proof does not name")
        raw = Raw(position, stream, version, at, envelope)
        it = stored(envelope)
        _append(columns, source, raw, it)
        found.append((partition, position, as_line(raw, source, it)))
    must = arrow.record_batch(columns, schema=schema)
    for name in schema.names:
        is_, right = batch.column(name), must.column(name)
        if not is_.equals(right):
            row = next(i for i in range(len(found)) if not is_[i].equals(right[i]))
            differs(found[row][0], found[row][1], f"the column {name} is not what the row's envelope says")
    yield from found


def _append(columns: dict[str, list[Any]], source: Source, raw: Raw, it: Stored | None) -> None:
    """A row."""
    kind = CORRUPT if it is None else it.type
    columns["partition"].append(source.partition)
    columns["position"].append(raw.position)
    columns["recorded_at"].append(raw.recorded_at)
    columns["stream"].append(str(raw.stream))
    columns["type"].append(kind)
    columns["version"].append(raw.version)
    columns["envelope"].append(raw.envelope)
    if it is None or kind == CORRUPT:
        for name in ("strategy_id", "user_id", "event_id", "correlation_id", "causation_id", "writer", "data"):
            columns[name].append(None)
        return
    columns["strategy_id"].append(_id(it.strategy_id))
    columns["user_id"].append(_id(it.user_id))
    columns["event_id"].append(it.event_id)
    columns["correlation_id"].append(it.correlation_id or None)
    columns["causation_id"].append(it.causation_id or None)
    columns["writer"].append(it.writer)
    columns["data"].append(_json(it))


def _id(number: int) -> int | None:
    return number if 0 < number <= _BIGGEST else None


def _json(it: Stored) -> str | None:
    try:
        return _encode(it.event).decode()
    except (TypeError, ValueError, RecursionError):
        return None


def _schema(arrow: Any) -> Any:
    """The table's columns. `recorded_at` is exact to the microsecond; `envelope` is the event's bytes in the log."""
    return arrow.schema(
        [
            arrow.field("partition", arrow.int16(), nullable=False),
            arrow.field("position", arrow.int64(), nullable=False),
            arrow.field("recorded_at", arrow.timestamp("us", "UTC"), nullable=False),
            arrow.field("stream", arrow.string(), nullable=False),
            arrow.field("type", arrow.string(), nullable=False),
            arrow.field("strategy_id", arrow.int64()),
            arrow.field("user_id", arrow.int64()),
            arrow.field("version", arrow.int64(), nullable=False),
            arrow.field("event_id", arrow.string()),
            arrow.field("correlation_id", arrow.string()),
            arrow.field("causation_id", arrow.string()),
            arrow.field("writer", arrow.string()),
            arrow.field("data", arrow.string()),
            arrow.field("envelope", arrow.binary(), nullable=False),
        ]
    )


_encode = msgspec.json.Encoder().encode
