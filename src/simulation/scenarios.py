"""Golden scenarios: short days in which something definite is to come about, and how one sees that it did.

A day is data: what users ask and when, where the price goes, what the broker does with the orders. Nothing in it is
drawn, so that it has one course without faults, and the n-th call to the outside is the same in every run.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final

from msgspec import Struct

from brokers.paper.matching import Order
from brokers.paper.plan import NEVER, Lost, NoFaults, Plan, Portion, Script, ScriptedPlan
from domain.commands import Changes
from domain.events import (
    Event,
    OrderDenied,
    OrderFinalized,
    OrderRejected,
    SafetyAbort,
    StrategyExited,
    StrategyStarted,
    StrategyStartRefused,
    TriggerMissed,
)
from domain.values import SECOND, Config, Exit, OrderRequest, Price, Quantity, Side
from domain.values import Final as Final_
from eventstore.envelope import Recorded
from simulation import people
from simulation.people import Ask

__all__ = ["SCENARIOS", "SYMBOL", "Outcome", "Scenario", "UnknownScenario", "outcome", "scenario"]

STRATEGY: Final = 41
USER: Final = 7
SYMBOL: Final = "NSE:INFY"
SHARES: Final = 10
OPEN: Final = dt.time(9, 15)
BEGINS: Final = -20
"""Seconds after the open at which the first user asks for something: every process stands by then."""
REFUSED: Final = frozenset({Exit.DENIED, Exit.MISSED, Exit.REJECTED, Exit.ABORT})
"""How a run ends that did not trade as it was meant to; the log must say why."""


class Scenario(Struct, frozen=True, kw_only=True):
    """`asked` and `prices` are by seconds after the open; a price holds until the next. Calls can be struck in
    `window`, in the same seconds. Each run is to end as `exits` says, with `bought` shares bought and sold in all of
    them together; `also` are other ends that a fault may bring about."""

    name: str
    about: str
    asked: tuple[tuple[float, str, Ask], ...]
    prices: tuple[tuple[float, Price], ...] = ((0, Decimal("150.00")),)
    plan: Plan = NoFaults()
    exits: tuple[Exit, ...]
    also: frozenset[Exit] = frozenset()
    bought: Quantity = SHARES
    window: tuple[int, int]
    trims: bool = False
    """Events are archived and trimmed, and snapshots taken, every few seconds."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a scenario: as meant, or otherwise for stated `reasons`; `found` is what nothing explains."""

    as_meant: bool
    exits: tuple[Exit, ...]
    bought: Quantity
    sold: Quantity
    reasons: tuple[str, ...]
    found: tuple[str, ...] = ()


class UnknownScenario(ValueError):
    """There is no scenario of that name."""


def scenario(name: str) -> Scenario:
    """Raises UnknownScenario."""
    if name not in SCENARIOS:
        raise UnknownScenario(f"there is no scenario {name!r}; known are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]


def outcome(meant: Scenario, history: Sequence[Recorded], orders: Sequence[Order]) -> Outcome:
    """From the whole history and the broker's whole book."""
    events = [recorded.event for recorded in history]
    exits = tuple(event.reason for event in events if isinstance(event, StrategyExited))
    bought, sold = (sum(order.filled for order in orders if order.side is side) for side in (Side.BUY, Side.SELL))
    buys = [order for order in orders if order.side is Side.BUY and order.filled]
    runs = sum(isinstance(event, StrategyStarted) for event in events)
    reasons = tuple(filter(None, map(_reason, events)))
    found = []
    if bought != sold:
        found.append(f"purpose: {bought} shares were bought and {sold} sold")
    if len(buys) > runs:
        found.append(f"purpose: {runs} runs bought {len(buys)} times: {', '.join(order.tag for order in buys)}")
    if len(exits) != runs:
        found.append(f"purpose: {runs} runs began and {len(exits)} ended")
    as_meant = exits == meant.exits and bought == meant.bought
    reasons += tuple(f"STRATEGY_EXITED({reason})" for reason in exits if reason in meant.also)
    if not as_meant and not reasons:
        told = f"{', '.join(exits)} with {bought} shares, not {', '.join(meant.exits)} with {meant.bought}"
        found.append(f"purpose: it ended {told}, and the log does not say why")
    if odd := [reason for reason in exits if reason not in REFUSED | meant.also | set(meant.exits)]:
        found.append(f"purpose: a run ended {odd[0]}")
    return Outcome(as_meant=as_meant, exits=exits, bought=bought, sold=sold, reasons=reasons, found=tuple(found))


def _reason(event: Event) -> str:
    match event:
        case OrderDenied() | OrderRejected() | SafetyAbort() | StrategyStartRefused():
            return f"{event.type}({event.reason})"
        case OrderFinalized(final=Final_.NOT_PLACED):
            return f"{event.type}({event.final})"
        case TriggerMissed():
            return event.type
    return ""


# --- the days --------------------------------------------------------------------------------------------------------
# An exit is due 15 s after its entry or later: a fault lasts 10 s at most, and a call is made again within 5 s.


def _at(seconds: int) -> dt.time:
    return (dt.datetime.combine(dt.date.min, OPEN) + dt.timedelta(seconds=seconds)).time()


def _begin(buy: int, sell: int) -> tuple[tuple[float, str, Ask], ...]:
    config = Config(
        symbol=SYMBOL,
        quantity=SHARES,
        buy_time=_at(buy),
        sell_time=_at(sell),
        stop_loss=Decimal("148.00"),
    )
    return (
        (BEGINS, f"create {STRATEGY}", people.create(STRATEGY, USER, config)),
        (BEGINS + 1, f"start {STRATEGY}", people.start(STRATEGY)),
    )


def _again(at: int, buy: int, sell: int) -> tuple[tuple[float, str, Ask], ...]:
    later = Changes(buy_time=_at(buy), sell_time=_at(sell))
    return (
        (at, f"update {STRATEGY}", people.update(STRATEGY, later)),
        (at + 1, f"start {STRATEGY}", people.start(STRATEGY)),
    )


def _of(side: Side) -> Callable[[OrderRequest], bool]:
    return lambda request: request.side is side


_FALL: Final = ((0, Decimal("150.00")), (12, Decimal("147.00")))
_STUCK: Final = Script(fills=(Portion(4),), rest=NEVER)

_ALL: Final = (
    Scenario(
        name="begin",
        about="an empty log begins and every process starts; a sale follows when the faults are over",
        asked=_begin(5, 10),
        exits=(Exit.SELL,),
        window=(-60, -30),
    ),
    Scenario(
        name="sale",
        about="bought at its time, sold at its time; archived and sealed",
        asked=_begin(5, 25),
        exits=(Exit.SELL,),
        window=(BEGINS, 47),
    ),
    Scenario(
        name="stop",
        about="bought, and the price falls through the stop",
        asked=_begin(5, 600),
        prices=_FALL,
        exits=(Exit.STOPLOSS,),
        window=(BEGINS, 32),
    ),
    Scenario(
        name="troubled",
        about="the entry times out, is found, and rests with a part filled; the stop is hit, and the exit rests too",
        asked=_begin(5, 600),
        prices=_FALL,
        plan=ScriptedPlan(
            [
                (
                    _of(Side.BUY),
                    Script(lost=Lost(surfaces=0, timeout=3 * SECOND), fills=_STUCK.fills, rest=_STUCK.rest),
                ),
                (_of(Side.SELL), Script(fills=(Portion(1),), rest=NEVER)),
            ]
        ),
        exits=(Exit.STOPLOSS,),
        bought=4,
        window=(BEGINS, 60),
    ),
    Scenario(
        name="halt",
        about="the user halts and squares off while the entry is in flight, and lifts the halt later",
        asked=(
            *_begin(5, 600),
            (7, f"halt {USER}", people.halt(USER, square_off=True)),
            (25, f"resume {USER}", people.resume(USER)),
        ),
        plan=ScriptedPlan([(_of(Side.BUY), _STUCK)]),
        exits=(Exit.SELL,),
        also=frozenset({Exit.HALTED}),
        bought=4,
        window=(BEGINS, 40),
    ),
    Scenario(
        name="update",
        about="the stop and the time of the exit are changed while shares are held; it starts again the same day",
        asked=(
            *_begin(5, 600),
            (8, f"update {STRATEGY}", people.update(STRATEGY, Changes(stop_loss=Decimal("149.00")))),
            (9, f"update {STRATEGY}", people.update(STRATEGY, Changes(sell_time=_at(30)))),
            *_again(45, 70, 90),
        ),
        exits=(Exit.SELL, Exit.SELL),
        bought=2 * SHARES,
        window=(BEGINS, 105),
    ),
    Scenario(
        name="trimmed",
        about="events are archived, sealed, kept as snapshots and trimmed while two runs follow each other",
        asked=(*_begin(5, 25), *_again(40, 65, 85)),
        exits=(Exit.SELL, Exit.SELL),
        bought=2 * SHARES,
        window=(BEGINS, 105),
        trims=True,
    ),
)
SCENARIOS: Final = {each.name: each for each in _ALL}
