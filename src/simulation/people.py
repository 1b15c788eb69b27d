"""The users of a simulated life, and the operator: what they ask of the API, again and again until it is answered."""

import random
from collections.abc import Awaitable, Callable
from datetime import time
from decimal import Decimal

from msgspec import Struct, field

from domain.commands import Changes, Refused, decide_start, decide_stop, decide_update
from domain.decide import Decision
from domain.events import Event, ForceStop, StrategyCreated, UserHalted, UserResumed
from domain.facts import Facts
from domain.strategy import State, evolve, initial
from domain.values import SECOND, Config, Instant, Product
from eventstore.batch import Appended, AppendResult, Duplicate, WrongEpoch
from eventstore.envelope import Dedupe, NewEvent
from eventstore.errors import LogLost
from handlers.decider import Wake, decided, take_turn
from handlers.desk import Desk, NoStrategy
from projections.runtime import encode_change
from simulation.street import GRID, SYMBOLS

__all__ = ["Answer", "ApiRole", "Client", "Request", "draw_config"]


class Answer(Struct, frozen=True):
    """What a request came to: its events' positions in the log of that epoch, if it wrote any."""

    epoch: str
    positions: tuple[int, ...] = ()


class Request(Struct, frozen=True):
    """One request with its Idempotency-Key. `told` is how the story names it."""

    key: str
    told: str
    carry_out: Callable[[Desk, Dedupe], Awaitable[AppendResult | None]]


class Client(Struct):
    """The requests that are not answered yet, in their order, and the answers."""

    pending: list[Request] = field(default_factory=list)
    answers: list[tuple[Request, Answer]] = field(default_factory=list)
    made: int = 0

    def ask(self, told: str, carry_out: Callable[[Desk, Dedupe], Awaitable[AppendResult | None]]) -> None:
        self.made += 1
        self.pending.append(Request(f"request-{self.made}", told, carry_out))

    def waits_for(self, told: str) -> bool:
        """Whether it has no answer to it, or one of which the archive does not know yet."""
        return any(each.told == told for each in (*self.pending, *(request for request, _ in self.answers)))


class ApiRole:
    """Carries out one request after the other. One that was not answered is asked again, with its key."""

    def __init__(self, desk: Desk, client: Client) -> None:
        self._desk = desk
        self._client = client

    async def begin(self) -> None:
        """It keeps nothing."""

    async def step(self, *, news: bool = True, timers: bool = True) -> int:
        done = 0
        while self._client.pending:
            request = self._client.pending[0]
            try:
                result = await request.carry_out(self._desk, Dedupe(f"api:{request.key}", request.told))
            except NoStrategy:
                result = None  # 404
            if isinstance(result, WrongEpoch):
                raise LogLost(f"this process belongs to epoch {self._desk.log.epoch}, the log is at {result.actual}")
            positions = result.positions if isinstance(result, Appended | Duplicate) else ()
            if request in self._client.pending:
                self._client.pending.remove(request)
                self._client.answers.append((request, Answer(self._desk.log.epoch, positions)))
            done += 1
        return done

    def due(self) -> Instant | None:
        """It waits for requests, not for time."""
        return None

    def drop(self) -> None:
        """The client asks again."""


# --- what is asked for -----------------------------------------------------------------------------------------------

Ask = Callable[[Desk, Dedupe], Awaitable[AppendResult | None]]


def create(strategy_id: int, user_id: int, config: Config) -> Ask:
    created = StrategyCreated(config=config)
    write = encode_change(initial(strategy_id), evolve(initial(strategy_id, user_id), created), None)

    async def ask(desk: Desk, once: Dedupe) -> AppendResult:
        return await desk.log.append([NewEvent(created, strategy_id, user_id, dedupe=once)], expected=0, runtime=write)

    return ask


def start(strategy_id: int) -> Ask:
    return _decided(strategy_id, decide_start)


def update(strategy_id: int, changes: Changes) -> Ask:
    return _decided(strategy_id, lambda state, facts: decide_update(state, changes, facts))


def stop(strategy_id: int, *, square_off: bool) -> Ask:
    async def ask(desk: Desk, once: Dedupe) -> AppendResult | None:
        state, _ = await desk.look(strategy_id)
        events = decide_stop(state, square_off)
        return await _blind(desk, strategy_id, state.user_id, events, once)

    return ask


def force_stop(strategy_id: int) -> Ask:
    async def ask(desk: Desk, once: Dedupe) -> AppendResult | None:
        state, _ = await desk.look(strategy_id)
        return await _blind(desk, strategy_id, state.user_id, (ForceStop(reason="operator"),), once)

    return ask


def halt(user_id: int, *, square_off: bool) -> Ask:
    async def ask(desk: Desk, once: Dedupe) -> AppendResult | None:
        return await _blind(desk, 0, user_id, (UserHalted(square_off=square_off),), once)

    return ask


def resume(user_id: int) -> Ask:
    async def ask(desk: Desk, once: Dedupe) -> AppendResult | None:
        return await _blind(desk, 0, user_id, (UserResumed(),), once)

    return ask


def _decided(strategy_id: int, decide: Callable[[State, Facts], tuple[Event, ...] | Refused]) -> Ask:
    async def ask(desk: Desk, once: Dedupe) -> AppendResult | None:
        def decision(state: State, facts: Facts) -> Decision | None:
            events = decide(state, facts)
            return None if isinstance(events, Refused) or not events else decided(state, events)

        turn = await take_turn(desk, strategy_id, decision, Wake(), once)
        return turn.result

    return ask


async def _blind(
    desk: Desk, strategy_id: int, user_id: int, events: tuple[Event, ...], once: Dedupe
) -> AppendResult | None:
    if not events:
        return None
    return await desk.log.append([NewEvent(event, strategy_id, user_id, dedupe=once) for event in events])


# --- what they trade -------------------------------------------------------------------------------------------------


def draw_config(chance: random.Random, clock_of: Callable[[Instant], time], opening: Instant) -> Config:
    """A strategy of the first minutes of the day: bought within three, sold at most five minutes later."""
    buy_at = opening + chance.randrange(20, 180) * SECOND
    sell_at = buy_at + chance.randrange(20, 300) * SECOND
    below = chance.choice((2, 4, 10, 20, 60, 150)) * GRID
    return Config(
        symbol=chance.choice(SYMBOLS),
        quantity=chance.choice((1, 7, 10, 25)),
        buy_time=clock_of(buy_at).replace(microsecond=0, tzinfo=None),
        sell_time=clock_of(sell_at).replace(microsecond=0, tzinfo=None),
        stop_loss=Decimal("150.00") - below,
        product=chance.choice((Product.MIS, Product.MIS, Product.CNC)),
    )
