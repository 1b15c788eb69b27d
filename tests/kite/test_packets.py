"""The decoder of Kite's binary frames, against the official client and against the simulated server's encoder."""

import struct
from decimal import Decimal
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from kiteconnect import KiteTicker

from brokers.kite.packets import INDICES, LENGTHS, Level, Mode, Noticed, Packet, decode, quick
from domain.calendar import wall
from domain.values import SECOND
from simulation.kite.encode import HEARTBEAT, encode, frame

OFFICIAL = KiteTicker("key", "token")
SEGMENTS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12]
U32 = st.integers(0, 2**32 - 1)
SBIN = 3045 << 8 | 1
NIFTY = 1001 << 8 | INDICES
NOON = 1_795_156_200
"""2026-11-20 12:00:00 IST, in seconds."""

tokens = st.builds(lambda token, segment: token << 8 | segment, st.integers(1, 2**24 - 1), st.sampled_from(SEGMENTS))


@st.composite
def raw_packets(draw: st.DrawFn) -> bytes:
    """A packet of a known length, with anything in it."""
    length = draw(st.sampled_from(sorted(LENGTHS)))
    return struct.pack(">I", draw(tokens)) + draw(st.binary(min_size=length - 4, max_size=length - 4))


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """What a server may want to say, with prices on the grid of the segment."""
    token = draw(tokens)
    mode = draw(st.sampled_from(Mode))
    scale = {3: Decimal("1e-7"), 6: Decimal("1e-4"), 12: Decimal("1e-4")}.get(token & 0xFF, Decimal("0.01"))
    price = U32.map(lambda units: units * scale)
    instants = st.integers(1, 2**32 - 1).map(lambda seconds: seconds * SECOND)
    if mode is Mode.LTP:
        return Packet(token=token, mode=mode, last_price=draw(price))
    ohlc = {name: draw(price) for name in ("open", "high", "low", "close")}
    if token & 0xFF == INDICES:
        change = draw(st.integers(-(2**31), 2**31 - 1)) * scale
        at = draw(instants) if mode is Mode.FULL else None
        return Packet(token=token, mode=mode, last_price=draw(price), change=change, exchange_at=at, **ohlc)
    quote: dict[str, Any] = {name: draw(U32) for name in ("last_quantity", "volume", "buy_quantity", "sell_quantity")}
    if mode is Mode.FULL:
        levels = st.lists(st.builds(Level, U32, price, st.integers(0, 2**16 - 1)), min_size=5, max_size=5).map(tuple)
        quote |= {name: draw(U32) for name in ("oi", "oi_day_high", "oi_day_low")}
        quote |= {"buy": draw(levels), "sell": draw(levels)}
        quote |= {"traded_at": draw(instants), "exchange_at": draw(instants)}
    return Packet(token=token, mode=mode, last_price=draw(price), average_price=draw(price), **ohlc, **quote)


def as_official(packet: Packet) -> dict[str, Any]:
    """Our packet in the words of the official client, its prices as the floats that it uses."""
    said: dict[str, Any] = {
        "tradable": packet.tradable,
        "mode": packet.mode.value,
        "instrument_token": packet.token,
        "last_price": float(packet.last_price),
    }
    if packet.mode is Mode.LTP:
        return said
    said["ohlc"] = {name: float(getattr(packet, name)) for name in ("open", "high", "low", "close")}
    if packet.average_price is None:
        if packet.mode is Mode.FULL:
            said["exchange_timestamp"] = packet.exchange_at or 0
        return said
    said |= {
        "last_traded_quantity": packet.last_quantity,
        "average_traded_price": float(packet.average_price),
        "volume_traded": packet.volume,
        "total_buy_quantity": packet.buy_quantity,
        "total_sell_quantity": packet.sell_quantity,
    }
    if packet.mode is Mode.FULL:
        said |= {"oi": packet.oi, "oi_day_high": packet.oi_day_high, "oi_day_low": packet.oi_day_low}
        said |= {"last_trade_time": packet.traded_at or 0, "exchange_timestamp": packet.exchange_at or 0}
        said["depth"] = {
            side: [
                {"quantity": each.quantity, "price": float(each.price), "orders": each.orders}
                for each in (packet.buy if side == "buy" else packet.sell)
            ]
            for side in ("buy", "sell")
        }
    return said


def official(data: bytes) -> list[dict[str, Any]]:
    """What the official client makes of a frame; its naive times, which are the machine's, as instants."""
    found = OFFICIAL._parse_binary(data)
    for each in found:
        each.pop("change", None)  # a percentage that it computes from the floats
        for name in ("exchange_timestamp", "last_trade_time"):
            if name in each:
                each[name] = round(each[name].timestamp()) * SECOND
    return list(found)


@given(st.lists(raw_packets(), max_size=8))
def test_the_official_client_reads_the_same_from_packets_of_every_length_and_segment(raw: list[bytes]) -> None:
    noticed = Noticed()
    assert [as_official(each) for each in decode(frame(raw), noticed)] == official(frame(raw))
    assert noticed == Noticed()


@given(st.lists(packets(), max_size=8))
def test_what_the_server_encodes_is_decoded_to_the_same(said: list[Packet]) -> None:
    assert decode(frame([encode(each) for each in said]), Noticed()) == said


@given(st.lists(packets(), max_size=8))
def test_the_official_client_understands_what_the_server_encodes(said: list[Packet]) -> None:
    assert official(frame([encode(each) for each in said])) == [as_official(each) for each in said]


@given(st.lists(raw_packets(), max_size=8))
def test_the_quick_reading_is_the_full_one_where_the_exchange_tells_the_time(raw: list[bytes]) -> None:
    noticed = Noticed()
    full = decode(frame(raw), Noticed())
    timed = [each for each in full if each.exchange_at is not None]
    assert quick(frame(raw), noticed) == [
        (each.token, each.last_price, each.exchange_at, each.volume or 0) for each in timed
    ]
    assert noticed == Noticed(timeless=len(full) - len(timed))


@given(st.binary(max_size=1_000))
@example(b"")
@example(b"\x00\x01")
@example(b"\xff\xff\x00\x00" * 50)
def test_no_bytes_at_all_make_it_raise_and_both_readings_skip_the_same(data: bytes) -> None:
    by_full, by_quick = Noticed(), Noticed()
    full = decode(data, by_full)
    assert [each[0] for each in quick(data, by_quick)] == [each.token for each in full if each.exchange_at is not None]
    assert (by_full.heartbeats, by_full.skipped, by_full.broken) == (
        by_quick.heartbeats,
        by_quick.skipped,
        by_quick.broken,
    )


@given(st.lists(raw_packets(), min_size=1, max_size=5), st.data())
def test_a_frame_that_breaks_off_gives_the_packets_before_the_break(raw: list[bytes], data: st.DataObject) -> None:
    whole = frame(raw)
    cut = data.draw(st.integers(2, len(whole) - 1))
    noticed = Noticed()
    found = decode(whole[:cut], noticed)
    assert found == decode(whole, Noticed())[: len(found)]
    assert len(found) < len(raw)
    assert noticed.broken == 1


@given(st.lists(raw_packets(), max_size=4), st.lists(raw_packets(), max_size=4), st.binary(max_size=300))
def test_a_packet_of_unknown_length_costs_the_others_nothing(
    before: list[bytes], after: list[bytes], odd: bytes
) -> None:
    if len(odd) in LENGTHS:
        odd += b"!"
    noticed = Noticed()
    assert decode(frame([*before, odd, *after]), noticed) == decode(frame([*before, *after]), Noticed())
    assert noticed == Noticed(skipped=1)


def test_heartbeats_and_empty_frames_are_counted_as_such() -> None:
    noticed = Noticed()
    for data in (HEARTBEAT, b"", b"\x07"):
        assert quick(data, noticed) == []
        assert decode(data, noticed) == []
    assert noticed == Noticed(heartbeats=6)
    assert quick(frame([]), noticed) == decode(frame([]), noticed) == []
    assert noticed == Noticed(heartbeats=6)


def test_what_follows_the_last_packet_is_noticed() -> None:
    noticed = Noticed()
    assert len(decode(frame([struct.pack(">II", SBIN, 1)]) + b"more", noticed)) == 1
    assert noticed == Noticed(broken=1)


def test_prices_are_exact_in_the_units_of_each_segment() -> None:
    def price(segment: int) -> str:
        packet = struct.pack(">II", 77 << 8 | segment, 1_234_567_890)
        return str(decode(frame([packet]), Noticed())[0].last_price)

    assert [price(segment) for segment in SEGMENTS] == [
        "12345678.90",  # nse
        "12345678.90",  # nfo
        "123.4567890",  # cds
        "12345678.90",  # bse
        "12345678.90",  # bfo
        "123456.7890",  # bcd
        "12345678.90",  # mcx
        "12345678.90",  # mcxsx
        "12345678.90",  # indices
        "123456.7890",  # nco
    ]


def test_a_full_packet_of_an_instrument_and_of_an_index_give_their_time_in_utc() -> None:
    stock = Packet(token=SBIN, mode=Mode.FULL, last_price=Decimal("612.35"), volume=900, exchange_at=NOON * SECOND)
    index = Packet(token=NIFTY, mode=Mode.FULL, last_price=Decimal("24010.60"), exchange_at=(NOON + 1) * SECOND)
    found = quick(frame([encode(stock), encode(index)]), Noticed())
    assert found == [
        (SBIN, Decimal("612.35"), NOON * SECOND, 900),
        (NIFTY, Decimal("24010.60"), (NOON + 1) * SECOND, 0),
    ]
    assert wall(found[0][2]).isoformat() == "2026-11-20T12:00:00+05:30"


def test_a_packet_whose_time_is_zero_has_none() -> None:
    noticed = Noticed()
    data = frame([encode(Packet(token=SBIN, mode=Mode.FULL, last_price=Decimal(1)))])
    assert decode(data, noticed)[0].exchange_at is None
    assert decode(data, noticed)[0].traded_at is None
    assert quick(data, noticed) == []
    assert noticed.timeless == 1
