"""A process that places orders as fast as it can: `placer.py BOOK ACCOUNT PREFIX COUNT`.

Prints "ready", then the tag of every order whose answer it has heard. Made to be killed.
"""

import asyncio
import sys
from decimal import Decimal
from pathlib import Path

from bahi.clock import SystemClock
from brokers.instruments import BUILT_IN
from brokers.paper.book import Book
from brokers.paper.broker import PaperBroker
from brokers.paper.exchange import Exchange
from brokers.paper.seeded import parse_plan
from brokers.port import Accepted
from domain.calendar import AlwaysOpenCalendar
from domain.values import OrderRequest, Product, Side, Tag, Tick


async def price(symbol: str) -> Tick:
    return Tick(symbol, Decimal("340.05"), 0)


async def main(path: str, account: str, prefix: str, count: int) -> None:
    book = Book(Path(path))
    exchange = Exchange(
        book,
        SystemClock(),
        price,
        instruments=BUILT_IN,
        calendar=AlwaysOpenCalendar(),
        plan=parse_plan("seed=1,partial=0.2,rests=0.2"),
    )
    broker = PaperBroker(account, exchange)
    print("ready", flush=True)
    for n in range(count):
        tag = Tag(f"{prefix}{n}")
        request = OrderRequest(symbol="NSE:SBIN", side=Side.BUY, quantity=10, product=Product.MIS, tag=tag)
        answer = await broker.place(request)
        if not isinstance(answer, Accepted):
            raise SystemExit(f"{tag}: {answer}")
        if n % 3 == 0:
            await broker.modify(answer.order_id, price=Decimal("341.00"))
        if n % 3 == 1:
            await broker.cancel(answer.order_id)
        print(tag, flush=True)
    book.close()


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
