"""Traders at a running bahi, over HTTP, while it is being broken: what they ask for, and what they were told.

Their strategies are due seconds later, some with a stop close enough to be hit. They stop, change, halt. An answer is
an acknowledgement; a request that was not answered is made again with the same Idempotency-Key, as an app does.
"""

import datetime as dt
import random
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Self
from zoneinfo import ZoneInfo

import httpx

from bahi.drill.running import PATIENCE, Missed
from bahi.drill.users import PATHS, Acknowledged

__all__ = ["SYMBOLS", "Traders"]

IST: Final = ZoneInfo("Asia/Kolkata")
SYMBOLS: Final = ("NSE:INFY", "NSE:TCS", "NSE:SBIN")
GRID: Final = Decimal("0.05")
ATTEMPTS: Final = 4
TIMEOUT: Final = 12.0
"""Seconds until a request counts as not answered."""
ENDED: Final = ("stopped", "failed", "created")


class Traders:
    """So many, each with an account at the paper broker. A context manager; they trade from `trade` to `finish`.

    `price` is the last price of a symbol, None while there is none. A trader waits so many seconds before it asks for
    the next thing, from to.
    """

    def __init__(
        self,
        url: str,
        count: int,
        rng: random.Random,
        price: Callable[[str], Decimal | None],
        waits: tuple[float, float] = (0.2, 0.7),
    ) -> None:
        self.users: list[int] = []
        self.acknowledged: list[Acknowledged] = []
        self.unanswered = 0
        """Requests that nobody answered, however often they were made."""
        self._url = url
        self._count = count
        self._price = price
        self._waits = waits
        self._seeds = [rng.getrandbits(64) for _ in range(count)]
        self._clients: dict[int, httpx.Client] = {}
        self._mine: dict[int, int] = {}
        """Every strategy that was created, with whose it is."""
        self._stops: dict[int, set[float]] = {}
        """By user, those that were asked for."""
        self._trading = threading.Event()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for number in range(self._count):
            client = httpx.Client(base_url=self._url, timeout=TIMEOUT)
            email = f"trader{number}.{secrets.token_hex(4)}@example.com"
            person = {"email": email, "password": secrets.token_hex(16)}
            answer = client.post("/auth/register", json=person, timeout=PATIENCE)
            told = answer.raise_for_status().json()
            client.headers["authorization"] = f"Bearer {told['access_token']}"
            account = {"broker": "paper", "api_key": "k", "api_secret": "s", "access_token": "t"}
            client.post("/broker/connect", json=account, timeout=PATIENCE).raise_for_status()
            user_id = int(told["user_id"])
            self.users.append(user_id)
            self._clients[user_id] = client
            work = threading.Thread(target=self._work, args=(user_id, random.Random(self._seeds[number])), daemon=True)
            self._threads.append(work)
            work.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end()
        for client in self._clients.values():
            client.close()

    @property
    def strategies(self) -> int:
        return len(self._mine)

    def trade(self) -> None:
        self._trading.set()

    def finish(self, seconds: float) -> float:
        """Nobody begins anything any more. How many seconds it takes until every strategy has ended, those that were
        too late for today stopped, and every halt is lifted. Raises Missed naming what does not come to its end."""
        begun = time.monotonic()
        self._end()
        left = dict(self._mine)
        last: dict[int, str] = {}
        while left:
            for strategy_id, user_id in list(left.items()):
                last[strategy_id] = self._look(strategy_id, user_id)
                if not last[strategy_id]:
                    del left[strategy_id]
            if left and time.monotonic() - begun > seconds:
                raise Missed(f"not at rest within {seconds:g} s: " + "; ".join(last[each] for each in sorted(left)))
            time.sleep(0.1)
        for user_id in self.users:
            while self._ask(user_id, "resume", 0, {}) is None:
                if time.monotonic() - begun > seconds:
                    raise Missed(f"the halt of user {user_id} cannot be lifted within {seconds:g} s")
        return time.monotonic() - begun

    def _end(self) -> None:
        self._over.set()
        self._trading.set()
        for thread in self._threads:
            thread.join(ATTEMPTS * TIMEOUT)

    def _look(self, strategy_id: int, user_id: int) -> str:
        """What is still to come of a strategy; empty when it has ended."""
        client = self._clients[user_id]
        try:
            answer = client.get(f"/strategy/status/{strategy_id}")
            if answer.status_code != 200:
                return f"strategy {strategy_id}: {answer.status_code} {answer.text[:200]}"
            state = answer.json()
            if state["session_date"] not in (None, _now().date().isoformat()) and state["status"] not in ENDED:
                client.post("/strategy/stop", json={"strategy_id": strategy_id, "square_off": True})
        except httpx.HTTPError as error:
            return f"strategy {strategy_id}: {type(error).__name__}"
        if state["status"] in ENDED and state["lock_state"] == "free":
            return ""
        seen = {name: state[name] for name in ("status", "position", "last_action", "lock_state", "updated_at")}
        return f"strategy {strategy_id} is {seen}"

    # --- one trader --------------------------------------------------------------------------------------------------

    def _work(self, user_id: int, rng: random.Random) -> None:
        self._trading.wait()
        mine: list[int] = []
        while not self._over.wait(rng.uniform(*self._waits)):
            dice = rng.random()
            if mine and dice < 0.12:
                square_off = rng.random() < 0.7
                chosen = rng.choice(mine[-6:])
                self._ask(user_id, "stop", chosen, {"strategy_id": chosen, "square_off": square_off})
            elif mine and dice < 0.24:
                chosen = rng.choice(mine[-6:])
                self._ask(
                    user_id,
                    "update",
                    chosen,
                    {"strategy_id": chosen, "stop_loss": self._stop(user_id, SYMBOLS[0], rng)},
                )
            elif dice < 0.27:
                self._ask(user_id, "halt", 0, {"square_off": rng.random() < 0.5})
                self._over.wait(rng.uniform(0.3, 1))
                self._ask(user_id, "resume", 0, {})
            elif (strategy_id := self._begin(user_id, rng)) is not None:
                mine.append(strategy_id)

    def _begin(self, user_id: int, rng: random.Random) -> int | None:
        """Creates a strategy and starts it; None unless its user was told so. To end what never began, or to change it,
        is answered, and need not be an event."""
        strategy_id = self._create(user_id, rng)
        if strategy_id is None:
            return None
        told = self._ask(user_id, "start", strategy_id, {"strategy_id": strategy_id})
        return strategy_id if told is not None else None

    def _create(self, user_id: int, rng: random.Random) -> int | None:
        buy, symbol = rng.uniform(1.5, 4), rng.choice(SYMBOLS)
        asked = {
            "symbol": symbol,
            "quantity": rng.choice((1, 5, 10, 50)),
            "buy_time": _clock(buy),
            "sell_time": _clock(buy + rng.uniform(2, 7)),
            "stop_loss": self._stop(user_id, symbol, rng),
            "product": "CNC",
        }
        told = self._ask(user_id, "create", 0, asked)
        if told is None:
            return None
        strategy_id = int(told["strategy_id"])
        self._mine[strategy_id] = user_id
        return strategy_id

    def _stop(self, user_id: int, symbol: str, rng: random.Random) -> float:
        """Far away, or so little below the market that it may be hit within seconds. Of one user never the same twice:
        a change to what is already so is answered, and is no event."""
        used = self._stops.setdefault(user_id, set())
        while (stop := self._wished(symbol, rng)) in used:
            pass
        used.add(stop)
        return stop

    def _wished(self, symbol: str, rng: random.Random) -> float:
        last = self._price(symbol)
        if last is None or rng.random() < 0.4:
            return float(rng.randint(20, 2_000) * GRID)
        wanted = last * (1 - Decimal(rng.randint(2, 20)) / 10_000)
        return float((wanted / GRID).to_integral_value() * GRID)

    def _ask(self, user_id: int, what: str, strategy_id: int, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer, which is an acknowledgement; None for any that is no success, or none at all."""
        method, path = PATHS[what]
        key, requests = uuid.uuid4().hex, list[str]()
        for unanswered in range(ATTEMPTS):
            try:
                answer = self._clients[user_id].request(
                    method, path, json=body if method == "POST" else None, headers={"idempotency-key": key}
                )
            except httpx.HTTPError:
                if self._over.wait(0.2) and unanswered:
                    break
                continue
            requests.append(answer.headers.get("x-request-id", ""))
            if answer.status_code >= 500:
                self._over.wait(0.2)
                continue
            if answer.status_code >= 300:
                return None
            told: dict[str, Any] = answer.json() if answer.content else {}
            known = int(told["strategy_id"]) if what == "create" else strategy_id
            self.acknowledged.append(Acknowledged(what, user_id, known, tuple(requests), body, told, unanswered))
            return told
        self.unanswered += 1
        return None


def _now() -> dt.datetime:
    return dt.datetime.now(IST)


def _clock(seconds: float) -> str:
    """The exchange's wall clock in so many seconds."""
    return f"{_now() + dt.timedelta(seconds=seconds):%H:%M:%S}"
