"""How a world comes to rest: from some moment on everybody behaves, and then all must end, or somebody be told."""

from typing import TYPE_CHECKING

from domain.strategy import Order
from domain.values import SECOND, Code, Instant, Kind, Phase, Product, Quantity
from tests.property import invariants
from tests.property.choices import Choices
from tests.property.short_days import CALENDAR

if TYPE_CHECKING:
    from tests.property.world import World


def settle_down(world: "World") -> None:
    """From here on everybody behaves; then all must come to rest, or somebody must have been told."""
    world.connected, world.halt = True, None
    world.choices = Choices(b"")  # no more courier is late, no answer lost
    for _ in range(400):
        while world.mail:
            world.mail.pop(0)()
        world.read()
        world.ring()
        world.wake()
        world.trade(whole=True)
        invariants.always(world)
        if _at_rest(world):
            return
        world.pass_time(_next_event(world))
        if CALENDAR.is_open(world.now):
            world.price_at = world.now
            world.watch_stop()
    raise AssertionError(f"never came to rest: {world.state}")


def _next_event(world: "World") -> Instant:
    """The next instant at which anything in the world happens. If nothing ever does, the strategy is stuck."""
    at = [order.visible_at for order in world.book.values()]
    if world.wake_at is not None:
        at.append(world.wake_at)
    if world.state.alive:
        at += [world.state.buy_at, world.state.sell_at]
    order = world.state.order
    if order is not None and order.phase is Phase.UNKNOWN:
        at.append(world.now + 30 * SECOND)  # the poller reads on
    if any(order.open for order in world.book.values()):
        at.append(world.now + 5 * SECOND)
    ahead = [t for t in at if t > world.now]
    assert ahead, f"stuck: nothing will ever happen to {world.state}"
    return min(ahead)


def _at_rest(world: "World") -> bool:
    state = world.state
    quiet = not state.alive and not state.unresolved and not state.lingering
    quiet = quiet and all(o.status != "open" for o in world.book.values())
    if not quiet:
        return False
    for booked in world.book.values():
        order = state.find(booked.tag)
        if world.now < booked.visible_at or (order is not None and order.filled != booked.filled):
            return False
    if state.surfaced > 0 and _sellable(world, state.surfaced) and not _gone(world, _newest_stray(world)):
        return False
    squaring_off = state.open_quantity > 0 and state.stop_requested and state.square_off
    if squaring_off and _sellable(world, state.open_quantity) and not _gone(world, _newest_buy(world)):
        return False
    if state.open_quantity > 0:
        assert Code.UNPROTECTED_POSITION in state.alerted, state
    if state.open_quantity < 0 or state.surfaced < 0:
        assert Code.OVERSOLD in state.alerted, state
    return not state.start_requested


def _sellable(world: "World", quantity: Quantity) -> bool:
    return quantity + world.foreign > 0


def _newest_buy(world: "World") -> Order:
    return max(_bought(world), key=lambda order: order.at)


def _newest_stray(world: "World") -> Order:
    strays = [order for order in _bought(world) if order.run != world.state.run or not world.state.alive]
    return max(strays, key=lambda order: order.at)


def _bought(world: "World") -> list[Order]:
    found = [world.state.find(tag) for tag in world.book]
    return [order for order in found if order is not None and order.kind is Kind.BUY and order.filled]


def _gone(world: "World", order: Order) -> bool:
    """Intraday shares of an earlier day: there is nothing to sell."""
    days = [CALENDAR.wall(at).date() for at in (order.at, world.now)]
    return order.product is Product.MIS and days[0] < days[1]
