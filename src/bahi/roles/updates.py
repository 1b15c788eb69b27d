"""The role `updates`: reads the order books, reconciles, and tells people of alerts."""

import asyncio
from collections.abc import Sequence

from bahi.notifier import Notifier
from bahi.roles.base import Partition
from bahi.wiring import House
from brokers.port import Broker, Brokers
from handlers.desk import Desk
from handlers.poller import Poller
from sources.updates import OpenOrders, Updates


class UpdatesRole:
    def __init__(self, house: House, partitions: Sequence[Partition]) -> None:
        self._services = []
        webhook = house.settings.alert_webhook
        url = webhook.get_secret_value() if webhook is not None else None
        self._notifiers = [(Notifier(house.logs[each.number], url), each.follow()) for each in partitions]
        for each in partitions:
            orders = OpenOrders()
            orders.start(each.states)
            pollers = Pollers(house.desks[each.number])
            brokers = OfPartition(house.brokers, each.number, len(partitions))
            updates = Updates(brokers=brokers, clock=house.clock, poll=pollers.poll, orders=orders)
            self._services.append((updates, each.follow()))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            telling = [group.create_task(notifier.run(events)) for notifier, events in self._notifiers]
            async with asyncio.TaskGroup() as reading:
                for updates, events in self._services:
                    reading.create_task(updates.run(events))
            for task in telling:
                task.cancel()

    async def stop(self) -> None:
        for updates, _ in self._services:
            await updates.stop()


class OfPartition:
    """The brokers of one partition's users."""

    def __init__(self, brokers: Brokers, partition: int, partitions: int) -> None:
        self._brokers = brokers
        self._partition = partition
        self._partitions = partitions

    async def of(self, user_id: int) -> Broker | None:
        return await self._brokers.of(user_id)

    async def connected(self) -> list[int]:
        users = await self._brokers.connected()
        return [user_id for user_id in users if user_id % self._partitions == self._partition]


class Pollers:
    """A poller for every account that is asked for."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._pollers: dict[int, Poller] = {}

    async def poll(self, user_id: int, strategies: frozenset[int]) -> int:
        if user_id not in self._pollers:
            self._pollers[user_id] = Poller(self._desk, user_id)
        return await self._pollers[user_id].poll(strategies)
