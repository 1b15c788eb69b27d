"""Every call to the outside fails once, in four ways, in the short scenarios; a fresh sample of it in all others.

`bahi prove points` runs all of them. What the sample of one run finds is repeated with BAHI_TEST_SEED.
"""

import json
import os
import random
from collections.abc import Iterator
from typing import Any, Final

import pytest

from brokers.port import Broker, NotPlaced, Placing, Unanswered
from domain.events import Intent
from eventstore.batch import Ack, AppendResult
from eventstore.clients import command
from eventstore.keys import GROUP
from eventstore.log import EventLog
from handlers import effects
from simulation.points import REACH, Point, PointKind, Strike, calls, enact, points
from simulation.scenarios import SCENARIOS, UnknownScenario, scenario
from simulation.stage import Stage, open_stage
from tests.cli.terminal import here

SEED: Final = int(os.environ.get("BAHI_TEST_SEED") or random.SystemRandom().randrange(1_000_000))
SALE: Final = SCENARIOS["sale"]
SHORT: Final = ("sale", "stop")
"""The two with the fewest calls, and both ways to leave a position."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with open_stage(tmp_path_factory.mktemp("points")) as stage:
        yield stage


def check(point: Point) -> None:
    assert not point.found, "\n".join([*point.story, *point.found, f"{point.strikes} {point.struck}"])


@pytest.mark.parametrize("name", SCENARIOS)
def test_without_a_fault_every_scenario_comes_about_with_the_same_calls_each_time(stage: Stage, name: str) -> None:
    point = enact(stage, SCENARIOS[name])
    check(point)
    assert point.as_meant
    assert point.fired == 0
    names = calls(stage, SCENARIOS[name])
    assert len(names) == point.calls > 60
    assert calls(stage, SCENARIOS[name]) == names


@pytest.mark.parametrize("kind", PointKind)
@pytest.mark.parametrize("name", SHORT)
def test_a_short_scenario_recovers_whichever_call_fails(stage: Stage, name: str, kind: PointKind) -> None:
    short = SCENARIOS[name]
    found = list(points(stage, short, kind))
    print(f"{kind}: {len(found)} points of {name}")
    for point in found:
        check(point)
    assert [point.n for point in found] == list(range(1, len(found) + 1))
    assert len(found) >= len(calls(stage, short)) - 5 > 60
    assert all(point.fired == 1 for point in found)
    assert sum(point.as_meant for point in found) > 0.8 * len(found)
    what = {struck.split(": ")[1].split(" #")[0] for point in found for struck in point.struck}
    assert {"redis", "postgres", "broker place", "broker orders"} <= what


def test_the_short_scenarios_are_those_with_the_fewest_calls(stage: Stage) -> None:
    by_calls = sorted(SCENARIOS, key=lambda name: len(calls(stage, SCENARIOS[name])))
    assert set(by_calls[: len(SHORT)]) == set(SHORT)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "persistently"])
@pytest.mark.parametrize("kind", PointKind)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_recovers_when_a_call_drawn_anew_fails(
    stage: Stage, name: str, kind: PointKind, persistent: bool
) -> None:
    chance = random.Random(f"{SEED}/{name}/{kind}/{persistent}")
    n = chance.randint(1, len(calls(stage, SCENARIOS[name])) - 5)
    print(f"bahi prove points --scenario {name} --kind {kind} --from {n} --to {n}; BAHI_TEST_SEED={SEED}")
    point = enact(stage, SCENARIOS[name], [Strike(kind, n, persistent)])
    check(point)
    assert point.fired >= 1


def test_two_faults_shortly_after_each_other_are_recovered_from(stage: Stage) -> None:
    chance = random.Random(f"{SEED}/double")
    most = len(calls(stage, SALE)) - REACH - 5
    for first in PointKind:
        for second in PointKind:
            strikes = [Strike(first, chance.randint(1, most)), Strike(second, chance.randint(1, REACH))]
            print(f"{strikes}; BAHI_TEST_SEED={SEED}")
            point = enact(stage, SALE, strikes)
            check(point)
            assert len(point.struck) == 2


# --- the check is tested ---------------------------------------------------------------------------------------------


def test_a_lost_answer_taken_for_a_refusal_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is sent again under a new tag, though the first one may exist."""
    ask_to_place = effects._ask_to_place

    async def careless(broker: Broker, intent: Intent) -> Placing:
        answer = await ask_to_place(broker, intent)
        return NotPlaced("LOST", curable=True) if isinstance(answer, Unanswered) else answer

    at = first_call(stage, "broker place")
    monkeypatch.setattr(effects, "_ask_to_place", careless)
    point = enact(stage, SALE, [Strike(PointKind.REPLY_LOST, at)])
    assert point.struck[0].startswith("worker-1: broker place")
    assert point.found


def test_an_acknowledgement_before_its_effect_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    append: Any = EventLog.append

    async def hasty(log: EventLog, events: Any, *, ack: Ack | None = None, **how: Any) -> AppendResult:
        if ack is not None:
            await command(log.redis, "XACK", log.keys.streams[ack.stream], GROUP, ack.id)
        result: AppendResult = await append(log, events, **how)
        return result

    monkeypatch.setattr(EventLog, "append", hasty)
    found = next((point for point in points(stage, SALE, PointKind.CANCELLED) if point.found), None)
    assert found is not None
    assert found.story
    print(f"found at call {found.n}: {found.found[0]}")


def test_a_scenario_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnknownScenario, match="there is no scenario 'sail'; known are begin, sale, stop"):
        scenario("sail")


def first_call(stage: Stage, what: str) -> int:
    return next(n for n, name in enumerate(calls(stage, SALE), 1) if f": {what} #" in name)


def test_a_report_for_programs_counts_points_by_kind() -> None:
    done = here("prove", "points", "--scenario", "sale", "--kind", "reply-lost", "--from", "60", "--to", "61", "--json")
    assert done.code == 0, done.out + done.err
    report = json.loads(done.out)
    assert [(row["kind"], row["persistent"], row["points"]) for row in report["rows"]] == [
        ("reply-lost", False, 2),
        ("reply-lost", True, 2),
    ]
    assert report["fired"] > report["points"] == 4
    assert report["calls"]["sale"] > 60


def test_a_kind_or_a_call_that_does_not_exist_is_refused() -> None:
    done = here("prove", "points", "--kind", "sideways")
    assert done.code == 2
    assert "known are before, after-effect, reply-lost, cancelled" in done.err
    done = here("prove", "points", "--scenario", "sale", "--from", "9999")
    assert done.code == 2
    assert "there is no call 9999: sale has " in done.err
