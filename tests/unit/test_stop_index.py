"""Which stops a price triggers: against a model that looks at every strategy."""

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.events import (
    Event,
    ExecuteSell,
    OrderFilled,
    PositionSettled,
    StoplossTriggered,
    StrategyCreated,
    StrategyStopped,
    StrategyUpdated,
)
from domain.strategy import State, evolve, fold, initial
from domain.tags import make_tag
from domain.values import SECOND, Exit, Kind, OrderRequest, Product, Side, Status
from projections.stop_index import Stop, StopIndex
from tests.sources.world import CLOSE, INFY, TEN, bought, config, recorded, started, tick

TCS = "NSE:TCS"


def follow(index: StopIndex, *events: Event, strategy_id: int = 1, first: int = 1) -> list[Stop]:
    checks = []
    for version, event in enumerate(events, first):
        checks += index.apply(recorded(strategy_id, version, event))
    return checks


def names(stops: list[Stop]) -> list[tuple[int, int]]:
    return [(stop.strategy_id, stop.revision) for stop in stops]


def sold(strategy_id: int, run: int, quantity: int) -> tuple[Event, ...]:
    tag = make_tag("TEST", strategy_id, run, 9)
    request = OrderRequest(symbol=INFY, side=Side.SELL, quantity=quantity, product=Product.MIS, tag=tag)
    return (
        ExecuteSell(request=request, tag=tag, kind=Kind.SELL, attempt=1, at=TEN, deadline=TEN, cause=""),
        OrderFilled(tag=tag, order_id="2", filled=quantity, average_price=Decimal(99)),
    )


def triggered(revision: int = 1, price: str = "99", run: int = 1) -> StoplossTriggered:
    return StoplossTriggered(run=run, stop_revision=revision, tick=tick(price), stop_loss=Decimal(100))


def test_a_stop_is_armed_by_the_first_fill_and_not_before() -> None:
    index = StopIndex()
    intent, filled = bought(1, 1, 4)
    assert follow(index, started(), intent) == []
    assert index.hits(INFY, Decimal(1)) == []
    assert index.symbols() == {INFY}
    assert names(follow(index, filled, first=3)) == [(1, 1)]
    assert names(index.hits(INFY, Decimal(100))) == [(1, 1)]
    assert index.hits(INFY, Decimal("100.05")) == []
    assert index.hits(TCS, Decimal(1)) == []


def test_a_second_fill_does_not_check_again() -> None:
    index = StopIndex()
    intent, filled = bought(1, 1, 4)
    assert len(follow(index, started(), intent, filled, bought(1, 1, 9)[1])) == 1


def test_a_new_revision_arms_anew() -> None:
    index = StopIndex()
    follow(index, started(), *bought(1, 1))
    checks = follow(index, StrategyUpdated(stop_revision=2, stop_loss=Decimal(103)), first=4)
    assert [(stop.revision, stop.price) for stop in checks] == [(2, 103)]
    assert names(index.hits(INFY, Decimal(102))) == [(1, 2)]
    assert len(index) == 1


def test_a_trigger_disarms_and_a_lower_stop_arms_again() -> None:
    index = StopIndex()
    follow(index, started(), *bought(1, 1), triggered(price="99"))
    assert len(index) == 0
    assert names(follow(index, StrategyUpdated(stop_revision=2, stop_loss=Decimal(98)), first=5)) == [(1, 2)]


def test_what_was_taken_is_not_armed_by_another_fill_but_by_a_new_revision() -> None:
    index = StopIndex()
    follow(index, started(), *bought(1, 1, 4))
    (stop,) = index.hits(INFY, Decimal(99))
    index.take(stop)
    assert index.hits(INFY, Decimal(99)) == []
    assert follow(index, bought(1, 1, 9)[1], first=4) == []
    assert names(follow(index, StrategyUpdated(stop_revision=2, stop_loss=Decimal(98)), first=5)) == [(1, 2)]


def test_flat_stopped_or_settled_is_not_armed() -> None:
    for end in (
        sold(1, 1, 10),
        (StrategyStopped(run=1, reason=Exit.USER, at=TEN, open_quantity=10),),
        (PositionSettled(quantity=10, how="USER"),),
    ):
        index = StopIndex()
        follow(index, started(), *bought(1, 1), *end)
        assert len(index) == 0


def test_the_symbol_is_needed_until_the_run_ends() -> None:
    index = StopIndex()
    follow(index, started(symbol=TCS))
    follow(index, started(symbol=TCS), strategy_id=2)
    assert index.symbols() == {TCS}
    revision = index.symbols_revision
    follow(index, StrategyStopped(run=1, reason=Exit.USER, at=TEN), first=2)
    assert (index.symbols(), index.symbols_revision) == ({TCS}, revision)
    follow(index, StrategyStopped(run=1, reason=Exit.USER, at=TEN), strategy_id=2, first=2)
    assert index.symbols() == frozenset()
    assert index.symbols_revision != revision


def test_the_symbol_of_shares_that_an_ended_run_left_is_needed_until_they_are_sold() -> None:
    state = fold(initial(1, 7), [StrategyCreated(config=config())])
    state.open_quantity, state.status = 5, Status.FAILED
    index = StopIndex.from_states([state])
    assert index.symbols() == {INFY}
    assert list(index.armed()) == []


def test_a_trade_of_another_session_does_not_hit() -> None:
    index = StopIndex()
    (stop,) = follow(index, started(), *bought(1, 1))
    assert stop.is_hit_by(tick("99", CLOSE - 1))
    assert not stop.is_hit_by(tick("99", CLOSE))
    assert not stop.is_hit_by(tick("99", TEN - 86_400 * SECOND))


def test_a_revision_made_between_runs_is_known_to_the_next() -> None:
    index = StopIndex()
    follow(
        index,
        StrategyCreated(config=config()),
        StrategyUpdated(stop_revision=2, stop_loss=Decimal(95)),
        started(stop="95"),
        *bought(1, 3),
    )
    assert [(stop.run, stop.revision) for stop in index.armed()] == [(3, 2)]


# --- the model ------------------------------------------------------------------------------------------------------


def _steps(strategy_id: int) -> st.SearchStrategy[tuple[int, str, int]]:
    names = ["start", "buy", "fill", "more", "update", "trigger", "sell", "stop", "settle"]
    return st.tuples(st.just(strategy_id), st.sampled_from(names), st.integers(95, 105))


def _event(state: State, name: str, number: int) -> Event | None:
    """The event of this name that the log could hold next, if there is one."""
    match name:
        case "start" if not state.alive:
            return started(symbol=INFY if state.id % 2 else TCS, stop=str(number))
        case "buy" if state.alive and not state.entered:
            return bought(state.id, state.run)[0]
        case "fill" if state.entered and state.order is not None:
            return bought(state.id, state.run, 3)[1]
        case "more" if state.entered and state.order is not None:
            return bought(state.id, state.run, 8)[1]
        case "update":
            return StrategyUpdated(stop_revision=state.stop_revision + 1, stop_loss=Decimal(number))
        case "trigger":
            revision = state.stop_revision - number % 2
            return triggered(revision, str(number), run=state.run)
        case "sell" if state.alive and state.open_quantity > 0:
            return sold(state.id, state.run, state.open_quantity)[number % 2]
        case "settle" if state.open_quantity > 0:
            return PositionSettled(quantity=state.open_quantity, how="USER")
        case "stop" if state.alive:
            return StrategyStopped(run=state.run, reason=Exit.USER, at=TEN, open_quantity=state.open_quantity)
        case _:
            return None


@settings(max_examples=300)
@given(
    st.lists(st.integers(1, 4).flatmap(_steps), max_size=40),
    st.lists(st.tuples(st.integers(1, 4), st.integers(95, 105)), max_size=4, unique_by=lambda each: each[0]),
    st.integers(0, 20),
    st.lists(st.booleans(), min_size=52, max_size=52),
)
def test_the_index_is_what_looking_at_every_strategy_gives(
    steps: list[tuple[int, str, int]], holders: list[tuple[int, int]], load_at: int, takes: list[bool]
) -> None:
    steps = [(each, name, stop) for each, stop in holders for name in ("start", "buy", "fill")] + steps
    states = {each: fold(initial(each, 7), [StrategyCreated(config=config())]) for each in range(1, 5)}
    index = StopIndex()
    for each in states:
        index.apply(recorded(each, 1, StrategyCreated(config=config())))
    taken: set[tuple[int, int, int]] = set()
    log = []
    for number, (strategy_id, name, value) in enumerate(steps):
        if number == load_at and not taken:  # a restart: loaded ahead of where it follows from
            index = StopIndex.from_states([fold(state, []) for state in states.values()])
            for entry in log:
                assert index.apply(entry) == []
        event = _event(states[strategy_id], name, value)
        if event is None:
            continue
        state = states[strategy_id] = evolve(states[strategy_id], event)
        log.append(recorded(strategy_id, state.version, event))
        before = {stop.strategy_id: stop for stop in index.armed()}
        checks = index.apply(log[-1])
        after = {stop.strategy_id: stop for stop in index.armed()}
        assert checks == [stop for each, stop in after.items() if before.get(each) != stop]
        armed = {
            each.id: each
            for each in states.values()
            if each.alive
            and each.open_quantity > 0
            and not each.stop_due
            and (each.id, each.run, each.stop_revision) not in taken
        }
        assert {key: (stop.run, stop.revision, stop.price) for key, stop in after.items()} == {
            key: (each.run, each.stop_revision, each.stop_loss) for key, each in armed.items()
        }
        for symbol in (INFY, TCS):
            hits = index.hits(symbol, Decimal(value))
            assert {stop.strategy_id for stop in hits} == {
                each.id for each in armed.values() if each.symbol == symbol and each.stop_loss >= value
            }
            assert [stop.price for stop in hits] == sorted((stop.price for stop in hits), reverse=True)
            if hits and takes[number]:
                index.take(hits[0])
                taken.add((hits[0].strategy_id, hits[0].run, hits[0].revision))
                armed.pop(hits[0].strategy_id)
        assert index.symbols() == {
            each.symbol
            for each in states.values()
            if each.alive or each.open_quantity > 0 or each.unresolved or each.lingering
        }
