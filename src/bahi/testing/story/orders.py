"""Words for what becomes of an order."""

from decimal import Decimal

from bahi.testing.story.runs import happened
from bahi.testing.story.scene import LOG, SYMBOL, Scene, Word
from domain.events import (
    CancelRejected,
    ExecuteBuy,
    ExecuteSell,
    ExecuteStoploss,
    Intent,
    LockAcquired,
    ModifyRejected,
    OrderAccepted,
    OrderCancelled,
    OrderDenied,
    OrderFilled,
    OrderFinalized,
    OrderOutcomeUnknown,
    OrderRejected,
    PositionSettled,
)
from domain.tags import make_tag
from domain.values import Denial, Doubt, Final, Kind, OrderRequest

_INTENTS: dict[Kind, type[Intent]] = {
    Kind.BUY: ExecuteBuy,
    Kind.SELL: ExecuteSell,
    Kind.STOPLOSS: ExecuteStoploss,
    Kind.SURFACED: ExecuteSell,
}


def intended(kind: Kind, qty: int | None = None, attempt: int | None = None) -> Word:
    """An order was decided and is being sent."""

    def word(scene: Scene) -> None:
        state, facts = scene.state, scene.facts
        open_quantity = state.surfaced if kind is Kind.SURFACED else state.open_quantity
        quantity = qty if qty is not None else (state.quantity if kind is Kind.BUY else open_quantity)
        tag = make_tag(LOG, state.id, state.run, state.orders + 1)
        request = OrderRequest(symbol=SYMBOL, side=kind.side, quantity=quantity, product=state.product, tag=tag)
        intent = _INTENTS[kind](
            request=request,
            tag=tag,
            kind=kind,
            attempt=state.tried(kind).attempts + 1 if attempt is None else attempt,
            at=facts.now,
            deadline=facts.now + facts.policy.send_deadline,
            cause="w-0",
        )
        scene.fold(LockAcquired(tag=tag, kind=kind), intent)

    return word


def accepted(of: int | None = None) -> Word:
    return lambda scene: scene.fold(OrderAccepted(tag=scene.tag(of), order_id=f"o-{scene.tag(of)[-4:]}"))


def filled(qty: int, price: str = "100", of: int | None = None) -> Word:
    """The order's fills now sum to `qty`."""

    def word(scene: Scene) -> None:
        tag = scene.tag(of)
        scene.fold(OrderFilled(tag=tag, order_id=f"o-{tag[-4:]}", filled=qty, average_price=Decimal(price)))

    return word


def finalized(final: Final, qty: int = 0, price: str | None = None, of: int | None = None) -> Word:
    def word(scene: Scene) -> None:
        average = None if price is None else Decimal(price)
        scene.fold(OrderFinalized(tag=scene.tag(of), final=final, filled=qty, average_price=average))

    return word


def completed(price: str = "100") -> Word:
    """The whole order filled."""

    def word(scene: Scene) -> None:
        quantity = scene.order.quantity
        filled(quantity, price)(scene)
        finalized(Final.COMPLETE, quantity, price)(scene)

    return word


def cancelled(filled: int | None = None, price: str = "100", of: int | None = None) -> Word:
    """The order ended as cancelled, its fills being `filled`."""

    def word(scene: Scene) -> None:
        order = scene.state.find(scene.tag(of))
        assert order is not None
        quantity = order.filled if filled is None else filled
        if quantity > order.filled:
            scene.fold(
                OrderFilled(tag=order.tag, order_id="o", filled=quantity, average_price=Decimal(price)),
            )
        scene.fold(
            OrderCancelled(tag=order.tag, order_id="o", filled=quantity),
            OrderFinalized(tag=order.tag, final=Final.CANCELLED, filled=quantity, average_price=Decimal(price)),
        )

    return word


def rejected(reason: str = "BUSY", curable: bool = True, counted: bool = True) -> Word:
    """The broker said no, for certain."""

    def word(scene: Scene) -> None:
        tag = scene.tag()
        scene.fold(
            OrderRejected(tag=tag, reason=reason, curable=curable, counted=counted),
            OrderFinalized(tag=tag, final=Final.REJECTED, filled=scene.order.filled),
        )

    return word


def throttled(scene: Scene) -> None:
    """429, or no permit: it does not count."""
    rejected("TOO_MANY_REQUESTS", counted=False)(scene)


def unreachable(scene: Scene) -> None:
    """No connection to the broker could be had: nothing was sent."""
    rejected("BROKER_UNREACHABLE", counted=False)(scene)


def denied_by_sender(reason: Denial = Denial.TOO_LATE) -> Word:
    def word(scene: Scene) -> None:
        order = scene.order
        scene.fold(
            OrderDenied(kind=order.kind, reason=reason, tag=order.tag),
            OrderFinalized(tag=order.tag, final=Final.NOT_PLACED),
        )

    return word


def unknown(doubt: Doubt = Doubt.AMBIGUOUS) -> Word:
    return lambda scene: scene.fold(OrderOutcomeUnknown(tag=scene.tag(), doubt=doubt))


def absent(scene: Scene) -> None:
    """Reconciliation gave the order up: it is not in the book, and the quarantine is over."""
    scene.fold(OrderFinalized(tag=scene.tag(), final=Final.NOT_PLACED))


def cancel_refused(of: int | None = None) -> Word:
    return lambda scene: scene.fold(CancelRejected(tag=scene.tag(of), reason="it is complete"))


def change_refused(scene: Scene) -> None:
    scene.fold(ModifyRejected(tag=scene.tag(), reason="no"))


def settled(qty: int) -> Word:
    return happened(PositionSettled(quantity=qty, how="by hand"))
