"""Every release's histories: read, folded and decided by today's program as they were then."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bahi.histories.checking import Checked, check_folder, find_histories, load_history
from bahi.histories.files import EVENTS
from bahi.histories.recording import missing_types
from bahi.histories.release import PLANNED, release_of
from domain.decide import ALIVE, ALWAYS, ENDED
from domain.events import Intent
from eventstore.envelope import Raw, Recorded, decode
from eventstore.errors import CorruptEvent

HERE = Path(__file__).parent
RELEASES = find_histories(HERE)
CURRENT = HERE / release_of()

CONSTRUCTED_ONLY = {
    "BROKER_AUTH_FAILED": "the paper broker takes any key",
    "LOCK_CONFLICT": "two processes must lose a race to each other",
    "PRICE_FEED_CONNECTED": "a recorded day hands its ticks over itself",
    "PRICE_FEED_ERROR": "the same",
    "PRICE_STREAM_DISCONNECTED": "the same",
    "PRICE_STREAM_RESTORED": "the same",
}
"""Types that need not come about in a recorded day: every shape of them is in the constructed history."""


@pytest.fixture(scope="module")
def checked() -> dict[tuple[str, str], Checked]:
    return {(it.release, it.history): it for folder in RELEASES for it in check_folder(folder)}


def test_every_history_is_read_folded_and_decided_as_it_was(checked: dict[tuple[str, str], Checked]) -> None:
    assert checked
    assert [each for it in checked.values() for each in it.differences] == []


def test_this_release_has_its_histories() -> None:
    how = f"`bahi history record tests/histories/{CURRENT.name}`, then commit it (docs/histories.md)"
    assert CURRENT in RELEASES, f"release {CURRENT.name} is not recorded: {how}"
    names = {path.name.removesuffix(EVENTS) for path in CURRENT.glob(f"*{EVENTS}") if path.name.count(".") == 2}
    assert names == {plan.name for plan in PLANNED}


def test_every_type_of_event_is_in_the_histories_of_this_release(checked: dict[tuple[str, str], Checked]) -> None:
    lived: Counter[str] = Counter()
    constructed: Counter[str] = Counter()
    for it in checked.values():
        if it.release == CURRENT.name:
            (constructed if it.constructed else lived).update(it.types)
    assert missing_types(constructed) == []
    assert set(missing_types(lived)) <= CONSTRUCTED_ONLY.keys(), "no recorded day has these: let one come about"


def test_every_rule_speaks_in_the_histories_of_this_release() -> None:
    heard = {rule for plan in PLANNED for line in load_history(CURRENT, plan.name).decisions for rule in line.rules}
    assert {rule.__name__ for rule in (*ALWAYS, *ALIVE, *ENDED)} <= heard


@pytest.mark.parametrize("name", [plan.name for plan in PLANNED if plan.play is not None and not plan.lossy])
def test_every_order_of_a_recorded_day_is_decided_again(name: str) -> None:
    history = load_history(CURRENT, name)
    decided = {
        event["tag"] for line in history.decisions if line.written for event in line.events if "request" in event
    }
    events = [it.event for raw in history.entries if (it := _decoded(raw)) is not None]
    asked = {event.tag for event in events if isinstance(event, Intent)}
    assert len(asked) > 10
    assert asked == decided


def _decoded(raw: Raw) -> Recorded | None:
    try:
        return decode(raw)
    except CorruptEvent:
        return None


def test_hash_seeds_zones_and_locales_change_no_digest() -> None:
    program = (
        "import json, sys, pathlib; from bahi.histories.checking import check_folder\n"
        "found = check_folder(pathlib.Path(sys.argv[1]))\n"
        "print(json.dumps([(it.history, it.digest, len(it.differences)) for it in found]))"
    )
    surroundings = (
        {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "2", "TZ": "Asia/Kolkata", "LC_ALL": "C.UTF-8"},
        {"PYTHONHASHSEED": "31337", "TZ": "America/New_York", "LC_ALL": "tr_TR.UTF-8"},
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(CURRENT)], env=os.environ | each, stdout=subprocess.PIPE, text=True
        )
        for each in surroundings
    ]
    answers = [json.loads(process.communicate()[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert answers[0] == answers[1] == answers[2]
    assert all(differences == 0 for _, _, differences in answers[0])


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in CURRENT.iterdir()) < 1_500_000
