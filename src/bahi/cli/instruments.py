"""`bahi instruments`: what may be traded at Kite, as the last dumps have it, and a dump from a file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bahi.cli.common import (
    CHECK_FAILED,
    Home,
    Json,
    err,
    fail,
    load_settings,
    out,
    print_json,
    run_async,
    say,
    show,
    table,
    until_closed,
)

if TYPE_CHECKING:
    from bahi.database.dumps import Stored
    from bahi.database.instruments import SqlInstruments, StoredInstrument

__all__ = ["instruments"]

NOTHING = (
    "The instruments of Kite are not loaded yet: the engine downloads them when an account is connected; "
    "--import FILE loads a dump"
)


def instruments(
    symbol: Annotated[
        str | None, typer.Argument(help="Show this one, or what looks like it: NSE:INFY, or just INFY.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--import", metavar="FILE", help="Load a dump of Kite (CSV, plain or gzip) in place of today's download."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --import: also when it lists less than half of what is listed now.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Show what may be traded at Kite, and how old the list is; or load a dump from a file.

    Exits with 1 when SYMBOL is not listed.
    """
    settings = load_settings(home)
    if file is not None:
        if symbol is not None:
            fail("name a SYMBOL or a file to --import, not both")
        run_async(_import(settings, file, force, json))
        return
    if force:
        fail("--force is for --import")
    with until_closed():
        run_async(_overview(settings, json) if symbol is None else _one(settings, symbol, json))


async def _overview(settings: Any, json: bool) -> None:
    from bahi.cli.reader import open_reader
    from bahi.database.instruments import SqlInstruments

    async with open_reader(settings) as reader:
        found = await SqlInstruments(reader.database).dumps()
        if json:
            for each in found:
                print_json(each)
            return
        if not found:
            say(NOTHING)
            return
        numbers = ("listed", "renamed", "left out")
        listed = table("", "exchange", "dump of", "stored", *numbers, right=numbers)
        for each in found:
            stored = each.downloaded_at.astimezone(settings.zone).isoformat(" ", "seconds")
            counts = (each.listed, each.renamed, each.left_out)
            listed.add_row(each.exchange, each.downloaded_on.isoformat(), stored, *map(str, counts))
        show(listed)


async def _one(settings: Any, symbol: str, json: bool) -> None:
    from bahi.cli.reader import open_reader
    from bahi.database.instruments import SqlInstruments

    asked = symbol.strip() if ":" in symbol else f"NSE:{symbol.strip()}"
    async with open_reader(settings) as reader:
        store = SqlInstruments(reader.database)
        if not await store.versions():
            fail(NOTHING, CHECK_FAILED)
        found = await store.get(asked)
        if found is not None and found.listed:
            _tell(found, json)
            return
        near = await _near(store, reader.clock, asked)
    if json:
        print_json({"symbol": asked, "listed": False, "was_listed": found is not None, "near": near})
    else:
        last = "" if found is None else f" any more; the last dump with it is of {found.downloaded_on}"
        hint = f": did you mean {', '.join(near)}?" if near else ""
        say(f"{asked} is not listed{last}{hint}")
    raise typer.Exit(CHECK_FAILED)


async def _near(store: "SqlInstruments", clock: Any, symbol: str) -> list[str]:
    from bahi.instruments import CatalogueFollower
    from bahi.telemetry.logging import configure_logging
    from brokers.instruments import InstrumentCatalogue

    configure_logging("ERROR")
    catalogue = InstrumentCatalogue(clock)
    await CatalogueFollower(catalogue, store, clock).load()
    return catalogue.near(symbol)


def _tell(found: "StoredInstrument", json: bool) -> None:
    from msgspec.structs import asdict

    if json:
        print_json(found)
        return
    listed = table(found.symbol, "", "", fold=("",))
    listed.show_header = False
    for name, value in asdict(found).items():
        if value is not None and name not in ("symbol", "listed"):
            listed.add_row(name.replace("_", " "), str(value))
    show(listed)


async def _import(settings: Any, file: Path, force: bool, json: bool) -> None:
    from bahi.cli.reader import has_data
    from bahi.database.instruments import SqlInstruments
    from bahi.instruments import dump_day
    from bahi.telemetry.logging import configure_logging
    from bahi.wiring import open_house
    from brokers.kite.dump import DumpError

    configure_logging("ERROR")
    exchanges = [each.strip() for each in settings.kite_exchanges.split(",") if each.strip()]
    if settings.redis_url is None and not has_data(settings.home.expanduser(), "redis"):
        err.print(f"bahi: this begins a new installation in {settings.home}", markup=False, soft_wrap=True)
    with file.open("rb") as source:
        async with open_house(settings, writer=None) as house:
            now = house.clock.now()
            try:
                stored = await SqlInstruments(house.engine).store(
                    source, exchanges, day=dump_day(now), at=now, force=force
                )
            except DumpError as error:
                more = "" if force else "; --force loads a dump that is merely short"
                fail(f"{file} was not loaded, and what was listed stays: {error}{more}")
    _tell_stored(stored, json)


def _tell_stored(stored: "Stored", json: bool) -> None:
    if json:
        print_json(stored)
        return
    for exchange, count in stored.listed.items():
        out.print(f"{exchange}: {count} listed", markup=False)
    for what in ("added", "gone", "renamed", "changed"):
        noted = getattr(stored, what)
        if noted.count:
            shown = ", ".join(noted.first[:5])
            say(f"{noted.count} {what}: {shown}{', …' if noted.count > 5 else ''}", indent=2)
    if stored.left_out:
        sys.stdout.flush()
        err.print(f"bahi: {stored.left_out} rows were left out", markup=False, soft_wrap=True)
        for line, reason in stored.bad[:10]:
            err.print(f"  line {line}: {reason}", markup=False, soft_wrap=True)
