"""Level, not edge: whatever a strategy has to do is done, however its wake-up was lost (architecture §1).

When nothing moves in a simulated world, every strategy is asked what it would decide now. One that wants something for
long, while a worker stands idle, was forgotten: nobody will ever wake it. An exit that is due counts as wanted whatever
the rules say of it: nothing may hold it back but a back-off, an order under way, or a broker that cannot be reached.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from redis import Redis

from brokers.port import Instruments
from domain.calendar import Calendar
from domain.decide import decide_next
from domain.facts import Facts, Policy
from domain.strategy import State
from domain.values import SECOND, Duration, Instant
from eventstore.keys import CLASSES, GROUP, Keys, price
from handlers.desk import decode_foreign, decode_halt
from projections.prices import decode_price

__all__ = ["Idle"]

PATIENCE: Final[Duration] = 15 * SECOND
"""A message of a dead worker is taken over after two seconds, a lost call is made again after five."""
EVERY: Final[Duration] = 3 * SECOND


ASK: Final = """
local count, in_hand = tonumber(ARGV[1]), 0
for i = 1, count do
  local pending = redis.pcall('XPENDING', KEYS[i], ARGV[2])
  in_hand = in_hand + (pending.err and 1 or pending[1])
end
return {in_hand, unpack(redis.call('MGET', unpack(KEYS, count + 1)))}
"""
"""How many messages are in somebody's hands (or groups are gone), and the values of the other keys."""


class Idle:
    """`look` whenever nothing moves; it asks Redis past all wires."""

    def __init__(
        self, redis: "Redis", *, calendar: Calendar, policy: Policy, instruments: Instruments, users: Collection[int]
    ) -> None:
        self._redis = redis
        self._calendar = calendar
        self._policy = policy
        self._instruments = instruments
        self._users = sorted(users)
        self._keys = Keys()
        self._since: dict[int, tuple[int, Instant]] = {}
        """The version at which each strategy was first seen to want something that nobody did, and when."""
        self._looked_at: Instant = 0
        self._calm_since: Instant = 0

    def look(
        self,
        now: Instant,
        states: Mapping[int, State],
        *,
        connected: Collection[int],
        log_id: str,
        able: bool,
        calm_since: Instant,
    ) -> list[str]:
        """The strategies that were forgotten. Not `able`: no worker could have minded them just now; before
        `calm_since` none could either. While a message is in anybody's hands, it may be the one that wakes them."""
        self._calm_since = max(self._calm_since, calm_since)
        if not able:
            self._since.clear()
            return []
        if now < self._looked_at + EVERY:
            return []
        self._looked_at = now
        awake = {each.id: each for each in states.values() if _may_want(each)}
        self._since = {each: seen for each, seen in self._since.items() if each in awake}
        if not awake:
            return []
        symbols = sorted({state.symbol for state in awake.values()})
        latches_of = [(self._keys.halt(user_id), self._keys.foreign(user_id)) for user_id in self._users]
        keys = (*self._keys.streams.values(), *map(price, symbols), *(key for both in latches_of for key in both))
        answer: Any = self._redis.eval(ASK, len(keys), *keys, len(CLASSES), GROUP)
        in_hand, *answers = answer
        if in_hand:
            self._since.clear()
            return []
        prices = dict(zip(symbols, (decode_price(each) for each in answers), strict=False))
        of_users = answers[len(symbols) :]
        latches = dict(zip(self._users, zip(of_users[::2], of_users[1::2], strict=True), strict=True))
        found = []
        for state in awake.values():
            latch, foreign = latches[state.user_id]
            last = prices[state.symbol]
            facts = Facts(
                now=now,
                log_id=log_id,
                calendar=self._calendar,
                policy=self._policy,
                price=None if last is None else last[0],
                price_at=0 if last is None else last[1],
                connected=state.user_id in connected,
                halt=decode_halt(latch),
                instrument=self._instruments.find(state.symbol),
                foreign=decode_foreign(foreign, state.symbol, state.product),
            )
            wanted = [event.type for event in decide_next(state, facts).events]
            if not wanted and _exit_is_due(state, facts):
                wanted = ["an exit"]
            version, since = self._since.get(state.id, (state.version, now))
            if not wanted:
                self._since.pop(state.id, None)
                continue
            if version != state.version:  # somebody minded it, and it wants something again
                version, since = state.version, now
            self._since[state.id] = version, since
            if (waits := now - max(self._calm_since, since)) > PATIENCE:
                what = f"strategy {state.id} wants {', '.join(wanted)}"
                found.append(f"idle: {what}, and for {waits / SECOND:.0f} s nobody minds it")
        return found


def _may_want(state: State) -> bool:
    return state.alive or state.start_requested or state.unresolved or state.open_quantity != 0 or state.surfaced != 0


def _exit_is_due(state: State, facts: Facts) -> bool:
    if not state.alive or state.abort_due or state.open_quantity <= 0 or not (state.stop_due or state.sell_due):
        return False
    waits = state.unresolved or state.lingering or state.settle_after
    waits = waits or any(facts.now < tries.not_before for tries in state.tries.values())
    return not waits and facts.connected and facts.foreign >= 0 and facts.calendar.is_open(facts.now)
