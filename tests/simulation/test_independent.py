"""The independent judge: silent on days of the real engine, and whatever is tampered with it names."""

import ast
import gzip
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import simulation.independent
from domain.tags import make_tag
from simulation.independent import Finding, Rule, judge, read_book
from simulation.independent.tags import read_tag
from tests.simulation.judged_days import (
    RETRIED,
    SELLER,
    SQUARED,
    STOPPED,
    Day,
    Line,
    ordinary_day,
    surfacing_day,
)

PACKAGE = Path(simulation.independent.__file__).parent


@pytest.fixture(scope="module")
def ordinary(redis_url: str) -> Day:
    return ordinary_day(redis_url)


@pytest.fixture(scope="module")
def surfacing(redis_url: str) -> Day:
    return surfacing_day(redis_url)


@pytest.fixture
def day(ordinary: Day) -> Day:
    return ordinary.copy()


def rules(found: list[Finding]) -> set[Rule]:
    return {one.rule for one in found}


def told(found: list[Finding]) -> str:
    return "\n".join(map(str, found))


# --- what it stands on


def test_it_imports_the_standard_library_and_itself_only() -> None:
    imported: set[str] = set()
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module or "")
    ours = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert ours
    assert all(name.startswith("simulation.independent.") for name in ours), ours


def test_nothing_else_of_ours_is_loaded_with_it() -> None:
    told = "import json, sys, simulation.independent.__main__; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=500)
    loaded = set(json.loads(done.stdout))
    ours = {
        name for name in loaded if name.partition(".")[0] in ("domain", "eventstore", "brokers", "handlers", "bahi")
    }
    assert not ours
    assert "msgspec" not in loaded


@given(
    st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=4, max_size=4),
    st.integers(0, 36**7 - 1),
    st.integers(0, 36**5 - 1),
    st.integers(0, 36**2 - 1),
    st.integers(0, 19),
)
def test_it_reads_tags_as_they_are_made_and_no_others(log: str, strategy: int, run: int, number: int, at: int) -> None:
    tag = make_tag(log, strategy, run, number)
    assert read_tag(tag) == (log, strategy, run, number)
    wrong = tag[:at] + ("0" if tag[at] != "0" else "1") + tag[at + 1 :]
    assert read_tag(wrong) is None
    assert read_tag(tag.lower() + "Z") is None


# --- days of the engine


def test_an_ordinary_day_has_no_finding(ordinary: Day) -> None:
    assert not ordinary.judged(), told(ordinary.judged())
    assert {line["data"]["reason"] for line in ordinary.events("STRATEGY_EXITED")} == {"SELL", "STOPLOSS", "USER"}
    assert len(ordinary.orders) == 9


def test_an_exit_that_surfaces_may_sell_too_much_when_an_alert_says_so(surfacing: Day) -> None:
    assert not surfacing.judged(), told(surfacing.judged())
    assert sum(row["quantity"] for row in surfacing.orders if row["side"] == "SELL") == 20
    silent = surfacing.copy()
    silent.drop(*[line for line in silent.events("ALERT_TRIGGERED") if line["data"]["code"] == "OVERSOLD"])
    assert rules(silent.judged()) == {Rule.NO_ALERT}
    answered = surfacing.copy()
    answered.drop(*[line for line in answered.events("ORDER_FINALIZED") if line["data"]["final"] == "not_placed"])
    assert Rule.OVERSOLD in rules(answered.judged()), "it was never given up, so nothing excuses it"


def test_while_the_day_goes_on_what_is_not_told_yet_is_no_finding(ordinary: Day) -> None:
    """Any beginning of the history holds, with the book of the end."""
    for length in range(len(ordinary.history)):
        beginning = Day(ordinary.history[:length], ordinary.orders, ordinary.trades, ordinary.accounts)
        ahead = {Rule.NO_INTENT}  # of a book that is not of that moment
        assert rules(beginning.judged(ended=False)) <= ahead | {Rule.FILLS}, length


def test_an_end_may_be_told_again_when_its_second_half_was_lost_with_the_log(ordinary: Day) -> None:
    """Also of a strategy that had nothing at stake, for which there is no STRATEGY_RECOVERED."""
    for epoch, expected in (("new", set()), ("old", {Rule.LIFE})):
        day = ordinary.copy()
        exited = day.one("STRATEGY_EXITED", SELLER)
        day.insert(exited, exited["data"])
        lost = {"type": "SYSTEM_RECOVERY", "old_epoch": "old", "new_epoch": epoch}
        day.insert(exited, lost, strategyid="0", userid="0", id="lost", correlationid="lost", version=0)
        assert rules(day.judged()) == expected, told(day.judged())


# --- tampered with


def _gap(day: Day) -> None:
    gone = day.one("SELL_TRIGGERED", SELLER)
    positions = [line["position"] for line in day.history]
    day.drop(gone)
    for line, position in zip(day.history, [each for each in positions if each != gone["position"]], strict=True):
        line["position"] = position


def _version_gap(day: Day) -> None:
    for line in day.events("STRATEGY_EXITED", SELLER) + day.events("STRATEGY_STOPPED", SELLER):
        line["version"] += 1


def _id_twice(day: Day) -> None:
    day.history[-1]["id"] = day.history[0]["id"]
    day.history[-1]["correlationid"] = day.history[0]["id"]


def _cause_after_its_effect(day: Day) -> None:
    day.one("EXECUTE_SELL", SELLER)["causationid"] = day.history[-1]["id"]


def _time_runs_back(day: Day) -> None:
    line = day.one("STRATEGY_STOPPED", SELLER)
    line["recordedat"] = str(int(line["recordedat"]) - 10**9)


def _another_users_event(day: Day) -> None:
    day.one("BUY_TRIGGERED", SELLER)["userid"] = "8"


def _unreadable(day: Day) -> None:
    line = day.one("STRATEGY_READY", SELLER)
    for name in ("data", "strategyid", "userid", "subject", "correlationid", "writer"):
        line.pop(name, None)
    line |= {"type": "bahi.corrupt", "id": f"bahi.corrupt-{line['position']}"}


def _no_map(day: Day) -> None:
    day.one("STRATEGY_RUNNING", SELLER)["data"] = ["STRATEGY_RUNNING"]


def _not_a_number(day: Day) -> None:
    day.one("SELL_TRIGGERED", SELLER)["recordedat"] = "soon"


def _stops_twice(day: Day) -> None:
    stopped = day.one("STRATEGY_STOPPED", SELLER)
    day.insert(stopped, stopped["data"])


def _anothers_tag(day: Day) -> None:
    """The order bears the tag of a run that is not its own, everywhere."""
    tag = day.one("EXECUTE_SELL", SELLER)["data"]["tag"]
    other = make_tag(tag[:4], SELLER, 77, 1)
    day.history = json.loads(json.dumps(day.history).replace(tag, other))
    day.orders = json.loads(json.dumps(day.orders).replace(tag, other))


def _recovered_though_known(day: Day) -> None:
    row, intent = day.row(SELLER, "BUY"), day.one("EXECUTE_BUY", SELLER)
    recovered = {
        **{name: row[name] for name in ("tag", "symbol", "quantity", "product", "placed_at")},
        "type": "ORDER_RECOVERED",
        "order_id": str(row["order_id"]),
        "kind": "BUY",
        "run": 3,
        "number": 1,
    }
    day.insert(intent, recovered)


def _without_lock(day: Day) -> None:
    day.drop(day.one("LOCK_ACQUIRED", STOPPED))


def _more_than_configured(day: Day) -> None:
    day.one("STRATEGY_STARTED", SELLER)["data"]["config"]["quantity"] = 9


def _never_triggered(day: Day) -> None:
    day.drop(day.one("BUY_TRIGGERED", SELLER))


def _stop_never_reached(day: Day) -> None:
    day.drop(day.one("STOPLOSS_TRIGGERED", STOPPED))


def _stop_above(day: Day) -> None:
    day.one("STOPLOSS_TRIGGERED", STOPPED)["data"]["tick"]["price"] = "140.05"


def _two_unresolved(day: Day) -> None:
    day.move(day.one("ORDER_FINALIZED", SELLER, "BUY"), behind=day.one("EXECUTE_SELL", SELLER))


def _second_buy(day: Day) -> None:
    """The first one was given up; that it does not exist nobody knew."""
    for line in day.events("ORDER_FINALIZED", RETRIED):
        if line["data"]["final"] == "rejected":
            line["data"]["final"] = "not_placed"


def _sells_more(day: Day) -> None:
    day.one("EXECUTE_SELL", SELLER)["data"]["request"]["quantity"] = 11
    day.row(SELLER, "SELL")["quantity"] = 11


def _intent(day: Day, strategy: int, kind: str, number: int) -> tuple[Line, ...]:
    """One more order that we did not send after all."""
    intent = json.loads(json.dumps(day.one(f"EXECUTE_{kind}", strategy)["data"]))
    old = intent["tag"]
    tag = make_tag(old[:4], strategy, int(old[11:16], 36), number)
    intent["tag"] = intent["request"]["tag"] = tag
    denied = {"type": "ORDER_DENIED", "schema": 1, "kind": kind, "reason": "TOO_LATE", "facts": {}, "tag": tag}
    final = {"type": "ORDER_FINALIZED", "schema": 1, "tag": tag, "final": "not_placed", "filled": 0}
    return {"type": "LOCK_ACQUIRED", "schema": 1, "tag": tag, "kind": kind}, intent, denied, final


def _sells_again(day: Day) -> None:
    day.insert(day.one("ORDER_FINALIZED", SELLER, "SELL"), *_intent(day, SELLER, "SELL", 9))


def _sells_after_the_end(day: Day) -> None:
    day.insert(day.one("STRATEGY_STOPPED", SELLER), *_intent(day, SELLER, "SELL", 9))


def _halted(day: Day) -> None:
    halt = {"type": "USER_HALTED", "schema": 1, "square_off": False, "reason": "USER"}
    day.insert(day.one("BUY_TRIGGERED", SELLER), halt, version=0)
    halted = day.one("USER_HALTED")
    del halted["strategyid"]


def _told_of_no_order(day: Day) -> None:
    accepted = day.one("ORDER_ACCEPTED", SELLER)
    day.insert(accepted, {**accepted["data"], "tag": make_tag(accepted["data"]["tag"][:4], SELLER, 3, 9)})


def _ends_twice(day: Day) -> None:
    final = day.one("ORDER_FINALIZED", SELLER, "SELL")
    day.insert(final, final["data"])


def _never_ends(day: Day) -> None:
    day.drop(day.one("STRATEGY_EXITED", SELLER), day.one("STRATEGY_STOPPED", SELLER))


def _never_finalized(day: Day) -> None:
    day.drop(day.one("ORDER_FINALIZED", SELLER, "SELL"))


def _nobody_asked(day: Day) -> None:
    row = day.row(SELLER, "SELL")
    tag = make_tag(row["tag"][:4], SELLER, 3, 9)
    day.orders.append({**row, "order_id": 1, "tag": tag, "status": "rejected", "filled": 0})


def _intent_lost(day: Day) -> None:
    """With all that was told of it."""
    tag = day.row(SQUARED, "SELL")["tag"]
    day.drop(*[line for line in day.history if line["data"].get("tag") == tag])


def _before_its_intent(day: Day) -> None:
    day.row(SELLER, "BUY")["placed_at"] -= 60_000_000


def _another_product(day: Day) -> None:
    day.row(SELLER, "BUY")["product"] = "CNC"


def _another_quantity(day: Day) -> None:
    day.row(SELLER, "SELL")["quantity"] = 12


def _another_users_account(day: Day) -> None:
    day.row(SELLER, "BUY")["account"] = "PAPER-8"


def _nobodys_account(day: Day) -> None:
    day.row(SELLER, "BUY")["account"] = "PAPER-99"


def _placed_twice(day: Day, side: str) -> None:
    row = day.row(SELLER, side)
    again = {**row, "order_id": row["order_id"] + 10**6}
    day.trades += [
        {**trade, "trade_id": trade["trade_id"] + 10**6, "order_id": again["order_id"]} for trade in day.trades_of(row)
    ]
    day.orders.append(again)


def _bought_twice(day: Day) -> None:
    _placed_twice(day, "BUY")


def _sold_twice(day: Day) -> None:
    _placed_twice(day, "SELL")


def _both_entries_live(day: Day) -> None:
    (rejected,) = [row for row in day.orders if row["status"] == "rejected"]
    rejected["status"] = "cancelled"


def _sold_before_bought(day: Day) -> None:
    (buy,), (sell,) = day.trades_of(day.row(SELLER, "BUY")), day.trades_of(day.row(SELLER, "SELL"))
    buy["trade_id"], sell["trade_id"] = sell["trade_id"], buy["trade_id"]


def _gone_from_the_book(day: Day) -> None:
    row = day.row(SELLER, "SELL")
    for trade in day.trades_of(row):
        day.trades.remove(trade)
    day.orders.remove(row)


def _another_id(day: Day) -> None:
    for kind in ("ORDER_ACCEPTED", "ORDER_FILLED"):
        day.one(kind, SELLER, "SELL")["data"]["order_id"] = "17"


def _fill_untold(day: Day) -> None:
    day.drop(day.one("ORDER_FILLED", SELLER, "SELL"))
    day.one("ORDER_FINALIZED", SELLER, "SELL")["data"]["filled"] = 0


def _another_price_told(day: Day) -> None:
    for kind in ("ORDER_FILLED", "ORDER_FINALIZED"):
        day.one(kind, SELLER, "SELL")["data"]["average_price"] = "153.01"


def _more_filled_than_asked(day: Day) -> None:
    day.one("ORDER_FILLED", SELLER, "BUY")["data"]["filled"] = 11


def _trade_missing(day: Day) -> None:
    (trade,) = day.trades_of(day.row(SELLER, "SELL"))
    day.trades.remove(trade)


def _book_against_itself(day: Day) -> None:
    day.row(SELLER, "SELL")["filled"] = 9


def _trade_of_no_order(day: Day) -> None:
    day.trades.append({**day.trades[0], "trade_id": 999, "order_id": 17})


def _no_such_status(day: Day) -> None:
    (rejected,) = [row for row in day.orders if row["status"] == "rejected"]
    rejected["status"] = "perhaps"


def _ended_otherwise(day: Day) -> None:
    day.row(SELLER, "SELL")["status"] = "cancelled"


def _a_paisa_more(day: Day) -> None:
    data = day.one("STRATEGY_EXITED", SELLER)["data"]
    data["realised"] = str(Decimal(data["realised"]) + Decimal("0.01"))


TAMPERED: list[tuple[Callable[[Day], None], set[Rule]]] = [
    (_gap, {Rule.POSITION}),
    (_version_gap, {Rule.VERSION}),
    (_id_twice, {Rule.EVENT_ID}),
    (_cause_after_its_effect, {Rule.CAUSE}),
    (_time_runs_back, {Rule.TIME}),
    (_another_users_event, {Rule.OWNER}),
    (_unreadable, {Rule.UNREADABLE}),
    (_no_map, {Rule.LINE}),
    (_not_a_number, {Rule.LINE}),
    (_stops_twice, {Rule.LIFE}),
    (_anothers_tag, {Rule.TAG}),
    (_recovered_though_known, {Rule.TAG_TWICE}),
    (_without_lock, {Rule.LOCK}),
    (_more_than_configured, {Rule.CONFIG}),
    (_never_triggered, {Rule.UNTRIGGERED}),
    (_stop_never_reached, {Rule.UNTRIGGERED}),
    (_stop_above, {Rule.STOP}),
    (_two_unresolved, {Rule.UNRESOLVED}),
    (_second_buy, {Rule.SECOND_BUY}),
    (_sells_more, {Rule.SELLS_TOO_MUCH}),
    (_sells_again, {Rule.AFTER_EXIT}),
    (_sells_after_the_end, {Rule.AFTER_STOP}),
    (_halted, {Rule.HALTED}),
    (_told_of_no_order, {Rule.UNASKED}),
    (_ends_twice, {Rule.FINAL_TWICE}),
    (_never_ends, {Rule.RUN_OPEN}),
    (_never_finalized, {Rule.NOT_FINAL}),
    (_nobody_asked, {Rule.NO_INTENT}),
    (_intent_lost, {Rule.NO_INTENT, Rule.REALISED}),  # and what it realised has no order
    (_before_its_intent, {Rule.TOO_EARLY}),
    (_another_product, {Rule.ASKED}),
    (_another_quantity, {Rule.ASKED}),
    (_another_users_account, {Rule.ACCOUNT}),
    (_nobodys_account, {Rule.ACCOUNT}),
    (_bought_twice, {Rule.PLACED_TWICE}),
    (_sold_twice, {Rule.PLACED_TWICE, Rule.OVERSOLD}),  # the second one has nothing to sell
    (_both_entries_live, {Rule.TWO_BUYS, Rule.FINAL}),  # and it was told to be rejected
    (_sold_before_bought, {Rule.OVERSOLD}),
    (_gone_from_the_book, {Rule.NOT_IN_BOOK}),
    (_another_id, {Rule.ORDER_ID}),
    (_fill_untold, {Rule.FILLS, Rule.REALISED}),  # and what it realised has no fill
    (_another_price_told, {Rule.FILLS}),
    (_more_filled_than_asked, {Rule.FILLS}),
    (_trade_missing, {Rule.FILLS, Rule.BOOK}),  # and the order itself says that it has filled
    (_book_against_itself, {Rule.BOOK}),
    (_trade_of_no_order, {Rule.BOOK}),
    (_no_such_status, {Rule.ROW, Rule.NOT_IN_BOOK}),  # a row that cannot be read is not there
    (_ended_otherwise, {Rule.FINAL}),
    (_a_paisa_more, {Rule.REALISED}),
]


@pytest.mark.parametrize(("tamper", "expected"), TAMPERED, ids=[tamper.__name__[1:] for tamper, _ in TAMPERED])
def test_what_was_tampered_with_is_named(day: Day, tamper: Callable[[Day], None], expected: set[Rule]) -> None:
    tamper(day)
    found = day.judged()
    assert rules(found) == expected, told(found)
    assert found == day.judged(), "the same each time"


def test_every_rule_has_been_broken() -> None:
    broken = {rule for _, expected in TAMPERED for rule in expected}
    assert broken | {Rule.NO_ALERT} == set(Rule)


def test_a_trade_at_the_stop_of_what_is_held_must_come_to_something(day: Day) -> None:
    bought = day.one("ORDER_FILLED", SELLER, "BUY")
    at, symbol = int(bought["recordedat"]) + 1_000_000, day.row(SELLER, "BUY")["symbol"]
    assert not day.judged(market=[(symbol, Decimal("140.05"), at, at), ("NSE:TCS", Decimal(1), at, at)])
    found = day.judged(market=[(symbol, Decimal("140.00"), at, at)])
    assert rules(found) == {Rule.STOP}
    assert {f"strategy {each}," in told(found) for each in (SELLER, STOPPED, RETRIED, SQUARED)} == {True}
    before = int(day.one("EXECUTE_BUY", SELLER)["recordedat"]) - 1_000_000
    assert not day.judged(market=[(symbol, Decimal(100), before, before)]), "nothing was held"
    exit_at = int(day.one("EXECUTE_SELL", SELLER)["recordedat"])
    found = day.judged(market=[(symbol, Decimal(100), exit_at - 1_000_000, exit_at - 1_000_000)])
    assert not found, "the exit was on its way"


def test_findings_say_where_in_the_order_of_the_history(day: Day) -> None:
    for tamper in (_a_paisa_more, _another_product, _stop_above, _halted):
        tamper(day)
    found = day.judged()
    positions = [one.position for one in found if one.position is not None]
    assert positions == sorted(positions)
    assert len(positions) >= 3
    assert found[-1].order_id is not None
    assert str(found[-1]).startswith(f"order {day.row(SELLER, 'BUY')['order_id']}: asked: ")


# --- bad input

_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3) | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(_ANYTHING, max_size=4), st.lists(_ANYTHING, max_size=4), st.lists(_ANYTHING, max_size=4))
def test_garbage_is_found_and_never_raises(history: list[Any], orders: list[Any], trades: list[Any]) -> None:
    found = judge(history, orders, trades, accounts={}, ended=True)
    beside = sum(isinstance(line, dict) and bool({"bahi", "left_out", "seal", "end"} & line.keys()) for line in history)
    assert len([one for one in found if one.rule is Rule.LINE]) == len(history) - beside
    assert len([one for one in found if one.rule is Rule.ROW]) == len(orders) + len(trades)


@given(st.data())
def test_a_day_with_garbage_in_it_never_raises(ordinary: Day, data: st.DataObject) -> None:
    day = ordinary.copy()
    for _ in range(data.draw(st.integers(1, 3))):
        table: list[Line] = data.draw(st.sampled_from([day.history, day.orders, day.trades]))
        target: Any = data.draw(st.sampled_from(table))
        while True:
            name = data.draw(st.sampled_from(sorted(target)))
            if isinstance(target[name], dict) and target[name] and data.draw(st.booleans()):
                target = target[name]
                continue
            target[name] = data.draw(_ANYTHING)
            break
    for one in day.judged(market=[("NSE:INFY", Decimal(100), 1, 1)]):
        assert str(one)


# --- files


@pytest.fixture
def files(ordinary: Day, tmp_path: Path) -> tuple[Path, Path]:
    """The day as an exported file and the broker's SQLite file."""
    history, book = tmp_path / "history.jsonl.gz", tmp_path / "paper.db"
    with gzip.open(history, "wt") as out:
        for line in ({"bahi": "archive/1"}, *ordinary.history, {"seal": {}}, {"end": {}}):
            out.write(json.dumps({**line, "envelope": ""}) + "\n")
    with sqlite3.connect(book) as sql:
        for name, rows in (("orders", ordinary.orders), ("trades", ordinary.trades)):
            sql.execute(f"CREATE TABLE {name} ({', '.join(rows[0])})")
            marks = ", ".join("?" * len(rows[0]))
            sql.executemany(f"INSERT INTO {name} VALUES ({marks})", [tuple(row.values()) for row in rows])  # noqa: S608
    sql.close()
    return history, book


def _command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulation.independent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)


def test_the_command_judges_files(files: tuple[Path, Path]) -> None:
    done = _command(*files, "--ended")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("9 orders, 8 trades: everything holds\n")
    with sqlite3.connect(files[1]) as sql:
        sql.execute("UPDATE orders SET product = 'CNC' WHERE order_id = (SELECT min(order_id) FROM orders)")
    sql.close()
    done = _command(*files, "--json")
    assert done.returncode == 1
    (one,) = json.loads(done.stdout)["findings"]
    assert one["rule"] == "asked"
    assert one["order_id"] == str(read_book(files[1]).orders[0]["order_id"])
    done = _command(*files, "--account", "PAPER-7=9")
    assert done.returncode == 1
    assert "account" in done.stdout


def test_the_command_says_what_it_cannot_read(files: tuple[Path, Path], tmp_path: Path) -> None:
    history, book = files
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(history.read_bytes()[:-50])
    no_json = tmp_path / "no.jsonl"
    no_json.write_text('{"end": {}}\n[1]\n')
    for arguments, said in (
        ((cut, book), "cut.jsonl.gz is damaged after line"),
        ((no_json, book), "no.jsonl: line 2 is [1], not an object"),
        ((history, tmp_path / "none.db"), "none.db is not there"),
        ((history, history), "is no order book"),
        ((tmp_path / "none.jsonl", book), "none.jsonl"),
        ((history, book, "--account", "PAPER-7"), "--account 'PAPER-7' is not ACCOUNT=USER"),
    ):
        done = _command(*arguments)
        assert done.returncode == 2
        assert said in done.stderr
