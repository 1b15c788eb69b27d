"""Hypothesis strategies for what can follow what: histories, the states that they reach, logs of many strategies.

A history is played with the words of `bahi.testing.story`: a strategy's user, its market, the broker and time make
their moves, each only where it is possible, and a worker that looks appends what `decide_next` decides. A failing
history shrinks to a short one, since any move can be left out.
"""

from collections.abc import Callable, Sequence

import hypothesis.strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Struct
from msgspec.structs import replace

from bahi.testing import story
from bahi.testing.story import Scene, Word
from bahi.testing.strategies import configs, interleavings
from domain.decide import decide_next
from domain.events import Event, StrategyCreated
from domain.strategy import State
from domain.values import SECOND, Abort, Config, Final, Instant, Phase, Status
from eventstore.envelope import Recorded

__all__ = ["histories", "logs", "reordered", "scenes", "states"]

MOVES = 40
"""The most moves of a history."""


class Move(Struct, frozen=True):
    """Something that may happen: when it can, and the words for it, given a small number that chooses how."""

    possible: Callable[[Scene], bool]
    words: Callable[[Scene, int], Sequence[Word]]
    weight: int = 1


def scenes(*, moves: int = MOVES, strategy_id: int = 7, user_id: int = 1) -> SearchStrategy[Scene]:
    """A strategy and its world after up to `moves` moves; `scene.events` tells how it came there."""
    one = st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 11), st.sampled_from([True, True, False]))
    # half of them are long; a failing one still shrinks below that
    played = st.sampled_from([0, moves * 2 // 3]).flatmap(lambda least: st.lists(one, min_size=least, max_size=moves))
    return st.builds(lambda config, chosen: _play(Scene(strategy_id, user_id), config, chosen), configs(), played)


def histories(*, moves: int = MOVES) -> SearchStrategy[list[Event]]:
    """The events of one strategy, from STRATEGY_CREATED on."""
    return scenes(moves=moves).map(lambda scene: [event for _, event in scene.events])


def states(*, moves: int = MOVES) -> SearchStrategy[State]:
    """The states that such histories reach."""
    return scenes(moves=moves).map(lambda scene: scene.state)


def logs(*, strategies: int = 3, moves: int = 12) -> SearchStrategy[list[Recorded]]:
    """The log of up to so many strategies of two users, as it may be read: gapless positions and versions, and time
    that never runs backwards."""

    def of(count: int) -> SearchStrategy[list[Recorded]]:
        played = [scenes(moves=moves, strategy_id=41 + n, user_id=7 + n % 2) for n in range(count)]
        return st.tuples(*played).flatmap(lambda all_: reordered([each for scene in all_ for each in _recorded(scene)]))

    return st.integers(1, strategies).flatmap(of)


def reordered(log: Sequence[Recorded]) -> SearchStrategy[list[Recorded]]:
    """The same events in any order that keeps each strategy's own; positions and times are given anew."""
    return interleavings(log, key=lambda it: it.strategy_id).map(_numbered)


def _recorded(scene: Scene) -> list[Recorded]:
    found: list[Recorded] = []
    version = 0
    for at, event in scene.events:
        version += event.versioned
        event_id = f"s{scene.state.id}-{len(found) + 1}"
        owner = (event_id, scene.state.id, scene.state.user_id, event_id, "", "w")
        found.append(Recorded(0, version if event.versioned else 0, at, *owner, event))
    return found


def _numbered(log: Sequence[Recorded]) -> list[Recorded]:
    times = sorted(it.recorded_at for it in log)
    return [
        replace(it, position=number, recorded_at=at)
        for number, (it, at) in enumerate(zip(log, times, strict=True), start=1)
    ]


# --- playing --------------------------------------------------------------------------------------------------------


def _play(scene: Scene, config: Config, chosen: Sequence[tuple[int, int, bool]]) -> Scene:
    scene.fold(StrategyCreated(config=config))
    for which, how, looked in chosen:
        possible = [move for move in ALL if move.possible(scene) for _ in range(move.weight)]
        move = possible[which % len(possible)]
        for word in move.words(scene, how):
            word(scene)
        if looked:
            scene.take(decide_next(scene.state, scene.facts))
    return scene


def _phase(*phases: Phase) -> Callable[[Scene], bool]:
    def possible(scene: Scene) -> bool:
        return scene.state.order is not None and scene.state.order.phase in phases

    return possible


def _alive(scene: Scene) -> bool:
    return scene.state.alive


def _idle(scene: Scene) -> bool:
    return not scene.state.alive and not scene.state.start_requested and not scene.state.unresolved


def _armed(scene: Scene) -> bool:
    return scene.state.alive and scene.state.open_quantity > 0


def _start(scene: Scene, how: int) -> Sequence[Word]:
    return story.start_requested, story.decided


def _to_buy_time(scene: Scene, how: int) -> Sequence[Word]:
    return _until(scene.state.buy_at, scene), story.price("100"), story.buy_triggered


def _to_sell_time(scene: Scene, how: int) -> Sequence[Word]:
    return _until(scene.state.sell_at, scene), story.sell_triggered


def _until(at: Instant, scene: Scene) -> Word:
    return story.later(max(0, at - scene.facts.now) / SECOND)


def _part(scene: Scene, how: int) -> Sequence[Word]:
    """Some more of the order is filled."""
    order = scene.order
    return (story.filled(min(order.quantity, order.filled + 1 + how)),)


def _broken_off(scene: Scene, how: int) -> Sequence[Word]:
    """The order ends with what it has filled."""
    return (story.cancelled(),)


def _refused(scene: Scene, how: int) -> Sequence[Word]:
    return ((story.rejected(), story.rejected("MARGIN", curable=False), story.throttled, story.unreachable)[how % 4],)


def _moved_stop(scene: Scene, how: int) -> Sequence[Word]:
    return (story.updated(stop_loss=scene.state.stop_loss + (how % 3 - 1)),)


def _given_up(scene: Scene) -> bool:
    return scene.state.order is not None and scene.state.order.final is Final.NOT_PLACED


ALL: tuple[Move, ...] = (
    Move(lambda scene: True, lambda scene, how: [story.woken], weight=2),
    Move(_idle, _start, weight=8),
    Move(lambda scene: scene.state.status is Status.STARTING, lambda scene, how: [story.registered], weight=4),
    Move(lambda scene: _alive(scene) and not scene.state.entered, _to_buy_time, weight=8),
    Move(_alive, _to_sell_time),
    Move(_armed, lambda scene, how: [story.stoploss_triggered()], weight=3),
    Move(lambda scene: True, lambda scene, how: [story.later((1, 3, 11, 40, 150, 600)[how % 6])], weight=3),
    Move(lambda scene: True, lambda scene, how: [story.price(("100", "101", "97", "94")[how % 4])]),
    # the broker
    Move(_phase(Phase.SENDING, Phase.UNKNOWN), lambda scene, how: [story.accepted()], weight=10),
    Move(_phase(Phase.SENDING), lambda scene, how: [story.unknown()], weight=2),
    Move(_phase(Phase.SENDING), _refused, weight=2),
    Move(_phase(Phase.SENDING), lambda scene, how: [story.denied_by_sender()]),
    Move(_phase(Phase.UNKNOWN), lambda scene, how: [story.later(140), story.absent], weight=2),
    Move(_phase(Phase.LIVE), lambda scene, how: [story.completed()], weight=8),
    Move(_phase(Phase.LIVE), _part, weight=3),
    Move(_phase(Phase.LIVE), _broken_off),
    Move(_given_up, lambda scene, how: [story.accepted()], weight=2),
    # the user
    Move(lambda scene: True, lambda scene, how: [story.stop_requested(square_off=how % 2 == 1)]),
    Move(_alive, _moved_stop),
    Move(lambda scene: scene.facts.halt is None, lambda scene, how: [story.halted(square_off=how % 2 == 1)]),
    Move(lambda scene: scene.facts.halt is not None, lambda scene, how: [story.resumed], weight=4),
    Move(lambda scene: scene.facts.connected, lambda scene, how: [story.disconnected]),
    Move(lambda scene: not scene.facts.connected, lambda scene, how: [story.connected], weight=4),
    Move(_alive, lambda scene, how: [story.aborted(Abort.OPERATOR)]),
    Move(_armed, lambda scene, how: [story.settled(1)]),
)
"""Whoever chooses by a number gets the first ones for small numbers."""
