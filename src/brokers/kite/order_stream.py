"""Hints that orders changed, from the stream of the account that placed them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.socket import KiteSocket, Lost, Opened
from brokers.kite.texts import ErrorText, OrderText, parse_text
from domain.clock import Clock

__all__ = ["order_updates"]

log = structlog.get_logger(__name__)


async def order_updates(account: KiteAccount, address: KiteAddress, clock: Clock) -> AsyncGenerator[str, None]:
    """The ids of orders that may have changed, for ever; whoever leaves early closes it (`aclosing`).

    "" means: any order may have changed, read the book. It comes after every connection, because Kite keeps no updates
    for those who are away. Updates are lost, repeated and unordered by nature, and none comes for a plain acceptance.

    It takes one of the three connections of the api key. Raises SessionExpired when Kite refuses the session, and
    BrokerUnavailable when the address can never work; all other trouble it lives through.
    """
    told = ""
    async with aclosing(KiteSocket(account, address, clock).items()) as items:
        async for item in items:
            match item:
                case Opened():
                    if told:
                        log.info("kite_orders_back", account=account.kite_user_id)
                    told = ""
                    yield ""
                case str():
                    match parse_text(item):
                        case OrderText(order_id=order_id):
                            yield order_id
                        case ErrorText(text=text):
                            log.warning("kite_stream_error", account=account.kite_user_id, text=text)
                        case None:
                            pass  # a message to people, or nothing that we know
                case Lost(reason=reason):
                    if reason != told:  # the same, attempt after attempt, is said once
                        log.info("kite_orders_lost", account=account.kite_user_id, reason=reason)
                    told = reason
                case bytes():
                    pass  # heartbeats: nothing is subscribed here
