"""A world for one strategy, played by bytes: its user, its market, a model of the broker, and careless couriers.

The strategy is the real one (`decide_next`, `evolve`, the blind cases, the commands). Everything around it is a model
that may do whatever the real thing may: answers are lost or come late, orders exist though nobody said so, senders
die, readings of the book are stale, messages are repeated and overtake each other. The invariants of architecture §4.2
are held against the model broker's own book after every step.
"""

import datetime as dt
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from bahi.testing.story import Rules
from domain.calendar import instant, wall
from domain.commands import Changes, Refused, decide_settle, decide_start, decide_stop, decide_update
from domain.decide import Decision, decide_next
from domain.events import (
    BuyTriggered,
    CancelRejected,
    CancelRequested,
    Event,
    ForceStop,
    Intent,
    ModifyRejected,
    ModifyRequested,
    OrderAccepted,
    OrderCancelled,
    OrderDenied,
    OrderFilled,
    OrderFinalized,
    OrderOutcomeUnknown,
    OrderRejected,
    PositionSettled,
    SafetyAbort,
    SellTriggered,
    StoplossTriggered,
    StrategyCreated,
    StrategyReady,
    StrategyRunning,
    TriggerMissed,
)
from domain.facts import Facts, Halt, Policy
from domain.strategy import Order, State, evolve, initial
from domain.values import (
    MINUTE,
    SECOND,
    Abort,
    Config,
    Denial,
    Doubt,
    Duration,
    Final,
    Instant,
    Kind,
    OrderRequest,
    Phase,
    Price,
    Product,
    Quantity,
    Side,
    Status,
    Tag,
    Tick,
)
from tests.property import invariants
from tests.property.booked import Booked, Row
from tests.property.choices import Choices
from tests.property.reached import note
from tests.property.settling import settle_down
from tests.property.short_days import CALENDAR, MONDAY

SYMBOL = "NSE:INFY"
STEPS = 160
TICK = Decimal("0.05")


Mail = Callable[[], None]


class World:
    def __init__(self, data: bytes) -> None:
        self.choices = Choices(data)
        self.now = instant(MONDAY, dt.time(9, 16))
        self.price = Decimal(100)
        self.price_at = self.now
        self.connected = True
        self.halt: Halt | None = None
        self.by_hand = 0
        self.foreign = 0
        """What was sold by hand and is not settled yet."""
        self.state: State = initial(7, 1)
        self.log: list[Event] = []
        self.book: dict[Tag, Booked] = {}
        self.mail: list[Mail] = []
        self.readings: Counter[Tag] = Counter()
        self.fired: set[tuple[int, str, Instant]] = set()
        self.seen: Counter[str] = Counter()
        self.given_up: set[Tag] = set()
        self.hand_raced = False
        """Shares were sold by hand while an exit was on its way: over-selling is then the user's."""
        self.wake_at: Instant | None = None
        self.rules = Rules(
            freeze=(4, 1_000_000)[self.choices.below(2)],
            lower_circuit=(None, Decimal(90))[self.choices.below(2)],
        )
        quantity = (4, 3, 10)[self.choices.below(3)] if self.rules.freeze > 4 else 4
        self.vague = self.choices.below(3)
        """How often the broker leaves an exit unanswered, and shows it late."""
        self.policy = Policy(max_changes=(25, 2)[self.choices.below(2)])
        config = Config(
            symbol=SYMBOL,
            quantity=quantity,
            buy_time=dt.time(9, 17),
            sell_time=(dt.time(9, 20), dt.time(9, 34), dt.time(9, 44))[self.choices.below(3)],
            stop_loss=Decimal(95),
            product=(Product.MIS, Product.CNC)[self.choices.below(2)],
        )
        self.append(StrategyCreated(config=config))
        self.start()
        self.wake()

    # --- the log and the worker ---

    @property
    def facts(self) -> Facts:
        return Facts(
            now=self.now,
            log_id="TEST",
            calendar=CALENDAR,
            policy=self.policy,
            price=self.price,
            price_at=self.price_at,
            connected=self.connected,
            halt=self.halt,
            instrument=self.rules,
            foreign=self.foreign - max(0, self.state.settled),
            cause=str(len(self.log)),
        )

    def append(self, *events: Event) -> None:
        for event in events:
            invariants.before(self, event)
            before = self.state.version
            self.state = evolve(self.state, event)
            assert self.state.version == before + event.versioned
            self.log.append(event)
            note(self.seen, self.state, event)

    def wake(self) -> Decision:
        """A worker looks, appends what it decided, and carries it out, unless it dies."""
        decision = decide_next(self.state, self.facts)
        self.append(*decision.events)
        assert self.state == decision.state
        again = decide_next(self.state, self.facts)
        assert again.events == (), f"decided twice: {again.events}"
        assert again.wake_at == decision.wake_at
        self.wake_at = decision.wake_at
        assert self.wake_at is None or self.wake_at > self.now
        invariants.after_a_decision(self)
        for event in decision.events:
            match event:
                case Intent():
                    self._carry(lambda event=event: self.send(event))  # type: ignore[misc]
                case CancelRequested():
                    self._carry(lambda event=event: self.cancel(event))  # type: ignore[misc]
                case ModifyRequested():
                    self._carry(lambda event=event: self.modify(event))  # type: ignore[misc]
        return decision

    def _carry(self, effect: Mail) -> None:
        """Mostly at once, sometimes later; now and then the sender dies."""
        if self.choices.one_in(16):
            self.seen["dead sender"] += 1
        elif self.choices.one_in(8):
            self.mail.append(effect)
        else:
            effect()

    def _later(self, mail: Mail) -> None:
        if self.choices.one_in(3):
            self.mail.append(mail)
        else:
            mail()

    # --- the sender and the broker ---

    def send(self, intent: Intent) -> None:
        if self.now > intent.deadline:
            self._not_sent(intent, Denial.TOO_LATE)
        elif intent.kind is Kind.BUY and self.halt is not None:
            self._not_sent(intent, Denial.HALTED)
        elif not self.connected:
            self._rejected(intent.tag, "NO_SESSION", curable=False)
        elif not CALENDAR.is_open(self.now):
            self._rejected(intent.tag, "MARKET_CLOSED", curable=False)
        else:
            self._place(intent)

    def _not_sent(self, intent: Intent, why: Denial) -> None:
        self.seen[f"denied by the sender {intent.kind}"] += 1
        self.append(
            OrderDenied(kind=intent.kind, reason=why, tag=intent.tag),
            OrderFinalized(tag=intent.tag, final=Final.NOT_PLACED),
        )

    def _rejected(self, tag: Tag, reason: str, curable: bool, counted: bool = True) -> None:
        self.append(
            OrderRejected(tag=tag, reason=reason, curable=curable, counted=counted),
            OrderFinalized(tag=tag, final=Final.REJECTED),
        )

    def _place(self, intent: Intent) -> None:
        tag = intent.tag
        answer = self.choices.below(16)
        if intent.kind is not Kind.BUY and self.choices.below(4) < self.vague:
            answer = 13
        match answer:
            case 8:
                self._rejected(tag, "MARGIN", curable=False)
            case 9:
                self._rejected(tag, "BUSY", curable=True)
            case 10:
                self._rejected(tag, "TOO_MANY_REQUESTS", curable=True, counted=False)
            case 11:  # it exists, and nobody answered
                self._exists(intent.request)
                self._later(lambda: self.append(OrderOutcomeUnknown(tag=tag, doubt=Doubt.AMBIGUOUS)))
            case 12:  # it never arrived, and nobody answered
                self._later(lambda: self.append(OrderOutcomeUnknown(tag=tag, doubt=Doubt.AMBIGUOUS)))
            case 13 | 14 | 15:  # it shows up later, perhaps after it was given up
                self._exists(intent.request, hidden=(20, 60, 150, 300)[self.choices.below(4)] * SECOND)
                if self.choices.one_in(2):
                    self.append(OrderOutcomeUnknown(tag=tag, doubt=Doubt.AMBIGUOUS))
            case _:
                order = self._exists(intent.request)
                self._later(lambda: self.append(OrderAccepted(tag=tag, order_id=order.order_id)))

    def _exists(self, request: OrderRequest, hidden: Duration = 0) -> Booked:
        assert request.tag not in self.book, "the same order was placed twice"
        self.book[request.tag] = order = Booked(
            request.tag, request.side, request.quantity, f"o{len(self.book)}", self.now + hidden
        )
        return order

    def cancel(self, event: CancelRequested) -> None:
        order = self.book.get(event.tag)
        if order is None or not order.open or self.choices.one_in(5):
            self._later(lambda: self.append(CancelRejected(tag=event.tag, reason="no")))
        else:
            order.status = "cancelled"

    def modify(self, event: ModifyRequested) -> None:
        order = self.book.get(event.tag)
        if order is None or not order.open or self.choices.one_in(5):
            self.append(ModifyRejected(tag=event.tag, reason="no"))
        else:
            order.limit = event.price

    def trade(self, whole: bool = False) -> None:
        """Somebody takes the other side of an open order, wholly or in part."""
        # an order that the book does not show yet may trade, too
        orders = [o for o in self.book.values() if o.open and (self.now >= o.visible_at or self.choices.one_in(4))]
        if not orders or not CALENDAR.is_open(self.now):
            return
        order = orders[self.choices.below(len(orders))]
        left = order.quantity - order.filled
        traded = left if whole else 1 + self.choices.below(left)
        order.filled += traded
        order.value += traded * self.price
        if order.filled == order.quantity:
            order.status = "complete"
        elif self.choices.one_in(8):
            self.refuse_late()

    def refuse_late(self) -> None:
        """The exchange rejects or cancels an open order, perhaps after a part of it has traded."""
        for order in self.book.values():
            if order.open and self.now >= order.visible_at:
                order.status = ("rejected", "cancelled")[self.choices.below(2)]
                if order.filled and order.status == "rejected":
                    self.seen[f"rejected after a partial fill {order.side}"] += 1
                return

    # --- the reader of the book ---

    def read(self) -> None:
        """A reading; what it shows may be appended late, when it is stale."""
        rows = [
            Row(o.tag, o.order_id, o.filled, o.average, o.status)
            for o in self.book.values()
            if self.now >= o.visible_at
        ]
        shown = {row.tag for row in rows}
        order = self.state.order
        if order is not None and order.phase is Phase.UNKNOWN and order.tag not in shown:
            self.readings[order.tag] += 1
            self._give_up(order)
        self._later(lambda: self.adopt(rows))

    def _give_up(self, order: Order) -> None:
        policy = self.policy
        ambiguous = order.doubt is Doubt.AMBIGUOUS
        quarantine = policy.quarantine_ambiguous if ambiguous else policy.quarantine_dead_sender
        over = order.deadline + policy.request_timeout + policy.skew + quarantine
        if self.readings[order.tag] >= policy.sufficient_readings and self.now >= over:
            self.seen[f"given up {order.kind}"] += 1
            self.append(OrderFinalized(tag=order.tag, final=Final.NOT_PLACED))

    def adopt(self, rows: list[Row]) -> None:
        shuffled = rows if not rows or self.choices.one_in(2) else rows[::-1]
        for row in shuffled:
            order = self.state.find(row.tag)
            if order is None:
                continue
            live = order.phase is Phase.LIVE and order.order_id is not None
            news = not live and (not order.resolved or order.final is Final.NOT_PLACED)
            if news and not self.choices.one_in(4):
                self.append(OrderAccepted(tag=row.tag, order_id=row.order_id))
            if row.filled > order.filled and not (row.status != "open" and self.choices.one_in(3)):
                self.append(
                    OrderFilled(tag=row.tag, order_id=row.order_id, filled=row.filled, average_price=row.average)
                )
            order = self.state.find(row.tag)
            assert order is not None
            if row.status != "open" and (not order.resolved or order.final is Final.NOT_PLACED):
                average = row.average if row.filled else None
                if row.status == "rejected":
                    self.append(OrderRejected(tag=row.tag, order_id=row.order_id, reason="RMS", curable=True))
                if row.status == "cancelled":
                    self.append(OrderCancelled(tag=row.tag, order_id=row.order_id, filled=row.filled))
                final = Final(row.status)
                self.append(OrderFinalized(tag=row.tag, final=final, filled=row.filled, average_price=average))

    def repeat(self) -> None:
        """An old message comes again. (A second FINALIZED(not placed) would be a decision of ours, not a message.)"""
        kinds = (OrderAccepted, OrderFilled, OrderCancelled, OrderRejected, OrderOutcomeUnknown, CancelRejected)
        old = [event for event in self.log[-60:] if isinstance(event, kinds)]
        if old:
            self.append(old[self.choices.below(len(old))])

    # --- the sources ---

    def triggers(self) -> list[Event]:
        """Everything that could become due of the current run, right or stale."""
        state, tick = self.state, Tick(SYMBOL, Decimal(94), self.now)
        run, revision = state.run, state.stop_revision
        return [
            BuyTriggered(run=run, due_at=state.buy_at),
            SellTriggered(run=run, due_at=state.sell_at),
            SellTriggered(run=run - 1, due_at=state.sell_at),
            StoplossTriggered(run=run, stop_revision=revision, tick=tick, stop_loss=state.stop_loss),
            StoplossTriggered(run=run, stop_revision=revision - 1, tick=tick, stop_loss=state.stop_loss),
        ]

    def tick(self, price: Price | None = None) -> None:
        if price is None:
            price = Decimal((100, 101, 97, 96, 95, 94, 93, 90)[self.choices.below(8)])
        if not CALENDAR.is_open(self.now):
            return
        self.price, self.price_at = price, self.now
        self.watch_stop()

    def watch_stop(self) -> None:
        state = self.state
        armed = state.alive and state.open_quantity > 0
        key = (state.run, "stop", state.stop_revision)
        if armed and self.price <= state.stop_loss and key not in self.fired and CALENDAR.is_open(self.now):
            self.fired.add(key)
            tick = Tick(SYMBOL, self.price, self.now)
            trigger = StoplossTriggered(
                run=state.run, stop_revision=state.stop_revision, tick=tick, stop_loss=state.stop_loss
            )
            self._later(lambda: self.append(trigger))

    def ring(self) -> None:
        """The alarm clock: each trigger once a scheduler, and there may be two."""
        state = self.state
        if not state.alive:
            return
        run, buy_at, sell_at = state.run, state.buy_at, state.sell_at
        if self.now >= buy_at and (run, "buy", buy_at) not in self.fired:
            self.fired.add((run, "buy", buy_at))
            late = self.now - buy_at
            if late > self.policy.buy_late_limit:
                self._later(lambda: self.append(TriggerMissed(run=run, due_at=buy_at, lateness=late)))
            else:
                self._later(lambda: self.append(BuyTriggered(run=run, due_at=buy_at)))
        if self.now >= sell_at and (run, "sell", sell_at) not in self.fired:
            self.fired.add((run, "sell", sell_at))
            self._later(lambda: self.append(SellTriggered(run=run, due_at=sell_at)))
        if state.status is Status.STARTING and not state.ready:
            self.append(StrategyReady(run=run), StrategyRunning(run=run))

    def pass_time(self, to: Instant) -> None:
        assert to >= self.now
        before, self.now = CALENDAR.session_at(self.now), to
        if before is None or not before.contains(to):  # day orders end with the day, also those not shown yet
            for order in self.book.values():
                if order.open:
                    order.status = "cancelled"

    # --- the user ---

    def start(self) -> None:
        asked = decide_start(self.state, self.facts)
        if not isinstance(asked, Refused):
            self.append(*asked)

    def restart(self) -> None:
        """Again, today if that is still possible."""
        if self.state.alive:
            return
        soon = wall(self.now + MINUTE).time().replace(microsecond=0)
        if soon < dt.time(9, 43):
            changed = decide_update(self.state, Changes(buy_time=soon, sell_time=dt.time(9, 44)), self.facts)
            if not isinstance(changed, Refused):
                self.append(*changed)
        self.start()

    def stop(self) -> None:
        self.append(*decide_stop(self.state, square_off=self.choices.one_in(2)))

    def update(self) -> None:
        below = Decimal((95, 94, 98, 91)[self.choices.below(4)])
        sell = wall(self.now + (1 + self.choices.below(4)) * MINUTE).time().replace(microsecond=0)
        changes = Changes(stop_loss=below) if self.choices.one_in(2) else Changes(sell_time=sell)
        changed = decide_update(self.state, changes, self.facts)
        if not isinstance(changed, Refused):
            if self.state.sell_due and isinstance(changes.sell_time, dt.time):
                self.seen["sell_time changed after it fired"] += 1
            self.append(*changed)
            self.watch_stop()

    def sell_by_hand(self) -> None:
        """The user sells some of the shares in the broker's own app, and may or may not say so."""
        quantity = min(self.state.open_quantity, self.held)
        if quantity > 0:
            quantity = 1 + self.choices.below(quantity)
            selling = any(o.open and o.side is Side.SELL for o in self.book.values())
            self.hand_raced |= self.state.unresolved or selling or bool(self.state.lingering)
            self.by_hand += quantity
            self.foreign -= quantity

    def settle(self) -> None:
        if self.foreign < 0:
            settled = decide_settle(self.state, min(-self.foreign, max(0, self.state.open_quantity)), "by hand")
            if not isinstance(settled, Refused):
                event = settled[0]
                assert isinstance(event, PositionSettled)
                self.append(event)
                self.foreign += event.quantity

    def toggle_halt(self) -> None:
        self.halt = Halt(square_off=self.choices.one_in(2)) if self.halt is None else None

    def force(self) -> None:
        if self.choices.one_in(2):
            self.append(ForceStop(reason="OPERATOR"))
        else:
            self.append(SafetyAbort(run=self.state.run, reason=Abort.OPERATOR))

    # --- the account ---

    @property
    def held(self) -> Quantity:
        """The account's shares, by the broker's book and the user's hand."""
        signs = {Side.BUY: 1, Side.SELL: -1}
        return sum(signs[order.side] * order.filled for order in self.book.values()) - self.by_hand

    # --- playing ---

    def enter(self) -> None:
        """To the buying time, on which most of what can go wrong depends."""
        if self.state.alive and self.now < self.state.buy_at:
            self.pass_time(self.state.buy_at)
            self.price, self.price_at = Decimal(100), self.now
            self.ring()
            self.wake()

    def step(self) -> None:
        idle = not self.state.alive and self.state.open_quantity == 0 and not self.state.start_requested
        if idle and self.choices.one_in(3):
            self.restart()
            self.wake()
            self.enter()
        match self.choices.below(48):
            case 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7:
                self.wake()
            case 8 | 9 | 10 | 11 | 12 | 13:
                at = [self.now + 20 * MINUTE, self.wake_at or 0, self.state.sell_at]
                self.pass_time(min(t for t in at if t > self.now))
                self.ring()
                self.wake()
            case 14 | 15 | 16 | 17:
                self.pass_time(self.now + (1, 2, 5, 20)[self.choices.below(4)] * SECOND)
            case 18:
                self.pass_time(self.now + (1, 2, 5, 10)[self.choices.below(4)] * MINUTE)
            case 19 | 20 | 21:
                self.trade()
            case 22 | 23 | 24:
                self.trade(whole=True)
                self.read()
                self.wake()
            case 25 | 26 | 27 | 28 | 29:
                if self.state.order is not None and self.state.order.phase is Phase.UNKNOWN:
                    self.pass_time(self.now + (2, 5, 20, 60)[self.choices.below(4)] * SECOND)
                self.read()
                self.wake()
            case 30 | 31 | 32 | 33:
                if self.mail:
                    self.mail.pop(self.choices.below(len(self.mail)))()
            case 34:
                self.refuse_late()
            case 35:
                self.repeat()
            case 36 | 37 | 38:
                self.tick()
                self.wake()
            case 39:
                self.stop()
            case 40:
                self.update()
            case 41:
                self.sell_by_hand()
            case 42:
                self.settle()
            case 43:
                if self.choices.one_in(2):
                    self.toggle_halt()
            case 44:
                if self.choices.one_in(3):
                    self.force()
            case 45:
                if not self.connected or self.choices.one_in(2):
                    self.connected = not self.connected
            case 46:
                self.restart()
                self.wake()
                self.enter()
            case _:
                self.enter()
        self.ring()
        invariants.always(self)

    def play(self) -> None:
        if not self.choices.one_in(8):
            self.enter()
        for _ in range(STEPS):
            if self.choices.used_up:
                break
            self.step()
        settle_down(self)
        invariants.at_the_end(self)


def play(seed: int, size: int = 700) -> World:
    """A world played by a seed."""
    world = World(random.Random(seed).randbytes(size))
    world.play()
    return world
