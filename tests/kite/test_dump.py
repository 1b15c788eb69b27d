"""Kite's instruments dump: strict by the row, strict as a whole."""

import datetime as dt
import gzip
import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kiteconnect import KiteConnect

from brokers.kite.dump import HEADER, KEPT, Dump, DumpError, DumpRow
from tests.kite.dumps import dump, row, stocks

SBIN = row("NSE:SBIN", 3045, name="STATE BANK OF INDIA")
OPTION = row(
    "NFO:NIFTY26NOV25000CE", 40123, name="NIFTY", kind="CE", segment="NFO-OPT", expiry="2026-11-26", strike="25000",
    lot="75",
)  # fmt: skip
INDEX = row("NSE:NIFTY 50", 1001, name="NIFTY 50", segment="INDICES", tick="0", lot="0")


def read(content: bytes) -> tuple[list[DumpRow], Dump]:
    opened = Dump(content)
    return list(opened), opened


def test_a_row_says_what_may_be_traded_and_on_which_grid() -> None:
    (stock, option, index), opened = read(dump(SBIN, OPTION, INDEX))
    assert (stock.symbol, stock.token, stock.exchange_token) == ("NSE:SBIN", 779521, 3045)
    assert (stock.tick_size, stock.lot, stock.kind, stock.expiry) == (Decimal("0.05"), 1, "EQ", None)
    assert (option.expiry, option.strike, option.lot) == (dt.date(2026, 11, 26), Decimal(25000), 75)
    assert (index.segment, index.tick_size, index.lot) == ("INDICES", 0, 0)
    assert (opened.rows, opened.bad_count, opened.odd_tokens) == (3, 0, 0)


def test_the_official_client_reads_the_same() -> None:
    content = dump(SBIN, OPTION, INDEX, row("BSE:M&M", 500520, name='"MAHINDRA, LTD"', last="3011.5", tick="0.1"))
    rows, _ = read(content)
    official = KiteConnect("key")._parse_instruments(content)
    assert [
        (each["instrument_token"], each["tradingsymbol"], each["name"], each["exchange"], each["lot_size"])
        for each in official
    ] == [(each.token, each.tradingsymbol, each.name, each.exchange, each.lot) for each in rows]
    assert [each["expiry"] or None for each in official] == [each.expiry for each in rows]
    assert [each["tick_size"] for each in official] == [float(each.tick_size) for each in rows]


def test_strike_and_last_price_may_be_empty() -> None:
    ((stock,), _) = read(dump(row("NSE:SBIN", 3045, strike="", last="")))
    assert (stock.strike, stock.last_price) == (None, None)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (SBIN.replace("0.05", "five paise"), "tick_size 'five paise' is no number"),
        (SBIN.replace("0.05", "0"), "tick_size 0 is not above 0"),
        (SBIN.replace("0.05", "-0.05"), "tick_size '-0.05' is no number"),
        (SBIN.replace("0.05", "NaN"), "is no number"),
        (SBIN.replace("0.05", "1e-2"), "is no number"),
        (row("NSE:SBIN", 3045, lot="0"), "lot_size 0 is not above 0"),
        (row("NSE:SBIN", 3045, lot="1.0"), "lot_size '1.0' is no whole number"),
        (row("NSE:SBIN", 3045, lot=""), "lot_size '' is no whole number"),
        (row("NSE:SBIN", 3045, expiry="26-11-2026"), "expiry '26-11-2026' is no date"),
        (row("NSE:SBIN", 3045, expiry="2026-02-30"), "expiry '2026-02-30' is no date"),
        (row("NSE:SBIN", 3045, token=0), "instrument_token '0'"),
        (row("NSE:SBIN", 3045, token=2**32), "instrument_token '4294967296'"),
        (row("NSE:SBIN", 3045, kind="XX"), "instrument_type 'XX' is none of CE, EQ, FUT, PE"),
        (row("NSE:", 3045), "tradingsymbol '' is no symbol"),
        (row("NSE: SBIN", 3045), "tradingsymbol ' SBIN' is no symbol"),
        (SBIN.removesuffix(",NSE"), "has 11 columns, not 12"),
        (SBIN + ",x", "has 13 columns, not 12"),
        (SBIN.removesuffix("NSE"), "exchange '' is no exchange"),
        (SBIN.replace("STATE", "ST\x00ATE"), "holds bytes that are no text"),
        (SBIN.replace("STATE", '"STATE'), "its quotes do not match"),
        (SBIN.replace("STATE", "X" * 2_000), "is longer than"),
        ("", "is empty"),
    ],
)
def test_a_damaged_row_is_left_out_and_named_and_the_others_are_read(line: str, why: str) -> None:
    rows, opened = read(dump(OPTION, line, INDEX))
    assert [each.line for each in rows] == [2, 4]
    ((number, reason),) = opened.bad
    assert number == 3
    assert why in reason


def test_a_row_that_is_no_text_is_left_out() -> None:
    rows, opened = read(dump(SBIN) + b"\xff\xfe" + SBIN.encode() + b"\n")
    assert len(rows) == 1
    assert opened.bad == [(3, "holds bytes that are no text")]


def test_only_the_first_damaged_rows_are_kept_and_all_are_counted() -> None:
    _, opened = read(dump(SBIN, *["x"] * (KEPT + 50)))
    assert (len(opened.bad), opened.bad_count) == (KEPT, KEPT + 50)


def test_a_token_of_another_form_is_counted_and_taken_as_it_is() -> None:
    rows, opened = read(dump(SBIN, row("NSE:INFY", 1594, token=77)))
    assert (rows[1].token, opened.odd_tokens) == (77, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"<html><body>504 Gateway Time-out</body></html>",
        b'{"status":"error","message":"no","error_type":"GeneralException"}',
        HEADER.replace("exchange_token,", "").encode() + b"\n",
        HEADER.upper().encode() + b"\n",
        b"\xef\xbb\xbf" + dump(SBIN),
        b"\x00" * 5_000_000,
    ],
)
def test_what_has_not_exactly_the_header_is_no_dump(content: bytes) -> None:
    with pytest.raises(DumpError, match="no instruments dump"):
        read(content)


def test_a_dump_that_breaks_off_in_a_row_is_refused() -> None:
    whole = dump(*stocks(["SBIN", "INFY", "TCS"]))
    for cut in range(2, 40):
        with pytest.raises(DumpError, match="breaks off in line 4"):
            read(whole[:-cut])
    assert len(read(whole[:-1])[0]) == 3  # only the last line's end is missing: the row is whole


@pytest.mark.parametrize("cut", [5, 40, -5])
def test_a_compressed_dump_that_breaks_off_is_refused(cut: int) -> None:
    packed = gzip.compress(dump(*stocks([f"S{number}" for number in range(500)])))
    assert len(read(packed)[0]) == 500
    with pytest.raises(DumpError):
        read(packed[:cut])


def test_a_compressed_dump_that_is_damaged_is_refused() -> None:
    packed = bytearray(gzip.compress(dump(*stocks([f"S{number}" for number in range(500)]))))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(DumpError):
        read(bytes(packed))


@given(st.binary(max_size=300))
def test_garbage_after_the_header_never_breaks_the_reader(garbage: bytes) -> None:
    opened = Dump(dump(SBIN) + garbage + b"\n")
    rows = list(opened)
    assert rows[0].symbol == "NSE:SBIN"


def test_a_large_dump_takes_no_more_memory_than_a_small_one() -> None:
    content = dump(*stocks([f"SHARE{number}" for number in range(20_000)]))
    tracemalloc.start()
    try:
        count = sum(1 for _ in Dump(content))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert most < 500_000
