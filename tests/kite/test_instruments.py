"""What may be traded: dumps into PostgreSQL, and the copy in memory that answers `find` and `near`."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis

from bahi.database.dumps import Noted, Stored
from bahi.database.instruments import SqlInstruments
from bahi.instruments import CatalogueFollower
from brokers.instruments import InstrumentCatalogue, Limits, Listing, Snapshot
from brokers.kite.dump import DumpError
from domain.calendar import instant
from domain.values import DAY, MINUTE
from simulation.clock import VirtualClock
from tests.api.world import STRATEGY, open_world, problem
from tests.conftest import HasUrl
from tests.kite.dumps import database, dump, emptied, row, stocks

DAY_ONE = dt.date(2026, 6, 15)
NOW = instant(DAY_ONE, dt.time(9, 5))
NAMES = ["SBIN", "INFY", "TCS", "ZOMATO", "RELIANCE", "M&M"]


@pytest.fixture(scope="module")
def lists(postgres_server: HasUrl, database_template: str) -> Iterator[str]:
    with database(postgres_server.url, database_template, "test_kite_lists") as url:
        yield url


@pytest.fixture
async def store(lists: str) -> AsyncIterator[SqlInstruments]:
    async with emptied(lists) as store:
        yield store


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


async def until(condition: Callable[[], bool], working: "asyncio.Task[None]") -> None:
    while not condition():
        assert not working.done(), working
        await asyncio.sleep(0.001)


async def put(store: SqlInstruments, *rows: str, day: int = 0, exchanges: Sequence[str] = ("NSE", "BSE")) -> Stored:
    return await store.store(dump(*rows), exchanges, day=DAY_ONE + dt.timedelta(days=day), at=NOW + day * DAY)


async def catalogue_of(store: SqlInstruments, clock: VirtualClock) -> InstrumentCatalogue:
    catalogue = InstrumentCatalogue(clock)
    await CatalogueFollower(catalogue, store, clock).load()
    return catalogue


# --- a dump into the table -------------------------------------------------------------------------------------------


async def test_a_dump_is_stored_with_all_that_it_says(store: SqlInstruments) -> None:
    option = row("NFO:NIFTY26JUN25000CE", 40123, kind="CE", segment="NFO-OPT", expiry="2026-06-25", lot="75")
    stored = await put(store, row("NSE:SBIN", 3045, name=r"STATE\BANK", tick="0.10"), option, exchanges=["NSE", "NFO"])
    assert stored.listed == {"NSE": 1, "NFO": 1}
    assert stored.added == Noted(2, ("NFO:NIFTY26JUN25000CE", "NSE:SBIN"))
    found = await store.get("NSE:SBIN")
    assert found is not None
    assert (found.token, found.name, found.tick_size, found.lot_size) == (779521, r"STATE\BANK", Decimal("0.10"), 1)
    assert (found.kind, found.segment, found.expiry, found.listed) == ("EQ", "NSE", None, True)
    assert found.downloaded_on == DAY_ONE
    derivative = await store.get("NFO:NIFTY26JUN25000CE")
    assert derivative is not None
    assert (derivative.expiry, derivative.lot_size) == (dt.date(2026, 6, 25), 75)


async def test_only_the_exchanges_that_may_be_traded_are_kept(store: SqlInstruments) -> None:
    stored = await put(store, *stocks(NAMES), row("MCX:GOLD26JUNFUT", 9, kind="FUT", segment="MCX", token=2311))
    assert stored.listed == {"NSE": 6}
    assert await store.get("MCX:GOLD26JUNFUT") is None


async def test_what_is_not_in_the_next_dump_is_listed_no_more_and_comes_back(store: SqlInstruments) -> None:
    await put(store, *stocks(NAMES))
    second = await put(store, *stocks(NAMES[:-1]), day=1)
    assert (second.gone, second.added.count) == (Noted(1, ("NSE:M&M",)), 0)
    gone = await store.get("NSE:M&M")
    assert gone is not None
    assert (gone.listed, gone.renamed_to, gone.downloaded_on) == (False, None, DAY_ONE)
    third = await put(store, *stocks(NAMES), day=2)
    assert third.added == Noted(1, ("NSE:M&M",))
    back = await store.get("NSE:M&M")
    assert back is not None
    assert back.listed


async def test_a_dump_of_one_exchange_leaves_the_others_alone(store: SqlInstruments) -> None:
    bse = [row(f"BSE:{name}", 500_000 + number) for number, name in enumerate(NAMES)]
    await put(store, *stocks(NAMES), *bse)
    await put(store, *stocks(NAMES), day=1, exchanges=["NSE"])
    assert {each.exchange: each.downloaded_on.day for each in await store.dumps()} == {"BSE": 15, "NSE": 16}
    other = await store.get("BSE:TCS")
    assert other is not None
    assert other.listed


async def test_a_stock_whose_token_a_new_symbol_has_was_renamed(store: SqlInstruments) -> None:
    await put(store, *stocks(NAMES))
    renamed = ["ETERNAL" if name == "ZOMATO" else name for name in NAMES]
    stored = await put(store, *stocks(renamed), day=1)
    assert stored.renamed == Noted(1, ("NSE:ZOMATO to NSE:ETERNAL",))
    old = await store.get("NSE:ZOMATO")
    assert old is not None
    assert (old.listed, old.renamed_to) == (False, "NSE:ETERNAL")
    assert [each.renamed for each in await store.dumps()] == [1]


async def test_a_token_that_goes_to_another_listed_stock_is_no_renaming(store: SqlInstruments) -> None:
    await put(store, *stocks(NAMES))
    stored = await put(store, *stocks(NAMES[:3]), row("NSE:RELIANCE", 4), row("NSE:M&M", 6), day=1)
    assert stored.renamed.count == 0
    assert stored.gone.first == ("NSE:ZOMATO",)
    assert stored.changed == Noted(1, ("NSE:RELIANCE token 1281 to 1025",))


async def test_a_token_that_is_used_again_for_another_derivative_is_no_renaming(store: SqlInstruments) -> None:
    june = row("NFO:NIFTY26JUN25000CE", 40123, kind="CE", segment="NFO-OPT", expiry="2026-06-25", lot="75")
    july = row("NFO:NIFTY26JUL25000PE", 40123, kind="PE", segment="NFO-OPT", expiry="2026-07-30", lot="75")
    await put(store, june, exchanges=["NFO"])
    stored = await put(store, july, exchanges=["NFO"], day=11)
    assert (stored.renamed.count, stored.gone.count, stored.added.count) == (0, 1, 1)


async def test_a_token_that_comes_back_long_afterwards_is_somebody_elses(store: SqlInstruments) -> None:
    await put(store, *stocks(NAMES))
    await put(store, *stocks(NAMES[:-1]), day=1)
    stored = await put(store, *stocks([*NAMES[:-1], "NEWCO"]), day=90)
    assert stored.renamed.count == 0


async def test_what_changed_is_told(store: SqlInstruments) -> None:
    await put(store, *stocks(NAMES))
    finer = row("NSE:SBIN", 1, tick="0.01", lot="5")
    stored = await put(store, finer, *stocks(NAMES)[1:], day=1)
    assert stored.changed == Noted(1, ("NSE:SBIN tick 0.05 to 0.01, lot 1 to 5",))
    assert (await put(store, finer, *stocks(NAMES)[1:], day=2)).changed == Noted()


async def test_a_symbol_with_two_rows_that_differ_is_left_out_entirely(store: SqlInstruments) -> None:
    twice = row("NSE:SBIN", 77)
    stored = await put(store, *stocks(NAMES), twice)
    assert stored.listed == {"NSE": 5}
    assert stored.left_out == 2
    assert stored.bad == ((2, "NSE:SBIN has several rows that differ"), (8, "NSE:SBIN has several rows that differ"))
    assert await store.get("NSE:SBIN") is None


async def test_two_symbols_with_one_token_are_left_out_both(store: SqlInstruments) -> None:
    stored = await put(store, *stocks(NAMES), row("NSE:SBIN-BE", 1))
    assert (stored.listed, stored.left_out) == ({"NSE": 5}, 2)
    assert stored.bad[0] == (2, "NSE:SBIN has its token 257 in common with another")
    assert await store.get("NSE:SBIN-BE") is None


async def test_the_same_row_twice_is_one(store: SqlInstruments) -> None:
    stored = await put(store, *stocks(NAMES), stocks(NAMES)[0])
    assert (stored.listed, stored.left_out) == ({"NSE": 6}, 0)


async def test_a_damaged_row_takes_its_symbol_off_the_list_and_no_other(store: SqlInstruments) -> None:
    await put(store, *stocks(NAMES))
    damaged = stocks(NAMES)[0].replace("0.05", "?")
    stored = await put(store, damaged, *stocks(NAMES)[1:], day=1)
    assert (stored.left_out, stored.gone.first) == (1, ("NSE:SBIN",))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (dump(*stocks(NAMES[:2])), "2 instruments of NSE, where 6 are listed"),
        (dump(), "no instrument of BSE, NSE"),
        (dump("x", "y"), "no instrument of BSE, NSE .* 2 damaged, the first damaged one is line 2"),
        (dump(row("MCX:GOLD", 9, segment="MCX", token=5)), "no instrument of BSE, NSE"),
        (dump(*stocks(NAMES))[:-9], "breaks off in line 7"),
        (b"<html>502 Bad Gateway</html>", "no instruments dump"),
    ],
)
async def test_a_refused_dump_leaves_yesterdays(store: SqlInstruments, content: bytes, why: str) -> None:
    await put(store, *stocks(NAMES))
    before = await store.versions()
    with pytest.raises(DumpError, match=why):
        await store.store(content, ["NSE", "BSE"], day=DAY_ONE + dt.timedelta(days=1), at=NOW + DAY)
    assert await store.versions() == before
    assert [(each.downloaded_on, each.listed) for each in await store.dumps()] == [(DAY_ONE, 6)]


async def test_half_the_list_may_go_by_force(store: SqlInstruments) -> None:
    await put(store, *stocks(NAMES))
    assert (await put(store, *stocks(NAMES[:3]), day=1)).gone.count == 3  # half is not less than half
    content = dump(*stocks(NAMES[:1]))
    stored = await store.store(content, ["NSE"], day=DAY_ONE + dt.timedelta(days=2), at=NOW, force=True)
    assert stored.listed == {"NSE": 1}


async def test_dumps_that_come_at_once_are_stored_one_after_the_other(store: SqlInstruments) -> None:
    await asyncio.gather(*(put(store, *stocks(NAMES)) for _ in range(4)))
    assert await store.versions() == {"NSE": 4}


# --- the copy in memory ----------------------------------------------------------------------------------------------


async def test_an_instrument_is_found_with_its_grid_and_lot_and_by_token(
    store: SqlInstruments, clock: VirtualClock
) -> None:
    await put(store, row("NSE:SBIN", 3045, tick="0.10"), row("BSE:SBIN", 500112, tick="0.05"))
    catalogue = await catalogue_of(store, clock)
    found = catalogue.find("NSE:SBIN")
    assert found is not None
    assert (found.tick_size, found.lot, found.freeze) == (Decimal("0.10"), 1, 1_000_000)
    assert (found.lower_circuit, found.upper_circuit) == (None, None)
    assert (catalogue.token("NSE:SBIN"), catalogue.symbol(779521)) == (779521, "NSE:SBIN")
    assert catalogue.token("BSE:SBIN") == 500112 << 8 | 4
    for unknown in ("SBIN", "nse:SBIN", "NSE:", "", "NFO:SBIN"):
        assert catalogue.find(unknown) is None
        assert catalogue.token(unknown) is None
    assert catalogue.symbol(1) is None


async def test_an_index_has_a_token_and_cannot_be_traded(store: SqlInstruments, clock: VirtualClock) -> None:
    await put(store, *stocks(NAMES), row("NSE:NIFTY 50", 1001, segment="INDICES", tick="0", lot="0"))
    catalogue = await catalogue_of(store, clock)
    assert catalogue.token("NSE:NIFTY 50") == 256265
    assert catalogue.find("NSE:NIFTY 50") is None
    assert "NSE:NIFTY 50" not in catalogue.near("NSE:NIFTY 5")


async def test_circuit_limits_are_those_of_today_only(store: SqlInstruments, clock: VirtualClock) -> None:
    await put(store, *stocks(NAMES))
    await store.set_limits({"NSE:SBIN": Limits(Decimal("720.05"), Decimal("880.05"))}, at=NOW)
    catalogue = await catalogue_of(store, clock)
    found = catalogue.find("NSE:SBIN")
    assert found is not None
    assert (found.lower_circuit, found.upper_circuit) == (Decimal("720.05"), Decimal("880.05"))
    assert catalogue.find("NSE:INFY") == replace_limits(catalogue, "NSE:INFY")
    clock.set(instant(DAY_ONE, dt.time(23, 59)))
    assert catalogue.find("NSE:SBIN") == found
    clock.set(instant(DAY_ONE + dt.timedelta(days=1), dt.time.min))
    assert catalogue.find("NSE:SBIN") == replace_limits(catalogue, "NSE:SBIN")


def replace_limits(catalogue: InstrumentCatalogue, symbol: str) -> Any:
    found = catalogue.find(symbol)
    assert found is not None
    assert found.lower_circuit is None
    return found


async def test_another_process_sees_a_new_dump_and_new_limits_when_it_looks_again(
    store: SqlInstruments, clock: VirtualClock
) -> None:
    catalogue = InstrumentCatalogue(clock)
    follower = CatalogueFollower(catalogue, store, clock)
    await follower.load()
    assert not catalogue.loaded
    await put(store, *stocks(NAMES))
    await follower.load()
    assert catalogue.loaded
    assert len(catalogue) == 6
    await store.set_limits({"NSE:SBIN": Limits(Decimal(9), Decimal(11))}, at=NOW)
    await follower.load()
    await put(store, *stocks(NAMES[:5]), row("NSE:SBIN", 1), day=1)
    await follower.load()
    found = catalogue.find("NSE:SBIN")
    assert found is not None
    assert found.lower_circuit == 9
    assert catalogue.find("NSE:M&M") is None
    assert catalogue.token("NSE:M&M") is not None, "what an armed stop needs"


def test_what_vanished_from_the_list_keeps_its_token_until_another_one_has_it(clock: VirtualClock) -> None:
    def listed(**tokens: int) -> Snapshot:
        snapshot = Snapshot()
        for name, token in tokens.items():
            snapshot.add(
                Listing(symbol=name, token=token, tick_size=Decimal(1), lot_size=1, segment="NSE", listed=True)
            )
        snapshot.finish()
        return snapshot

    catalogue = InstrumentCatalogue(clock)
    catalogue.replace(listed(SBIN=1, TCS=2))
    catalogue.replace(listed(TCS=2))
    catalogue.replace(listed(TCS=2))
    assert (catalogue.token("SBIN"), catalogue.find("SBIN")) == (1, None)
    catalogue.replace(listed(TCS=2, INFY=1))
    assert (catalogue.token("SBIN"), catalogue.token("INFY")) == (None, 1)
    catalogue.replace(listed(SBIN=3))
    assert catalogue.token("SBIN") == 3


async def test_the_follower_looks_again_by_itself_until_it_is_stopped(
    store: SqlInstruments, clock: VirtualClock
) -> None:
    catalogue = InstrumentCatalogue(clock)
    follower = CatalogueFollower(catalogue, store, clock)
    running = asyncio.create_task(follower.run())
    await until(lambda: clock.next_at() is not None, running)
    await put(store, *stocks(NAMES))
    clock.set(NOW + MINUTE)
    await until(lambda: catalogue.loaded, running)
    await follower.stop()
    await running


async def test_all_who_miss_something_share_a_look_that_began_after_they_had_asked(
    store: SqlInstruments, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = InstrumentCatalogue(clock)
    follower = CatalogueFollower(catalogue, store, clock)
    looks = 0
    load = follower.load

    async def counted() -> None:
        nonlocal looks
        looks += 1
        await load()

    monkeypatch.setattr(follower, "load", counted)
    first = asyncio.create_task(follower.look_again())
    await asyncio.sleep(0)  # it looks now, before there is anything
    await put(store, *stocks(NAMES))
    await asyncio.gather(first, *(follower.look_again() for _ in range(20)))
    assert catalogue.loaded
    assert looks <= 3


async def test_what_a_symbol_was_renamed_to_comes_before_what_looks_like_it(
    store: SqlInstruments, clock: VirtualClock
) -> None:
    await put(store, *stocks(NAMES))
    await put(store, *stocks(["ETERNAL" if name == "ZOMATO" else name for name in NAMES]), day=1)
    await put(store, *stocks(["FOODCO" if name == "ZOMATO" else name for name in NAMES]), row("NSE:ZOMATE", 9), day=2)
    catalogue = await catalogue_of(store, clock)
    assert catalogue.find("NSE:ZOMATO") is None
    assert catalogue.near("NSE:ZOMATO")[:2] == ["NSE:FOODCO", "NSE:ZOMATE"]
    assert catalogue.near("zomato")[0] == "NSE:FOODCO"
    assert catalogue.near("NSE:ETERNAL")[0] == "NSE:FOODCO"


def test_of_a_name_at_two_exchanges_the_one_that_was_asked_for_comes_first() -> None:
    snapshot = Snapshot()
    for number, symbol in enumerate(("BSE:RELIANCE", "NSE:RELIANCE", "NSE:RELINFRA"), 1):
        snapshot.add(
            Listing(symbol=symbol, token=number, tick_size=Decimal("0.05"), lot_size=1, segment="NSE", listed=True)
        )
    snapshot.finish()
    assert snapshot.names.near("BSE:RELIANC") == ["BSE:RELIANCE", "NSE:RELIANCE", "NSE:RELINFRA"]
    assert snapshot.names.near("RELIANC") == ["NSE:RELIANCE", "BSE:RELIANCE", "NSE:RELINFRA"]


def test_symbols_that_were_renamed_in_a_circle_have_no_successor() -> None:
    snapshot = Snapshot()
    for old, new in (("NSE:A", "NSE:B"), ("NSE:B", "NSE:A")):
        snapshot.add(
            Listing(symbol=old, token=1, tick_size=Decimal(1), lot_size=1, segment="NSE", listed=False, renamed_to=new)
        )
    assert snapshot.successor("NSE:A") is None


def test_derivatives_are_gone_after_their_expiry_and_currencies_count_lots(clock: VirtualClock) -> None:
    snapshot = Snapshot()
    for symbol, expiry in (
        ("NFO:NIFTY26JUN25000CE", dt.date(2026, 6, 16)),
        ("CDS:USDINR26JUNFUT", dt.date(2026, 6, 26)),
    ):
        snapshot.add(
            Listing(
                symbol=symbol,
                token=len(symbol),
                tick_size=Decimal("0.05"),
                lot_size=75,
                segment="NFO-OPT",
                listed=True,
                expiry=expiry,
            )
        )
    catalogue = InstrumentCatalogue(clock)
    catalogue.replace(snapshot)
    option, currency = catalogue.find("NFO:NIFTY26JUN25000CE"), catalogue.find("CDS:USDINR26JUNFUT")
    assert option is not None
    assert currency is not None
    assert (option.lot, currency.lot) == (75, 1)
    clock.set(instant(dt.date(2026, 6, 16), dt.time(15, 29)))
    assert catalogue.find("NFO:NIFTY26JUN25000CE") is not None
    clock.set(instant(dt.date(2026, 6, 17), dt.time.min))
    assert catalogue.find("NFO:NIFTY26JUN25000CE") is None


# --- what the API makes of it ----------------------------------------------------------------------------------------


async def test_a_strategy_is_refused_for_a_symbol_that_is_unknown_unlisted_or_renamed(
    redis: Redis, redis_url: str, database_url: str, store: SqlInstruments, clock: VirtualClock
) -> None:
    await put(store, *stocks(NAMES))
    await put(store, *stocks(["ETERNAL" if name == "ZOMATO" else name for name in NAMES if name != "M&M"]), day=1)
    catalogue = await catalogue_of(store, clock)
    async with open_world(redis_url, database_url) as world:
        world.app.state.dependencies = replace(world.deps, instruments=catalogue)
        alice = await world.trader()
        for symbol, said in (
            ("NSE:INFFY", "did you mean NSE:INFY"),
            ("NSE:ZOMATO", "did you mean NSE:ETERNAL"),
            ("NSE:M&M", "is not a known instrument"),
        ):
            refused = problem(
                await alice.post("/strategy/create", STRATEGY | {"symbol": symbol}), 422, "VALIDATION_FAILED"
            )
            assert [(error["field"], error["rule"]) for error in refused["errors"]] == [("symbol", "unknown")]
            assert said in refused["detail"]
        assert (await alice.post("/strategy/create", STRATEGY | {"symbol": "INFY"})).status_code == 201


async def test_while_nothing_is_loaded_no_symbol_is_called_unknown(
    redis: Redis, redis_url: str, database_url: str, clock: VirtualClock
) -> None:
    async with open_world(redis_url, database_url) as world:
        alice = await world.trader()
        strategy_id = await alice.create()
        world.app.state.dependencies = replace(world.deps, instruments=InstrumentCatalogue(clock))
        for path, body in (
            ("create", STRATEGY),
            ("update", {"strategy_id": strategy_id, "stop_loss": 1490}),
            ("start", {"strategy_id": strategy_id}),
        ):
            answer = await alice.post(f"/strategy/{path}", body, key=f"key-of-{path}")
            assert "not loaded yet" in problem(answer, 503, "INSTRUMENTS_NOT_LOADED")["detail"]
            assert answer.headers["retry-after"] == "3"
        world.app.state.dependencies = world.deps
        assert (await alice.post("/strategy/create", STRATEGY, key="key-of-create")).status_code == 201
