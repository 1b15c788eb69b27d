"""The paper broker passes the suite that every adapter has to pass: on its own thread, and inline."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.conformance import BrokerConformance
from tests.brokers.world import World


@pytest.fixture(params=["thread", "inline"])
def harness(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(tmp_path / "paper.db", inline=request.param == "inline")
    yield world
    world.close()


class TestPaperBroker(BrokerConformance):
    pass
