"""`bahi simulate`: one life of the simulated world, told from its seed."""

import io
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bahi.cli.common import CHECK_FAILED, Json, fail, out, print_json, say, sorry, until_closed, verdict

__all__ = ["simulate"]


def simulate(
    seed: Annotated[int, typer.Option(help="The same seed lives the same life, to the byte.")],
    strategies: Annotated[int, typer.Option(min=1, help="Of two users; another number is another life.")] = 5,
    days: Annotated[int, typer.Option(min=1, help="Trading days.")] = 1,
    faults: Annotated[
        list[str] | None,
        typer.Option(
            help="Of these only: names, `all` or `none`; `-NAME` takes one away. May be repeated, or parted by commas.",
            show_default="all",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Live the life of a seed, and tell its story: every event, every fault, every start of a process.

    All roles of the engine run on a real Redis and PostgreSQL; the seed chooses who goes on next and what goes wrong.
    Exits with 1 when something that must hold is violated.
    """
    from bahi.telemetry.logging import configure_logging
    from simulation.faults import UnknownFault, parse_faults
    from simulation.lives import live
    from simulation.stage import open_stage

    configure_logging("CRITICAL", stream=io.StringIO())
    try:
        enabled = parse_faults([name for given in faults or ["all"] for name in given.split(",")])
    except UnknownFault as error:
        fail(str(error))
    with sorry(), tempfile.TemporaryDirectory(prefix="bahi-sim-") as home, open_stage(Path(home)) as stage:
        life = live(stage, seed, enabled, strategies=strategies, days=days)
    with until_closed(CHECK_FAILED if life.found else 0):
        if json:
            print_json(life)
        else:
            for line in life.story:
                out.print(line, markup=False, soft_wrap=True)
            struck = ", ".join(f"{name} {count}" for name, count in life.fired.items()) or "none"
            events = sum(life.types.values())
            say(f"{life.strategy_days} strategy-days, {life.orders} orders, {events} events, {life.calls:,} calls")
            say(f"faults: {struck}")
            verdict("everything holds that must, and everything came to its end", life.ok)
            for each in life.found:
                say(each, indent=2)
    if life.found:
        raise typer.Exit(CHECK_FAILED)
