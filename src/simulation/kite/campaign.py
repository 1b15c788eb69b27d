"""The campaign: round after round, each from its own seed, until so many orders have been placed.

The rounds are shared out among processes, each with a Redis of its own. What a seed does is the same in every run but
for the order in which calls that are under way at once come back.
"""

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Final

import uvloop
from msgspec import Struct

from bahi.ending import end_children
from eventstore.clients import command, log_client
from simulation.kite.faults import Fault
from simulation.kite.round import Plan, Round
from simulation.kite.tally import Tally

__all__ = ["DEATHS", "RATES", "Played", "campaign", "play"]

OpenRedis = Callable[[], AbstractContextManager[str]]
"""Starts an empty Redis and gives its address; picklable, to be called in another process."""

STREAM_RATES: Final[Mapping[Fault, float]] = {
    Fault.F12_PUSH_LOST: 0.1,
    Fault.F12_PUSH_DUPLICATED: 0.1,
    Fault.F12_PUSH_REORDERED: 0.1,
    Fault.F14_SILENT_STREAM: 0.002,
    Fault.F15_STREAM_ABORTED: 0.01,
    Fault.F15_SLOW_READER: 0.002,
    Fault.F17_UNKNOWN_PACKET: 0.05,
    Fault.F17_EMPTY_FRAME: 0.05,
    Fault.F17_TRUNCATED_FRAME: 0.05,
}
"""Of every frame or order update of a stream."""

DEATHS: Final = 0.02
"""The share of orders that each point of death strikes."""
STRATEGIES: Final = 200
"""Of a round, unless said otherwise; there is a user for each 25 of them, and two at least."""
LONGEST: Final = 600.0
"""Seconds of real time after which a round counts as hanging."""
RATES: Final[Mapping[Fault, float]] = {
    Fault.F1_ACCEPTED_THEN_HANGS: 0.02,
    Fault.F2_ACCEPTED_THEN_DROPPED: 0.03,
    Fault.F2_ACCEPTED_HALF_ANSWER: 0.02,
    Fault.F3_DROPPED_BEFORE: 0.03,
    Fault.F4A_HTML_AFTER: 0.03,
    Fault.F4B_HTML_BEFORE: 0.03,
    Fault.F5_SURFACES_LATER: 0.04,
    Fault.F6_TIMED_OUT_400: 0.03,
    Fault.MARGIN_REFUSED: 0.02,
    Fault.F16_ERROR_WITHOUT_TYPE: 0.005,
    Fault.F16_NO_CONTENT_TYPE: 0.01,
    Fault.F16_LIST_AT_TOP: 0.01,
    Fault.F16_TRUNCATED_JSON: 0.01,
    Fault.F8A_STUCK_OPEN_PENDING: 0.03,
    Fault.F10_HALF_THEN_CANCELLED: 0.04,
    Fault.F11_HALF_THEN_STUCK: 0.06,
    Fault.F16_UNKNOWN_STATUS: 0.03,
    Fault.F16_TAG_ONLY_IN_TAGS: 0.05,
    Fault.F19_SECOND_ORDER_WITH_TAG: 0.02,
    Fault.REJECTED_LATER: 0.03,
    Fault.HALF_THEN_REST: 0.08,
    Fault.F7_TOO_MANY_ORDERS: 0.03,
    Fault.F18_IP_NOT_ALLOWED: 0.01,
    Fault.F8B_STUCK_THEN_CANCELLED: 0.1,
    Fault.F8B_STUCK_THEN_FILLED: 0.1,
    Fault.F9_CANCEL_LOSES: 0.1,
    Fault.CANCEL_REFUSED: 0.1,
    Fault.CANCEL_DONE_UNANSWERED: 0.1,
    Fault.CANCEL_IGNORED_UNANSWERED: 0.1,
    Fault.MODIFY_REFUSED: 0.1,
    Fault.MODIFY_DONE_UNANSWERED: 0.1,
    Fault.MODIFY_IGNORED_UNANSWERED: 0.1,
    Fault.F4C_HTML_READING: 0.01,
    Fault.F7_TOO_MANY_READINGS: 0.01,
    Fault.F16_EXTRA_FIELDS: 0.01,
    Fault.F16_MISSING_FIELDS: 0.01,
    Fault.F16_MISSING_KEY_FIELDS: 0.005,
    Fault.F16_NUMBERS_AS_STRINGS: 0.01,
    Fault.READING_HANGS: 0.001,
    Fault.READING_DROPPED: 0.01,
    Fault.F13_TOKEN_DIES: 0.0005,
}


class Played(Struct, frozen=True):
    """A round that was played. `violations`: what did not hold, or the error that broke it off."""

    seed: int
    tally: Tally
    violations: list[str]


def plan_of(seed: int, strategies: int, stream: bool) -> Plan:
    """Every fourth round's server has a clock that is off."""
    return Plan(
        users=max(2, strategies // 25),
        strategies=strategies,
        rates={**RATES, **STREAM_RATES} if stream else RATES,
        deaths=DEATHS,
        skewed=seed % 4 == 0,
        streamed=stream,
    )


def play(open_redis: OpenRedis, seed: int, strategies: int = STRATEGIES, stream: bool = False) -> Played:
    """One round, in this process. Never raises for what the round did."""
    with open_redis() as url:
        return uvloop.run(_play(url, seed, plan_of(seed, strategies, stream)))


def campaign(
    open_redis: OpenRedis,
    *,
    orders: int,
    seed: int,
    jobs: int,
    strategies: int = STRATEGIES,
    stream: bool = False,
    prepare: Callable[[], None] | None = None,
) -> Iterator[Played]:
    """Rounds, as they end, until `orders` have been placed; the first has `seed`, the next the one after it.
    `stream`: ticks come over the stream, with its faults. `prepare` is called first in each of the `jobs` processes."""
    context = multiprocessing.get_context("spawn")
    placed, following = 0, seed
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=prepare) as pool:
        running: set[Future[Played]] = set()
        try:
            while running or placed < orders:
                while placed < orders and len(running) < jobs:
                    running.add(pool.submit(play, open_redis, following, strategies, stream))
                    following += 1
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    played = each.result()
                    placed += played.tally.orders
                    yield played
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_children()  # nobody waits for their rounds any more
            raise


async def _play(url: str, seed: int, plan: Plan) -> Played:
    redis = log_client(url)
    try:
        await command(redis, "FLUSHALL")
    finally:
        await redis.aclose()
    game = Round(url, seed, plan)
    try:
        async with asyncio.timeout(LONGEST):
            counted = await game.play()
    except Exception as error:
        return Played(seed, Tally(), [f"the round broke off: {type(error).__name__}: {error}"])
    return Played(seed, counted, [*counted.faults, *game.violations])
