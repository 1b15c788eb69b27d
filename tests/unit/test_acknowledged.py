"""Every answer that a user got has its event in the history, but for those that need none."""

from typing import Any

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

RUNS = {"status": "running", "open_quantity": 0}
ENDED = {"status": "stopped", "open_quantity": 0}
NEVER_BEGAN = {"status": "created", "open_quantity": 0}


def stop(answer: dict[str, Any], *, square_off: bool = False) -> Acknowledged:
    return Acknowledged("stop", 4, 36, ("r3",), {"square_off": square_off}, answer, 0)


def lost(*history: tuple[Event, str], answer: Acknowledged) -> list[str]:
    records = [
        Recorded(number, number, number, f"e{number}", 36, 4, request, "", "w", event)
        for number, (event, request) in enumerate(history, 1)
    ]
    found = Found()
    check_acknowledged(found, records, [answer])
    return found.lost


BEGUN = ((StrategyCreated(config=config()), "r1"), (StrategyStartRequested(), "r2"))


PLAIN = StrategyStopRequested(square_off=False, reason="USER")
SELLING = StrategyStopRequested(square_off=True, reason="USER")
STOPPED = StrategyStopped(run=3, reason=Exit.SELL, at=0)


def test_a_stop_that_is_not_in_the_history_was_lost() -> None:
    assert lost(*BEGUN, answer=stop(RUNS)) == [
        "user 4 was told of stop {'square_off': False} and it is not in the history"
    ]
    assert not lost(*BEGUN, (PLAIN, "r3"), answer=stop(RUNS))
    assert lost(*BEGUN, (STOPPED, ""), answer=stop(RUNS)), "that it ended later does not say that it was stopped"


def test_a_stop_that_sells_is_a_stop_and_a_plain_one_does_not_sell() -> None:
    assert not lost(*BEGUN, (SELLING, "r9"), answer=stop(RUNS))
    assert not lost(*BEGUN, (SELLING, "r3"), answer=stop(RUNS, square_off=True))
    assert lost(*BEGUN, (PLAIN, "r9"), answer=stop(RUNS, square_off=True))


def test_what_has_ended_or_did_not_begin_need_not_be_ended() -> None:
    assert not lost(*BEGUN, (StrategyStartRefused(reason=Refusal.HALTED), ""), answer=stop(NEVER_BEGAN))
    assert not lost(*BEGUN, (STOPPED, ""), answer=stop(ENDED))
    assert lost(*BEGUN, answer=stop(ENDED)), "it has not ended"
    assert lost(*BEGUN, (STOPPED, ""), answer=stop(ENDED | {"open_quantity": 5}, square_off=True)), "they are held"


def test_a_start_that_is_not_in_the_history_was_lost() -> None:
    start = Acknowledged("start", 4, 36, ("r2",), {}, {}, 0)
    assert not lost(*BEGUN, answer=start)
    assert lost(BEGUN[0], answer=start)
