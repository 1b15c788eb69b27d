"""Tick files: good rows as they came, bad rows named, broken files refused."""

import gzip
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.calendar import AlwaysOpenCalendar
from domain.values import Tick
from simulation.ticks import HEADER, KEPT_BAD_ROWS, MAX_LINE, TickFile, TickFileError, write_ticks

SECOND = 1_000_000
NINE_FIFTEEN = 1_618_285_500 * SECOND  # 2021-04-13 09:15:00 in Kolkata
GOOD = "2021-04-13 09:15:00,INFY,1405.95,3172"


def file_of(folder: Path, *rows: str | bytes, name: str = "ticks.csv", header: str = HEADER, end: str = "\n") -> Path:
    lines = [row if isinstance(row, bytes) else row.encode() for row in (header, *rows)]
    content = end.encode().join(lines) + end.encode()
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


# --- good rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ticks.csv", "ticks.csv.gz"])
def test_a_row_is_a_tick_in_exchange_time_with_its_exact_price(tmp_path: Path, name: str) -> None:
    file = TickFile(file_of(tmp_path, GOOD, name=name))
    assert list(file) == [Tick("NSE:INFY", Decimal("1405.95"), NINE_FIFTEEN, 3172)]
    assert (file.rows, file.bad_count, file.bad) == (1, 0, [])


def test_fractions_of_a_second_are_kept(tmp_path: Path) -> None:
    rows = [f"2021-04-13 09:15:00{fraction},INFY,1,0" for fraction in ("", ".5", ".000001", ".999999")]
    assert [tick.at - NINE_FIFTEEN for tick in TickFile(file_of(tmp_path, *rows))] == [0, 500_000, 1, 999_999]


def test_symbols_get_an_exchange_unless_they_name_one(tmp_path: Path) -> None:
    rows = [f"2021-04-13 09:15:00,{symbol},1,0" for symbol in ("INFY", "BSE:INFY", "M&M", "BAJAJ-AUTO", "NIFTY 50")]
    path = file_of(tmp_path, *rows)
    assert [tick.symbol for tick in TickFile(path)] == [
        "NSE:INFY",
        "BSE:INFY",
        "NSE:M&M",
        "NSE:BAJAJ-AUTO",
        "NSE:NIFTY 50",
    ]
    assert next(iter(TickFile(path, exchange="BSE"))).symbol == "BSE:INFY"


def test_rows_keep_the_order_in_which_they_came(tmp_path: Path) -> None:
    """Repeated stamps, a step back, falling volume, a row before the open and one after the close."""
    rows = [
        "2021-04-13 09:07:34,TECHM,1045.0,3172",
        "2021-04-13 09:15:01,INFY,1405.0,100",
        "2021-04-13 09:15:01,TCS,3100.0,10",
        "2021-04-13 09:15:00,INFY,1405.5,90",
        "2021-04-13 15:59:57,HDFCBANK,1400.35,9300341",
    ]
    ticks = list(TickFile(file_of(tmp_path, *rows)))
    assert [(tick.at - NINE_FIFTEEN) // SECOND for tick in ticks] == [-446, 1, 1, 0, 24_297]
    assert [tick.volume for tick in ticks] == [3172, 100, 10, 90, 9300341]


def test_line_ends_of_other_systems_a_byte_order_mark_and_blank_lines_at_the_end_are_fine(tmp_path: Path) -> None:
    path = file_of(tmp_path, GOOD, GOOD, "", "", header=f"\ufeff{HEADER}", end="\r\n")
    file = TickFile(path)
    assert len(list(file)) == 2
    assert file.bad == []
    path.write_text(f"{HEADER}\n{GOOD}")
    assert len(list(TickFile(path))) == 1


def test_a_file_can_be_read_again(tmp_path: Path) -> None:
    file = TickFile(file_of(tmp_path, GOOD, "nonsense"))
    assert list(file) == list(file)
    assert (file.rows, file.bad_count, len(file.bad)) == (2, 1, 1)


# --- bad rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2021-04-13 09:15:00,INFY,1405.95", "3 columns, expected 4"),
        ("2021-04-13 09:15:00,INFY,1405.95,1,2", "5 columns, expected 4"),
        ("", "empty line"),
        ("2021-13-01 09:15:00,INFY,1,1", "timestamp '2021-13-01 09:15:00'"),
        ("2021-02-29 09:15:00,INFY,1,1", "timestamp"),
        ("2021-04-13 24:00:00,INFY,1,1", "timestamp"),
        ("2021-04-13T09:15:00,INFY,1,1", "timestamp"),
        ("2021-04-13 09:15:00+05:30,INFY,1,1", "timestamp"),
        ("2021-04-13 09:15:00.1234567,INFY,1,1", "timestamp"),
        ("0000-00-00 00:00:00,INFY,1,1", "timestamp"),
        ("1969-12-31 09:15:00,INFY,1,1", "timestamp"),
        ("1618285500,INFY,1,1", "timestamp"),
        (",INFY,1,1", "timestamp ''"),
        ("2021-04-13 09:15:00,,1,1", "symbol ''"),
        ("2021-04-13 09:15:00,infy,1,1", "symbol 'infy'"),
        ("2021-04-13 09:15:00,NSE:,1,1", "symbol"),
        ("2021-04-13 09:15:00,=CMD(),1,1", "symbol"),
        (f"2021-04-13 09:15:00,{'A' * 60},1,1", "symbol 'AAAA"),
        ("2021-04-13 09:15:00,INFY,0,1", "price '0'"),
        ("2021-04-13 09:15:00,INFY,0.00,1", "price"),
        ("2021-04-13 09:15:00,INFY,-1,1", "price"),
        ("2021-04-13 09:15:00,INFY,NaN,1", "price"),
        ("2021-04-13 09:15:00,INFY,Infinity,1", "price"),
        ("2021-04-13 09:15:00,INFY,1e9,1", "price"),
        ("2021-04-13 09:15:00,INFY,1_0,1", "price"),
        ("2021-04-13 09:15:00,INFY,10000000.01,1", "price"),
        ("2021-04-13 09:15:00,INFY,,1", "price ''"),
        ("2021-04-13 09:15:00,INFY, 1,1", "price"),
        ("2021-04-13 09:15:00,INFY,1,-1", "volume '-1'"),
        ("2021-04-13 09:15:00,INFY,1,1.5", "volume"),
        ("2021-04-13 09:15:00,INFY,1,1_0", "volume"),
        ("2021-04-13 09:15:00,INFY,1,", "volume ''"),
        ("2021-04-13 09:15:00,INFY,1,1000000000001", "volume"),
        ("2021-04-13 09:15:00,INF\0Y,1,1", "NUL"),
        ("2021-04-13 09:15:00,INFY\x1b[2J,1,1", "control or non-ASCII"),
        ("2021-04-13 09:15:00,INFY,1,1\r\r", "control or non-ASCII"),
        ("2021-04-13 09:15:00,ÌNFY,1,1", "control or non-ASCII"),
        ("2021-04-13 09:15:00,INFY,१,1", "control or non-ASCII"),
        (b"2021-04-13 09:15:00,INF\xff,1,1", "not valid UTF-8"),
        ("2021-04-13 09:15:00,INFY,1,1" + " " * MAX_LINE, "longer than"),
        ("x" * 1_000_000, "longer than"),
    ],
)
def test_a_bad_row_is_skipped_and_named_by_its_line(tmp_path: Path, row: str | bytes, reason: str) -> None:
    file = TickFile(file_of(tmp_path, GOOD, row, GOOD))
    assert len(list(file)) == 2
    assert (file.rows, file.bad_count) == (3, 1)
    ((line, why),) = file.bad
    assert line == 3
    assert reason in why
    assert why.isascii()
    assert why.isprintable()
    assert len(why) < 120


def test_only_the_first_bad_rows_are_kept_but_all_are_counted(tmp_path: Path) -> None:
    file = TickFile(file_of(tmp_path, *["nonsense"] * 250, GOOD))
    assert len(list(file)) == 1
    assert file.bad_count == 250
    assert [line for line, _ in file.bad] == list(range(2, 2 + KEPT_BAD_ROWS))


def test_line_numbers_are_right_across_the_blocks_of_a_large_file(tmp_path: Path) -> None:
    rows = [GOOD] * 20_000
    for line in (2, 4_321, 12_345, 20_001):
        rows[line - 2] = "nonsense"
    for name in ("ticks.csv", "ticks.csv.gz"):
        file = TickFile(file_of(tmp_path, *rows, name=name))
        assert len(list(file)) == 20_000 - 4
        assert [line for line, _ in file.bad] == [2, 4_321, 12_345, 20_001]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=80) | st.text(max_size=60).map(str.encode) | st.just(GOOD.encode())))
def test_no_content_breaks_the_reader(tmp_path: Path, rows: list[bytes]) -> None:
    path = tmp_path / "ticks.csv"
    path.write_bytes(HEADER.encode() + b"\n" + b"\n".join(rows))
    file = TickFile(path)
    ticks = list(file)
    assert len(ticks) == file.rows - file.bad_count
    assert len(ticks) >= rows.count(GOOD.encode())
    assert all(tick.price > 0 and tick.volume >= 0 for tick in ticks)


# --- broken files --------------------------------------------------------------------------------------------------


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(TickFileError, match=r"absent\.csv: cannot be opened \(No such file.*check the path"):
        list(TickFile(tmp_path / "absent.csv"))
    with pytest.raises(TickFileError, match="cannot be opened"):
        list(TickFile(tmp_path))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (GOOD.encode() + b"\n", "no header"),
        (b"timestamp,symbol,price,volume\n", "no header, found 'timestamp,symbol,price,volume'"),
        (b"\x1b[31mtimestamp", r"no header, found '\\x1b\[31mtimestamp'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(5000), "no header"),
        (b"x" * 500_000, "no header"),
    ],
)
def test_a_file_without_the_header_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "ticks.csv"
    path.write_bytes(content)
    with pytest.raises(TickFileError, match=f"line 1: {problem}") as caught:
        list(TickFile(path))
    assert caught.value.line == 1
    assert caught.value.path == path
    assert HEADER in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_a_file_with_a_header_alone_has_no_ticks(tmp_path: Path) -> None:
    assert list(TickFile(file_of(tmp_path))) == []


def test_plain_text_under_a_compressed_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ticks.csv.gz"
    path.write_text(f"{HEADER}\n{GOOD}\n")
    with pytest.raises(TickFileError, match=r"is named \.gz but is not gzip"):
        list(TickFile(path))


def test_compressed_data_under_a_plain_name_are_read(tmp_path: Path) -> None:
    packed = file_of(tmp_path, GOOD, name="ticks.csv.gz")
    assert len(list(TickFile(packed.rename(tmp_path / "ticks.csv")))) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage after it"])
def test_what_is_readable_of_a_damaged_archive_is_yielded_and_then_reported(tmp_path: Path, damage: str) -> None:
    rows = [
        f"2021-04-13 09:15:{n % 60:02},INFY,{1000 + n * n % 977}.{n % 100:02},{n * 7919 % 1_000_003}"
        for n in range(50_000)
    ]
    path = file_of(tmp_path, *rows, name="ticks.csv.gz")
    content = path.read_bytes()
    if damage == "cut":
        content = content[: len(content) * 2 // 3]
    elif damage == "flipped":
        content = content[:-8] + bytes(byte ^ 0xFF for byte in content[-8:-4]) + content[-4:]
    else:
        content += b"garbage"
    path.write_bytes(content)
    file = TickFile(path)
    ticks = []
    with pytest.raises(TickFileError, match="breaks off or is damaged") as caught:  # noqa: PT012 - counts what came before
        for tick in file:
            ticks.append(tick)  # noqa: PERF402
    assert len(ticks) > 25_000
    assert file.bad_count == 0
    assert caught.value.line == len(ticks) + 2
    assert [tick.volume for tick in ticks] == [n * 7919 % 1_000_003 for n in range(len(ticks))]


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    path = file_of(tmp_path, *[GOOD] * 100_000, name="ticks.csv.gz")
    tracemalloc.start()
    try:
        assert sum(1 for _ in TickFile(path)) == 100_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000  # the rows alone are 3.8 MB


# --- writing -------------------------------------------------------------------------------------------------------

a_tick = st.builds(
    Tick,
    st.sampled_from(["NSE:INFY", "NSE:M&M", "BSE:TCS"]),
    st.decimals("0.01", "99999.95", places=2),
    st.datetimes()
    .filter(lambda moment: moment.year >= 1971)
    .map(lambda m: AlwaysOpenCalendar().instant(m.date(), m.time())),
    st.integers(0, 10**9),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(a_tick, max_size=20), st.sampled_from(["ticks.csv", "ticks.csv.gz"]))
def test_what_is_written_is_read_back(tmp_path: Path, ticks: list[Tick], name: str) -> None:
    path = tmp_path / name
    assert write_ticks(path, ticks) == len(ticks)
    file = TickFile(path)
    assert list(file) == ticks
    assert file.bad == []


def test_a_written_file_is_in_the_recorded_format_and_the_same_each_time(tmp_path: Path) -> None:
    ticks = [
        Tick("NSE:INFY", Decimal("1E+3"), NINE_FIFTEEN, 3),
        Tick("BSE:INFY", Decimal("1000.05"), NINE_FIFTEEN + 500_000),
    ]
    write_ticks(tmp_path / "a.csv", ticks)
    assert (tmp_path / "a.csv").read_text() == (
        f"{HEADER}\n2021-04-13 09:15:00,INFY,1000,3\n2021-04-13 09:15:00.500000,BSE:INFY,1000.05,0\n"
    )
    write_ticks(tmp_path / "a.csv.gz", ticks)
    write_ticks(tmp_path / "b.csv.gz", ticks)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = file_of(tmp_path, GOOD)
    before = path.read_bytes()

    def failing() -> Iterator[Tick]:
        yield Tick("NSE:INFY", Decimal(1), NINE_FIFTEEN)
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_ticks(path, failing())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
