"""Processes learn of a new list of instruments some seconds apart: whoever misses a symbol looks again."""

import asyncio

from msgspec import structs

from brokers.instruments import BUILT_IN, InstrumentTable
from brokers.port import Instrument
from tests.engine.conftest import OpenWorld
from tests.engine.world import World


class Late:
    """Instruments that are there once somebody has looked again."""

    def __init__(self) -> None:
        self.looks = 0
        self.now = InstrumentTable(())

    @property
    def loaded(self) -> bool:
        return True

    def find(self, symbol: str) -> Instrument | None:
        return self.now.find(symbol)

    def near(self, symbol: str) -> list[str]:
        return self.now.near(symbol)

    async def look_again(self) -> None:
        self.looks += 1
        await asyncio.sleep(0)
        self.now = BUILT_IN


async def test_a_strategy_whose_symbol_is_missing_has_the_list_looked_at_again(world: World) -> None:
    """Another process may have let the user create it seconds ago."""
    strategy, late = await world.create(), Late()
    desk = structs.replace(world.desk, instruments=late, look_again=late.look_again)
    _, facts = await desk.look(strategy)
    assert facts.instrument == BUILT_IN.find("NSE:INFY")
    await desk.look(strategy)
    assert late.looks == 1


async def test_with_shares_at_stake_nobody_waits_for_a_list(open_world: OpenWorld) -> None:
    world = await open_world()
    strategy, late = await world.bought(), Late()
    desk = structs.replace(world.desk, instruments=late, look_again=late.look_again)
    state, facts = await desk.look(strategy)
    assert state.open_quantity == 10
    assert (facts.instrument, late.looks) == (None, 0)
