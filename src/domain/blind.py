"""Blind events: those whose effect on a strategy is constant, so that a source may append them without loading state.

The effect is data: the first `Case` whose conditions hold sets its fields. The append script interprets it on the
runtime hash and `evolve` on the state, so the two cannot disagree (architecture §3.3).
"""

from msgspec import Struct

from domain.events import (
    BuyTriggered,
    Event,
    ForceStop,
    SafetyAbort,
    SellTriggered,
    StoplossTriggered,
    StrategyReady,
    StrategyRunning,
    StrategyStopRequested,
    TriggerMissed,
)
from domain.values import Status


class Case(Struct, frozen=True, gc=False):
    """If each field of `when` holds one of its values and each of `positive` is above 0, set the fields of `then`."""

    when: dict[str, tuple[object, ...]]
    then: dict[str, object]
    positive: tuple[str, ...] = ()


_ALIVE = (Status.STARTING, Status.RUNNING, Status.STOPPING)
_ENDED = (Status.STOPPED, Status.FAILED)


def cases(event: Event) -> tuple[Case, ...] | None:
    """What a blind event does, or None if the event is not blind."""
    match event:
        case BuyTriggered():
            return (Case({"run": (event.run,), "buy_at": (event.due_at,), "status": _ALIVE}, {"buy_due": True}),)
        case SellTriggered():
            return (Case({"run": (event.run,), "sell_at": (event.due_at,), "status": _ALIVE}, {"sell_due": True}),)
        case TriggerMissed():
            return (Case({"run": (event.run,), "buy_at": (event.due_at,), "status": _ALIVE}, {"buy_missed": True}),)
        case StoplossTriggered():
            armed: dict[str, tuple[object, ...]] = {
                "run": (event.run,),
                "stop_revision": (event.stop_revision,),
                "status": _ALIVE,
            }
            return (Case(armed, {"stop_due": True, "stop_price": event.tick.price}),)
        case StrategyReady():
            return (Case({"run": (event.run,), "status": (Status.STARTING,)}, {"ready": True}),)
        case StrategyRunning():
            return (Case({"run": (event.run,), "status": (Status.STARTING,)}, {"status": Status.RUNNING}),)
        case StrategyStopRequested():
            asked: dict[str, object] = {
                "stop_requested": True,
                "stop_reason": event.reason,
                "start_requested": False,
            }
            if event.square_off:  # a later, plain stop does not take a square-off back
                asked["square_off"] = True
            return (
                Case({"status": _ALIVE}, asked | {"status": Status.STOPPING}),
                Case({"status": _ENDED}, asked, positive=("open_quantity",)),
                Case({}, {"start_requested": False}),
            )
        case ForceStop():
            forced: dict[str, object] = {
                "stop_requested": True,
                "stop_reason": event.reason,
                "start_requested": False,
            }
            return (
                Case({"status": _ALIVE}, forced | {"status": Status.STOPPING}),
                Case({}, {"start_requested": False}),
            )
        case SafetyAbort():
            return (
                Case(
                    {"run": (event.run,), "status": _ALIVE},
                    {"abort_due": True, "abort_reason": event.reason},
                ),
            )
        case _:
            return None
