"""What the check finds: planted defects of fold, rules and reading, with the right position; and damaged files."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bahi.histories.checking import History, check_folder, find_histories, load_history
from bahi.histories.differing import Difference
from bahi.histories.files import DECISIONS, EVENTS, STATES, Head, HistoryError
from bahi.histories.recording import Recorder, write
from bahi.histories.release import record_release, release_of
from domain import decide
from domain.events import AlertTriggered, Event, OrderFilled
from domain.rules.orders import live_order, resting_entry
from domain.strategy import HANDLERS, State
from domain.values import Code, Priority, Severity
from eventstore.envelope import Raw, decode
from eventstore.errors import CorruptEvent
from eventstore.upcasts import UPCASTS
from projections import replay

CURRENT = Path(__file__).parent / release_of()
NAME = "troubled"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of one history, to be altered."""
    for end in (EVENTS, DECISIONS, STATES):
        shutil.copy(CURRENT / f"{NAME}{end}", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def history() -> History:
    return load_history(CURRENT, NAME)


def _differences(folder: Path) -> list[Difference]:
    return [each for it in check_folder(folder) for each in it.differences]


def _first(history: History, what: type[Event]) -> tuple[int, int]:
    """The position of the first event of that class, and its strategy."""
    for raw in history.entries:
        try:
            it = decode(raw)
        except CorruptEvent:
            continue
        if isinstance(it.event, what):
            return raw.position, it.strategy_id
    raise AssertionError(f"no {what}")


def _plant(monkeypatch: pytest.MonkeyPatch, cls: type[Event], defect: Callable[[State, Any], None]) -> None:
    """`defect` is done after what the event does, in both folds."""
    rightly = HANDLERS[cls]

    def wrongly(state: State, event: Any) -> None:
        rightly(state, event)
        defect(state, event)

    monkeypatch.setitem(HANDLERS, cls, wrongly)
    monkeypatch.setitem(replay._STEPS, cls, wrongly)


def _one_share_less(state: State, _: Any) -> None:
    state.bought -= 1


# --- defects ----------------------------------------------------------------------------------------------------------


def test_a_field_that_is_folded_otherwise_is_found_where_it_first_is(
    folder: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    position, strategy = _first(history, OrderFilled)
    _plant(monkeypatch, OrderFilled, _one_share_less)
    found = _differences(folder)
    first = found[0]
    assert (first.history, first.position, first.strategy) == (NAME, position, strategy)
    assert (first.kind, first.what) == ("state", "bought")
    assert first.actual == first.expected - 1
    assert "changes.toml" in first.todo
    states = [each for each in found if each.kind == "state"]
    assert len({each.strategy for each in states}) == len(states), (
        "each strategy is compared up to its first difference"
    )


def test_a_fold_that_fails_is_a_difference(folder: Path, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(state: State, event: Any) -> None:
        raise ZeroDivisionError("planted")

    _plant(monkeypatch, OrderFilled, fails)
    first = _differences(folder)[0]
    assert (first.position, first.actual) == (_first(history, OrderFilled)[0], "ZeroDivisionError: planted")


def test_a_replay_that_disagrees_with_evolve_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rightly = HANDLERS[OrderFilled]

    def wrongly(state: State, event: Any) -> None:
        rightly(state, event)
        _one_share_less(state, event)

    monkeypatch.setitem(replay._STEPS, OrderFilled, wrongly)
    assert {(each.kind, each.what) for each in _differences(folder)} == {("replay", "bought")}


def _swap_two_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = list(decide.ALWAYS)
    one, other = rules.index(resting_entry), rules.index(live_order)
    rules[one], rules[other] = rules[other], rules[one]
    monkeypatch.setattr(decide, "ALWAYS", tuple(rules))


def test_rules_in_another_order_are_found_where_it_first_matters(
    folder: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = min(line.written for line in history.decisions if "resting_entry" in line.rules and line.written)
    _swap_two_rules(monkeypatch)
    found = _differences(folder)
    assert min(each.position for each in found if each.what == "event 1") == expected
    first = next(each for each in found if each.position == expected)
    assert (first.kind, first.expected, first.actual) == ("decision", "CANCEL_REQUESTED", "none")
    assert first.rules == ("resting_entry", "live_order")
    assert {each.kind for each in found} == {"decision"}, "what is in the log is folded as ever"


def test_a_rule_that_fails_is_a_difference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(state: State, facts: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(decide, "ALIVE", (fails, *decide.ALIVE))
    first = _differences(folder)[0]
    assert (first.kind, first.what, first.actual) == ("decision", "error", "ZeroDivisionError: planted")


def test_a_timer_that_is_set_otherwise_is_a_difference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rightly = decide._wake_at
    monkeypatch.setattr(decide, "_wake_at", lambda state, facts: (rightly(state, facts) or 0) + 1)
    assert {each.what for each in _differences(folder)} == {"wake_at"}


# --- reading ----------------------------------------------------------------------------------------------------------


def _constructed(folder: Path, event: dict[str, Any]) -> None:
    """A history of one entry, with the map of its event as given."""
    envelope = msgspec.msgpack.encode([1, "x-1", 0, 0, "x-1", "", "x", event])
    head = Head(bahi="", name="one", version="0.1.0", seed=1, about="one entry", constructed=True)
    write(folder, head, [Raw(1, Priority.LOW, 0, 1, envelope)], Recorder())


ALERT = json.loads(msgspec.json.encode(AlertTriggered(severity=Severity.WARNING, code=Code.RECOVERY, at=1)))


def test_a_field_that_is_dropped_or_read_otherwise_is_found(tmp_path: Path) -> None:
    _constructed(tmp_path, {**ALERT, "gone": 7})
    (found,) = _differences(tmp_path)
    assert (found.kind, found.what, found.expected, found.actual) == ("event", "ALERT_TRIGGERED.gone", 7, "dropped")
    assert "upcast" in found.todo


def test_an_event_that_is_not_read_any_more_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _constructed(tmp_path, ALERT)
    assert _differences(tmp_path) == []
    monkeypatch.setattr("eventstore.envelope.FORMAT", 2)
    (found,) = _differences(tmp_path)
    assert (found.position, found.kind, found.what) == (1, "event", "envelope")


def test_what_could_not_be_read_when_it_was_recorded_need_not_be_read_today(tmp_path: Path) -> None:
    _constructed(tmp_path, {"type": "NO_SUCH_EVENT", "schema": 1})
    (checked,) = check_folder(tmp_path)
    assert (checked.unreadable, checked.differences) == (1, [])


# --- changes on purpose -----------------------------------------------------------------------------------------------


def _declare(folder: Path, *entries: str) -> None:
    (folder / "changes.toml").write_text("".join(f"[[change]]\n{entry}\n" for entry in entries))


def test_a_change_that_is_declared_is_no_difference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _swap_two_rules(monkeypatch)
    _declare(folder, 'rule = "live_order"\nreason = "what rests is left to rest"')
    (checked,) = check_folder(folder)
    assert checked.differences == []
    assert checked.declared > 0


def test_a_state_that_is_folded_otherwise_on_purpose_is_compared_in_all_other_fields(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(state: State, _: Any) -> None:
        state.last_buy_order = "told otherwise"

    _plant(monkeypatch, OrderFilled, differ)
    _declare(folder, 'field = "last_buy_order"\nreason = "it says more"')
    assert _differences(folder) == []
    _plant(monkeypatch, OrderFilled, _one_share_less)
    assert {each.what for each in _differences(folder) if each.kind == "state"} == {"bought"}


def test_one_position_can_be_declared(folder: Path, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    _swap_two_rules(monkeypatch)
    positions = sorted({each.position for each in _differences(folder)})
    _declare(folder, *(f'position = {each}\nreason = "so it is"' for each in positions[1:]))
    assert {each.position for each in _differences(folder)} == {positions[0]}


def test_an_entry_that_explains_nothing_is_a_difference(folder: Path) -> None:
    _declare(folder, 'rule = "resting_entry"\nreason = "no more"')
    (found,) = _differences(folder)
    assert (found.kind, found.what, found.actual) == ("change", "rule = 'resting_entry'", "none")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ('rule = "buy_due"', "reason"),
        ('rule = "buy_due"\nreason = " "', "gives no reason"),
        ('reason = "x"', "must name one of"),
        ('rule = "a"\nfield = "b"\nreason = "x"', "must name one of"),
        ('rules = "a"\nreason = "x"', "rules"),
        ("rule = ", "changes.toml"),
    ],
)
def test_an_entry_that_says_too_little_is_refused(folder: Path, entry: str, why: str) -> None:
    _declare(folder, entry)
    with pytest.raises(HistoryError, match=why):
        check_folder(folder)


# --- files ------------------------------------------------------------------------------------------------------------


def _repack(path: Path, change: Callable[[list[bytes]], list[bytes]], *, sealed: bool = False) -> None:
    """The file with other lines; `sealed`: the last one counts them, as if it had been recorded so."""
    lines = change(gzip.decompress(path.read_bytes()).splitlines())
    if sealed:
        body = b"".join(line + b"\n" for line in lines[:-1])
        end = {"end": {"lines": len(lines) - 1, "sha256": hashlib.sha256(body).hexdigest()}}
        lines[-1] = json.dumps(end).encode()
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))


@pytest.mark.parametrize("end", [EVENTS, DECISIONS, STATES])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(folder: Path, end: str, share: float) -> None:
    path = folder / f"{NAME}{end}"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(HistoryError, match=r"cut off|end is missing") as refused:
        check_folder(folder)
    assert path.name in str(refused.value)
    assert "restore it from the repository" in str(refused.value)


@pytest.mark.parametrize("end", [EVENTS, DECISIONS, STATES])
def test_a_file_with_a_changed_a_missing_or_a_doubled_line_is_refused(folder: Path, end: str) -> None:
    path = folder / f"{NAME}{end}"
    whole = path.read_bytes()
    for change, why in (
        (lambda lines: [*lines[:9], lines[9] + b" ", *lines[10:]], "was changed"),
        (lambda lines: lines[:9] + lines[10:], "lines and says"),
        (lambda lines: lines[:9] + lines[8:], "lines and says"),
        (lambda lines: lines[:-1], "end is missing"),
    ):
        path.write_bytes(whole)
        _repack(path, change)
        with pytest.raises(HistoryError, match=why):
            check_folder(folder)


def test_positions_are_gapless(folder: Path) -> None:
    _repack(folder / f"{NAME}{EVENTS}", lambda lines: lines[:9] + lines[10:], sealed=True)
    with pytest.raises(HistoryError, match="position 10 where 9 belongs"):
        check_folder(folder)


def test_a_line_of_another_form_is_named(folder: Path) -> None:
    _repack(folder / f"{NAME}{DECISIONS}", lambda lines: [*lines[:4], b"[]", *lines[5:]], sealed=True)
    with pytest.raises(HistoryError, match=r"decisions\.jsonl\.gz, line 5"):
        check_folder(folder)


def test_states_that_nobody_recorded_are_refused(folder: Path) -> None:
    def less(lines: list[bytes]) -> list[bytes]:
        number = next(n for n, line in enumerate(lines) if b'"bought":' in line)
        return [*lines[:number], lines[number].replace(b'"bought":', b'"brought":'), *lines[number + 1 :]]

    _repack(folder / f"{NAME}{STATES}", less, sealed=True)
    with pytest.raises(HistoryError, match="was not written by `bahi history record`"):
        check_folder(folder)


def test_files_that_do_not_belong_together_are_refused(folder: Path) -> None:
    shutil.copy(CURRENT / f"quiet{DECISIONS}", folder / f"{NAME}{DECISIONS}")
    with pytest.raises(HistoryError, match="of another recording"):
        check_folder(folder)
    (folder / f"{NAME}{DECISIONS}").unlink()
    with pytest.raises(HistoryError, match="is missing"):
        check_folder(folder)


def test_a_history_without_its_states_is_noticed(folder: Path) -> None:
    for end in (EVENTS, DECISIONS):
        shutil.copy(CURRENT / f"quiet{end}", folder)
    with pytest.raises(HistoryError, match="is part of no history"):
        check_folder(folder)


def test_a_folder_without_histories_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="holds no history"):
        find_histories(tmp_path)
    with pytest.raises(HistoryError, match="is no folder"):
        find_histories(tmp_path / "nowhere")


def test_a_release_is_never_recorded_anew(folder: Path) -> None:
    with pytest.raises(HistoryError, match="is not empty"):
        next(record_release(folder, 1, lambda _: pytest.fail("nothing is to be played")))


def test_an_upcast_keeps_an_older_event_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(event: dict[str, Any]) -> dict[str, Any]:
        return {**event, "type": "ALERT_TRIGGERED", "schema": 1}

    monkeypatch.setitem(UPCASTS, "ALARM_RAISED", {1: renamed})
    _constructed(tmp_path, {**ALERT, "type": "ALARM_RAISED"})
    (checked,) = check_folder(tmp_path)
    assert (checked.types, checked.differences) == ({"ALERT_TRIGGERED": 1}, [])
    monkeypatch.delitem(UPCASTS, "ALARM_RAISED")
    (found,) = _differences(tmp_path)
    assert (found.kind, found.what) == ("event", "envelope")
    assert "upcasts.py" in found.todo


def test_an_upcast_also_reads_what_was_decided(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def older(lines: list[bytes]) -> list[bytes]:
        return [line.replace(b'"type":"ORDER_DENIED"', b'"type":"ORDER_WITHHELD"') for line in lines]

    path = folder / f"{NAME}{DECISIONS}"
    assert b'"type":"ORDER_DENIED"' in gzip.decompress(path.read_bytes())
    _repack(path, older, sealed=True)
    assert {(each.kind, each.what) for each in _differences(folder)} == {("event", "envelope")}
    monkeypatch.setitem(UPCASTS, "ORDER_WITHHELD", {1: lambda event: {**event, "type": "ORDER_DENIED"}})
    assert _differences(folder) == []
