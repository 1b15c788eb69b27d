"""The state of a simulated Kite: accounts, market, clock and faults. No sockets; `server.serve` puts it on some.

Whoever looks settles first, so nothing needs to run in the background for the state to be right.
"""

import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Protocol

from domain.calendar import AlwaysOpenCalendar, Calendar, instant, wall
from domain.clock import Clock
from domain.values import Duration, Instant, Money, Tick
from simulation.kite.accounts import Account, AttemptKind
from simulation.kite.checks import Terms, expiry
from simulation.kite.delays import Delays
from simulation.kite.exchange import Exchange
from simulation.kite.extras_tape import Tape
from simulation.kite.faults import AFTER, Call, Fault, FaultPlan, NoFaults, Occasion, Play, ScriptedFaults
from simulation.kite.instruments import InstrumentList, SimInstrument, built_in
from simulation.kite.limits import SimLimits
from simulation.kite.orders import SimOrder
from simulation.kite.protection import book_protected, percent
from simulation.kite.routing import Route

__all__ = ["KiteSim", "Observer", "idle"]

DEFAULT_CASH = Decimal(10_000_000)
_MIDNIGHT = dt.time()
_SNOWFLAKE_EPOCH = 1_288_834_974_657
_SNOWFLAKE_SHIFT = 22


class Observer(Protocol):
    """Told at once, with plain calls; must not raise."""

    def on_order(self, user_id: str, payload: dict[str, Any]) -> None:
        """An order changed in a way that an order update is sent for; `payload` is its row of the book.

        Kite: for trades, changes, cancels, rejections and triggers, never for acceptance.
        """
        ...

    def on_ticks(self, ticks: Sequence[Tick]) -> None: ...


class KiteSim:
    """`calendar` None: the market is always open. `plan`: faults by chance, next to those injected.

    `order_id_digits`: 19 as today, or 15 as before 2025.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        instruments: Sequence[SimInstrument] | None = None,
        plan: FaultPlan | None = None,
        limits: SimLimits | None = None,
        calendar: Calendar | None = None,
        delays: Delays | None = None,
        check_limits: bool = True,
        order_id_digits: int = 19,
    ) -> None:
        if order_id_digits not in (15, 19):
            raise ValueError(f"order ids have 19 digits, or 15 as before 2025, not {order_id_digits}")
        self.clock = clock
        self.instruments = InstrumentList(built_in() if instruments is None else instruments)
        self.plan: FaultPlan = NoFaults() if plan is None else plan
        self.script = ScriptedFaults()
        self.limits = SimLimits() if limits is None else limits
        self.check_limits = check_limits
        self.accounts: dict[str, Account] = {}
        self.observers: list[Observer] = []
        self.tape = Tape()
        self.fired: Counter[Fault] = Counter()
        """How often each fault really happened."""
        self.skew: Duration = 0
        """How far the server's clock is ahead of the true one: in its stamps, windows and sessions."""
        self.wake: Callable[[], None] = idle
        """Called when something new will become due."""
        self._order_id_digits = order_id_digits
        self._orders_made = 0
        self._asked: Counter[tuple[Fault, str | None]] = Counter()
        self._today = wall(clock.now()).date()
        self.exchange = Exchange(
            calendar=AlwaysOpenCalendar() if calendar is None else calendar,
            delays=Delays() if delays is None else delays,
            listener=self,
            fired=self.fired,
            stamped=lambda at: at + self.skew,
        )

    def now(self) -> Instant:
        """The server's own time."""
        return self.clock.now() + self.skew

    # --- accounts and sessions

    def register(
        self,
        user_id: str,
        *,
        api_key: str,
        api_secret: str,
        postback_url: str | None = None,
        redirect_url: str | None = None,
        allowed_ips: frozenset[str] | None = None,
        cash: Money = DEFAULT_CASH,
        renewable: bool = False,
    ) -> Account:
        """A customer with an app. `allowed_ips` None: order calls from anywhere. Raises ValueError when it is known."""
        if user_id in self.accounts:
            raise ValueError(f"user {user_id} is registered already")
        account = Account(
            user_id,
            api_key=api_key,
            api_secret=api_secret,
            limits=self.limits,
            cash=cash,
            postback_url=postback_url,
            redirect_url=redirect_url,
            allowed_ips=allowed_ips,
            renewable=renewable,
        )
        account.roll(self._today)
        self.accounts[user_id] = account
        return account

    def login(self, user_id: str) -> str:
        """A request token, as the browser would get it: good once, for three minutes."""
        return self.accounts[user_id].request_token(self.now())

    def open_session(self, user_id: str) -> str:
        """An access token at once; it dies at 06:00."""
        return self.accounts[user_id].open_session(self.now())

    def end_session(self, user_id: str) -> None:
        """As a logout elsewhere."""
        self.accounts[user_id].end_session()

    def account_of(self, api_key: str, access_token: str) -> Account | None:
        """The account whose session this is; None when there is none, or no longer."""
        for account in self.accounts.values():
            if account.api_key == api_key and account.has_session(access_token, self.now()):
                return account
        return None

    def was_session(self, api_key: str, access_token: str) -> bool:
        """Whether it was one once."""
        return any(
            account.api_key == api_key and account.had_session(access_token) for account in self.accounts.values()
        )

    # --- market and time

    async def on_ticks(self, ticks: Sequence[Tick]) -> None:
        """Sets the last price of each symbol, fills what rests within it, tells the observers."""
        self.tick_now(ticks)

    async def settle(self) -> None:
        """Lets everything happen that is due by now."""
        self.settle_now()

    def tick_now(self, ticks: Sequence[Tick]) -> None:
        self.settle_now()
        self.tape.ticks(ticks)
        self.exchange.ticks(ticks, self.clock.now())
        for observer in self.observers:
            observer.on_ticks(ticks)

    def settle_now(self) -> None:
        now = self.clock.now()
        today = wall(now).date()
        if today != self._today:
            midnight = instant(today, _MIDNIGHT)
            self.exchange.settle(midnight - 1)
            self._today = today
            for account in self.accounts.values():
                self.exchange.lapse(account, midnight - 1)
                account.roll(today)
        self.exchange.settle(now)

    def next_due(self) -> Instant | None:
        """When time alone will next change something; None: never."""
        return self.exchange.next_due()

    # --- faults

    def inject(
        self,
        fault: Fault,
        user_id: str | None = None,
        *,
        times: int = 1,
        after: Duration | None = None,
        on: Occasion | None = None,
    ) -> None:
        """The next `times` orders or calls that it concerns, of this user or of anyone, meet the fault.

        `after`: how long what it delays is delayed, by default the shortest of `AFTER`. `on`: only on this occasion.
        F21 takes effect at once: `after` is the skew.
        """
        if fault is Fault.F21_CLOCK_SKEW:
            self.skew = AFTER[fault][0] if after is None else after
            self.fire(fault)
            return
        self.script.inject(fault, user_id, times=times, after=after, on=on)

    def play(self, occasion: Occasion, account: Account, key: str) -> Play | None:
        """The fault that plays on this occasion; `fire` it once it really happens."""
        call = Call(occasion=occasion, user_id=account.user_id, key=key)
        return self.script.play(call) or self.plan.play(call)

    def plays(self, fault: Fault, user_id: str | None = None) -> Play | None:
        """Whether this one fault plays now (for the stream and the postbacks); counted as fired when it does."""
        self._asked[fault, user_id] += 1
        play = self.script.plays(fault, user_id, 0) or self.plan.plays(fault, user_id, self._asked[fault, user_id])
        if play is not None:
            self.fire(fault)
        return play

    def fire(self, fault: Fault) -> Fault:
        """Counts a fault that happened."""
        self.fired[fault] += 1
        return fault

    def call_key(self, account: Account, route: Route, order_id: str | None, tag: str | None) -> str:
        """An order call's name for a seeded plan: its order's tag, and which attempt on it this is."""
        if route.attempt is AttemptKind.PLACE or order_id is None:
            return f"{tag or f'#{len(account.attempts)}'}/place"
        order = account.find(order_id)
        if order is None:
            return f"#{len(account.attempts)}"
        number = sum(1 for each in account.attempts if each.order_id == order_id and each.kind is route.attempt)
        return f"{order.tag or order_id}/{route.method}/{number}"

    # --- orders

    def take(
        self,
        account: Account,
        terms: Terms,
        *,
        surfaces_after: Duration = 0,
        parent_order_id: str | None = None,
        system_tags: tuple[str, ...] = (),
    ) -> SimOrder:
        """Takes an order that passed every check. Its fate is drawn here."""
        now = self.clock.now()
        order = self._order(account, terms, parent_order_id, system_tags)
        play = self.play(Occasion.LIFE, account, terms.tag or order.order_id)
        if play is not None and play.fault is Fault.F16_TAG_ONLY_IN_TAGS:
            order.tag_only_in_tags = order.tag is not None
            self.fire(play.fault)
        elif play is not None and play.fault is not Fault.F19_SECOND_ORDER_WITH_TAG:
            order.life = play
        enters = now + surfaces_after
        starts_at = self.exchange.next_open(now) if terms.variety == "amo" else None
        self.exchange.enter(order, account, enters, starts_at=starts_at)
        if play is not None and play.fault is Fault.F19_SECOND_ORDER_WITH_TAG:
            self.fire(play.fault)
            twin = self.exchange.foreign(order, self._next_order_id())
            self.exchange.enter(twin, account, enters + play.after)
        self.exchange.settle(now)
        return order

    def _order(
        self, account: Account, terms: Terms, parent_order_id: str | None, system_tags: tuple[str, ...]
    ) -> SimOrder:
        now = self.now()
        last = self.exchange.last.get(terms.instrument.symbol)
        if terms.order_type.at_market:
            system_tags = (*system_tags, "mktp", f"mktp:{percent(terms.protection):.2f}")
        order = SimOrder(
            order_id=self._next_order_id(),
            user_id=account.user_id,
            guid=f"01X{self._orders_made:016x}",
            variety=terms.variety,
            instrument=terms.instrument,
            side=terms.side,
            product=terms.product,
            order_type=terms.order_type,
            validity=terms.validity,
            quantity=terms.quantity,
            disclosed=terms.disclosed,
            price=terms.price,
            trigger_price=terms.trigger_price,
            protection=terms.protection,
            tag=terms.tag,
            system_tags=system_tags,
            parent_order_id=parent_order_id,
            received_at=now,
            acted_at=now,
            expires_at=expiry(terms, self.clock.now()),
            history=[],
        )
        book_protected(order, None if last is None else last.price)
        return order

    def _next_order_id(self) -> str:
        """Kite: 19 digits since 2025, a time in their upper bits; 15 before, the date in front."""
        self._orders_made += 1
        now = self.now()
        if self._order_id_digits == 15:
            return f"{wall(now):%y%m%d}{self._orders_made:09d}"
        milliseconds = max(now // 1_000 - _SNOWFLAKE_EPOCH, 10**18 >> _SNOWFLAKE_SHIFT)
        low = self._orders_made & ((1 << _SNOWFLAKE_SHIFT) - 1)
        return f"{(milliseconds + 1 << _SNOWFLAKE_SHIFT | low):019d}"

    # --- telling

    def on_due(self) -> None:
        """The exchange's listener: something new will become due."""
        self.wake()

    def on_change(self, account: Account, order: SimOrder, row: dict[str, Any]) -> None:
        """The exchange's listener: passes order updates on. No updates are sent for AMOs."""
        if not self.observers or order.variety == "amo":
            return
        for observer in self.observers:
            observer.on_order(account.user_id, row)


def idle() -> None:
    """Nobody waits for what becomes due."""
