"""The generated market day: plausible, dirty, and the same for the same seed."""

import datetime as dt
import hashlib
import os
import subprocess
import sys
from collections import Counter, defaultdict
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.calendar import AlwaysOpenCalendar, Session, instant, load_nse
from domain.values import Tick
from simulation.market import DEFAULT_SYMBOLS, GRID, generate_day

SECOND = 1_000_000
DATE = dt.date(2026, 1, 16)
OPEN, CLOSE = instant(DATE, dt.time(9, 15)), instant(DATE, dt.time(15, 30))
TWO = {"NSE:INFY": Decimal("1510"), "NSE:TCS": Decimal("3080")}


def digest(ticks: list[Tick]) -> str:
    return hashlib.sha256("".join(f"{t.symbol},{t.price},{t.at},{t.volume};" for t in ticks).encode()).hexdigest()


def by_symbol(ticks: list[Tick]) -> dict[str, list[Tick]]:
    rows: dict[str, list[Tick]] = defaultdict(list)
    for tick in ticks:
        rows[tick.symbol].append(tick)
    return rows


@pytest.fixture(scope="module")
def day() -> list[Tick]:
    return list(generate_day(DATE, seed=7))


def test_each_symbol_has_its_ticks_in_the_session_and_a_few_around_it(day: list[Tick]) -> None:
    rows = by_symbol(day)
    assert set(rows) == set(DEFAULT_SYMBOLS)
    for symbol, ticks in rows.items():
        inside = [tick for tick in ticks if OPEN <= tick.at < CLOSE]
        assert len(inside) == 10_000, symbol
        before = [tick for tick in ticks if tick.at < OPEN]
        after = [tick for tick in ticks if tick.at >= CLOSE]
        assert len(before) == 1
        assert 0 < len(after) < 200
        assert ticks[0].price == DEFAULT_SYMBOLS[symbol]
        assert {tick.price for tick in after} == {inside[-1].price}


def test_prices_are_on_the_grid_near_the_start_and_move(day: list[Tick]) -> None:
    for symbol, ticks in by_symbol(day).items():
        start = DEFAULT_SYMBOLS[symbol]
        prices = [tick.price for tick in ticks]
        assert all(price % GRID == 0 for price in set(prices))
        assert max(abs(price - start) for price in prices) <= start / 8 + GRID
        assert max(prices) - min(prices) > start / 200
        assert len(set(prices)) > 30
        assert max(abs(later - earlier) for earlier, later in pairwise(prices)) < start / 200 + 2 * GRID


def test_trading_is_busiest_at_the_open_and_the_close(day: list[Tick]) -> None:
    hours = Counter((tick.at - OPEN) // (3600 * SECOND) for tick in day if OPEN <= tick.at < CLOSE)
    assert hours[0] > 1.5 * hours[3]
    assert hours[5] > 1.2 * hours[3]


def test_the_dirt_of_recordings_is_in_it_at_a_small_rate(day: list[Tick]) -> None:
    back_steps = [earlier.at - later.at for earlier, later in pairwise(day) if later.at < earlier.at]
    assert set(back_steps) == {SECOND}
    assert len(day) / 1000 < len(back_steps) < len(day) / 100
    falls = repeats = 0
    for ticks in by_symbol(day).values():
        falls += sum(later.volume < earlier.volume for earlier, later in pairwise(ticks))
        repeats += sum(later.at == earlier.at for earlier, later in pairwise(ticks))
        assert ticks[-1].volume > 10_000
    assert len(day) / 1000 < falls < len(day) / 50
    assert repeats > len(day) / 100
    assert all(tick.at % SECOND == 0 and tick.volume >= 0 for tick in day)


def test_a_seed_names_one_day_in_every_process() -> None:
    here = digest(list(generate_day(DATE, TWO, 42, ticks_per_symbol=500)))
    program = (
        "import datetime, hashlib; from decimal import Decimal; from simulation.market import generate_day\n"
        f"ticks = generate_day(datetime.date.fromisoformat('{DATE}'), {TWO!r}, 42, ticks_per_symbol=500)\n"
        "text = ''.join(f'{t.symbol},{t.price},{t.at},{t.volume};' for t in ticks)\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    for hash_seed in ("0", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == here


def test_other_seeds_and_dates_are_other_days() -> None:
    days = [(DATE, 1), (DATE, 2), (DATE + dt.timedelta(days=1), 1)]
    assert len({digest(list(generate_day(date, TWO, seed, ticks_per_symbol=100))) for date, seed in days}) == 3


def test_a_symbols_path_does_not_depend_on_its_company() -> None:
    alone = {"NSE:TCS": TWO["NSE:TCS"]}
    assert by_symbol(list(generate_day(DATE, TWO, 3)))["NSE:TCS"] == list(generate_day(DATE, alone, 3))


def test_nothing_trades_in_the_break_of_a_session() -> None:
    session = load_nse().session_on(dt.date(2024, 3, 2))
    assert session is not None
    (pause,) = session.breaks
    ticks = list(generate_day(session.date, TWO, 5, ticks_per_symbol=1000, session=session))
    assert not [tick for tick in ticks if pause.start_at <= tick.at < pause.end_at]
    assert sum(session.contains(tick.at) for tick in ticks) == 2000


def test_an_always_open_day_stays_within_its_date() -> None:
    session = AlwaysOpenCalendar().session_on(DATE)
    ticks = list(generate_day(DATE, TWO, 5, ticks_per_symbol=3000, session=session))
    assert len(ticks) == 6000
    assert all(session.contains(tick.at) for tick in ticks)


@settings(max_examples=60, deadline=None)
@given(
    st.decimals("0.05", "99999.95", places=2),
    st.integers(0, 300),
    st.integers(),
    st.integers(0, 86_000),
    st.integers(1, 7200),
)
def test_any_price_number_and_session_gives_a_valid_day(
    start: Decimal, count: int, seed: int, opens: int, length: int
) -> None:
    open_at = instant(DATE, dt.time.min) + opens * SECOND
    session = Session(date=DATE, open_at=open_at, close_at=open_at + length * SECOND, name="Any")
    ticks = list(generate_day(DATE, {"NSE:ANY": start}, seed, ticks_per_symbol=count, session=session))
    assert sum(session.contains(tick.at) for tick in ticks) == count
    assert all(tick.price >= GRID and tick.price % GRID == 0 and tick.volume >= 0 for tick in ticks)
    assert all(abs(tick.price - start) <= start / 8 + 2 * GRID for tick in ticks)
    assert all(earlier.at - later.at <= SECOND for earlier, later in pairwise(ticks))


@pytest.mark.parametrize("price", ["0", "-5", "0.04", "NaN", "Infinity"])
def test_an_impossible_start_price_is_refused_at_the_call(price: str) -> None:
    with pytest.raises(ValueError, match="start price of NSE:INFY"):
        generate_day(DATE, {"NSE:INFY": Decimal(price)})


def test_a_negative_number_of_ticks_and_a_foreign_session_are_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match="ticks_per_symbol"):
        generate_day(DATE, ticks_per_symbol=-1)
    with pytest.raises(ValueError, match="the session is on 2026-01-17"):
        generate_day(DATE, session=AlwaysOpenCalendar().session_on(DATE + dt.timedelta(days=1)))
