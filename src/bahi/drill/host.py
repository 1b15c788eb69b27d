"""One process of the engine under drill: `python -m bahi.drill FD`, spoken to over the socket FD.

It does what `bahi run` does, step by step as it is told, until it is killed, told to close, or kills itself at the
moment that it was told to. A log that is lost is opened anew, as every process of the engine does.
"""

import gc
import socket
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import uvloop
from msgspec import convert

from bahi.drill.effects import Effects
from bahi.drill.engine import Engine, open_engine
from bahi.drill.link import HostLink
from bahi.roles.process import load_role
from bahi.settings import Settings
from bahi.telemetry.logging import configure_logging
from domain.values import Config, Tick
from eventstore.errors import LogLost

__all__ = ["main"]

OPENINGS = 20
"""A log that is lost again and again while it is opened is no incident but a defect."""


class Host:
    def __init__(self, link: HostLink) -> None:
        self._link = link
        self._effects = Effects(self._reached, lambda: link.send({"stopping": True}))
        self._stack = AsyncExitStack()
        self._engine: Engine | None = None
        self._opened_with: dict[str, Any] = {}
        self._reopened = 0

    async def serve(self) -> None:
        while (message := await self._link.receive()) is not None:
            try:
                answer = await self._answer(message)
            except LogLost as lost:
                await self._reopen(message.get("now", 0))
                answer = {"lost": str(lost)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
                import traceback

                traceback.print_exc()
            address = self._engine.address if self._engine is not None else ""
            self._link.send({"reopened": self._reopened, "address": address, **answer})
        await self._stack.aclose()

    async def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        match message["do"]:
            case "open":
                self._opened_with = message
                await self._open(message["now"])
            case "settle":
                rest = await self._running.settle(message["now"], archive=message["archive"])
                return {"done": rest.done, "due": rest.due, "now": rest.now}
            case "ticks":
                batch = [Tick(symbol, Decimal(price), at, volume) for symbol, price, at, volume in message["ticks"]]
                return {"matters": await self._running.ticks(message["now"], batch)}
            case "create":
                asked = [(strategy, user, convert(each, Config)) for strategy, user, each in message["asked"]]
                await self._running.create(asked)
            case "archive":
                return {"archived": await self._running.archive()}
            case "stops":
                return {"stops": self._running.stops()}
            case "arm":
                self._effects.arm([(position, moments, how) for position, moments, how in message["at"]])
            case "close":
                await self._stack.aclose()
                self._engine = None
                gc.collect()
        return {}

    def _reached(self) -> int:
        return 0 if self._engine is None else self._engine.house.logs[0].seen

    @property
    def _running(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the engine is not open")
        return self._engine

    async def _open(self, now: int) -> None:
        for role in self._opened_with["roles"]:
            load_role(role)  # what `bahi run` loads, so that a start takes as long
        settings = Settings.load(
            home=Path(self._opened_with["home"]),
            http_port=0,
            archive_patience=timedelta(seconds=self._opened_with["patience"]),
        )
        for number in range(OPENINGS):
            try:
                self._engine = await self._stack.enter_async_context(
                    open_engine(settings, now, self._opened_with["roles"])
                )
                return
            except LogLost:
                if number == OPENINGS - 1:
                    raise

    async def _reopen(self, now: int) -> None:
        self._reopened += 1
        now = max(now, self._engine.clock.now() if self._engine is not None else 0)
        await self._stack.aclose()
        self._stack = AsyncExitStack()
        await self._open(now)


async def _serve(descriptor: int) -> None:
    end = socket.socket(fileno=descriptor)
    end.setblocking(False)
    await Host(await HostLink.over(end)).serve()


def main() -> None:
    configure_logging("WARNING")
    uvloop.run(_serve(int(sys.argv[1])))
