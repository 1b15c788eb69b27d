"""Alerts reach a person: once each, again when the address does not answer, and never in anybody's way."""

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
import stamina

from bahi.notifier import Notifier
from domain.events import AlertTriggered, UserLoggedIn
from domain.values import Code, Severity
from eventstore.envelope import NewEvent, Recorded
from eventstore.log import EventLog

ALERT = AlertTriggered(
    severity=Severity.CRITICAL,
    code=Code.UNPROTECTED_POSITION,
    at=1,
    facts={"symbol": "NSE:INFY", "open_quantity": "10"},
)


@pytest.fixture(autouse=True)
def at_once() -> AsyncIterator[None]:
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


async def told(log: EventLog, answers: list[int], *events: NewEvent, processes: int = 1) -> list[dict[str, object]]:
    """What was posted while the address answered so, the last answer again and again."""
    await log.append(list(events))
    posted: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        posted.append(msgspec.json.decode(request.content))
        return httpx.Response(answers.pop(0) if len(answers) > 1 else answers[0])

    async def recorded() -> AsyncIterator[Recorded]:
        async for each in log.read():
            yield each

    for _ in range(processes):
        await Notifier(log, "https://hooks.example/bahi", transport=httpx.MockTransport(answer)).run(recorded())
    return posted


async def test_an_alert_is_posted_with_its_facts_and_nothing_else_is(log: EventLog) -> None:
    posted = await told(log, [200], NewEvent(UserLoggedIn(), user_id=7), NewEvent(ALERT, user_id=7))
    assert posted == [
        {
            "code": "UNPROTECTED_POSITION",
            "severity": "critical",
            "strategy_id": None,
            "user_id": 7,
            "position": 2,
            "facts": {"symbol": "NSE:INFY", "open_quantity": "10"},
        }
    ]


async def test_of_two_processes_one_tells(log: EventLog) -> None:
    assert len(await told(log, [200], NewEvent(ALERT, user_id=7), processes=2)) == 1


async def test_an_address_that_fails_is_tried_again(log: EventLog) -> None:
    assert len(await told(log, [503, 500, 200], NewEvent(ALERT, user_id=7))) == 3


async def test_an_address_that_never_answers_keeps_the_next_alert_from_nobody(log: EventLog) -> None:
    assert len(await told(log, [503], NewEvent(ALERT, user_id=7), NewEvent(ALERT, user_id=8))) == 8
