"""bahi trades at Kite, end to end: a simulated Kite and `bahi run` as processes, HTTP and WebSockets between them.

Two engines, each with a Kite of its own, live their day at the same time: an ordinary one and one full of troubles. On
each all users trade at once.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from domain.events import OrderDenied, OrderFinalized, OrderOutcomeUnknown, OrderRejected
from tests.e2e import kite_day, kite_troubles
from tests.e2e.kite_day import Day
from tests.e2e.kite_troubles import TroubledDay


class Days:
    """Both, and what becomes of their stories."""

    def __init__(self, ordinary: Day, troubled: TroubledDay, pool: ThreadPoolExecutor) -> None:
        self.ordinary = ordinary
        self.troubled = troubled
        self.told: dict[str, Future[None]] = {}
        for story in kite_day.STORIES:
            self.told[story.__name__] = pool.submit(story, ordinary)
        for trouble in kite_troubles.STORIES:
            self.told[trouble.__name__] = pool.submit(trouble, troubled)


@pytest.fixture(scope="module")
def days() -> Iterator[Days]:
    with ThreadPoolExecutor(len(kite_day.STORIES) + len(kite_troubles.STORIES)) as pool:
        ordinary, troubled = pool.submit(Day), pool.submit(TroubledDay)
        try:
            yield Days(ordinary.result(), troubled.result(), pool)
        finally:
            for each in (ordinary, troubled):
                if each.exception() is None:
                    each.result().close()


@pytest.mark.parametrize("story", [story.__name__ for story in (*kite_troubles.STORIES, *kite_day.STORIES)])
def test_a_user(days: Days, story: str) -> None:
    days.told[story].result()


def test_a_session_that_ended_is_told_once(days: Days) -> None:
    ended = [each for each in days.ordinary.house.records() if each.event.type == "BROKER_AUTH_FAILED"]
    assert len(ended) == 1, ended


def test_the_log_and_kites_book_tell_the_same(days: Days) -> None:
    house = days.ordinary.house
    audit = house.audit(finished=False)
    refused = {each.event.tag for each in audit.records if isinstance(each.event, OrderDenied | OrderRejected)}
    assert {row.tag for row in audit.rows} | refused == set(audit.checker.intents)
    assert house.says("verify")["ok"]


def test_they_do_so_after_all_the_troubles(days: Days) -> None:
    house = days.troubled.house
    audit = house.audit(finished=False)
    assert {row.tag for row in audit.rows} <= set(audit.checker.intents)
    unknown = {each.event.tag for each in audit.records if isinstance(each.event, OrderOutcomeUnknown)}
    assert unknown, "no outcome was ever in doubt"
    assert unknown <= {each.event.tag for each in audit.records if isinstance(each.event, OrderFinalized)}
    assert house.says("verify")["ok"]
    print("", *days.troubled.survived, sep="\n")


def test_nothing_is_logged_over_and_over(days: Days) -> None:
    assert days.ordinary.house.said_often() == {}
    assert days.troubled.house.said_often() == {}
