"""Kite's adapter passes the suite that every adapter has to pass, over sockets and the official client."""

from collections.abc import AsyncIterator

import pytest

from tests.brokers.conformance import BrokerConformance
from tests.kite.world import KiteWorld, kite_world


@pytest.fixture
async def harness() -> AsyncIterator[KiteWorld]:
    async with kite_world() as world:
        yield world


class TestKiteBroker(BrokerConformance):
    pass
