"""Every answer that a user got has its event in the history, but for those that need none."""

from bahi.drill.checks import Found, check_acknowledged
from bahi.drill.users import Acknowledged
from bahi.testing.story import config
from domain.events import (
    Event,
    StrategyCreated,
    StrategyStartRefused,
    StrategyStartRequested,
    StrategyStopped,
    StrategyStopRequested,
)
from domain.values import Exit, Refusal
from eventstore.envelope import Recorded

STOP = Acknowledged("stop", 4, 36, ("r3",), {"square_off": False}, {}, 0)


def lost(*history: tuple[Event, str], answer: Acknowledged = STOP) -> list[str]:
    records = [
        Recorded(number, number, number, f"e{number}", 36, 4, request, "", "w", event)
        for number, (event, request) in enumerate(history, 1)
    ]
    found = Found()
    check_acknowledged(found, records, [answer])
    return found.lost


BEGUN = ((StrategyCreated(config=config()), "r1"), (StrategyStartRequested(), "r2"))


def test_a_stop_that_is_not_in_the_history_was_lost() -> None:
    assert lost(*BEGUN) == ["user 4 was told of stop {'square_off': False} and it is not in the history"]
    assert not lost(*BEGUN, (StrategyStopRequested(square_off=False, reason="USER"), "r3"))
    assert lost(*BEGUN, (StrategyStopRequested(square_off=True, reason="USER"), "r9")), "that was another"


def test_what_has_ended_or_did_not_begin_need_not_be_ended() -> None:
    assert not lost(*BEGUN, (StrategyStartRefused(reason=Refusal.HALTED), ""))
    assert not lost(*BEGUN, (StrategyStopped(run=3, reason=Exit.SELL, at=0), ""))


def test_a_start_that_is_not_in_the_history_was_lost() -> None:
    start = Acknowledged("start", 4, 36, ("r2",), {}, {}, 0)
    assert not lost(*BEGUN, answer=start)
    assert lost(BEGUN[0], answer=start)
