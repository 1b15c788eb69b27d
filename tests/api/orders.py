"""A history of orders, as the engine would have appended it."""

from decimal import Decimal

from domain.events import BuyTriggered, Event, ExecuteBuy, LockAcquired, OrderAccepted, OrderFilled, OrderFinalized
from domain.strategy import State
from domain.tags import make_tag
from domain.values import SECOND, Final, Kind, OrderRequest, Side
from tests.api.world import NOW


def bought(state: State, quantity: int, *, resolved: bool = True) -> list[Event]:
    """The trigger, the order and its fill."""
    tag = make_tag("TEST", state.id, state.run, 1)
    request = OrderRequest(symbol=state.symbol, side=Side.BUY, quantity=quantity, product=state.product, tag=tag)
    events: list[Event] = [
        BuyTriggered(run=state.run, due_at=state.buy_at),
        LockAcquired(tag=tag, kind=Kind.BUY),
        ExecuteBuy(
            request=request, tag=tag, kind=Kind.BUY, attempt=1, at=NOW, deadline=NOW + 2 * SECOND, cause="test-1"
        ),
        OrderAccepted(tag=tag, order_id="O1"),
        OrderFilled(tag=tag, order_id="O1", filled=quantity, average_price=Decimal("1490.123456")),
    ]
    final = OrderFinalized(tag=tag, final=Final.COMPLETE, filled=quantity, average_price=Decimal("1490.123456"))
    return [*events, final] if resolved else events
