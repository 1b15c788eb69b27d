"""A market for a simulated Kite that runs in real time: a feed's ticks become the exchange's trades."""

from brokers.port import BrokerUnavailable
from simulation.kite.sim import KiteSim
from sources.feeds.port import Feed, FeedError

__all__ = ["trade_for_ever"]


async def trade_for_ever(sim: KiteSim, feed: Feed) -> None:
    """Until the feed ends or this is cancelled. Symbols that the server does not list are left out."""
    feed.subscribe(frozenset(each.symbol for each in sim.instruments if not each.is_index))
    try:
        async for item in feed.ticks():
            if isinstance(item, list):
                await sim.on_ticks([tick for tick in item if sim.instruments.find(tick.symbol) is not None])
    except FeedError as error:
        raise BrokerUnavailable(f"the market's feed ended: {error}") from error
