"""`bahi kite-sim`: a Kite to try things with: REST and stream, a market that moves, and faults by chance."""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct

from bahi.cli.common import Json, fail, out, print_json, run_async
from bahi.clock import SystemClock
from bahi.telemetry.logging import configure_logging
from domain.clock import Clock
from simulation.kite.faults import Fault, SeededFaults
from simulation.kite.market import trade_for_ever
from simulation.kite.server import Server, serve
from simulation.kite.sim import KiteSim
from simulation.market import DEFAULT_SYMBOLS
from simulation.ticks import TickFile
from sources.feeds.file import FileFeed
from sources.feeds.port import Feed
from sources.feeds.simulated import SimulatedFeed

PORTS = 65_535


class Customer(Struct, frozen=True):
    """An account of the server, with what its owner would know."""

    user_id: str
    api_key: str
    api_secret: str
    access_token: str


class Running(Struct, frozen=True):
    """What `--json` prints when the server is up."""

    root: str
    ws_root: str
    customers: list[Customer]


def kite_sim(
    port: Annotated[int, typer.Option(min=0, max=PORTS, help="Of REST; 0 takes a free one.")] = 8765,
    ws_port: Annotated[int, typer.Option(min=0, max=PORTS, help="Of the stream; 0 takes a free one.")] = 8766,
    users: Annotated[int, typer.Option(min=1, max=1000, help="Customers, each with an app.")] = 2,
    ticks: Annotated[
        Path | None, typer.Option(help="Play a recorded day from now on: CSV, optionally .gz. Else prices are drawn.")
    ] = None,
    still: Annotated[bool, typer.Option("--still", help="No market: prices change only by POST /sim/prices.")] = False,
    fault: Annotated[
        list[str] | None, typer.Option(help="NAME=RATE, as F1_ACCEPTED_THEN_HANGS=0.05; may be repeated.")
    ] = None,
    faults: Annotated[bool, typer.Option("--faults", help="List the faults that there are.")] = False,
    seed: Annotated[int, typer.Option(help="Of the faults and of the market.")] = 1,
    route_prefix: Annotated[str, typer.Option(help="Before every path, as Zerodha's sandbox has /oms.")] = "",
    json: Json = False,
) -> None:
    """Run a simulated Kite: orders, order book, ticks, sessions and faults. No real order leaves it."""
    if faults:
        for each in Fault:
            out.print(f"{each.name:30} {each.value}", markup=False, soft_wrap=True)
        return
    configure_logging("WARNING")
    plan = _plan(fault or [], seed)
    clock = SystemClock()
    feed: Feed | None = None
    if still and ticks is not None:
        fail("--still and --ticks: a market either stands still or plays a recorded day")
    if ticks is not None:
        recording = TickFile(ticks)
        next(iter(recording), None)  # what is wrong with it is said now
        feed = FileFeed(lambda: recording, clock, onto=clock.now(), name=str(ticks))
    elif not still:
        feed = SimulatedFeed(DEFAULT_SYMBOLS, clock, per_second=100, seed=seed)
    run_async(_serve(clock, plan, feed, users, port, ws_port, route_prefix, json))


async def _serve(
    clock: Clock,
    plan: SeededFaults | None,
    feed: Feed | None,
    users: int,
    port: int,
    ws_port: int,
    route_prefix: str,
    json: bool,
) -> None:
    sim = KiteSim(clock, plan=plan)
    customers = [_customer(sim, number) for number in range(1, users + 1)]
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with serve(sim, port=port, ws_port=ws_port, route_prefix=route_prefix) as server:
        trading = None if feed is None else asyncio.create_task(trade_for_ever(sim, feed), name="market")
        if json:
            print_json(Running(server.root, server.ws_root, customers))
        else:
            _show(server, customers)
        await stopping.wait()
        if trading is not None:
            trading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await trading


def _customer(sim: KiteSim, number: int) -> Customer:
    user_id, key, secret = f"AB{number:04}", f"kite-sim-key-{number}", f"kite-sim-secret-{number}"
    sim.register(user_id, api_key=key, api_secret=secret)
    return Customer(user_id, key, secret, sim.open_session(user_id))


def _plan(asked: Sequence[str], seed: int) -> SeededFaults | None:
    rates = {}
    for each in asked:
        name, _, rate = each.partition("=")
        if name not in Fault.__members__:
            fail(f"{name} is no fault; `bahi kite-sim --faults` lists them")
        try:
            rates[Fault[name]] = float(rate)
        except ValueError:
            fail(f"--fault {each}: write NAME=RATE with a rate between 0 and 1")
    try:
        return SeededFaults(seed, rates) if rates else None
    except ValueError as error:
        fail(str(error))


def _show(server: Server, customers: Sequence[Customer]) -> None:
    out.print(f"A simulated Kite listens on {server.root} and {server.ws_root}. Point bahi at it:", soft_wrap=True)
    out.print()
    login = f"{server.root}/connect/login"
    for line in (
        f"export BAHI_KITE_ROOT={server.root} BAHI_KITE_WS_ROOT={server.ws_root}",
        f"export BAHI_KITE_LOGIN={login} BAHI_KITE_FAMILY=true BAHI_CALENDAR=always-open",
    ):
        out.print(f"  {line}", markup=False, soft_wrap=True)
    out.print()
    out.print("(The second line is for several customers on one address, and for trying it at any hour.)")
    out.print("Its customers, for POST /broker/connect:")
    for each in customers:
        out.print(
            f"  {each.user_id}  api_key {each.api_key}  api_secret {each.api_secret}  access_token {each.access_token}",
            markup=False,
            soft_wrap=True,
        )
    out.print(f"To log in as they would: {login}?v=3&api_key=…", markup=False, soft_wrap=True)
    out.print("Stop it with Ctrl-C. Faults: --fault NAME=RATE, --faults lists them.", markup=False)
