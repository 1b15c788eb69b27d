"""An event in a few words, the most telling first: for one line of a table."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from bahi.cli.times import Times
from domain import events as e
from domain.values import SECOND, Config, Duration, Instant, OrderRequest, Price, Tick

__all__ = ["Summaries", "duration", "money"]


def money(price: Decimal | None) -> str:
    """A price, exactly; `148.90`, not `148.9`."""
    if price is None:
        return "–"
    exponent = price.as_tuple().exponent
    return f"{price:,.2f}" if isinstance(exponent, int) and exponent > -2 else f"{price:,f}"


def duration(span: Duration) -> str:
    """`1.234 ms`, `12.3 s`, `3 min 20 s`."""
    if abs(span) < SECOND:
        return f"{span / 1000:.3f} ms"
    if abs(span) < 120 * SECOND:
        return f"{span / SECOND:.3f} s"
    minutes, seconds = divmod(round(span / SECOND), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _told(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


class Summaries:
    """Says what an event says."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._known: dict[type[e.Event], Callable[[Any], str]] = {
            e.BrokerKeySubmitted: lambda it: f"{it.broker}, key {it.fingerprint}",
            e.StrategyCreated: lambda it: self._config(it.config),
            e.StrategyUpdated: self._updated,
            e.StrategyStartRequested: lambda it: "",
            e.StrategyStopRequested: lambda it: _join("square off" if it.square_off else "", it.reason),
            e.ForceStop: lambda it: it.reason,
            e.UserHalted: lambda it: _join("square off" if it.square_off else "", it.reason),
            e.UserResumed: lambda it: it.reason,
            e.StrategyStartRefused: lambda it: _join(it.reason, _told(it.facts)),
            e.StrategyStarted: lambda it: (
                f"{it.session_date}: buy {self._at(it.buy_at)}, sell {self._at(it.sell_at)}, "
                f"stop {money(it.config.stop_loss)}"
            ),
            e.StrategyReady: lambda it: f"run {it.run}",
            e.StrategyRunning: lambda it: f"run {it.run}",
            e.StrategyStopped: lambda it: _join(
                str(it.reason), f"{it.open_quantity} still open" if it.open_quantity else ""
            ),
            e.StrategyExited: lambda it: f"{it.reason}, realised {money(it.realised)}",
            e.BuyTriggered: lambda it: f"due {self._at(it.due_at)}",
            e.SellTriggered: lambda it: f"due {self._at(it.due_at)}",
            e.TriggerMissed: lambda it: f"due {self._at(it.due_at)}, {duration(it.lateness)} late",
            e.StoplossTriggered: lambda it: (
                f"{money(it.tick.price)} ≤ stop {money(it.stop_loss)}, {it.tick.symbol}, tick of {self._at(it.tick.at)}"
            ),
            e.PriceStreamDisconnected: lambda it: f"silent for {duration(it.silence)}: {it.reason}",
            e.PriceStreamRestored: lambda it: f"after {duration(it.gap)}",
            e.ExecuteBuy: self._intent,
            e.ExecuteSell: self._intent,
            e.ExecuteStoploss: self._intent,
            e.CancelRequested: lambda it: f"{it.order_id}: {it.why}, {it.tag}",
            e.ModifyRequested: lambda it: f"{it.order_id} to {money(it.price)}: {it.why}, {it.tag}",
            e.CancelRejected: lambda it: f"{it.reason}, {it.tag}",
            e.ModifyRejected: lambda it: f"{it.reason}, {it.tag}",
            e.OrderRetryRequired: lambda it: (
                f"{it.kind} attempt {it.attempt}: {it.reason}, not before {self._at(it.not_before)}, {it.tag}"
            ),
            e.OrderFinalized: lambda it: _join(str(it.final), self._filled(it.filled, it.average_price), it.tag),
            e.OrderDenied: lambda it: _join(f"{it.kind}: {it.reason}", _told(it.facts), it.tag or ""),
            e.BrokerAuthSuccess: lambda it: f"{it.broker}, {it.broker_user_id}",
            e.BrokerAuthFailed: lambda it: f"{it.broker}: {it.reason}",
            e.OrderAccepted: lambda it: f"order {it.order_id}, {it.tag}",
            e.OrderRejected: lambda it: _join(it.reason, it.text, "" if it.curable else "for good", it.tag),
            e.OrderFilled: lambda it: _join(self._filled(it.filled, it.average_price), f"order {it.order_id}", it.tag),
            e.OrderCancelled: lambda it: _join(f"order {it.order_id}", f"{it.filled} filled", it.tag),
            e.OrderOutcomeUnknown: lambda it: _join(str(it.doubt), it.text, it.tag),
            e.PositionSettled: lambda it: f"{it.quantity} closed elsewhere: {it.how}",
            e.UnknownOrderSeen: lambda it: f"{it.side} {it.quantity} {it.symbol}, {it.status}, order {it.order_id}",
            e.PriceFeedConnected: lambda it: f"{it.feed}, {it.symbols} symbols",
            e.PriceFeedError: lambda it: f"{it.feed}: {it.reason}",
            e.RuntimeStateLoaded: lambda it: f"{it.strategies} strategies in {duration(it.took)}",
            e.LockAcquired: lambda it: f"{it.kind}, {it.tag}",
            e.LockConflict: lambda it: f"{it.woken_by} lost to {it.held_by}",
            e.SystemRecovery: lambda it: f"epoch {it.old_epoch} → {it.new_epoch}; lost: {_told(it.lost) or 'nothing'}",
            e.StrategyRecovered: lambda it: f"nothing is placed before the book of {self._at(it.settle_after)}",
            e.RecoverySettled: lambda it: f"by {it.readings} readings of the book",
            e.OrderRecovered: lambda it: f"{it.kind} {it.quantity} {it.symbol}, order {it.order_id}, {it.tag}",
            e.SafetyAbort: lambda it: _join(str(it.reason), _told(it.facts)),
            e.AuditRead: lambda it: _join(f"{it.what} by {it.by}", _told(it.filters)),
            e.EventParked: lambda it: f"{it.parked}: {it.error}",
            e.ParkedRetried: lambda it: f"{it.parked} by {it.who}: {it.why}",
            e.ParkedDismissed: lambda it: f"{it.parked} by {it.who}: {it.why}",
            e.AlertTriggered: lambda it: _join(f"{it.code} ({it.severity})", _told(it.facts)),
        }

    def __call__(self, event: e.Event) -> str:
        say = self._known.get(type(event), self._any)
        # A text of the broker's or a user's may hold anything: nothing of it may move the terminal's cursor.
        return "".join(c if c.isprintable() else "\ufffd" for c in say(event))

    def _at(self, at: Instant) -> str:
        return self._times.of_day(at).removesuffix(".000") if at else "–"

    @staticmethod
    def _filled(quantity: int, price: Price | None) -> str:
        return f"{quantity} filled at {money(price)}" if quantity else "nothing filled"

    @staticmethod
    def _config(config: Config) -> str:
        return (
            f"{config.quantity} {config.symbol} {config.product}, buy {config.buy_time}, sell {config.sell_time}, "
            f"stop {money(config.stop_loss)}"
        )

    @staticmethod
    def _request(request: OrderRequest) -> str:
        price = "" if request.price is None else f" at {money(request.price)}"
        return f"{request.side} {request.quantity} {request.symbol} {request.product}{price}"

    def _intent(self, it: e.Intent) -> str:
        return _join(self._request(it.request), f"attempt {it.attempt}" if it.attempt > 1 else "", it.tag)

    def _updated(self, it: e.StrategyUpdated) -> str:
        names = ("quantity", "buy_time", "sell_time", "stop_loss", "product", "market_protection")
        return _join(*(f"{name} {value}" for name in names if (value := getattr(it, name)) is not None))

    def _any(self, it: e.Event) -> str:
        """An event that nobody has found words for yet."""
        return _join(*(f"{name} {self._value(getattr(it, name))}" for name in it.__struct_fields__ if name != "schema"))

    @staticmethod
    def _value(value: object) -> str:
        return money(value) if isinstance(value, Decimal) else value.symbol if isinstance(value, Tick) else str(value)
