"""What the doctor looks at when prices and orders are Kite's. No session is used and nobody is logged in for it."""

import datetime as dt
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from bahi.cli.check import Check, ok
from bahi.settings import Settings

if TYPE_CHECKING:
    from bahi.cli.reader import Reader

__all__ = ["kite_instruments", "kite_server", "kite_sessions"]

PATIENCE = 5.0
"""Seconds that Kite may take to answer."""
SKEW = 2.0
"""Seconds; its clock is told in whole ones. Kite counts orders by the seconds of its own clock."""


async def kite_server(settings: Settings) -> list[Check]:
    """Whether Kite answers, and whether its clock is ours."""
    import httpx

    try:
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
            begun = time.time()
            answer = await client.get(settings.kite_root)
            now = (begun + time.time()) / 2
    except httpx.HTTPError as error:
        found = f"{settings.kite_root} does not answer: {type(error).__name__}"
        return [Check("kite", "failed", found, "look at BAHI_KITE_ROOT, the network and the firewall")]
    checks = [ok("kite", f"{settings.kite_root} answers")]
    if (said := answer.headers.get("date")) is not None:
        offset = now - parsedate_to_datetime(said).timestamp()
        if not -SKEW < offset < SKEW + 1:
            found = f"{offset:+.0f} s from that of Kite"
            checks.append(Check("kite clock", "failed", found, "follow NTP: orders are limited by Kite's seconds"))
    return checks


async def kite_sessions(reader: "Reader") -> list[Check]:
    """Who could trade now."""
    from sqlalchemy import func, select

    from bahi.database.tables import broker_accounts

    live = (broker_accounts.c.status == "connected") & (broker_accounts.c.expires_at > dt.datetime.now(dt.UTC))
    counted = select(func.count(), func.count().filter(live)).where(broker_accounts.c.broker == "kite")
    async with reader.database.connect() as connection:
        accounts, sessions = (await connection.execute(counted)).one()
    if not accounts:
        return [Check("kite sessions", "skipped", "no Kite account is connected yet: POST /broker/connect")]
    found = f"{sessions:,} of {accounts:,} accounts have a session"
    if sessions:
        return [ok("kite sessions", found)]
    return [
        Check("kite sessions", "warning", found, "prices and orders wait for a login at Kite; sessions end at 06:00")
    ]


async def kite_instruments(reader: "Reader") -> list[Check]:
    """Whether what is listed is of today."""
    from bahi.database.instruments import SqlInstruments
    from bahi.instruments import dump_day

    dumps = {each.exchange: each for each in await SqlInstruments(reader.database).dumps()}
    newest = dump_day(int(time.time() * 1e6))
    checks = []
    for exchange in reader.settings.kite_exchanges.replace(" ", "").split(","):
        dump = dumps.get(exchange)
        if dump is None:
            todo = "they are fetched with the first session; or `bahi instruments --import FILE`"
            checks.append(Check("instruments", "warning", f"{exchange}: none yet", todo))
        elif dump.downloaded_on < newest:
            found = f"{exchange}: {dump.listed:,}, of {dump.downloaded_on}"
            checks.append(Check("instruments", "warning", found, "they are fetched with the next session"))
        else:
            checks.append(ok("instruments", f"{exchange}: {dump.listed:,}, of {dump.downloaded_on}"))
    return checks
