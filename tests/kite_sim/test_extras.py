"""Quotes, candles, the instrument dump, holdings and margins, driven by the official client."""

import datetime as dt
import gzip
from decimal import Decimal
from typing import Any

import pytest
from kiteconnect.exceptions import GeneralException, InputException, NetworkException

from bahi.database.dumps import Noted, Stored
from bahi.database.engine import create_engine
from bahi.database.instruments import SqlInstruments
from bahi.instruments import CatalogueFollower, dump_day
from brokers.instruments import InstrumentCatalogue
from brokers.kite.dump import Dump
from domain.calendar import instant, wall
from domain.values import DAY, MINUTE, SECOND, Tick
from simulation.kite.accounts import SimHolding
from simulation.kite.extras_instruments import swap_tokens
from simulation.kite.faults import Fault
from simulation.kite.instruments import SimInstrument, built_in

from .conftest import USER, MakeWorld, OfficialClient, World

SBIN, INFY, NIFTY = "NSE:SBIN", "NSE:INFY", "NSE:NIFTY 50"


# --- quotes ----------------------------------------------------------------------------------------------------------


async def test_a_quote_tells_the_day_the_depth_and_the_circuit_limits(kite: OfficialClient, world: World) -> None:
    await world.price("812.35")
    await world.price("790")

    quote = (await kite.quote(SBIN))[SBIN]

    assert (quote["instrument_token"], quote["last_price"]) == (779521, 790)
    assert quote["ohlc"] == {"open": 800, "high": 812.35, "low": 790, "close": 0}
    assert (quote["lower_circuit_limit"], quote["upper_circuit_limit"]) == (720, 880)
    assert quote["timestamp"] == quote["last_trade_time"] == dt.datetime(2026, 11, 20, 10)  # noqa: DTZ001
    assert (quote["volume"], quote["last_quantity"], quote["average_price"]) == (3, 1, 800.78)
    assert [level["price"] for level in quote["depth"]["buy"]] == [790, 789.95, 789.9, 789.85, 789.8]
    assert [level["price"] for level in quote["depth"]["sell"]] == [790.05, 790.1, 790.15, 790.2, 790.25]
    assert quote["buy_quantity"] == sum(level["quantity"] for level in quote["depth"]["buy"])


async def test_limits_follow_the_previous_close_and_lie_on_the_grid(make_world: MakeWorld) -> None:
    instrument = SimInstrument(symbol=SBIN, exchange_token=3045, close=Decimal("812.35"))
    world = await make_world(instruments=[instrument])
    quote = (await world.logged_in().quote(SBIN))[SBIN]
    assert (quote["last_price"], quote["net_change"], quote["ohlc"]["close"]) == (812.35, 0, 812.35)
    assert (quote["lower_circuit_limit"], quote["upper_circuit_limit"]) == (731.15, 893.55)
    assert quote["last_trade_time"] is None


async def test_yesterdays_last_price_is_todays_close(kite: OfficialClient, world: World) -> None:
    await world.later(DAY)
    await world.price("820")
    quote = (await world.logged_in().quote(SBIN))[SBIN]
    assert (quote["ohlc"], quote["net_change"]) == ({"open": 820, "high": 820, "low": 820, "close": 800}, 20)
    assert (quote["lower_circuit_limit"], quote["upper_circuit_limit"]) == (720, 880)


async def test_an_instruments_own_limits_are_told(make_world: MakeWorld) -> None:
    own = SimInstrument(symbol=SBIN, exchange_token=3045, lower_circuit=Decimal(795), upper_circuit=Decimal(805))
    world = await make_world(instruments=[own])
    await world.price("800")
    quote = (await world.logged_in().quote(SBIN))[SBIN]
    assert (quote["lower_circuit_limit"], quote["upper_circuit_limit"]) == (795, 805)


async def test_an_index_has_neither_depth_nor_limits(kite: OfficialClient, world: World) -> None:
    await world.price("25000.15", NIFTY)
    quote = (await kite.quote([NIFTY]))[NIFTY]
    assert (quote["instrument_token"], quote["last_price"]) == (256265, 25000.15)
    assert not {"depth", "lower_circuit_limit", "volume"} & quote.keys()


async def test_the_short_quotes_are_parts_of_the_long_one(kite: OfficialClient, world: World) -> None:
    await world.price("1500", INFY)
    quote = await kite.quote(SBIN, INFY)
    assert await kite.ohlc(SBIN, INFY) == {
        symbol: {name: each[name] for name in ("instrument_token", "last_price", "ohlc")}
        for symbol, each in quote.items()
    }
    assert await kite.ltp(SBIN) == {SBIN: {"instrument_token": 779521, "last_price": 800}}


async def test_what_is_unknown_or_was_never_priced_is_left_out(kite: OfficialClient) -> None:
    assert await kite.ltp("NSE:NONE", INFY, "SBIN", "") == {}


@pytest.mark.parametrize(("call", "most"), [("quote", 500), ("ohlc", 1_000), ("ltp", 1_000)])
async def test_so_many_may_be_asked_for_at_once(kite: OfficialClient, call: str, most: int) -> None:
    ask = getattr(kite, call)
    assert list(await ask([SBIN] * most)) == [SBIN]
    with pytest.raises(InputException, match=f"Too many tokens requested. Max permitted is {most}.") as refused:
        await ask([SBIN] * (most + 1))
    assert refused.value.code == 400
    with pytest.raises(InputException):
        await ask([])


async def test_quotes_of_all_kinds_share_one_call_a_second(make_world: MakeWorld) -> None:
    world = await make_world(check_limits=True)
    kite = world.logged_in()
    await kite.ltp(SBIN)
    with pytest.raises(NetworkException) as refused:
        await kite.quote(SBIN)
    assert refused.value.code == 429
    await world.later(SECOND)
    await kite.ohlc(SBIN)


async def test_a_trigger_range_is_on_the_far_side_of_the_price(kite: OfficialClient) -> None:
    assert (await kite.trigger_range("BUY", SBIN))[SBIN] == {
        "instrument_token": 779521, "lower": 784, "upper": 800, "percentage": 2,
    }  # fmt: skip
    sale = (await kite.trigger_range("sell", SBIN))[SBIN]
    assert (sale["lower"], sale["upper"]) == (800, 816)
    with pytest.raises(InputException):
        await kite.trigger_range("hold", SBIN)


# --- candles ---------------------------------------------------------------------------------------------------------


async def trade(world: World, *prices: str) -> None:
    """A price in each minute from 10:01 on, with 10 shares more each time."""
    for number, price in enumerate(prices, 1):
        await world.later(MINUTE)
        tick = Tick(symbol=SBIN, price=Decimal(price), at=world.clock.now(), volume=1 + 10 * number)
        await world.sim.on_ticks([tick])


async def test_candles_of_minutes_and_more(kite: OfficialClient, world: World) -> None:
    await trade(world, "801", "799", "805", "803", "802")
    start, end = dt.datetime(2026, 11, 20, 9, 15), dt.datetime(2026, 11, 20, 15, 30)  # noqa: DTZ001

    minutes = await kite.historical_data(779521, start, end, "minute")
    assert [candle["close"] for candle in minutes] == [800, 801, 799, 805, 803, 802]
    assert minutes[1] == {
        "date": wall(instant(dt.date(2026, 11, 20), dt.time(10, 1))),
        "open": 801, "high": 801, "low": 801, "close": 801, "volume": 10,
    }  # fmt: skip
    assert minutes[1]["date"].utcoffset() == dt.timedelta(hours=5, minutes=30)

    fives = await kite.historical_data(779521, start, end, "5minute", oi=True)
    assert [(each["open"], each["high"], each["low"], each["close"], each["volume"], each["oi"]) for each in fives] == [
        (800, 805, 799, 803, 41, 0),
        (802, 802, 802, 802, 10, 0),
    ]
    (day,) = await kite.historical_data(779521, "2026-11-20", "2026-11-20 23:59:59", "day")
    assert (day["date"].hour, day["open"], day["high"], day["low"], day["close"]) == (0, 800, 805, 799, 802)
    assert await kite.historical_data(779521, "2026-11-19", "2026-11-19", "minute") == []


@pytest.mark.parametrize(
    ("token", "start", "end", "interval", "why"),
    [
        (779521, "2026-01-01", "2026-11-20", "minute", "interval exceeds max limit: 60 days"),
        (779521, "2026-11-21", "2026-11-20", "minute", "from"),
        (779521, "yesterday", "2026-11-20", "minute", "from"),
        (779521, "2026-11-19", "2026-13-20", "minute", "to"),
        (779521, "2026-11-19", "2026-11-20", "2minute", "interval"),
        (5, "2026-11-19", "2026-11-20", "minute", "invalid token"),
        ("SBIN", "2026-11-19", "2026-11-20", "minute", "invalid token"),
    ],
)
async def test_candles_that_cannot_be(
    kite: OfficialClient, token: Any, start: str, end: str, interval: str, why: str
) -> None:
    with pytest.raises(InputException, match=why):
        await kite.historical_data(token, start, end, interval)


# --- instruments -----------------------------------------------------------------------------------------------------


async def test_the_official_client_reads_the_dump(kite: OfficialClient, world: World) -> None:
    listed = await kite.instruments("NSE")
    assert len(listed) == sum(each.exchange == "NSE" for each in built_in())
    row = next(each for each in listed if each["tradingsymbol"] == "SBIN")
    assert row == {
        "instrument_token": 779521, "exchange_token": "3045", "tradingsymbol": "SBIN", "name": "SBIN", "last_price": 0,
        "expiry": "", "strike": 0, "tick_size": 0.05, "lot_size": 1, "instrument_type": "EQ", "segment": "NSE",
        "exchange": "NSE",
    }  # fmt: skip
    assert [each["tradingsymbol"] for each in await kite.instruments("BSE")] == ["SENSEX"]
    assert len(await kite.instruments()) == len(built_in())
    assert await kite.instruments("NFO") == []
    with pytest.raises(InputException):
        await kite.instruments("LSE")


async def test_our_reader_takes_every_row_of_the_dump(make_world: MakeWorld) -> None:
    option = SimInstrument(
        symbol="NFO:NIFTY26NOV25000CE", exchange_token=40123, name='NIFTY, "50"', segment="NFO-OPT",
        instrument_type="CE", lot=75, expiry=dt.date(2026, 11, 26), strike=Decimal(25000), close=Decimal("12.5"),
    )  # fmt: skip
    world = await make_world(instruments=[*built_in(), option])
    dump = Dump(await world.logged_in()._get("market.instruments.all"))
    rows = list(dump)
    assert (len(rows), dump.bad_count, dump.odd_tokens) == (len(built_in()) + 1, 0, 0)
    assert {row.symbol: row.token for row in rows} == {each.symbol: each.token for each in world.sim.instruments}
    assert (rows[-1].name, rows[-1].expiry, rows[-1].lot) == ('NIFTY, "50"', dt.date(2026, 11, 26), 75)


async def test_the_dump_is_csv_and_compressed_for_who_takes_that(world: World) -> None:
    async with world.http.stream("GET", "/instruments/NSE", headers=world.header()) as answer:
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["content-type"] == "text/csv"
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw).startswith(b"instrument_token,")
    plain = await world.http.get("/instruments/NSE", headers=world.header() | {"Accept-Encoding": "identity"})
    assert plain.content == gzip.decompress(raw)


async def test_the_dump_has_no_route_prefix(make_world: MakeWorld) -> None:
    world = await make_world(serve_with={"route_prefix": "/oms"})
    assert (await world.http.get("/instruments", headers=world.header())).status_code == 200
    assert (await world.http.get("/oms/quote/ltp", params={"i": SBIN}, headers=world.header())).status_code == 200


async def test_a_token_is_used_again_for_another_symbol_in_the_dump_of_the_next_day(world: World) -> None:
    await world.price("1500", INFY)
    world.sim.inject(Fault.F20_TOKEN_REUSED)

    async def tokens() -> dict[str, int]:
        listed = await world.logged_in().instruments("NSE")
        return {each["tradingsymbol"]: each["instrument_token"] for each in listed}

    today = await tokens()
    assert await tokens() == today
    await world.later(DAY)
    tomorrow = await tokens()

    assert (tomorrow["SBIN"], tomorrow["INFY"]) == (today["INFY"], today["SBIN"])
    assert {name for name, token in tomorrow.items() if today[name] != token} == {"SBIN", "INFY"}
    assert world.sim.fired[Fault.F20_TOKEN_REUSED] == 1
    assert await tokens() == tomorrow
    await world.price("801")
    assert (await world.logged_in().ltp(SBIN))[SBIN] == {"instrument_token": today["INFY"], "last_price": 801}


async def test_our_catalogue_follows_a_token_to_its_new_symbol(world: World, database_url: str) -> None:
    engine = create_engine(database_url)
    store, catalogue = SqlInstruments(engine), InstrumentCatalogue(world.clock)
    follower = CatalogueFollower(catalogue, store, world.clock)

    async def fetch() -> Stored:
        content = await world.logged_in()._get("market.instruments", url_args={"exchange": "NSE"})
        now = world.clock.now()
        stored = await store.store(content, ["NSE"], day=dump_day(now), at=now)
        await follower.load()
        return stored

    await world.price("1500", INFY)
    await fetch()
    sbin, infy, changes = catalogue.token(SBIN), catalogue.token(INFY), catalogue.changes
    world.sim.inject(Fault.F20_TOKEN_REUSED)
    await world.later(DAY)
    stored = await fetch()
    await engine.dispose()

    assert (catalogue.token(SBIN), catalogue.token(INFY)) == (infy, sbin)
    assert catalogue.changes == changes + 1
    assert stored.changed == Noted(2, (f"NSE:INFY token {infy} to {sbin}", f"NSE:SBIN token {sbin} to {infy}"))
    assert (stored.renamed.count, stored.gone.count, stored.left_out) == (0, 0, 0)


async def test_tokens_are_swapped_within_a_segment_only(world: World) -> None:
    for first, second in ((SBIN, NIFTY), (SBIN, SBIN), (SBIN, "NSE:NONE")):
        with pytest.raises(ValueError, match="cannot have each other's token"):
            swap_tokens(world.sim, first, second)


# --- holdings and positions ------------------------------------------------------------------------------------------


async def test_what_is_bought_for_delivery_is_held_the_next_day(kite: OfficialClient, world: World) -> None:
    await kite.buy(10, product="CNC")
    assert await kite.holdings() == []
    await world.later(DAY)
    kite = world.logged_in()
    await world.price("820")

    (held,) = await kite.holdings()
    assert (held["tradingsymbol"], held["instrument_token"], held["product"]) == ("SBIN", 779521, "CNC")
    assert (held["quantity"], held["used_quantity"], held["average_price"]) == (10, 0, 800)
    assert (held["last_price"], held["close_price"], held["pnl"]) == (820, 800, 200)
    assert (held["day_change"], held["day_change_percentage"]) == (20, 2.5)

    await kite.sell(4, product="CNC")
    (held,) = await kite.holdings()
    assert (held["quantity"], held["used_quantity"]) == (10, 4)
    await world.later(DAY)
    (held,) = await world.logged_in().holdings()
    assert held["quantity"] == 6
    assert await world.logged_in().get_auction_instruments() == []


async def convert(kite: OfficialClient, quantity: int, **terms: Any) -> Any:
    asked: dict[str, Any] = {
        "exchange": "NSE", "tradingsymbol": "SBIN", "transaction_type": "BUY", "position_type": "day",
        "old_product": "MIS", "new_product": "CNC",
    }  # fmt: skip
    return await kite.convert_position(quantity=quantity, **(asked | terms))


async def test_a_position_is_moved_to_another_product_at_what_it_cost(kite: OfficialClient, world: World) -> None:
    await kite.buy(10)
    before = world.account.blocked()

    assert await convert(kite, 4) is True

    net = {row["product"]: (row["quantity"], row["average_price"]) for row in (await kite.positions())["net"]}
    assert net == {"MIS": (6, 800), "CNC": (4, 800)}
    assert world.account.blocked() == before + 4 * 800 * Decimal("0.8")
    assert await convert(kite, 4, old_product="CNC", new_product="MIS") is True
    assert world.account.blocked() == before
    await convert(kite, 10)
    await world.later(DAY)
    assert [row["quantity"] for row in await world.logged_in().holdings()] == [10]


@pytest.mark.parametrize(
    "terms",
    [
        {"quantity": 11}, {"quantity": 0}, {"quantity": -1}, {"quantity": "ten"}, {"transaction_type": "SELL"},
        {"position_type": "overnight"}, {"position_type": "week"}, {"old_product": "CNC"}, {"new_product": "MIS"},
        {"new_product": "NRML"}, {"tradingsymbol": "NONE"}, {"tradingsymbol": ""},
    ],
)  # fmt: skip
async def test_a_position_that_is_not_there_cannot_be_moved(kite: OfficialClient, terms: dict[str, Any]) -> None:
    await kite.buy(10)
    with pytest.raises(InputException):
        await convert(kite, **({"quantity": 5} | terms))
    assert [row["quantity"] for row in (await kite.positions())["net"]] == [10]


async def test_delivery_needs_the_money_or_the_shares(make_world: MakeWorld) -> None:
    world = await make_world(account={"cash": Decimal(4_000)})
    await world.price("800")
    kite = world.logged_in()
    await kite.buy(10)
    with pytest.raises(GeneralException, match="Insufficient funds"):
        await convert(kite, 10)
    await kite.sell(20)
    with pytest.raises(GeneralException, match="Insufficient stock holding"):
        await convert(kite, 10, transaction_type="SELL")
    world.account.holdings[SBIN] = SimHolding(quantity=10, average_price=Decimal(700))
    assert await convert(kite, 10, transaction_type="SELL") is True
    assert world.account.net(SBIN, world.account.orders[0].product) == 0


# --- margins and charges ---------------------------------------------------------------------------------------------


def order(**terms: Any) -> dict[str, Any]:
    asked = {
        "exchange": "NSE", "tradingsymbol": "SBIN", "transaction_type": "BUY", "variety": "regular", "product": "MIS",
        "order_type": "MARKET", "quantity": 10, "price": 0, "trigger_price": 0,
    }  # fmt: skip
    return asked | terms


async def test_margins_of_orders_are_what_placing_them_would_block(kite: OfficialClient, world: World) -> None:
    intraday, delivery = await kite.order_margins([order(), order(product="CNC", order_type="LIMIT", price=790.5)])
    assert (intraday["total"], intraday["leverage"], intraday["tradingsymbol"]) == (1600, 5, "SBIN")
    assert (delivery["total"], delivery["leverage"]) == (7905, 1)
    await kite.buy(10)
    assert world.account.blocked() == 1600
    (closing,) = await kite.order_margins([order(transaction_type="SELL")])
    assert closing["total"] == 0


async def test_a_basket_counts_what_closes_only_once(kite: OfficialClient) -> None:
    both = [order(), order(transaction_type="SELL", quantity=4)]
    basket = await kite.basket_order_margins(both)
    assert (basket["initial"]["total"], basket["final"]["total"]) == (2240, 960)
    assert [each["total"] for each in basket["orders"]] == [1600, 640]
    assert (await kite.basket_order_margins(both, mode="compact"))["orders"] == []
    await kite.sell(10)
    assert (await kite.basket_order_margins([order()]))["final"]["total"] == 0
    assert (await kite.basket_order_margins([order()], consider_positions=False))["final"]["total"] == 1600


async def test_the_contract_note_adds_up(kite: OfficialClient) -> None:
    bought, sold = await kite.get_virtual_contract_note(
        [
            order(order_id="1", average_price=800.0),
            order(order_id="2", average_price=810.0, transaction_type="SELL", product="CNC"),
        ]
    )
    assert (bought["price"], bought["charges"]["brokerage"], bought["charges"]["transaction_tax"]) == (800, 2.4, 0)
    assert (sold["charges"]["brokerage"], sold["charges"]["transaction_tax"]) == (0, 8.1)
    for note in (bought, sold):
        charges = note["charges"]
        parts = ("transaction_tax", "exchange_turnover_charge", "sebi_turnover_charge", "brokerage", "stamp_duty")
        total = sum(charges[name] for name in parts) + charges["gst"]["total"]
        assert charges["total"] == pytest.approx(total)


@pytest.mark.parametrize(
    "asked", [[], {}, "x", [{}], [order(tradingsymbol="NONE")], [order(quantity=0)], [order(price=-1)],
              [order(product="X")], [order(quantity="ten")]]
)  # fmt: skip
async def test_orders_that_make_no_sense_have_no_margin(kite: OfficialClient, asked: Any) -> None:
    for call in (kite.order_margins, kite.basket_order_margins, kite.get_virtual_contract_note):
        with pytest.raises(InputException):
            await call(asked)


async def test_the_margins_of_a_segment(kite: OfficialClient) -> None:
    rows = await kite._get("market.margins", url_args={"segment": "equity"})
    row = next(each for each in rows if each["tradingsymbol"] == "SBIN")
    assert (row["mis_margin"], row["mis_multiplier"]) == (20, 5)
    assert await kite._get("market.margins", url_args={"segment": "commodity"}) == []
    with pytest.raises(InputException):
        await kite._get("market.margins", url_args={"segment": "gold"})


async def test_every_endpoint_wants_a_session(world: World) -> None:
    nobody = world.client("wrong")
    for path in ("/quote", "/instruments", "/portfolio/holdings", "/gtt/triggers", "/margins/equity"):
        answer = await world.http.get(path)
        assert answer.status_code in (400, 403)
    with pytest.raises(Exception, match="access_token"):
        await nobody.holdings()
    assert world.account.user_id == USER
