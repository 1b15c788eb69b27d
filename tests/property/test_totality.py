"""`evolve` is total, `apply` says the same, and the blind cases say the same when the append script interprets them."""

import copy
import typing
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from bahi.testing import near_events
from domain import blind
from domain.events import EVENT_TYPES, Event, SafetyAbort
from domain.strategy import State, apply, evolve, fold, initial
from domain.values import Abort, Status, Tick

HISTORIES = st.lists(near_events(), max_size=25)
"""Not only of events that may follow each other."""


@settings(max_examples=200, deadline=None)
@given(HISTORIES)
def test_any_event_on_any_state_only_ever_takes_its_version_and_never_raises(history: list[Event]) -> None:
    state = initial(7, 1)
    for event in history:
        before, remembered = state, copy.deepcopy(state)
        state = evolve(state, event)
        assert before == remembered, f"{event.type} changed the state it was folded onto"
        assert state.version == before.version + event.versioned
        assert state.open_quantity == state.bought - state.sold - state.settled
    assert fold(initial(7, 1), history) == state
    in_place = initial(7, 1)
    for event in history:
        apply(in_place, event)
    assert in_place == state


NOT_OF_AN_ORDER = ("ORDER_DENIED", "LOCK_ACQUIRED", "ORDER_RECOVERED")
"""They have a tag and are no news of an order that exists; ORDER_RECOVERED stands for a lost intent."""


@settings(max_examples=80, deadline=None)
@given(HISTORIES)
def test_messages_of_orders_that_we_never_placed_change_nothing(history: list[Event]) -> None:
    state = initial(7, 1)
    for event in history:
        if not hasattr(event, "tag") or hasattr(event, "request") or event.type in NOT_OF_AN_ORDER:
            continue
        after = evolve(state, event)
        assert (after.order, after.past, after.open_quantity, after.surfaced) == (None, {}, 0, 0)


def interpret(fields: dict[str, Any], event: Event) -> dict[str, Any]:
    """The append script's reading of a blind event, on a hash."""
    after = dict(fields)
    for case in blind.cases(event) or ():
        if all(fields[name] in allowed for name, allowed in case.when.items()) and all(
            fields[name] > 0 for name in case.positive
        ):
            after.update(case.then)
            break
    return after


BLIND = (
    *("BUY_TRIGGERED", "SELL_TRIGGERED", "TRIGGER_MISSED", "STOPLOSS_TRIGGERED", "STRATEGY_READY", "STRATEGY_RUNNING"),
    *("STRATEGY_STOP_REQUESTED", "FORCE_STOP", "SAFETY_ABORT"),
)


def test_exactly_the_blind_events_of_the_architecture_are_blind() -> None:
    found = set()
    for name, cls in EVENT_TYPES.items():
        if blind.cases(_blank(cls)) is not None:
            found.add(name)
    assert found == set(BLIND)


def _blank(cls: type[Event]) -> Event:
    """An instance without values: `cases` of an event that is not blind must not look inside."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    for name in cls.__struct_fields__:
        if hints[name] is Tick:
            fields[name] = Tick("NSE:INFY", Decimal(94), 0)
        elif name != "schema":
            fields[name] = None
    return cls(**fields)


@settings(max_examples=300, deadline=None)
@given(
    near_events(*BLIND),
    st.sampled_from(Status),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(-1, 1),
    st.booleans(),
)
def test_evolve_of_a_blind_event_says_what_its_cases_say_and_nothing_more(
    event: Event, status: Status, run: int, at: int, revision: int, open_quantity: int, asked: bool
) -> None:
    state = State(
        status=status,
        run=run,
        buy_at=at,
        sell_at=at,
        stop_revision=revision,
        open_quantity=open_quantity,
        start_requested=asked,
    )
    fields = {name: getattr(state, name) for name in State.__struct_fields__}
    expected = interpret(fields, event) | {"version": 1}
    after = evolve(state, event)
    assert {name: getattr(after, name) for name in State.__struct_fields__} == expected


def test_an_abort_of_another_run_or_of_a_strategy_at_rest_changes_nothing() -> None:
    for status in (Status.CREATED, Status.STOPPED, Status.FAILED):
        assert not evolve(State(status=status, run=3), SafetyAbort(run=3, reason=Abort.OPERATOR)).abort_due
    assert not evolve(State(status=Status.RUNNING, run=3), SafetyAbort(run=2, reason=Abort.OPERATOR)).abort_due
    assert evolve(State(status=Status.RUNNING, run=3), SafetyAbort(run=3, reason=Abort.OPERATOR)).abort_due
