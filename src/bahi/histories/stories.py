"""The days at the paper broker that are recorded: what people, the broker and the machines do in them."""

import datetime as dt
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bahi.database.users import SqlUsers
from bahi.drill.plan import PAPER_PLAN
from bahi.histories.paper_day import DATE, SYMBOLS, PaperDay, User, open_paper_day, session
from bahi.histories.recording import Recorder
from bahi.users import create_user
from domain.calendar import load_nse
from domain.decide import Decision
from domain.events import (
    AuditRead,
    EventParked,
    ForceStop,
    ParkedDismissed,
    ParkedRetried,
    StrategyStartRequested,
    UserRegistered,
)
from domain.facts import Facts
from domain.strategy import State
from domain.values import MINUTE, SECOND, Config, Instant, OrderRequest, Product, Side, Tag
from eventstore.envelope import Raw, decode
from eventstore.errors import CorruptEvent
from handlers.advance import AROUND, DecideNext
from handlers.decider import Wake, decided, take_turn
from simulation.market import DEFAULT_SYMBOLS
from simulation.plan import Market, draw_strategies

__all__ = ["quiet", "recovered", "surfaced", "troubled"]

TROUBLES: Final = (
    "seed={seed},latency=300ms,partial=0.3,rests=0.12,rejected=0.08,margin=0.03,rejected_after=0.06,throttled=0.05,"
    "timeout_exists=0.06,timeout_surfaces=0.05,timeout_never=0.05,cancel_refused=0.2,cancel_filled=0.15,"
    "cancel_unanswered=0.15,modify_refused=0.2,modify_unanswered=0.15,readings=0.05"
)
"""What goes wrong at the broker on a bad day: much, so that a small history holds much of it."""


LATE: Final = (
    "seed={seed},latency=300ms,timeout_surfaces=0.45,partial=0.4,rests=0.3,cancel_filled=0.3,cancel_refused=0.2,"
    "modify_refused=0.1"
)
"""What goes wrong at a broker that shows orders late."""


def _at(clock: str) -> Instant:
    """The exchange's wall clock on the day, as an instant."""
    return load_nse().instant(DATE, dt.time.fromisoformat(clock))


async def _armed(day: PaperDay, users: list[User], count: int, seed: int) -> list[int]:
    """Strategies drawn from the seed, by turns of the users."""
    market = Market(session(), {symbol: DEFAULT_SYMBOLS[symbol] for symbol in SYMBOLS}, 0)
    configs = draw_strategies(market, count, seed, load_nse(), dt.time(15, 10))
    return [await _arm(users[number % len(users)], config) for number, config in enumerate(configs)]


async def _arm(user: User, config: Config) -> int:
    times = (config.buy_time.isoformat(), config.sell_time.isoformat())
    return await user.started(config.symbol, config.quantity, *times, str(config.stop_loss), str(config.product))


async def _ask_to_start(day: PaperDay, strategy: int) -> None:
    """A start that the application has let pass, and that is refused when its turn comes."""
    desk = day.engine.house.desks[0]
    await take_turn(desk, strategy, lambda state, _: decided(state, [StrategyStartRequested()]), Wake())


async def _trade_by_hand(day: PaperDay, user: User, symbol: str, side: Side, quantity: int) -> None:
    """In the broker's own app."""
    tag = Tag(f"HAND{day.now // SECOND}")
    request = OrderRequest(symbol=symbol, side=side, quantity=quantity, product=Product.MIS, tag=tag)
    await day.meanwhile(day.engine.house.exchange.place(f"PAPER{user.id}", request))


# --- a quiet day ------------------------------------------------------------------------------------------------------


async def quiet(home: Path, seed: int) -> tuple[list[Raw], Recorder]:
    """Nothing fails. People change their minds: they update, stop, halt, resume, start again, and are audited."""
    recorder = Recorder()
    with recorder.listening():
        async with open_paper_day(home, plan="latency=200ms", seed=seed) as day:
            asha, bela, chand = [await day.join(name) for name in ("asha", "bela", "chand")]
            strategies = await _armed(day, [asha, bela], 16, seed)
            held = await chand.started("NSE:TCS", 5, "09:30:00", "15:00:00", "2400", "CNC")
            again = await chand.started("NSE:ITC", 20, "09:40:00", "09:50:00", "380")
            moved = await chand.started("NSE:INFY", 8, "10:30:00", "14:00:00", "1300")
            later = await chand.create("NSE:SBIN", 3, "11:00:00", "11:20:00", "900")
            await chand.started("NSE:INFY", 1, "12:40:00", "12:50:00", "1300")
            await day.until(_at("09:45:00"))
            await chand.update(held, stop_loss=2450, sell_time="14:40:00")
            await day.until(_at("10:00:00"))
            await chand.update(again, buy_time="10:20:00", sell_time="10:40:00")
            await chand.start(again)
            await chand.update(moved, buy_time="10:35:00", quantity=6)
            await chand.start(later)
            await day.until(_at("10:50:00"))
            await chand.stop(held, square_off=False)
            await _trade_by_hand(day, chand, "NSE:TCS", Side.SELL, 2)
            await day.until(_at("10:55:00"))
            await chand.settle(held, 2)
            await day.until(_at("11:05:00"))
            await chand.stop(held, square_off=True)
            await day.until(_at("11:10:00"))
            await day.append(ForceStop(reason="the operator's drill"), strategy=later, user=chand.id)
            await day.until(_at("12:30:00"))
            await chand.halt("lunch", square_off=False)
            await _ask_to_start(day, again)
            await day.until(_at("12:45:00"))
            await chand.resume()
            await day.until(_at("13:00:00"))
            await bela.halt("enough", square_off=True)
            await day.until(_at("13:30:00"))
            await bela.resume()
            await bela.stop(strategies[1], square_off=True)
            await _audit(day)
            await day.finish()
            return await day.entries(), recorder


async def _audit(day: PaperDay) -> None:
    """An auditor reads the history over REST, and the operator a part of it on the command line."""
    house = day.engine.house

    async def record(user_id: int, event: UserRegistered) -> None:
        await day.append(event, user=user_id)

    password = secrets.token_urlsafe(24)
    email = "auditor@example.com"
    await create_user(SqlUsers(house.engine), record, role="auditor", email=email, password=password)
    about = {"email": email, "password": password}
    told = (await day.request("POST", "/auth/login", about, {})).json()
    auditor = User(day, int(told["user_id"]), str(told["access_token"]))
    await auditor.ask("GET", "/audit/events?limit=5")
    await day.append(AuditRead(by="cli", what="state", filters={"strategy": "1"}))


# --- a bad day --------------------------------------------------------------------------------------------------------


async def troubled(home: Path, seed: int) -> tuple[list[Raw], Recorder]:
    """The broker fails in its ways, sessions end, somebody trades by hand, and events are parked."""
    recorder = Recorder()
    with recorder.listening():
        async with open_paper_day(home, plan=TROUBLES.format(seed=seed), seed=seed) as day:
            users = [await day.join(name) for name in ("devi", "esha", "firoz")]
            strategies = await _armed(day, users[:2], 40, seed)
            firoz = users[2]
            sick = await firoz.started("NSE:TCS", 4, "09:30:00", "10:00:00", "2400")
            well = await firoz.started("NSE:ITC", 4, "09:35:00", "10:05:00", "300")
            await firoz.started("NSE:SBIN", 7, "11:00:00", "11:30:00", "900")
            bare = await firoz.started("NSE:INFY", 9, "12:00:00", "12:30:00", "1300", "CNC")
            await day.until(_at("09:59:00"))
            with _cannot_decide(sick):
                await day.until(_at("10:02:00"))
            with _cannot_decide(well):
                await day.until(_at("10:06:00"))
            await _settle_parked(day, users)
            await day.until(_at("10:30:00"))
            await _trade_by_hand(day, firoz, "NSE:SBIN", Side.BUY, 3)
            await day.until(_at("11:10:00"))
            await _trade_by_hand(day, firoz, "NSE:SBIN", Side.SELL, 5)
            await day.until(_at("12:10:00"))
            await day.engine.house.exchange.expire_session(f"PAPER{firoz.id}")
            await day.until(_at("12:45:00"))
            await day.engine.house.exchange.renew_session(f"PAPER{firoz.id}")
            await firoz.stop(bare, square_off=True)
            await day.until(_at("13:15:00"))
            await users[0].halt("too much", square_off=True)
            await day.until(_at("13:30:00"))
            await users[0].resume()
            await _stop_some(day, users[1], strategies, seed)
            await day.finish()
            await _close_what_is_left(day, users)
            return await day.entries(), recorder


@contextmanager
def _cannot_decide(strategy: int) -> Iterator[None]:
    """A defect that strikes one strategy: its events are parked."""
    outer = AROUND.get()

    def around(decide: DecideNext) -> DecideNext:
        def fails(state: State, facts: Facts) -> Decision:
            if state.id == strategy:
                raise ZeroDivisionError("a defect of the recording's own")
            return decide(state, facts)

        return outer(fails) if outer is not None else fails

    token = AROUND.set(around)
    try:
        yield
    finally:
        AROUND.reset(token)


async def _settle_parked(day: PaperDay, users: list[User]) -> None:
    """The operator has the first one looked at again, and dismisses the others."""
    retried = False
    for raw in await day.entries():
        try:
            it = decode(raw)
        except CorruptEvent:
            continue
        if isinstance(it.event, EventParked):
            event = (ParkedDismissed if retried else ParkedRetried)(
                parked=it.event.parked, who="operator", why="mended"
            )
            retried = True
            await day.append(event, strategy=it.strategy_id, user=it.user_id)
    await day.settle()


async def _stop_some(day: PaperDay, user: User, strategies: list[int], seed: int) -> None:
    rng = random.Random(f"history/{seed}")  # noqa: S311 (a story, not a secret)
    for number, strategy in enumerate(strategies[1::2]):
        if rng.random() < 0.3:
            await user.stop(strategy, square_off=number % 2 == 0)


async def _close_what_is_left(day: PaperDay, users: list[User]) -> None:
    """Shares that the day left behind are declared closed elsewhere."""
    names = {user.id: user for user in users}
    for strategy, state in (await day.states()).items():
        if state.open_quantity > 0:
            await names[state.user_id].settle(strategy, state.open_quantity)


# --- a day on which the log is lost -----------------------------------------------------------------------------------


async def recovered(home: Path, seed: int) -> tuple[list[Raw], Recorder]:
    """Redis is lost twice, once with orders on their way and events that no archive had; and the engine is away for an
    hour. Each time a new epoch begins, or what was missed is said."""
    recorder = Recorder()
    with recorder.listening():
        async with open_paper_day(home, plan=PAPER_PLAN.format(seed=seed), seed=seed) as day:
            users = [await day.join(name) for name in ("gita", "hari")]
            await _armed(day, users, 20, seed)
            for number in range(6):  # due when the end of the log is lost
                await users[number % 2].started(SYMBOLS[number % 4], 10, f"10:00:0{number}", "14:00:00", "100")
            held = await users[0].started("NSE:INFY", 10, "09:20:00", "10:00:04", "100")
            await users[1].started("NSE:ITC", 5, "11:30:00", "13:00:00", "100")  # due while nobody is there
            await users[1].started("NSE:ITC", 5, "09:25:00", "11:40:00", "100")
            await day.until(_at("09:59:59"))
            day.archives = False
            await day.until(_at("10:00:05") + 100_000)
            await day.close()
            day.lose_redis()
            day.archives = True
            day.now += 5 * SECOND
            await day.open()
            await day.until(_at("11:00:00"))
            await users[0].stop(held, square_off=True)
            await day.close()
            day.now = _at("12:00:00")
            await day.open()
            await day.until(_at("13:00:00"))
            await day.close()
            day.lose_redis()
            day.now += MINUTE
            await day.open()
            await day.finish()
            return await day.entries(), recorder


# --- a day on which orders come back ----------------------------------------------------------------------------------


async def surfaced(home: Path, seed: int) -> tuple[list[Raw], Recorder]:
    """The broker shows orders only after they were given up, because the quarantine is far too short: they are
    cancelled, what they bought is sold again, what they sold beyond is alerted. The close finds nobody there."""
    recorder = Recorder()
    short = dt.timedelta(seconds=1)
    with recorder.listening():
        async with open_paper_day(
            home, plan=LATE.format(seed=seed), seed=seed, quarantine_ambiguous=short, quarantine_crash=short
        ) as day:
            users = [await day.join(name) for name in ("indu", "jaya")]
            await _armed(day, users, 24, seed)
            for number, symbol in enumerate(SYMBOLS):  # held when nobody is there any more
                await users[number % 2].started(symbol, 5, f"14:3{number}:00", "15:20:00", "100", "CNC")
            await day.until(_at("15:15:00"))
            await day.close()
            day.now = _at("15:31:00")
            await day.open()
            await day.finish()
            return await day.entries(), recorder
