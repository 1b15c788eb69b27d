"""Postbacks: what an app is called with, by the true checksum, and what becomes of calls that fail."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from hashlib import sha256
from typing import Any

import h11
import pytest

from simulation.kite.faults import Fault, Play
from simulation.kite.postbacks import AT_ONCE, WAITING, Postbacks, checksum, pushed

SECRET = "the-app's-secret"


class App:
    """An app's server: keeps what it is posted, and answers what the test wants."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = h11.Connection(h11.SERVER)
        headers: dict[str, str] = {}
        body = b""
        try:
            while True:
                event = wire.next_event()
                if event is h11.NEED_DATA:
                    wire.receive_data(await reader.read(65_536))
                elif isinstance(event, h11.Request):
                    headers = {name.decode(): value.decode() for name, value in event.headers}
                    headers["target"] = f"{event.method.decode()} {event.target.decode()}"
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self.calls.append((headers, body))
                    await self.gate.wait()
                    answer = h11.Response(status_code=self.status, headers=[("Content-Length", "0")])
                    writer.write((wire.send(answer) or b"") + (wire.send(h11.EndOfMessage()) or b""))
                    wire.start_next_cycle()
                    headers, body = {}, b""
                else:
                    break
        finally:
            writer.close()

    @property
    def posted(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.calls]


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App()
    server = await asyncio.start_server(app.answer, "127.0.0.1", 0)
    app.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/broker/kite/postback"
    yield app
    app.gate.set()
    server.close()


class Customer:
    def __init__(self, user_id: str, url: str | None) -> None:
        self.user_id = user_id
        self.api_secret = SECRET
        self.postback_url = url


def row(order_id: str = "1953341975595868160", status: str = "COMPLETE", filled: int = 10) -> dict[str, Any]:
    return {
        "placed_by": "AB1234",
        "order_id": order_id,
        "status": status,
        "order_timestamp": "2026-11-20 12:00:00",
        "quantity": 10,
        "filled_quantity": filled,
        "average_price": Decimal("612.35"),
    }


@asynccontextmanager
async def postbacks(*urls: str | None, faults: list[Fault] | None = None) -> AsyncIterator[Postbacks]:
    """One customer for each address, AB0, AB1, …; the faults play once each, at the first occasion."""
    left = list(faults or ())

    def plays(fault: Fault, _user_id: str | None) -> Play | None:
        if fault in left:
            left.remove(fault)
            return Play(fault)
        return None

    accounts = {f"AB{n}": Customer(f"AB{n}", url) for n, url in enumerate(urls)}
    calls = Postbacks(accounts, plays=plays)
    async with calls.sending():
        yield calls


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (what is waited for tells nobody)
            await asyncio.sleep(0)


async def test_an_app_is_posted_the_order_with_the_true_checksum(app: App) -> None:
    async with postbacks(app.url) as calls:
        calls.on_order("AB0", row())
        await until(lambda: calls.sent == 1)
    [(headers, body)] = app.calls
    assert headers["target"] == "POST /broker/kite/postback"
    assert headers["content-type"] == "application/json"
    posted = json.loads(body)
    assert posted["checksum"] == sha256(f"19533419755958681602026-11-20 12:00:00{SECRET}".encode()).hexdigest()
    assert posted["checksum"] == checksum(posted["order_id"], posted["order_timestamp"], SECRET)
    assert (posted["user_id"], posted["unfilled_quantity"], posted["status"]) == ("AB1234", 0, "COMPLETE")
    assert b'"average_price":612.35' in body
    assert SECRET.encode() not in body


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("OPEN", "UPDATE"),
        ("TRIGGER PENDING", "UPDATE"),
        ("MODIFIED", "UPDATE"),
        ("", "UPDATE"),
        ("COMPLETE", "COMPLETE"),
        ("CANCELLED", "CANCELLED"),
        ("REJECTED", "REJECTED"),
    ],
)
def test_whatever_is_not_final_is_an_update(status: str, told: str) -> None:
    update = pushed(row(status=status, filled=4))
    assert (update["status"], update["unfilled_quantity"]) == (told, 6)
    assert "checksum" not in update


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.F12_PUSH_LOST, ["2"]),
        (Fault.F12_PUSH_DUPLICATED, ["1", "1", "2"]),
        (Fault.F12_PUSH_REORDERED, ["2", "1"]),
    ],
)
async def test_postbacks_are_lost_repeated_and_out_of_order(app: App, fault: Fault, expected: list[str]) -> None:
    async with postbacks(app.url, faults=[fault]) as calls:
        waiting: list[str] = []
        calls._post = lambda _url, body: waiting.append(json.loads(body)["order_id"])  # type: ignore[method-assign]
        calls.on_order("AB0", row("1"))
        calls.on_order("AB0", row("2"))
        assert waiting == expected


async def test_nobody_is_called_who_did_not_ask_for_it(app: App) -> None:
    async with postbacks(None, app.url) as calls:
        calls.on_order("AB0", row("1"))
        calls.on_order("nobody", row("2"))
        calls.on_ticks([])
        calls.on_order("AB1", row("3"))
        await until(lambda: calls.sent == 1)
    assert [each["order_id"] for each in app.posted] == ["3"]


async def test_calls_that_fail_are_logged_and_not_repeated(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.status = 500
    async with postbacks("http://127.0.0.1:9/", "no address", app.url) as calls:
        for user_id in ("AB0", "AB1", "AB2"):
            calls.on_order(user_id, row())
        await until(lambda: calls.sent == 1 and calls.failed == 2)
    assert len(app.calls) == 1
    out = capsys.readouterr().out
    assert out.count("kite_sim_postback_failed") == 2
    assert "kite_sim_postback_refused" in out
    assert SECRET not in out


async def test_an_app_that_does_not_answer_stops_nobody_and_never_the_sim(app: App) -> None:
    slow = App()
    slow.gate.clear()
    server = await asyncio.start_server(slow.answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with postbacks(url, app.url) as calls:
        for _ in range(AT_ONCE - 1):
            calls.on_order("AB0", row())
        calls.on_order("AB1", row())
        await until(lambda: calls.sent == 1)
        for _ in range(WAITING + 100):  # far more than anybody takes
            calls.on_order("AB0", row())
        assert calls.failed >= 100
    slow.gate.set()
    server.close()
