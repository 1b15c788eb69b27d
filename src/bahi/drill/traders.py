"""Traders at a running bahi, over HTTP: strategies one after the other, due seconds later."""

import datetime as dt
import random
import secrets
import threading
import time
import uuid
from types import TracebackType
from typing import Any, Final, Self
from zoneinfo import ZoneInfo

import httpx

from bahi.drill.running import PATIENCE, Missed, until
from bahi.drill.users import Acknowledged

__all__ = ["Traders"]

IST: Final = ZoneInfo("Asia/Kolkata")
PAUSE: Final = 0.15
"""Seconds between two strategies of a trader."""
SYMBOLS: Final = ("NSE:INFY", "NSE:TCS", "NSE:SBIN")


class Traders:
    """So many, each with an account at the paper broker. A context manager; they trade from `trade` to `pause`."""

    def __init__(self, url: str, count: int) -> None:
        self.users: list[int] = []
        self.acknowledged: list[Acknowledged] = []
        self._url = url
        self._count = count
        self._clients: list[httpx.Client] = []
        self._mine: dict[int, httpx.Client] = {}
        """Every strategy that was created, with whose it is."""
        self._trading = threading.Event()
        self._over = threading.Event()
        self._running_since = 0.0
        """When the last start began that was answered: it runs."""
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for number in range(self._count):
            client = httpx.Client(base_url=self._url, timeout=PATIENCE)
            told = client.post(
                "/auth/register",
                json={"email": f"real{number}.{secrets.token_hex(4)}@example.com", "password": secrets.token_hex(16)},
            ).json()
            client.headers["authorization"] = f"Bearer {told['access_token']}"
            client.post(
                "/broker/connect", json={"broker": "paper", "api_key": "k", "api_secret": "s", "access_token": "t"}
            )
            self._clients.append(client)
            self.users.append(int(told["user_id"]))
            self._threads.append(threading.Thread(target=self._work, args=(client, self.users[-1]), daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._trading.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        for client in self._clients:
            client.close()

    def trade(self) -> None:
        self._trading.set()

    def pause(self) -> None:
        self._trading.clear()

    def await_started(self) -> float:
        """When a strategy ran whose start was asked for after this call. Raises Missed."""
        since = time.monotonic()
        return until(lambda: self._running_since > since, "a strategy can be started and runs")

    def finish(self) -> None:
        """Until every strategy has ended; those that were too late for today are stopped. Raises Missed."""
        self._over.set()
        self._trading.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        for strategy_id, client in self._mine.items():
            while not self._has_ended(client, strategy_id):
                if time.monotonic() > deadline:
                    raise Missed(f"strategy {strategy_id} does not end")
                time.sleep(0.1)

    def _has_ended(self, client: httpx.Client, strategy_id: int) -> bool:
        try:
            answer = client.get(f"/strategy/status/{strategy_id}")
            if answer.status_code != 200:
                return answer.status_code == 404  # it was never created, or nobody was told so
            state = answer.json()
            if state["session_date"] not in (None, _now().date().isoformat()):
                client.post("/strategy/stop", json={"strategy_id": strategy_id, "square_off": True})
            return state["status"] in ("stopped", "failed", "created") and state["lock_state"] == "free"
        except httpx.HTTPError:
            return False

    # --- one trader --------------------------------------------------------------------------------------------------

    def _work(self, client: httpx.Client, user_id: int) -> None:
        rng = random.Random(f"trader/{user_id}")
        while self._trading.wait() and not self._over.is_set():
            buy = rng.uniform(1.5, 4)
            asked = {
                "symbol": rng.choice(SYMBOLS),
                "quantity": rng.choice((1, 5, 10)),
                "buy_time": _clock(buy),
                "sell_time": _clock(buy + rng.uniform(1, 4)),
                "stop_loss": 1.0,
                "product": "CNC",
            }
            created = self._ask(client, user_id, "create", 0, asked)
            if created is not None:
                strategy_id = int(created["strategy_id"])
                self._mine[strategy_id] = client
                begun = time.monotonic()
                started = self._ask(client, user_id, "start", strategy_id, {"strategy_id": strategy_id})
                if started is not None and started["status"] == "running":
                    self._running_since = begun
            time.sleep(PAUSE)

    def _ask(
        self, client: httpx.Client, user_id: int, what: str, strategy_id: int, body: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The answer, which is an acknowledgement; None for any that is no success, or none at all."""
        try:
            answer = client.post(f"/strategy/{what}", json=body, headers={"idempotency-key": uuid.uuid4().hex})
        except httpx.HTTPError:
            return None
        if answer.status_code >= 300:
            return None
        told: dict[str, Any] = answer.json()
        request = answer.headers.get("x-request-id", "")
        known = int(told["strategy_id"]) if what == "create" else strategy_id
        self.acknowledged.append(Acknowledged(what, user_id, known, (request,), body, told, 0))
        return told


def _now() -> dt.datetime:
    return dt.datetime.now(IST)


def _clock(seconds: float) -> str:
    """The exchange's wall clock in so many seconds."""
    return f"{_now() + dt.timedelta(seconds=seconds):%H:%M:%S}"
