"""The same file as a table: its rows are typed, and with the proof beside it it proves as much."""

import asyncio
import datetime as dt
import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet
import pytest

from bahi.cli.offline import Examined, examine, file_lines
from eventstore.envelope import Raw
from eventstore.export import parquet
from eventstore.export.faults import DATA, FILE, HOLE, ORDER
from eventstore.export.lines import Filters
from eventstore.export.parquet import proof_of
from eventstore.export.writing import Wish
from eventstore.seal_chain import COVER
from tests.export.world import Archived, read_file


@pytest.fixture
async def table(archived: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(parquet, "ROWS", 64)
    await archived.fill(230, seal=50)
    await archived.export(tmp_path / "x.parquet", parquet=True)
    await archived.export(tmp_path / "x.jsonl.gz")
    return tmp_path / "x.parquet"


def whole(path: Path) -> list[bytes]:
    with file_lines(path, lambda *_: pytest.fail("differs")) as lines:
        return list(lines)


async def looked(archived: Archived, path: Path) -> Examined:
    return examine(path, [await archived.public()], quiet=True)


async def test_the_columns_are_typed_and_hold_what_the_events_say(archived: Archived, table: Path) -> None:
    rows = pyarrow.parquet.read_table(table)
    assert rows.num_rows == 230
    assert rows.schema.field("recorded_at").type == pyarrow.timestamp("us", "UTC")
    assert rows.schema.field("position").type == pyarrow.int64()
    raws = await archived.rows("SELECT position, stream, version, recorded_at, envelope, type FROM events ORDER BY 1")
    assert rows.column("position").to_pylist() == [raw[0] for raw in raws]
    assert rows.column("envelope").to_pylist() == [bytes(raw[4]) for raw in raws]
    assert rows.column("type").to_pylist() == [raw[5] for raw in raws]
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert [(at - epoch) // dt.timedelta(microseconds=1) for at in rows.column("recorded_at").to_pylist()] == [
        raw[3] for raw in raws
    ]
    data = [json.loads(each) for each in rows.column("data").to_pylist()]
    assert [each["type"] for each in data] == rows.column("type").to_pylist()
    assert rows.column("strategy_id")[0].as_py() is None
    only = pyarrow.parquet.read_table(table, filters=[("type", "==", "ORDER_FILLED")])
    assert 0 < only.num_rows < 30


async def test_the_lines_follow_from_the_table_and_its_proof(archived: Archived, table: Path) -> None:
    assert whole(table) == read_file(table.with_name("x.jsonl.gz"))
    it = await looked(archived, table)
    assert it.ok, it.faults
    assert pyarrow.parquet.ParquetFile(table).num_row_groups > 1


async def test_filtered_partitioned_and_corrupt_ones_too(archived: Archived, tmp_path: Path) -> None:
    for partition in range(2):
        raws = await archived.fill(150, partition=partition, partitions=2, seal=40)
        odd = [Raw(151, "low", 0, raws[-1].recorded_at, b"\xc1 odd")]
        await archived.store(odd, partition=partition, rest=True)
    for number, told in enumerate([Filters(), Filters(users=(3, 4)), Filters(types=("bahi.corrupt",))]):
        await archived.export(tmp_path / f"{number}.parquet", Wish(told=told), parquet=True)
        await archived.export(tmp_path / f"{number}.jsonl.gz", Wish(told=told))
        assert whole(tmp_path / f"{number}.parquet") == read_file(tmp_path / f"{number}.jsonl.gz")
        assert (await looked(archived, tmp_path / f"{number}.parquet")).ok


def changed(path: Path, change: Any) -> None:
    """The table written anew, as somebody would who knows how."""
    rows = pyarrow.parquet.read_table(path).to_pylist()
    rows = change(rows)
    schema = pyarrow.parquet.read_schema(path)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def replaced(number: int, **values: Any) -> Any:
    return lambda rows: [{**row, **values} if i == number else row for i, row in enumerate(rows)]


TAMPERED = {
    "a column": (replaced(76, user_id=99), 77, DATA),
    "the data": (replaced(76, data='{"type":"X"}'), 77, DATA),
    "the type": (replaced(76, type="ORDER_FILLED "), 77, DATA),
    "the version": (replaced(76, version=8), 77, COVER),
    "the time": (replaced(76, recorded_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)), 77, COVER),
    "a missing row": (lambda rows: rows[:76] + rows[77:], 77, HOLE),
    "a row twice": (lambda rows: rows[:77] + rows[76:], 77, ORDER),
    "two rows in the other order": (lambda rows: [*rows[:76], rows[77], rows[76], *rows[78:]], 77, HOLE),
    "the last rows": (lambda rows: rows[:220], 221, HOLE),
    "all rows": (lambda rows: rows[:0], 1, HOLE),
}


@pytest.mark.parametrize(("change", "position", "kind"), TAMPERED.values(), ids=TAMPERED.keys())
async def test_a_changed_table_is_told_with_the_position(
    archived: Archived, table: Path, change: Any, position: int, kind: str
) -> None:
    changed(table, change)
    it = await looked(archived, table)
    assert (it.faults[0].position, it.faults[0].kind) == (position, kind), it.faults[:3]


async def test_a_damaged_table_is_told(archived: Archived, table: Path) -> None:
    key = await archived.public()
    await asyncio.to_thread(damage, table, key)


def damage(table: Path, key: bytes) -> None:
    packed = table.read_bytes()
    told = 0
    for number in range(40):
        rng = random.Random(number)
        broken = bytearray(packed)
        broken[rng.randrange(4, len(packed))] ^= 1 << rng.randrange(8)
        table.write_bytes(broken)
        it = examine(table, [key], quiet=True)
        if it.ok:
            assert whole(table) == read_file(table.with_name("x.jsonl.gz"))  # statistics, names: no content
        else:
            told += 1
    assert told > 20
    table.write_bytes(packed[:-100])
    assert examine(table, [key], quiet=True).faults[0].kind == FILE


async def test_columns_of_somebody_else_are_told(archived: Archived, table: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"position": [1]}), table)
    assert "columns" in (await looked(archived, table)).faults[0].text


async def test_a_table_without_its_proof_or_with_another_one_proves_nothing(archived: Archived, table: Path) -> None:
    await archived.export(table.with_name("y.parquet"), Wish(told=Filters(users=(2,))), parquet=True)
    proof_of(table.with_name("y.parquet")).rename(proof_of(table))
    assert not (await looked(archived, table)).ok
