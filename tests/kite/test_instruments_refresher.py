"""The refresher: once a day, by one process, again when it failed, and never at the price of what was there."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from bahi.database.dumps import Stored
from bahi.database.engine import create_engine
from bahi.database.instruments import SqlInstruments
from bahi.instruments import Failed, InstrumentRefresher, LimitsFetched, Outcome, dump_day
from brokers.port import BrokerUnavailable, SessionExpired
from domain.calendar import instant, load_nse
from domain.values import HOUR, MINUTE, SECOND, Instant, Price
from eventstore.errors import LogUnavailable
from simulation.clock import VirtualClock
from tests.conftest import HasUrl
from tests.kite.dumps import database, dump, emptied, row, stocks

MONDAY = dt.date(2026, 6, 15)
NAMES = ["SBIN", "INFY", "TCS", "ZOMATO"]


def at(time: str, day: dt.date = MONDAY) -> Instant:
    return instant(day, dt.time.fromisoformat(time))


class Kite:
    """What is downloaded and quoted; each call is written down."""

    def __init__(self) -> None:
        self.dumps: dict[str, bytes | Exception] = {"NSE": dump(*stocks(NAMES))}
        self.limits: dict[str, tuple[Price, Price, Price]] = {}
        self.downloads: list[str] = []
        self.quoted: list[list[str]] = []
        self.armed: set[str] = set()
        self.trouble: Exception | None = None

    async def download(self, exchange: str) -> bytes:
        self.downloads.append(exchange)
        await asyncio.sleep(0)
        answer = self.dumps[exchange]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def quote(self, symbols: Sequence[str]) -> dict[str, tuple[Price, Price, Price]]:
        self.quoted.append(list(symbols))
        if self.trouble is not None:
            raise self.trouble
        return {symbol: self.limits[symbol] for symbol in symbols if symbol in self.limits}

    async def wanted(self) -> set[str]:
        return self.armed

    def price(self, *names: str, last: int = 800) -> None:
        price = Decimal(last)
        self.limits |= {f"NSE:{name}": (price, price * Decimal("0.9"), price * Decimal("1.1")) for name in names}


@pytest.fixture
def kite() -> Kite:
    return Kite()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(at("08:30"))


@pytest.fixture(scope="module")
def lists(postgres_server: HasUrl, database_template: str) -> Iterator[str]:
    with database(postgres_server.url, database_template, "test_kite_refresher") as url:
        yield url


@pytest.fixture
async def store(lists: str) -> AsyncIterator[SqlInstruments]:
    async with emptied(lists) as store:
        yield store


Refresher = Callable[..., InstrumentRefresher]


@pytest.fixture
def refresher(store: SqlInstruments, kite: Kite, clock: VirtualClock) -> Refresher:
    def made(
        exchanges: Sequence[str] = ("NSE",), observe: Callable[[Outcome], None] | None = None
    ) -> InstrumentRefresher:
        return InstrumentRefresher(
            store,
            clock,
            load_nse(),
            exchanges=exchanges,
            download=kite.download,
            quote=kite.quote,
            wanted=kite.wanted,
            observe=observe,
        )

    return made


# --- dumps -----------------------------------------------------------------------------------------------------------


async def test_at_the_start_a_missing_dump_is_fetched_at_once(
    refresher: Refresher, kite: Kite, store: SqlInstruments
) -> None:
    seen: list[Outcome] = []
    (done,) = await refresher(observe=seen.append).step()
    assert isinstance(done, Stored)
    assert (done.day, done.listed, done.added.count) == (MONDAY, {"NSE": 4}, 4)
    assert seen == [done]
    assert [(each.exchange, each.downloaded_on) for each in await store.dumps()] == [("NSE", MONDAY)]


async def test_a_dump_is_fetched_once_a_day_from_half_past_eight(
    refresher: Refresher, kite: Kite, clock: VirtualClock
) -> None:
    one = refresher()
    await one.step()
    for time in ("08:31", "15:30", "23:59"):
        clock.set(at(time))
        assert await one.step() == []
    tomorrow = MONDAY + dt.timedelta(days=1)
    clock.set(at("08:29:59", tomorrow))
    assert await one.step() == []
    clock.set(at("08:30", tomorrow))
    (done,) = await one.step()
    assert isinstance(done, Stored)
    assert done.day == tomorrow
    assert kite.downloads == ["NSE", "NSE"]


async def test_before_half_past_eight_the_newest_dump_is_yesterdays(
    refresher: Refresher, kite: Kite, clock: VirtualClock
) -> None:
    assert dump_day(at("08:29:59")) == MONDAY - dt.timedelta(days=1)
    assert dump_day(at("08:30")) == MONDAY
    clock.set(at("07:00", MONDAY + dt.timedelta(days=1)))
    one = refresher()
    (early,) = await one.step()
    assert isinstance(early, Stored)
    assert early.day == MONDAY
    clock.set(at("08:30", MONDAY + dt.timedelta(days=1)))
    (todays,) = await one.step()
    assert isinstance(todays, Stored)
    assert todays.day == MONDAY + dt.timedelta(days=1)


async def test_after_a_restart_todays_dump_is_not_fetched_again(refresher: Refresher, kite: Kite) -> None:
    await refresher().step()
    assert await refresher().step() == []
    assert kite.downloads == ["NSE"]


async def test_of_several_processes_one_downloads(refresher: Refresher, kite: Kite) -> None:
    processes = [refresher() for _ in range(4)]
    done = await asyncio.gather(*(each.step() for each in processes))
    assert sum(len(each) for each in done) == 1
    done = await asyncio.gather(*(each.step() for each in processes))
    assert kite.downloads == ["NSE"]
    assert done == [[], [], [], []]


async def test_a_download_that_fails_is_tried_again_ever_later(
    refresher: Refresher, kite: Kite, clock: VirtualClock
) -> None:
    kite.dumps["NSE"] = BrokerUnavailable("read timeout")
    one, tried = refresher(), []
    with capture_logs() as logs:
        for _ in range(180):
            if await one.step():
                tried.append((clock.now() - at("08:30")) // SECOND)
            clock.set(clock.now() + 5 * SECOND)
    assert tried == [0, 15, 45, 105, 225, 465, 765]
    assert {each["event"] for each in logs} == {"instruments_not_downloaded"}
    kite.dumps["NSE"] = dump(*stocks(NAMES))
    clock.set(clock.now() + 5 * MINUTE)
    (done,) = await one.step()
    assert isinstance(done, Stored)


@pytest.mark.parametrize("error", [SessionExpired("log in"), BrokerUnavailable("no"), ConnectionResetError("reset")])
async def test_one_exchange_that_fails_does_not_keep_the_other_back(
    refresher: Refresher, kite: Kite, store: SqlInstruments, error: Exception
) -> None:
    kite.dumps["BSE"] = error
    failed, stored = await refresher(exchanges=("BSE", "NSE")).step()
    assert isinstance(failed, Failed)
    assert (failed.exchange, failed.refused) == ("BSE", False)
    assert isinstance(stored, Stored)
    assert [each.exchange for each in await store.dumps()] == ["NSE"]


@pytest.mark.parametrize(
    "answer", [b"<html>", dump(), dump("NSE,broken"), dump(*stocks(NAMES[:1])), dump(*stocks(NAMES))[:-20]]
)
async def test_a_refused_dump_is_said_aloud_and_yesterdays_stays(
    refresher: Refresher, kite: Kite, clock: VirtualClock, store: SqlInstruments, answer: bytes
) -> None:
    one = refresher()
    await one.step()
    clock.set(at("08:30", MONDAY + dt.timedelta(days=1)))
    kite.dumps["NSE"] = answer
    with capture_logs() as logs:
        (refused,) = await one.step()
    assert isinstance(refused, Failed)
    assert refused.refused
    (line,) = logs
    assert (line["event"], line["log_level"], line["kept"]) == ("instruments_refused", "error", "2026-06-15")
    assert [(each.downloaded_on, each.listed) for each in await store.dumps()] == [(MONDAY, 4)]
    clock.set(clock.now() + 14 * MINUTE)
    assert await one.step() == []
    clock.set(clock.now() + MINUTE)
    kite.dumps["NSE"] = dump(*stocks(NAMES))
    (done,) = await one.step()
    assert isinstance(done, Stored)


async def test_what_changed_is_logged_and_left_out_rows_are_an_error(
    refresher: Refresher, kite: Kite, clock: VirtualClock
) -> None:
    one = refresher()
    await one.step()
    clock.set(at("08:30", MONDAY + dt.timedelta(days=1)))
    kite.dumps["NSE"] = dump(row("NSE:SBIN", 1, tick="0.1"), *stocks(["", "INFY", "TCS", "ETERNAL"])[1:], "x")
    with capture_logs() as logs:
        await one.step()
    stored, left_out = logs
    assert stored["event"] == "instruments_stored"
    assert stored["renamed"] == ("NSE:ZOMATO to NSE:ETERNAL",)
    assert stored["first_changed"] == ("NSE:SBIN tick 0.05 to 0.1",)
    assert (stored["added"], stored["gone"]) == (1, 1)
    assert (left_out["event"], left_out["log_level"]) == ("instruments_left_out", "error")
    assert left_out["first"] == ["line 6: has 1 columns, not 12"]


async def test_an_armed_strategy_whose_symbol_is_gone_is_said_aloud(
    refresher: Refresher, kite: Kite, clock: VirtualClock
) -> None:
    one = refresher()
    kite.armed = {"NSE:ZOMATO", "NSE:SBIN", "NSE:NEVERWAS"}
    await one.step()
    clock.set(at("08:30", MONDAY + dt.timedelta(days=1)))
    kite.dumps["NSE"] = dump(*stocks(["SBIN", "INFY", "TCS", "ETERNAL"]))
    with capture_logs() as logs:
        await one.step()
    gone = [each for each in logs if each["event"] == "armed_instrument_gone"]
    assert [(each["symbol"], each["renamed_to"], each["log_level"]) for each in gone] == [
        ("NSE:ZOMATO", "NSE:ETERNAL", "error")
    ]


async def test_without_a_database_it_waits_and_says_so_once(kite: Kite, clock: VirtualClock) -> None:
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    one = InstrumentRefresher(
        SqlInstruments(engine), clock, load_nse(), exchanges=["NSE"], download=kite.download, quote=kite.quote,
        wanted=kite.wanted,
    )  # fmt: skip
    with capture_logs() as logs:
        assert await one.step() == []
        assert await one.step() == []
    await engine.dispose()
    assert [each["event"] for each in logs] == ["instruments_wait"]


async def test_it_runs_until_it_is_stopped(
    refresher: Refresher, kite: Kite, clock: VirtualClock, store: SqlInstruments
) -> None:
    one = refresher()
    running = asyncio.create_task(one.run())
    while clock.next_at() is None:
        assert not running.done(), running
        await asyncio.sleep(0.001)
    assert await store.versions() == {"NSE": 1}
    clock.set(at("08:30", MONDAY + dt.timedelta(days=1)))
    while (await store.versions())["NSE"] == 1:
        assert not running.done(), running
        await asyncio.sleep(0.001)
    await one.stop()
    await running


# --- circuit limits --------------------------------------------------------------------------------------------------


@pytest.fixture
async def open_at_nine(refresher: Refresher, kite: Kite, clock: VirtualClock) -> InstrumentRefresher:
    """The dump is there, two strategies are armed, and it is just before nine."""
    one = refresher()
    await one.step()
    kite.armed = {"NSE:SBIN", "NSE:INFY"}
    kite.price("SBIN", "INFY", "TCS")
    clock.set(at("08:59:59"))
    assert await one.step() == []
    return one


async def test_limits_are_fetched_at_nine_and_every_half_hour_to_the_close(
    open_at_nine: InstrumentRefresher, kite: Kite, clock: VirtualClock, store: SqlInstruments
) -> None:
    fetched = []
    while clock.now() < at("17:00"):
        clock.set(clock.now() + MINUTE // 2)
        if await open_at_nine.step():
            fetched.append((clock.now() - at("00:00")) // MINUTE)
    assert fetched == list(range(9 * 60, 15 * 60 + 1, 30))
    assert kite.quoted[0] == ["NSE:INFY", "NSE:SBIN"]
    limits = await store.limits(MONDAY)
    assert {symbol: (each.lower, each.upper) for symbol, each in limits.items()} == {
        "NSE:SBIN": (Decimal("720.0"), Decimal("880.0")),
        "NSE:INFY": (Decimal("720.0"), Decimal("880.0")),
    }


async def test_what_is_armed_in_between_is_quoted_at_once(
    open_at_nine: InstrumentRefresher, kite: Kite, clock: VirtualClock
) -> None:
    clock.set(at("09:10"))
    assert await open_at_nine.step() == [LimitsFetched(2, 0)]
    kite.armed |= {"NSE:TCS"}
    clock.set(at("09:11"))
    assert await open_at_nine.step() == [LimitsFetched(1, 0)]
    assert kite.quoted[-1] == ["NSE:TCS"]


async def test_another_process_does_not_ask_for_what_is_known(
    open_at_nine: InstrumentRefresher, refresher: Refresher, kite: Kite, clock: VirtualClock
) -> None:
    clock.set(at("09:10"))
    await open_at_nine.step()
    kite.armed |= {"NSE:TCS"}
    assert await refresher().step() == [LimitsFetched(1, 0)]
    assert await refresher().step() == []


async def test_five_hundred_are_asked_for_at_a_time_and_once_a_second(
    refresher: Refresher, kite: Kite, clock: VirtualClock, store: SqlInstruments
) -> None:
    names = [f"S{number:04}" for number in range(1_203)]
    kite.dumps["NSE"] = dump(*stocks(names))
    kite.price(*names)
    kite.armed = {f"NSE:{name}" for name in names}
    one = refresher()
    await one.step()
    clock.set(at("09:00"))
    asking = asyncio.create_task(one.step())
    for calls in (1, 2, 3):
        while len(kite.quoted) < calls or (calls < 3 and not clock.asleep(asking)):
            assert calls == 3 or not asking.done(), asking
            await asyncio.sleep(0.001)
        clock.set(clock.now() + SECOND)
    assert await asking == [LimitsFetched(500, 0), LimitsFetched(500, 0), LimitsFetched(203, 0)]
    assert len(await store.limits(MONDAY)) == 1_203


async def test_symbols_that_kite_says_nothing_usable_of_are_named_and_not_asked_for_again_at_once(
    open_at_nine: InstrumentRefresher, kite: Kite, clock: VirtualClock, store: SqlInstruments
) -> None:
    del kite.limits["NSE:INFY"]
    kite.limits["NSE:SBIN"] = (Decimal(800), Decimal(900), Decimal(700))
    kite.limits["NSE:TCS"] = (Decimal(800), Decimal(0), Decimal(0))
    kite.armed |= {"NSE:TCS"}
    clock.set(at("09:00"))
    with capture_logs() as logs:
        assert await open_at_nine.step() == [LimitsFetched(0, 3)]
    assert [each["symbols"] for each in logs] == [["NSE:INFY", "NSE:SBIN", "NSE:TCS"]]
    assert await open_at_nine.step() == []
    assert await store.limits(MONDAY) == {}


async def test_a_quote_that_fails_is_tried_again_after_a_pause(
    open_at_nine: InstrumentRefresher, kite: Kite, clock: VirtualClock
) -> None:
    kite.trouble = SessionExpired("log in")
    clock.set(at("09:00"))
    assert await open_at_nine.step() == []
    assert await open_at_nine.step() == []
    assert len(kite.quoted) == 1
    kite.trouble = None
    clock.set(at("09:00:15"))
    assert await open_at_nine.step() == [LimitsFetched(2, 0)]


async def test_nothing_is_asked_for_when_the_exchange_is_closed_or_its_year_unknown(
    refresher: Refresher, kite: Kite, clock: VirtualClock
) -> None:
    kite.armed = {"NSE:SBIN"}
    one = refresher()
    for day in (dt.date(2026, 6, 20), dt.date(2026, 6, 21), dt.date(2099, 1, 5)):
        clock.set(at("10:00", day))
        await one.step()
    assert kite.quoted == []


async def test_while_it_is_not_known_what_is_armed_the_dump_is_fetched_all_the_same(
    refresher: Refresher, kite: Kite, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown() -> set[str]:
        raise LogUnavailable("no answer")

    monkeypatch.setattr(kite, "wanted", unknown)
    clock.set(clock.now() + HOUR)
    (done,) = await refresher().step()
    assert isinstance(done, Stored)
