"""What is recorded of a run, and that it is all that a decision looks at."""

import datetime as dt
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from bahi.histories.checking import check_folder, load_history
from bahi.histories.facts import FactsLine, RecordedCalendar, Tables, UnrecordedDay
from bahi.histories.files import Head, HistoryError
from bahi.histories.recording import Recorder, write
from bahi.histories.states import changed, digest, plain_state
from domain.calendar import UnknownYear, load_nse
from domain.facts import Facts, Halt, Policy
from domain.strategy import State, Tries
from domain.values import DAY, Kind
from eventstore.entries import read_entries
from eventstore.envelope import Raw
from tests.engine.world import World

HEAD = Head(bahi="", name="small", version="0.1.0", seed=1, about="one strategy, bought and sold")


async def _entries(world: World) -> list[Raw]:
    return [raw async for page in read_entries(world.log) for raw in page]


async def test_a_run_of_the_engine_is_recorded_and_decided_again(world: World, tmp_path: Path) -> None:
    recorder = Recorder()
    with recorder.listening():
        strategy = await world.bought()
        await world.sell(strategy)
        await world.settle()
    heard = len(recorder.seen)
    await world.bought(buy_time=dt.time(9, 40))
    assert len(recorder.seen) == heard, "it hears nothing when it does not listen"
    raws = await _entries(world)
    written = write(tmp_path, HEAD, raws, recorder)
    assert (written.events, written.decisions, written.forgotten) == (len(raws), heard, 0)
    history = load_history(tmp_path, "small")
    assert history.entries == raws, "the very bytes"
    orders = {event["type"]: line.rules[0] for line in history.decisions for event in line.events if "request" in event}
    assert orders == {"EXECUTE_BUY": "buy_due", "EXECUTE_SELL": "sell_due"}
    (checked,) = check_folder(tmp_path)
    assert (checked.differences, checked.decisions, checked.strategies) == ([], heard, 2)


async def test_the_same_recording_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    recorder = Recorder()
    with recorder.listening():
        await world.bought()
    raws = await _entries(world)
    for name in ("one", "other"):
        write(tmp_path / name, HEAD, raws, recorder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


async def test_decisions_on_what_the_log_does_not_tell_are_refused(world: World, tmp_path: Path) -> None:
    recorder = Recorder()
    with recorder.listening():
        await world.bought()
    raws = (await _entries(world))[:-4]
    with pytest.raises(HistoryError, match="not the fold of the log"):
        write(tmp_path, HEAD, raws, recorder)
    written = write(tmp_path, HEAD, raws, recorder, lossy=True)
    assert written.forgotten > 0
    (checked,) = check_folder(tmp_path)
    assert checked.differences == []


def test_every_field_of_the_facts_is_recorded() -> None:
    assert {field.name for field in structs.fields(FactsLine)} == {field.name for field in structs.fields(Facts)}


def test_facts_survive_being_recorded() -> None:
    calendar = load_nse()
    now = calendar.instant(dt.date(2026, 6, 15), dt.time(10))
    facts = Facts(now=now, log_id="AAAA", calendar=calendar, policy=Policy(max_changes=3), halt=Halt(True, "lunch"))
    tables = Tables()
    line = tables.line(facts)
    assert tables.line(structs.replace(facts, now=now + 1)).policy == line.policy, "the same policy is told once"
    tables.add_calendar(calendar, now, now)
    tables = msgspec.json.decode(msgspec.json.encode(tables), type=Tables)
    read = tables.facts(msgspec.json.decode(msgspec.json.encode(line), type=FactsLine), tables.read())
    assert isinstance(read.calendar, RecordedCalendar)
    assert structs.replace(read, calendar=calendar) == facts
    for day in range(-3, 15):
        date = dt.date(2026, 6, 15) + dt.timedelta(days=day)
        assert read.calendar.session_on(date) == calendar.session_on(date)


def test_a_recorded_calendar_guesses_nothing() -> None:
    calendar = load_nse()
    last = max(calendar.years)
    now = calendar.instant(dt.date(last, 12, 20), dt.time(10))
    tables = Tables()
    tables.add_calendar(calendar, now, now)
    (recorded,) = tables.read()
    with pytest.raises(UnknownYear):
        recorded.session_on(dt.date(last + 1, 1, 4))
    with pytest.raises(UnrecordedDay, match="is not recorded"):
        recorded.session_on(dt.date(last, 6, 1))


def test_a_digest_depends_on_the_states_alone() -> None:
    one, other = State(id=1), State(id=1)
    one.alerted = {"A": 1, "B": 2}
    other.alerted = {"B": 2, "A": 1}
    other.updated_at = DAY
    assert digest({1: plain_state(one), 2: {}}) == digest({2: {}, 1: plain_state(other)})
    other.alerted = {"B": 2}
    assert digest({1: plain_state(one)}) != digest({1: plain_state(other)})


def test_a_field_that_goes_back_to_its_default_is_told_as_none() -> None:
    before, after = State(id=1, orders=3), State(id=1)
    before.tries = {Kind.SELL: Tries(attempts=2)}
    assert changed(before, after) == {"orders": None, "tries": None}
    assert plain_state(after) == {"id": 1}
