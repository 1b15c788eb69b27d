"""What must be true of a world: before an event, after a decision, always, and at its end (architecture §4.2).

The numbers are those of the invariants.
"""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from domain.calendar import wall
from domain.decide import decide_next
from domain.events import Event, Intent, OrderFinalized, OrderRetryRequired, StrategyStopped
from domain.strategy import Order, apply, initial
from domain.values import DAY, Code, Final, Kind, Phase, Tag
from tests.property.short_days import CALENDAR

if TYPE_CHECKING:
    from tests.property.world import World


def before(world: "World", event: Event) -> None:
    if isinstance(event, Intent):
        _before_intent(world, event)
    if isinstance(event, OrderFinalized) and event.final is Final.NOT_PLACED:
        world.given_up.add(event.tag)


def _before_intent(world: "World", event: Intent) -> None:
    state, kind = world.state, event.kind
    assert not state.unresolved, "1: an order is unresolved already"
    assert CALENDAR.is_open(world.now), "orders are placed in an open market"
    assert world.connected, "and with a broker session"
    assert 0 < event.request.quantity <= world.rules.freeze
    earlier = [e for e in world.log if isinstance(e, Intent) and e.kind is kind]
    match kind:
        case Kind.BUY:
            assert state.alive
            assert state.bought == 0, "5: what was bought once is not bought again"
            assert world.halt is None
            assert world.now - state.buy_at <= world.policy.buy_late_limit
            for one in earlier:
                order = state.find(one.tag)
                if order is not None and order.run == state.run:
                    assert order.final is Final.REJECTED, f"3: an earlier BUY may exist: {order}"
                    booked = world.book.get(one.tag)
                    assert booked is None or booked.filled == 0
        case Kind.SURFACED:
            assert 0 < event.request.quantity <= state.surfaced
        case _:
            assert 0 < event.request.quantity <= state.open_quantity, "5: there is nothing to exit from"
            assert state.alive or (state.stop_requested and state.square_off), "6: the run has stopped"
            if kind is Kind.SELL and state.alive and not state.stop_requested and world.halt is None:
                assert not state.stop_due, "STOPLOSS overrides SELL"
    if earlier and (last := state.find(earlier[-1].tag)) is not None and last.run == state.run:
        _between(world, last, event)


def _between(world: "World", last: Order, event: Intent) -> None:
    """12: between two placements of one kind there is a fill, a back-off or an answer."""
    assert last.resolved
    if last.filled or last.final is not Final.REJECTED:
        return
    since = world.log[max(at for at, e in enumerate(world.log) if isinstance(e, Intent)) :]
    if any(isinstance(e, StrategyStopped) for e in since):
        return  # the run was aborted, and then somebody asked for a square-off
    retries = [e for e in world.log if isinstance(e, OrderRetryRequired) and e.tag == last.tag]
    assert retries, f"{event.kind} was placed again without a pause"
    assert world.now >= retries[-1].not_before
    assert world.now > last.at


def after_a_decision(world: "World") -> None:
    """Right after a decision: nothing that is due is forgotten, and time alone changes nothing before `wake_at`."""
    state = world.state
    order = state.order
    if state.alive and state.stop_due and state.open_quantity > 0 and CALENDAR.is_open(world.now):
        minded = (
            state.unresolved
            or any(world.now < tries.not_before for tries in state.tries.values())
            or state.open_quantity + world.foreign <= 0
            or bool(state.lingering)
        )
        assert minded, f"4: the stop is due and nobody sells: {state}"
    if state.lingering or (order is not None and order.surfaced and order.phase is Phase.LIVE):
        for one in (*state.lingering, *([order] if order is not None and order.surfaced else [])):
            told = not world.connected and Code.ORDER_SURFACED in state.alerted
            assert one.resolved or one.cancel_asked or told, "a surfaced order is being cancelled"
    until = world.now + 3 * DAY if world.wake_at is None else world.wake_at
    gap = until - world.now
    for t in (until - 1, world.now + gap // 2, world.now + gap // 5):
        if world.now < t < until:
            early = decide_next(state, replace(world.facts, now=t))
            assert early.events == (), f"{early.events[0]} at +{t - world.now}, before wake_at +{gap}"


def always(world: "World") -> None:
    state = world.state
    live = [o for o in world.book.values() if o.open and o.tag not in world.given_up]
    assert len(live) <= 1, f"1: two orders live at the broker: {live}"
    for tag in world.book:
        assert state.find(tag) is not None or _forgotten(world, tag), "9: an order nobody remembers"
    surfaced = [tag for tag in world.given_up if tag in world.book]
    if surfaced:
        world.seen["surfaced"] += 1
    elif not world.hand_raced:
        assert world.held >= 0, "2: sold more than bought"
    assert state.lock_state == (state.order.tag if state.unresolved and state.order else "free")
    assert state.open_quantity == state.bought - state.sold - state.settled


def _forgotten(world: "World", tag: Tag) -> bool:
    """Orders of an earlier day, all over, need no watching."""
    order = world.book[tag]
    return not order.open and wall(order.visible_at).date() < wall(world.now).date()


def at_the_end(world: "World") -> None:
    """7: the log alone gives the state, folded in place or not."""
    again = initial(7, 1)
    for event in world.log:
        apply(again, event)
    assert again == world.state
    intents = [event.tag for event in world.log if isinstance(event, Intent)]
    assert len(intents) == len(set(intents))
    assert set(world.book) <= set(intents), "9: an order without an intent"
    for tag in intents:
        order = world.state.find(tag)
        assert order is None or order.resolved, f"9: an intent that never ended: {order}"
    known = world.state.open_quantity + world.state.surfaced + world.foreign
    if all(world.state.find(tag) is not None for tag in world.book):
        assert known == world.held, f"the state says {known}, the broker's book {world.held}"
