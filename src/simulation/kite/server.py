"""Puts a simulated Kite on sockets: REST on one port, the stream on another, postbacks going out."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from domain.clock import Clock
from simulation.kite import admin, endpoints, extras
from simulation.kite.api import Api
from simulation.kite.http import Connections
from simulation.kite.postbacks import Postbacks
from simulation.kite.routing import Route
from simulation.kite.sim import KiteSim, idle
from simulation.kite.stream import StreamServer

__all__ = ["Server", "all_routes", "serve"]


def all_routes() -> list[Route]:
    """Every endpoint of the server, and the admin door."""
    return [*endpoints.ROUTES, *extras.ROUTES, *admin.ROUTES]


class Server:
    """A server that runs. `root` and `ws_root` are what a client is configured with."""

    def __init__(self, root: str, ws_root: str, stream: StreamServer, postbacks: Postbacks, http: Connections) -> None:
        self.root = root
        self.ws_root = ws_root
        self.stream = stream
        self.postbacks = postbacks
        self.http = http

    def stop_streams(self) -> None:
        """Cuts every connection of the stream, without a closing frame; clients may come back."""
        self.stream.abort()

    def drop_connections(self) -> None:
        """Cuts every REST connection, those that hang too."""
        self.http.abort()


@asynccontextmanager
async def serve(
    sim: KiteSim,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    ws_port: int = 0,
    route_prefix: str = "",
    routes: Sequence[Route] | None = None,
    beat: Clock | None = None,
) -> AsyncIterator[Server]:
    """Serves while the block lasts. `route_prefix`: as Zerodha's sandbox has "/oms" before all but the instruments.

    `beat`: the clock of the stream's heartbeats and silences, the server's own unless given.

    What time alone changes is settled when it is due, so that order updates go out without anybody asking. What an
    endpoint raised is raised at the end, all together: it was no fault that somebody asked for.
    """
    api = Api(sim, all_routes() if routes is None else routes, route_prefix)
    connections = Connections(api.answer)
    stream = StreamServer(sim, sim.instruments.find, plays=sim.plays, beat=beat)
    postbacks = Postbacks(sim.accounts, plays=sim.plays)
    async with AsyncExitStack() as stack:
        stream_port = await stack.enter_async_context(stream.serving(host, ws_port))
        await stack.enter_async_context(postbacks.sending())
        listening = await asyncio.get_running_loop().create_server(connections.protocol, host, port, backlog=1024)
        settling = asyncio.create_task(_settle_when_due(sim), name="kite sim: settling")
        sim.observers += [stream, postbacks]
        try:
            rest_port = listening.sockets[0].getsockname()[1]
            yield Server(f"http://{host}:{rest_port}", f"ws://{host}:{stream_port}", stream, postbacks, connections)
        finally:
            sim.observers.remove(stream)
            sim.observers.remove(postbacks)
            sim.wake = idle
            settling.cancel()
            listening.close()
            connections.abort()
            await asyncio.wait([settling])
            if not settling.cancelled():
                settling.result()
    if connections.failures:
        raise ExceptionGroup("endpoints failed", connections.failures)


async def _settle_when_due(sim: KiteSim) -> None:
    """Sleeps on the sim's clock until something is due, or until something earlier comes up."""
    changed = asyncio.Event()
    sim.wake = changed.set
    while True:
        changed.clear()
        sim.settle_now()
        due = sim.next_due()
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(changed.wait())]
        if due is not None:
            waits.append(asyncio.create_task(sim.clock.sleep(due - sim.clock.now())))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
