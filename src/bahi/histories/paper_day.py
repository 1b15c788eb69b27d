"""A day at the paper broker: every role of the engine with its servers, the market, and users who speak HTTP to it.

Time is turned by hand; whatever is due comes before it goes on. What is stopped, emptied and started again is real.
"""

import asyncio
import datetime as dt
import secrets
import shutil
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from bahi.drill.engine import ROLES, Engine, open_engine
from bahi.servers import EmbeddedRedis
from bahi.settings import Settings
from domain.calendar import Session, load_nse
from domain.events import Event
from domain.values import MINUTE, SECOND, Instant, Tick
from eventstore.entries import read_entries
from eventstore.envelope import NewEvent, Raw
from projections.live import live_states
from simulation.market import DEFAULT_SYMBOLS, generate_day

__all__ = ["DATE", "PaperDay", "User", "open_paper_day", "session"]

T = TypeVar("T")

DATE: Final = dt.date(2026, 6, 15)
"""A Monday with a regular session."""
SYMBOLS: Final = ("NSE:INFY", "NSE:TCS", "NSE:SBIN", "NSE:ITC")
WINDOW: Final = 20 * SECOND
"""Ticks come together so often."""
AFTERMATH: Final = 15 * MINUTE
SOON: Final = 0.003
"""Seconds of real time in which an answer may come before the engine is let go on."""
PATIENT: Final = 20
"""After so many of them somebody waits for time to go on."""


def session() -> Session:
    """The day's."""
    found = load_nse().session_on(DATE)
    if found is None:
        raise ValueError(f"{DATE} has no session")
    return found


class User:
    """Somebody with an account here, over HTTP. `ask` answers what was answered."""

    def __init__(self, day: "PaperDay", user_id: int, token: str) -> None:
        self.id = user_id
        self._day = day
        self._token = token

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        return await self._day.request(method, path, body, {"authorization": f"Bearer {self._token}"})

    async def create(self, symbol: str, quantity: int, bought: str, sold: str, stop: str, product: str = "MIS") -> int:
        """A strategy's id."""
        answer = await self.ask(
            "POST",
            "/strategy/create",
            {
                "symbol": symbol,
                "quantity": quantity,
                "buy_time": bought,
                "sell_time": sold,
                "stop_loss": float(stop),
                "product": product,
            },
        )
        return int(_well(answer)["strategy_id"])

    async def started(self, *config: Any) -> int:
        """A strategy that was created and asked to start."""
        strategy_id = await self.create(*config)
        await self.start(strategy_id)
        return strategy_id

    async def start(self, strategy_id: int) -> None:
        _well(await self.ask("POST", "/strategy/start", {"strategy_id": strategy_id}))

    async def update(self, strategy_id: int, **fields: Any) -> None:
        _well(await self.ask("POST", "/strategy/update", {"strategy_id": strategy_id, **fields}))

    async def stop(self, strategy_id: int, *, square_off: bool) -> None:
        _well(await self.ask("POST", "/strategy/stop", {"strategy_id": strategy_id, "square_off": square_off}))

    async def settle(self, strategy_id: int, quantity: int) -> None:
        """So many shares were closed elsewhere."""
        _well(await self.ask("POST", "/strategy/settle", {"strategy_id": strategy_id, "quantity": quantity}))

    async def halt(self, reason: str, *, square_off: bool) -> None:
        _well(await self.ask("POST", "/halt", {"square_off": square_off, "reason": reason}))

    async def resume(self) -> None:
        _well(await self.ask("DELETE", "/halt"))


def _well(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise RuntimeError(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    told: dict[str, Any] = answer.json() if answer.content else {}
    return told


class PaperDay:
    """`market` gives what trades in a stretch of the day; `until` lives through it."""

    def __init__(self, home: Path, plan: str, seed: int, ticks: int, settings: Mapping[str, Any]) -> None:
        """`plan`: what goes wrong at the broker. `settings`: on top of those of a paper day."""
        self.home = home
        self.now: Instant = session().open_at - 30 * MINUTE
        self.archives = True
        """Whether the archive writes; its end is what is lost with Redis."""
        usual = {"http_port": 0, "calendar": "nse", "archive_patience": dt.timedelta(seconds=20)}
        self._settings = Settings.load(home=home, paper_plan=plan, **usual, **settings)
        opening = {symbol: DEFAULT_SYMBOLS[symbol] for symbol in SYMBOLS}
        self._ticks = list(generate_day(DATE, opening, seed, ticks_per_symbol=ticks, session=session()))
        self._next = 0
        self._due: Instant | None = None
        self._stack = AsyncExitStack()
        self._engine: Engine | None = None
        self._http = httpx.AsyncClient(timeout=60)

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the engine is not open")
        return self._engine

    # --- the engine ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Starts it, with whatever recovery that takes."""
        self._engine = await self._stack.enter_async_context(open_engine(self._settings, self.now, ROLES))
        self.now = max(self.now, self.engine.clock.now())
        await self.settle()

    async def close(self) -> None:
        """Stops it, servers included."""
        self._engine = None
        await self._stack.aclose()
        self._stack = AsyncExitStack()

    async def end(self) -> None:
        await self.close()
        await self._http.aclose()

    def lose_redis(self) -> None:
        """Everything that it held. The engine must not run."""
        shutil.rmtree(EmbeddedRedis(self.home).folder)

    async def entries(self) -> list[Raw]:
        """The log, from its beginning."""
        return [raw async for page in read_entries(self.engine.house.logs[0]) for raw in page]

    async def append(self, *events: Event, strategy: int = 0, user: int = 0) -> None:
        """What others than users append, blind: an operator, a command."""
        await self.engine.house.logs[0].append([NewEvent(event, strategy, user) for event in events])

    # --- time ---------------------------------------------------------------------------------------------------------

    async def until(self, at: Instant) -> None:
        """The market trades and the engine lives until `at`."""
        while self._next < len(self._ticks) and (end := self._ticks[self._next].at // WINDOW * WINDOW + WINDOW) <= at:
            await self._pass(end)
            first = self._next
            while self._next < len(self._ticks) and self._ticks[self._next].at < end:
                self._next += 1
            await self.trade(self._ticks[first : self._next])
        await self._pass(at)

    async def trade(self, batch: Sequence[Tick]) -> None:
        """These ticks come now."""
        if await self.engine.ticks(self.now, batch):
            await self.settle()

    async def finish(self) -> None:
        """To the close, and until what is open then is resolved."""
        await self.until(session().close_at + AFTERMATH)
        await self.settle()

    async def settle(self) -> None:
        """Lets everything happen that can happen now."""
        for _ in range(3):
            rest = await self.engine.settle(self.now, archive=self.archives)
            self.now, self._due = max(self.now, rest.now), rest.due
            if not rest.done:
                return

    async def _pass(self, at: Instant) -> None:
        while self._due is not None and self._due <= at:
            self.now = max(self.now, self._due)
            await self.settle()
        self.now = max(self.now, at)

    # --- people -------------------------------------------------------------------------------------------------------

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        """A request, while the engine goes on."""
        address = self.engine.address
        return await self.meanwhile(self._http.request(method, address + path, json=body, headers=dict(headers)))

    async def meanwhile(self, doing: Coroutine[Any, Any, T]) -> T:
        """What somebody does, while the engine goes on; time passes when they wait for it."""
        task = asyncio.create_task(doing)
        turns = 0
        while not task.done():
            await self.settle()
            await asyncio.wait({task}, timeout=SOON)
            turns += 1
            if turns % PATIENT == 0 or self.engine.clock.asleep(task):
                await self._pass(self.now + SECOND // 10)
        return task.result()

    async def join(self, name: str) -> User:
        """A new user, logged in and connected to the paper broker."""
        about = {"email": f"{name}@example.com", "password": secrets.token_urlsafe(24)}
        told = _well(await self.request("POST", "/auth/register", about, {}))
        user = User(self, int(told["user_id"]), str(told["access_token"]))
        _well(await self.request("POST", "/auth/login", about, {}))
        keys = {"broker": "paper", "api_key": "any", "api_secret": "any", "access_token": "any"}
        _well(await user.ask("POST", "/broker/connect", keys))
        return user

    async def states(self) -> dict[int, Any]:
        """The live states, by strategy."""
        _, states, _ = await live_states(self.engine.house.logs[0])
        return {state.id: state for state in states}

    def price(self, symbol: str, at: Instant) -> Decimal:
        """The last price before `at`: the market is the same in every run of a seed."""
        found = [tick.price for tick in self._ticks if tick.symbol == symbol and tick.at <= at]
        return found[-1] if found else DEFAULT_SYMBOLS[symbol]


@asynccontextmanager
async def open_paper_day(
    home: Path, *, plan: str = "", seed: int = 1, ticks: int = 1_500, **settings: Any
) -> AsyncIterator[PaperDay]:
    """A day with its engine open, half an hour before the market is. `ticks`: of each symbol."""
    day = PaperDay(home, plan, seed, ticks, settings)
    try:
        await day.open()
        yield day
    finally:
        await day.end()
