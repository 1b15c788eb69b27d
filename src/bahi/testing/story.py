"""Given, when, then: tests of decisions as sentences.

    given(started, bought(qty=10, filled=4, resting=6)).when(stoploss_triggered(at="94.95")).then(cancel_requested())

A word after `given` or `when` changes the scene: it folds events, or moves the clock, the price, the halt. `when` then
asks `decide_next` once and keeps its events; `then` compares them in order with what is expected, each expectation
naming only the fields it is about. Nothing here reads a clock or does I/O, so a story is as pure as what it tests.
"""

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from domain.calendar import Calendar, instant, load_nse
from domain.decide import Decision, decide_next
from domain.events import (
    AlertTriggered,
    BuyTriggered,
    CancelRejected,
    CancelRequested,
    Event,
    ExecuteBuy,
    ExecuteSell,
    ExecuteStoploss,
    ForceStop,
    Intent,
    LockAcquired,
    ModifyRejected,
    ModifyRequested,
    OrderAccepted,
    OrderCancelled,
    OrderDenied,
    OrderFilled,
    OrderFinalized,
    OrderOutcomeUnknown,
    OrderRejected,
    OrderRetryRequired,
    PositionSettled,
    SafetyAbort,
    SellTriggered,
    StoplossTriggered,
    StrategyCreated,
    StrategyExited,
    StrategyReady,
    StrategyRunning,
    StrategyStarted,
    StrategyStartRefused,
    StrategyStartRequested,
    StrategyStopped,
    StrategyStopRequested,
    StrategyUpdated,
    TriggerMissed,
)
from domain.facts import Facts, Halt, Policy
from domain.strategy import State, apply, evolve, initial
from domain.tags import make_tag
from domain.values import (
    Abort,
    Config,
    Denial,
    Doubt,
    Final,
    Instant,
    Kind,
    OrderRequest,
    Price,
    Product,
    Tag,
    Tick,
)

LOG = "TEST"
DAY = dt.date(2026, 6, 15)
"""A Monday; Tuesday is a trading day too."""
SYMBOL = "NSE:INFY"


class Rules(Struct, frozen=True, kw_only=True):
    """An instrument's trading rules."""

    lot: int = 1
    tick_size: Decimal = Decimal("0.05")
    freeze: int = 1_000_000
    lower_circuit: Price | None = None
    upper_circuit: Price | None = None


def clock_time(text: str, day: dt.date = DAY) -> Instant:
    """The instant at which the exchange's clock shows `text` on the story's day."""
    return instant(day, dt.time.fromisoformat(text))


class Scene:
    """A strategy and the world it lives in; words change it."""

    def __init__(self, strategy_id: int = 7, user_id: int = 1) -> None:
        self.state: State = initial(strategy_id, user_id)
        self.events: list[tuple[Instant, Event]] = []
        """Everything that was folded, with when."""
        self.facts = Facts(
            now=clock_time("09:00"),
            log_id=LOG,
            calendar=load_nse(),
            price=Decimal(100),
            instrument=Rules(),
            cause="w-1",
        )
        self._price_fresh = True
        self.decided: tuple[Event, ...] | None = None
        self.wake_at: Instant | None = None
        self.look()

    def fold(self, *events: Event) -> None:
        for event in events:
            self.state = evolve(self.state, event)
            self.events.append((self.facts.now, event))

    def look(self, **changes: Any) -> None:
        """Changes the facts. The price stays as fresh as the clock unless `price_at` is given."""
        if "price_at" in changes:
            self._price_fresh = False
        self.facts = replace(self.facts, **changes)
        if self._price_fresh:
            self.facts = replace(self.facts, price_at=self.facts.now)

    def decide(self) -> Decision:
        """What would be decided now. Changes nothing."""
        return decide_next(self.state, self.facts)

    def take(self, decision: Decision) -> None:
        """What was decided is appended."""
        self.events += [(self.facts.now, event) for event in decision.events]
        self.state, self.decided, self.wake_at = decision.state, decision.events, decision.wake_at

    def tag(self, number: int | None = None) -> Tag:
        """The current order's tag, or that of the `number`-th order of the current run."""
        if number is None:
            current: Tag = self.order.tag
            return current
        return make_tag(LOG, self.state.id, self.state.run, number)

    @property
    def order(self) -> Any:
        assert self.state.order is not None, "no order was placed yet"
        return self.state.order


Word = Callable[[Scene], None]


class Expected(Struct, frozen=True):
    """An event of this type whose fields have these values (`request.quantity` reaches inside)."""

    type: type[Event]
    fields: dict[str, object]

    def fault(self, event: Event) -> str:
        if type(event) is not self.type:
            return f"expected {self.type.__struct_config__.tag}, was {event}"
        for path, value in self.fields.items():
            found: Any = event
            for name in path.split("."):
                found = getattr(found, name)
            if found != value:
                return f"{event.type}.{path} is {found!r}, expected {value!r}"
        return ""


class Story:
    """A scene being told."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @property
    def state(self) -> State:
        return self.scene.state

    def when(self, *words: Word) -> "Story":
        """Tells the words, then asks once for a decision and folds it."""
        for word in words:
            word(self.scene)
        self.scene.take(self.scene.decide())
        again = self.scene.decide()
        assert again.events == (), f"the same question was answered again with {again.events}"
        return self

    def then(self, *expected: Expected) -> "Story":
        """The decision was exactly this, in this order. LOCK_ACQUIRED goes without saying."""
        assert self.scene.decided is not None, "say when() before then()"
        decided = [event for event in self.scene.decided if not isinstance(event, LockAcquired)]
        told = "\n  ".join(repr(event) for event in decided) or "nothing"
        assert len(decided) == len(expected), f"expected {[e.type.__name__ for e in expected]}, decided:\n  {told}"
        for one, event in zip(expected, decided, strict=True):
            fault = one.fault(event)
            assert not fault, f"{fault}\ndecided:\n  {told}"
        return self

    def then_nothing(self) -> "Story":
        return self.then()

    def then_wakes_at(self, text: str | None) -> "Story":
        """The next instant at which time alone could change the answer."""
        expected = None if text is None else clock_time(text)
        assert self.scene.wake_at == expected, f"wakes at {self.scene.wake_at}, expected {expected} ({text})"
        return self

    def then_state(self, **values: object) -> "Story":
        for name, value in values.items():
            found = getattr(self.scene.state, name)
            assert found == value, f"{name} is {found!r}, expected {value!r}"
        return self


def given(*words: Word) -> Story:
    """A story that begins with these words."""
    scene = Scene()
    for word in words:
        word(scene)
    return Story(scene)


# --- words: the world -----------------------------------------------------------------------------------------------


def at(text: str, day: dt.date = DAY) -> Word:
    """The exchange's clock shows this."""
    return lambda scene: scene.look(now=clock_time(text, day))


def later(seconds: float) -> Word:
    return lambda scene: scene.look(now=scene.facts.now + round(seconds * 1_000_000))


def woken(scene: Scene) -> None:
    """Somebody asks; nothing happened."""


def price(text: str | None, age: float = 0) -> Word:
    def word(scene: Scene) -> None:
        value = None if text is None else Decimal(text)
        scene.look(price=value, price_at=scene.facts.now - round(age * 1_000_000))

    return word


def halted(square_off: bool = False) -> Word:
    return lambda scene: scene.look(halt=Halt(square_off))


def resumed(scene: Scene) -> None:
    scene.look(halt=None)


def disconnected(scene: Scene) -> None:
    """The account has no broker session."""
    scene.look(connected=False)


def connected(scene: Scene) -> None:
    scene.look(connected=True)


def day_spent(scene: Scene) -> None:
    """The account may ask for no order any more today."""
    scene.look(day_spent=True)


def day_begun(scene: Scene) -> None:
    scene.look(day_spent=False)


def sold_elsewhere(quantity: int) -> Word:
    """The account sold shares that bahi did not."""
    return lambda scene: scene.look(foreign=-quantity)


def instrument(**rules: Any) -> Word:
    return lambda scene: scene.look(instrument=Rules(**rules))


def no_instrument(scene: Scene) -> None:
    scene.look(instrument=None)


def calendar(known: Calendar) -> Word:
    return lambda scene: scene.look(calendar=known)


def policy(**changes: Any) -> Word:
    return lambda scene: scene.look(policy=replace(scene.facts.policy or Policy(), **changes))


# --- words: the user and the run ------------------------------------------------------------------------------------


def config(
    qty: int = 10,
    buy: str = "09:20",
    sell: str = "15:10",
    stop: str = "95",
    product: Product = Product.MIS,
) -> Config:
    return Config(
        symbol=SYMBOL,
        quantity=qty,
        buy_time=dt.time.fromisoformat(buy),
        sell_time=dt.time.fromisoformat(sell),
        stop_loss=Decimal(stop),
        product=product,
    )


def happened(*events: Event) -> Word:
    return lambda scene: scene.fold(*events)


def created(**changes: Any) -> Word:
    return happened(StrategyCreated(config=config(**changes)))


def start_requested(scene: Scene) -> None:
    scene.fold(StrategyStartRequested())


def registered(scene: Scene) -> None:
    """The scheduler has registered the run's timers."""
    scene.fold(StrategyReady(run=scene.state.run), StrategyRunning(run=scene.state.run))


def started_with(day: dt.date = DAY, **changes: Any) -> Word:
    """A run, armed for `day` and running; its number is the version of STRATEGY_STARTED."""

    def word(scene: Scene) -> None:
        armed = config(**changes)
        session = load_nse().session_on(day)
        assert session is not None
        if scene.state.version == 0:
            scene.fold(StrategyCreated(config=armed))
        started = StrategyStarted(
            session_date=day,
            open_at=session.open_at,
            close_at=session.close_at,
            buy_at=instant(day, armed.buy_time),
            sell_at=instant(day, armed.sell_time),
            config=armed,
        )
        scene.fold(StrategyStartRequested(), started)
        registered(scene)
        if scene.facts.now < session.open_at:
            scene.look(now=instant(day, dt.time(9, 16)))

    return word


started = started_with()


def updated(**changes: Any) -> Word:
    def word(scene: Scene) -> None:
        revision = scene.state.stop_revision + ("stop_loss" in changes)
        scene.fold(StrategyUpdated(stop_revision=revision, **changes))

    return word


def stop_requested(square_off: bool = False) -> Word:
    return happened(StrategyStopRequested(square_off=square_off))


force_stopped = happened(ForceStop(reason="OPERATOR"))


def aborted(reason: Abort = Abort.OPERATOR) -> Word:
    return lambda scene: scene.fold(SafetyAbort(run=scene.state.run, reason=reason))


def decided(scene: Scene) -> None:
    """A worker looked at the strategy, and what it decided was appended."""
    scene.take(scene.decide())


# --- words: triggers ------------------------------------------------------------------------------------------------


def buy_triggered(scene: Scene) -> None:
    """The alarm clock rings at the buying time."""
    scene.look(now=max(scene.facts.now, scene.state.buy_at))
    scene.fold(BuyTriggered(run=scene.state.run, due_at=scene.state.buy_at))


def sell_triggered(scene: Scene) -> None:
    scene.fold(SellTriggered(run=scene.state.run, due_at=scene.state.sell_at))


def buy_missed(scene: Scene) -> None:
    scene.fold(TriggerMissed(run=scene.state.run, due_at=scene.state.buy_at, lateness=31_000_000))


def stoploss_triggered(at: str = "94.95", run: int | None = None, revision: int | None = None) -> Word:
    def word(scene: Scene) -> None:
        tick = Tick(SYMBOL, Decimal(at), scene.facts.now)
        scene.look(price=tick.price)
        scene.fold(
            StoplossTriggered(
                run=scene.state.run if run is None else run,
                stop_revision=scene.state.stop_revision if revision is None else revision,
                tick=tick,
                stop_loss=scene.state.stop_loss,
            )
        )

    return word


# --- words: orders --------------------------------------------------------------------------------------------------

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


# --- words: what happened before ------------------------------------------------------------------------------------


def told(*words: Word) -> Word:
    """Several words as one."""

    def word(scene: Scene) -> None:
        for one in words:
            one(scene)

    return word


def bought(qty: int = 10, filled: int | None = None, resting: int = 0, price: str = "100") -> Word:
    """The entry was sent at its time; `filled` of it traded, `resting` is still at the broker."""
    done = qty - resting if filled is None else filled
    words: list[Word] = [buy_triggered, intended(Kind.BUY, qty), accepted()]
    if done:
        words.append(_fill(done, price))
    if not resting:
        words.append(finalized(Final.COMPLETE if done == qty else Final.CANCELLED, done))
    return told(*words)


def _fill(qty: int, price: str) -> Word:
    return filled(qty, price)


def exiting(kind: Kind = Kind.SELL, filled: int = 0, qty: int | None = None) -> Word:
    """An exit is due and live at the broker."""
    trigger = stoploss_triggered() if kind is Kind.STOPLOSS else sell_triggered
    words: list[Word] = [trigger, intended(kind, qty), accepted()]
    if filled:
        words.append(_fill(filled, "99"))
    return told(*words)


def exited(kind: Kind = Kind.SELL, price: str = "101") -> Word:
    """The exit filled wholly, and the run has stopped."""
    return told(exiting(kind), completed(price), decided)


# --- expectations ---------------------------------------------------------------------------------------------------


def _expect(event: type[Event], **fields: object) -> Expected:
    return Expected(event, fields)


def _request(qty: int | None, fields: dict[str, object]) -> dict[str, object]:
    return fields if qty is None else {"request.quantity": qty} | fields


def execute_buy(qty: int | None = None, **fields: object) -> Expected:
    return Expected(ExecuteBuy, _request(qty, {"kind": Kind.BUY} | fields))


def execute_sell(qty: int | None = None, **fields: object) -> Expected:
    return Expected(ExecuteSell, _request(qty, {"kind": Kind.SELL} | fields))


def execute_surfaced(qty: int | None = None, **fields: object) -> Expected:
    return Expected(ExecuteSell, _request(qty, {"kind": Kind.SURFACED} | fields))


def execute_stoploss(qty: int | None = None, **fields: object) -> Expected:
    return Expected(ExecuteStoploss, _request(qty, {"kind": Kind.STOPLOSS} | fields))


def cancel_requested(**fields: object) -> Expected:
    return _expect(CancelRequested, **fields)


def modify_requested(price: str | None = None, **fields: object) -> Expected:
    return _expect(ModifyRequested, **({} if price is None else {"price": Decimal(price)}) | fields)


def retry_required(**fields: object) -> Expected:
    return _expect(OrderRetryRequired, **fields)


def denied(reason: Denial) -> Expected:
    return _expect(OrderDenied, kind=Kind.BUY, reason=reason)


def outcome_unknown(**fields: object) -> Expected:
    return _expect(OrderOutcomeUnknown, **fields)


def safety_abort(reason: Abort) -> Expected:
    return _expect(SafetyAbort, reason=reason)


def alert(code: object) -> Expected:
    return _expect(AlertTriggered, code=code)


def strategy_exited(reason: object, **fields: object) -> Expected:
    return _expect(StrategyExited, reason=reason, **fields)


def strategy_stopped(reason: object, **fields: object) -> Expected:
    return _expect(StrategyStopped, reason=reason, **fields)


def ended(reason: object, open_quantity: int = 0) -> tuple[Expected, Expected]:
    """STRATEGY_EXITED and STRATEGY_STOPPED, which come together: `then(*ended(Exit.SELL))`."""
    return strategy_exited(reason), strategy_stopped(reason, open_quantity=open_quantity)


def strategy_started(**fields: object) -> Expected:
    return _expect(StrategyStarted, **fields)


def start_refused(reason: object) -> Expected:
    return _expect(StrategyStartRefused, reason=reason)


def position_settled(qty: int) -> Expected:
    return _expect(PositionSettled, quantity=qty)


def replayed(events: list[Event]) -> State:
    """The fold of the events from nothing, in place."""
    state = initial(7, 1)
    for event in events:
        apply(state, event)
    return state
