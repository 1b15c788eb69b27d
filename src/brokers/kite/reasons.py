"""Why Kite, its risk checks or the exchange refused: stable reason codes out of their texts.

Staff say that the type of an error counts and that its text may change. So a text that is known gives a precise code,
any other the generic one of its type; nothing is ever taken for placed or not placed because of these codes.

*Curable* means that asking again may help, within seconds and without anybody's doing. A refused exit leaves a position
open, so what is not understood is curable: some more attempts cost little, and none of them can exist twice.

*Counted* means that the refusal says something of the order, so that some of them are enough. What was never sent, a
broker or a market that takes nothing at the moment, and used up limits say nothing of it. Nor do the price bands: a
stop-loss in a falling market runs into them, and must not be given up for it after three seconds.
"""

import re
from enum import StrEnum
from typing import Final

__all__ = ["Reason", "by_text", "by_type", "is_session_over", "is_undecided", "with_maximum"]


class Reason(StrEnum):
    """Why there is no such order, or why it was not changed."""

    BROKER_UNREACHABLE = "BROKER_UNREACHABLE"
    """No connection to it could be had: nothing was sent."""
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    ORDER_LIMIT = "ORDER_LIMIT"
    """The account's orders of the day, or of the minute, are used up."""
    SESSION_EXPIRED = "SESSION_EXPIRED"
    IP_NOT_ALLOWED = "IP_NOT_ALLOWED"
    PERMISSION = "PERMISSION"
    MARGIN = "MARGIN"
    HOLDING = "HOLDING"
    INSTRUMENT = "INSTRUMENT"
    PRODUCT = "PRODUCT"
    TAG = "TAG"
    TICK_SIZE = "TICK_SIZE"
    LOT_SIZE = "LOT_SIZE"
    FREEZE_QUANTITY = "FREEZE_QUANTITY"
    MARKET_PROTECTION = "MARKET_PROTECTION"
    MARKET_CLOSED = "MARKET_CLOSED"
    """Said of orders that we send in what we know as trading hours: the clocks differ, or the exchange is halted."""
    CIRCUIT = "CIRCUIT"
    PRICE_TOO_FAR = "PRICE_TOO_FAR"
    UNKNOWN_ORDER = "UNKNOWN_ORDER"
    ORDER_ENDED = "ORDER_ENDED"
    BEING_PROCESSED = "BEING_PROCESSED"
    MODIFICATIONS = "MODIFICATIONS"
    REJECTED = "REJECTED"
    """Any other reason: the text says which."""

    @property
    def curable(self) -> bool:
        """Prices move, limits and connections come back; what is missing or not allowed stays so for the moment."""
        return self in _CURABLE

    @property
    def counted(self) -> bool:
        """Whether it is an attempt of the order. An exit is asked for again until one is, or the day is over."""
        return self not in _UNCOUNTED


_CURABLE: Final = frozenset(
    {
        Reason.BROKER_UNREACHABLE,
        Reason.TOO_MANY_REQUESTS,
        Reason.MARKET_CLOSED,
        Reason.CIRCUIT,
        Reason.PRICE_TOO_FAR,
        Reason.BEING_PROCESSED,
        Reason.REJECTED,
    }
)

_UNCOUNTED: Final = frozenset(
    {
        Reason.BROKER_UNREACHABLE,
        Reason.TOO_MANY_REQUESTS,
        Reason.ORDER_LIMIT,
        Reason.MARKET_CLOSED,
        Reason.CIRCUIT,
        Reason.PRICE_TOO_FAR,
    }
)

# The first that fits counts. Sources: Kite's forum, its published mock responses, logs.
_TEXTS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (r"\bno ips? configured\b|\bips? (address )?(is |are )?not (allowed|whitelisted|permitted|authori[sz]ed)",
         Reason.IP_NOT_ALLOWED),
        (r"\bips? (address )?.{0,60}\bnot (allowed|whitelisted|permitted) to place orders", Reason.IP_NOT_ALLOWED),
        (r"\btoo many requests\b", Reason.TOO_MANY_REQUESTS),
        (r"\bmaximum allowed order modifications?\b|\bmodifications? (limit )?exceeded\b", Reason.MODIFICATIONS),
        (r"\bmaximum allowed order requests exceeded\b", Reason.ORDER_LIMIT),
        (r"\bmarket protection\b", Reason.MARKET_PROTECTION),
        (r"\binsufficient (funds|margin)\b|\bmargin exceeds\b|\bmargin shortfall\b", Reason.MARGIN),
        (r"\binsufficient (stock )?holdings?\b|\bedis\b|\bcdsl\b|\btpin\b|\bholdings? (are |is )?not (found|there)\b",
         Reason.HOLDING),
        (r"\btag\b.{0,40}\b(long|longer|length|characters?|alphanumeric)\b", Reason.TAG),
        (r"\btick size\b|\bmultiple of (the )?tick\b", Reason.TICK_SIZE),
        (r"\bhigher than the maximum quantity\b|\bfreeze (quantity|qty)\b|\b(quantity|qty) freeze\b",
         Reason.FREEZE_QUANTITY),
        (r"\bmultiple of (the )?(lot|market lot|board lot)\b|\blot size\b", Reason.LOT_SIZE),
        (r"\bcircuit\b|\bprice ?band\b|\boperating range\b", Reason.CIRCUIT),
        (r"\bfar away from the ltp\b|\b(lpp|execution) range\b|\blimit price protection\b", Reason.PRICE_TOO_FAR),
        (r"\bmarkets? (is|are) (currently )?closed\b|\boutside (of )?(market|trading) hours\b|\bafter market hours\b",
         Reason.MARKET_CLOSED),
        (r"\bcouldn.?t find that .?order_id\b|\border (does not exist|not found)\b", Reason.UNKNOWN_ORDER),
        (r"\bbeing processed\b", Reason.BEING_PROCESSED),
        (r"\b(already|order is|has been) (complete[d]?|cancelled|rejected|executed)\b|\bnot (an )?open order\b",
         Reason.ORDER_ENDED),
        (r"\b(invalid|unknown) .?(tradingsymbol|trading symbol|instrument|symbol|scrip)|\binstrument .{0,40}\b(expired"
         r"|does not exist|not found)\b", Reason.INSTRUMENT),
        (r"\bnot allowed for the authenticated user\b|\binsufficient permission\b", Reason.PERMISSION),
        (r"\b(intraday|mis|cnc)\b.{0,60}\b(blocked|not allowed|not permitted|disabled)\b", Reason.PRODUCT),
    )
)  # fmt: skip

_TYPES: Final = {
    "InputException": Reason.REJECTED,
    "OrderException": Reason.REJECTED,
    "MarginException": Reason.MARGIN,
    "HoldingException": Reason.HOLDING,
    "PermissionException": Reason.PERMISSION,
    "TokenException": Reason.SESSION_EXPIRED,
}

_UNDECIDED: Final = re.compile(
    r"tim(ed|e|ing)[ -]?out|(check|confirm|verify).{0,40}order ?book|before placing (it )?again", re.IGNORECASE
)
_OPEN_ORDERS: Final = re.compile(r"check the order ?book for open orders", re.IGNORECASE)
_SESSION: Final = re.compile(
    r"\b(invalid|incorrect|missing|wrong)\b.{0,20}\b(api_key|access_token)\b|\baccess_token\b.{0,20}\bexpired\b"
    r"|\btoken is invalid\b|\bsession (has |is )?expired\b",
    re.IGNORECASE,
)
_MAXIMUM: Final = re.compile(r"maximum quantity of (\d[\d,]*)", re.IGNORECASE)


def by_text(text: str) -> Reason | None:
    """The precise reason that a known text gives."""
    return next((reason for pattern, reason in _TEXTS if pattern.search(text)), None)


def by_type(error_type: str) -> Reason | None:
    """What an `error_type` says that is only used for requests that were certainly not carried out; None: another."""
    return _TYPES.get(error_type)


def is_undecided(text: str) -> bool:
    """Kite: "Order request timed out. Please check the order book and confirm before placing again." came with HTTP 400
    for orders that were placed. Want of margin sends people to the order book, too, for their other orders."""
    return _UNDECIDED.search(_OPEN_ORDERS.sub("", text)) is not None


def is_session_over(error_type: str, text: str) -> bool:
    """Kite: 403 TokenException; also seen as 400 InputException "Invalid `api_key` or `access_token`."."""
    return error_type == "TokenException" or _SESSION.search(text) is not None


def with_maximum(text: str) -> str:
    """The text, with what one order may be at most up front where it says so. Kite tells it nowhere else."""
    found = _MAXIMUM.search(text)
    return f"at most {found[1].replace(',', '')} in one order: {text}" if found else text
