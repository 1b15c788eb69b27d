"""What must happen in time, and once, as the history alone tells it. Nothing here folds with the engine's own fold.

1. A trigger is in the log once for each run and instant, or stop revision.
2. An exit that is due is asked for, or the run ends, within EXIT_WITHIN.
3. While the stop is due no timed SELL is asked for: STOPLOSS overrides SELL.
4. An order whose answer never came is not given up before its quarantine is over.
5. A refusal that counts is followed by a back-off, which is kept, and by no more attempts than allowed.
6. Fills are cumulative: each tells more than the one before.
7. A timer of a run that lives on is in the log TIMED_WITHIN of its instant, fired or missed.
"""

from collections.abc import Iterable
from typing import Final

from domain.events import (
    BuyTriggered,
    Intent,
    OrderFilled,
    OrderFinalized,
    OrderOutcomeUnknown,
    OrderRecovered,
    OrderRetryRequired,
    SafetyAbort,
    SellTriggered,
    StoplossTriggered,
    StrategyRecovered,
    StrategyStarted,
    StrategyStopped,
    StrategyUpdated,
    SystemRecovery,
    TriggerMissed,
)
from domain.facts import Policy
from domain.values import SECOND, Doubt, Duration, Instant, Kind, Price, Tag
from domain.values import Final as Ending
from eventstore.envelope import Recorded

__all__ = ["EXIT_WITHIN", "TIMED_WITHIN", "untimely"]

EXIT_WITHIN: Final[Duration] = 150 * SECOND
"""From the trigger, or from the fill if that came later: an unknown entry has to leave its quarantine before, and all
workers may be paused. What is forgotten for good is far beyond it."""

TIMED_WITHIN: Final[Duration] = 150 * SECOND
"""All schedulers may be paused, and Redis may be away after that."""


def untimely(records: Iterable[Recorded], policy: Policy, hampered: Duration = 0) -> list[str]:
    """What came too late, too early or twice; each begins with the number of the rule above. `hampered` is how long
    servers were away or processes stood still, all together: whatever must happen in time may be so much later."""
    reading = _Reading(policy, hampered)
    for record in records:
        reading.take(record)
    return reading.found


class _Strategy:
    def __init__(self) -> None:
        self.run = 0
        self.buy_at: Instant = 0
        self.sell_at: Instant = 0
        self.revision = 1
        self.alive = False
        self.stop_price: Price | None = None
        """Of the trade that triggered the stop; None: it is not due."""
        self.sell_due = False
        self.filled: dict[Tag, int] = {}
        self.kinds: dict[Tag, Kind] = {}
        self.due_since: Instant | None = None
        """Since when shares are held and an exit is due that was not asked for."""
        self.not_before: dict[Kind, Instant] = {}
        self.fired: set[tuple[str, Instant]] = set()
        """The timers of this run that are in the log, by their instants."""

    @property
    def held(self) -> int:
        return sum(filled if self.kinds[tag] is Kind.BUY else -filled for tag, filled in self.filled.items())


class _Reading:
    def __init__(self, policy: Policy, hampered: Duration) -> None:
        self._hampered = hampered
        self.found: list[str] = []
        self._policy = policy
        self._strategies: dict[int, _Strategy] = {}
        self._triggers: set[tuple[object, ...]] = set()
        self._intents: dict[Tag, Intent] = {}
        self._doubts: dict[Tag, Doubt] = {}

    def take(self, record: Recorded) -> None:
        event, at = record.event, record.recorded_at
        if isinstance(event, SystemRecovery):
            self._triggers.clear()  # what made them unique may be lost with Redis
        if not record.strategy_id:
            return
        it = self._strategies.setdefault(record.strategy_id, _Strategy())
        where = f"position {record.position}, strategy {record.strategy_id}"
        match event:
            case StrategyStarted():
                fresh = self._strategies[record.strategy_id] = _Strategy()
                fresh.run, fresh.alive, fresh.revision = record.version, True, it.revision
                fresh.buy_at, fresh.sell_at = event.buy_at, event.sell_at
            case StrategyUpdated():
                self._updated(it, event)
            case BuyTriggered() | TriggerMissed():
                self._once(where, "BUY", record.strategy_id, event.run, event.due_at)
                if event.run == it.run:
                    it.fired.add(("BUY", event.due_at))
            case SellTriggered():
                self._once(where, "SELL", record.strategy_id, event.run, event.due_at)
                if event.run == it.run:
                    it.fired.add(("SELL", event.due_at))
                it.sell_due = it.sell_due or (event.run, event.due_at) == (it.run, it.sell_at)
                self._mind(it, at)
            case StoplossTriggered():
                self._once(where, "STOPLOSS", record.strategy_id, event.run, event.stop_revision)
                if (event.run, event.stop_revision) == (it.run, it.revision) and it.alive:
                    it.stop_price = event.tick.price
                self._mind(it, at)
            case Intent():
                self._asked(where, it, event, at)
            case OrderRecovered(kind=kind, run=run, placed_at=placed_at) if run == it.run:
                due_at = it.buy_at if kind is Kind.BUY else it.sell_at
                if placed_at >= due_at:  # it was placed because its timer had fired, which was lost with the log
                    it.fired.add((kind.side, due_at))
            case OrderFilled(tag=tag, filled=filled) if tag in it.kinds:
                if filled <= it.filled.get(tag, 0):
                    self.found.append(f"6: {where}: {filled} of {tag} are filled, and {it.filled[tag]} were before")
                it.filled[tag] = max(filled, it.filled.get(tag, 0))
                it.not_before.pop(it.kinds[tag], None)
                self._mind(it, at)
            case OrderOutcomeUnknown(tag=tag, doubt=doubt):
                if self._doubts.get(tag) is not Doubt.AMBIGUOUS:
                    self._doubts[tag] = doubt
            case OrderFinalized():
                self._finalized(where, it, event, at)
            case OrderRetryRequired():
                if event.counted and event.not_before <= at:
                    self.found.append(f"5: {where}: {event.kind} is tried again without a back-off")
                most = self._policy.max_attempts
                if event.counted and event.attempt >= most and event.kind is not Kind.SURFACED and it.alive:
                    self.found.append(
                        f"5: {where}: {event.kind} is tried again after attempt {event.attempt} of {most}"
                    )
                it.not_before[event.kind] = event.not_before
            case SafetyAbort() | StrategyStopped() | StrategyRecovered():
                self._in_time(where, it, at)
                if isinstance(event, StrategyStopped):
                    self._timed(where, it, at)
                it.alive = it.alive and not isinstance(event, StrategyStopped)
                it.due_since = None
                if not it.alive:
                    it.not_before.clear()
            case _:
                pass

    def _once(self, where: str, *trigger: object) -> None:
        if trigger in self._triggers:
            self.found.append(f"1: {where}: {trigger[0]} is triggered twice for run {trigger[2]}")
        self._triggers.add(trigger)

    def _updated(self, it: _Strategy, event: StrategyUpdated) -> None:
        if event.sell_at is not None and event.sell_at != it.sell_at:
            it.sell_at, it.sell_due = event.sell_at, False
        if event.buy_at is not None:
            it.buy_at = event.buy_at
        if event.stop_loss is not None:
            it.revision = event.stop_revision
            if it.stop_price is not None and it.stop_price > event.stop_loss:
                it.stop_price = None
        if it.stop_price is None and not it.sell_due:
            it.due_since = None

    def _mind(self, it: _Strategy, at: Instant) -> None:
        if it.held <= 0:
            it.due_since = None
        elif it.due_since is None and it.alive and (it.sell_due or it.stop_price is not None):
            asked_before = any(kind is not Kind.BUY for kind in it.kinds.values())
            it.due_since = None if asked_before else at

    def _asked(self, where: str, it: _Strategy, event: Intent, at: Instant) -> None:
        self._intents[event.tag] = event
        kind = event.kind
        if kind is not Kind.SURFACED:
            it.kinds[event.tag] = kind
        if kind in (Kind.SELL, Kind.STOPLOSS):
            self._in_time(where, it, at)
            it.due_since = None
        if kind is Kind.SELL and it.alive and it.stop_price is not None:
            self.found.append(f"3: {where}: SELL, and the stop is due since a trade at {it.stop_price}")
        if event.at < it.not_before.get(kind, 0):
            early = (it.not_before[kind] - event.at) / SECOND
            self.found.append(f"5: {where}: {kind} is tried again {early:.1f} s before its back-off is over")

    def _in_time(self, where: str, it: _Strategy, at: Instant) -> None:
        if it.due_since is not None and at - it.due_since > EXIT_WITHIN + self._hampered:
            waited = (at - it.due_since) / SECOND
            self.found.append(f"2: {where}: the exit was due for {waited:.0f} s, and nobody asked for it")

    def _timed(self, where: str, it: _Strategy, at: Instant) -> None:
        for timer, due_at in (("BUY", it.buy_at), ("SELL", it.sell_at)):
            if it.alive and at - due_at > TIMED_WITHIN + self._hampered and (timer, due_at) not in it.fired:
                late = (at - due_at) / SECOND
                self.found.append(f"7: {where}: {timer} was due {late:.0f} s before the run ended, and never triggered")

    def _finalized(self, where: str, it: _Strategy, event: OrderFinalized, at: Instant) -> None:
        if event.tag in it.kinds and event.filled > it.filled.get(event.tag, 0):
            it.filled[event.tag] = event.filled
            self._mind(it, at)
        intent, doubt = self._intents.get(event.tag), self._doubts.get(event.tag)
        if event.final is not Ending.NOT_PLACED or intent is None or doubt is None:
            return
        policy = self._policy
        dead = doubt is Doubt.DEAD_SENDER
        quarantine = policy.quarantine_dead_sender if dead else policy.quarantine_ambiguous
        early = intent.deadline + policy.request_timeout + quarantine - policy.skew - at
        if early > 0:
            self.found.append(f"4: {where}: {event.tag} is given up {early / SECOND:.1f} s before its quarantine ends")
