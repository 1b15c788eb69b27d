"""Time travel: the state as it was, of one or of all, whichever of archive and streams holds the events."""

from domain.events import UserHalted, UserResumed
from domain.strategy import State
from domain.values import Kind
from eventstore.envelope import NewEvent, Raw
from projections.replay import Replay
from projections.snapshotter import take_snapshot
from projections.time_travel import position_at, state_at, states_at
from tests.projections.world import USER, World


async def _lived(world: World) -> list[Raw]:
    """Three strategies, one of them halted meanwhile; half of it archived, with a snapshot, a part of that trimmed."""
    await world.day(1, Kind.STOPLOSS)
    await world.create(2)
    await world.log.append([NewEvent(UserHalted(square_off=True), user_id=USER)])
    await world.projector.step()
    assert await take_snapshot(world.archive)
    await world.trim(await world.log.last_position() - 9)
    await world.log.append([NewEvent(UserResumed(), user_id=USER)])
    await world.start(2)
    await world.order(2, Kind.BUY)
    await world.create(3)
    return await world.entries()


def _folded(entries: list[Raw], until: int) -> Replay:
    replay = Replay()
    replay.feed(entries[:until])
    return replay


async def test_the_states_after_any_event(world: World) -> None:
    entries = await _lived(world)
    for until in range(len(entries) + 1):
        expected = _folded(entries, until)
        found = await states_at(world.log, until)
        assert (found.states, found.halts) == (expected.states, expected.halts)
        for strategy_id in (1, 2, 3, 4):
            assert await state_at(world.log, strategy_id, until) == expected.states.get(strategy_id)
    assert (await states_at(world.log)).states == expected.states
    assert await state_at(world.log, 2) == expected.states[2]


async def test_it_makes_no_difference_what_is_archived(world: World) -> None:
    entries = await _lived(world)
    before = await state_at(world.log, 2, 30)
    await world.projector.step()
    await world.trim(len(entries))
    assert await state_at(world.log, 2, 30) == before
    assert isinstance(before, State)


async def test_the_position_at_any_instant(world: World) -> None:
    entries = await _lived(world)
    moments = sorted({raw.recorded_at + step for raw in entries for step in (-1, 0, 1)})
    for moment in moments:
        expected = max((raw.position for raw in entries if raw.recorded_at <= moment), default=0)
        assert await position_at(world.log, moment) == expected
    assert await position_at(world.log, 0) == 0
    assert await position_at(world.log, moments[-1] + 1_000_000_000) == len(entries)
