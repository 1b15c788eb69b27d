"""The paper broker's book: one file, many processes, any of which may be killed at any moment."""

import asyncio
import sqlite3
import subprocess
import sys
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.paper.book import Book, BookError
from brokers.paper.plan import THROTTLED, Portion, Script, ScriptedPlan
from brokers.paper.rows import Rows
from brokers.port import Accepted, BookStatus, NotPlaced
from domain.values import SECOND
from tests.brokers.conformance import PRICE, SBIN, request
from tests.brokers.world import World, until

PLACER = Path(__file__).with_name("placer.py")
FOREVER = 1_000_000


def start(path: Path, prefix: str, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(PLACER), str(path), "ACCOUNT1", prefix, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def check_whole(path: Path) -> list[str]:
    """Holds every row against every other; the tags of the orders in the order of placing."""
    sql = sqlite3.connect(path)
    try:
        assert sql.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        traded: dict[int, tuple[int, Decimal]] = defaultdict(lambda: (0, Decimal(0)))
        for order_id, quantity, price in sql.execute("SELECT order_id, quantity, price FROM trades"):
            done, value = traded[order_id]
            traded[order_id] = (done + quantity, value + quantity * Decimal(price))
        orders = sql.execute(
            "SELECT order_id, tag, quantity, filled, value, status FROM orders ORDER BY order_id"
        ).fetchall()
        for order_id, tag, quantity, filled, value, status in orders:
            assert (filled, Decimal(value)) == traded[order_id], tag
            assert (status == "complete") == (filled == quantity), tag
        assert traded.keys() == {order[0] for order in orders}
        assert sql.execute("SELECT orders FROM counters").fetchone() == (len(orders),)
        assert sql.execute("SELECT sum(attempts) FROM accounts").fetchone() == (len(orders) or None,)
        return [order[1] for order in orders]
    finally:
        sql.close()


@pytest.mark.parametrize("lines", [1, 2, 30, 400], ids=lambda n: f"after {n} lines")
def test_a_process_killed_while_it_places_leaves_the_book_whole(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "paper.db"
    answered: list[str] = []
    for life in "ABC":
        process = start(path, life, FOREVER)
        assert process.stdout is not None
        heard = [process.stdout.readline().strip() for _ in range(lines)]
        process.kill()
        heard += process.stdout.read().split()
        process.wait()
        process.stdout.close()
        assert heard[0] == "ready"
        answered += [tag for tag in heard[1:] if tag]
        tags = check_whole(path)
        # What was answered is there, once; what is there besides was being placed when the process was killed.
        assert len(tags) == len(set(tags))
        complete = [tag for tag in answered if tag in set(tags)]
        assert len(answered) - len(complete) <= len("ABC")  # at most a torn last line per life
        assert len(set(tags) - set(answered)) <= len("ABC")


def test_two_processes_place_into_one_book_at_once(tmp_path: Path) -> None:
    path = tmp_path / "paper.db"
    processes = [start(path, prefix, 300) for prefix in "AB"]
    for process in processes:
        output, _ = process.communicate()
        assert (process.returncode, len(output.split())) == (0, 301)
    tags = check_whole(path)
    assert sorted(tags) == sorted(f"{prefix}{n}" for prefix in "AB" for n in range(300))


async def test_attempts_are_counted_over_all_processes(tmp_path: Path) -> None:
    plan = ScriptedPlan([(3, Script(refuse=THROTTLED))])
    first, second = World(tmp_path / "paper.db", plan=plan), World(tmp_path / "paper.db", plan=plan)
    answers = []
    for world in (first, second, first, second):
        await world.set_price(SBIN, PRICE)
        answers.append(await world.broker().place(request()))
    assert [type(answer) for answer in answers] == [Accepted, Accepted, NotPlaced, Accepted]
    first.close()
    second.close()


async def test_what_another_process_changes_is_hinted_at_by_polling(tmp_path: Path) -> None:
    here, there = World(tmp_path / "paper.db"), World(tmp_path / "paper.db")
    await there.set_price(SBIN, PRICE)
    hints = here.broker().updates()
    answer = await there.broker().place(request())
    assert isinstance(answer, Accepted)
    assert await here.answer(anext(hints)) == answer.order_id
    later = asyncio.ensure_future(anext(hints))
    await here.advance(SECOND)
    assert not later.done()
    answer = await there.broker().place(request())
    assert isinstance(answer, Accepted)
    assert await here.answer(later) == answer.order_id
    here.close()
    there.close()


async def test_a_fill_that_two_processes_see_at_once_is_made_once(tmp_path: Path) -> None:
    here, there = World(tmp_path / "paper.db"), World(tmp_path / "paper.db")
    here.armed.next.append(Script(fills=(Portion(4, SECOND),), rest=SECOND))
    for world in (here, there):
        await world.set_price(SBIN, PRICE)
    await here.broker().place(request())
    for _ in range(2):
        await here.advance(SECOND)
        await there.advance(SECOND)
        # While this process waits for the price, the other one settles the order that this one has read.
        here.market.when_asked = there.broker().orders
        await here.broker().orders()
    assert [trade.quantity for trade in await here.broker().trades()] == [4, 6]
    here.close()
    there.close()


async def test_a_caller_that_gives_up_does_not_undo_the_order(tmp_path: Path) -> None:
    world = World(tmp_path / "paper.db")
    await world.set_price(SBIN, PRICE)
    hints = world.broker().updates()
    placing = asyncio.ensure_future(world.broker().place(request()))
    await until(lambda: world.book.changes() > 0, placing)
    placing.cancel()
    await asyncio.gather(placing, return_exceptions=True)
    (order,) = await world.broker().orders()
    assert order.status is BookStatus.COMPLETE
    assert await world.answer(anext(hints)) == order.order_id
    world.close()


async def test_work_that_fails_writes_nothing() -> None:
    book = Book()

    def work(rows: Rows) -> None:
        rows.attempt("ACCOUNT1")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await book.write(work)
    assert await book.write(lambda rows: rows.attempt("ACCOUNT1")) == 1
    book.close()


@pytest.mark.parametrize("content", [b"not a database at all, " * 100, None], ids=["no database", "another version"])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "paper.db"
    if content is None:
        sql = sqlite3.connect(path)
        sql.execute("PRAGMA user_version = 99")
        sql.close()
    else:
        path.write_bytes(content)
    with pytest.raises(BookError, match=r"paper\.db is not an order book"):
        Book(path)
