"""What the facts of one request say of it: accepted, known not placed, or unknown. Pure and total.

Judged by what was written, by status and by body, never by a client's exceptions (Kite Connect docs; measured):

| the wire showed | a placing is |
|---|---|
| nothing was written | not placed, curable, not counted |
| 429, whatever the body says | not placed, curable, not counted |
| 2xx JSON, success, an `order_id` of digits | accepted |
| 2xx or 4xx JSON error of a type that judges the request, or with a known text | not placed, with the reason |
| the same with "timed out … check the order book" in its text | unknown |
| anything else | unknown |

*Anything else* is: any 5xx whatever its body, success without an `order_id`, success under another status, HTML, no
content type, half an answer, no JSON, a list, an error of no or another type (Network, Data, General). Among them is a
4xx that is not Kite's JSON. It was most likely said by a proxy or load balancer before any order system; but one that
forwards first and answers so afterwards looks the same, and the cost of being wrong is the same order twice.
"""

from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Struct

from brokers.kite.reasons import Reason, by_text, by_type, is_session_over, is_undecided, with_maximum
from brokers.kite.wire import Reply
from brokers.port import (
    Accepted,
    BrokerUnavailable,
    Changing,
    Done,
    NotPlaced,
    Placing,
    Refused,
    SessionExpired,
    Unanswered,
)

__all__ = ["changing", "dump", "placing", "reading"]

TOO_MANY_REQUESTS: Final = 429
JUDGED: Final = frozenset({400, 401, 403, 404, 405, 406, 413, 414, 415, 422, 428})
"""The statuses of a request that was looked at and refused. 408, 409, 425, 499 speak of time and of other requests."""
LONGEST_TEXT: Final = 300

_json = msgspec.json.Decoder(float_hook=Decimal)


class Said(Struct, frozen=True, kw_only=True):
    """Kite's envelope, as far as it is one."""

    status: int
    success: bool
    error: bool
    data: Any = None
    error_type: str = ""
    message: str = ""

    @property
    def judged(self) -> bool:
        """The status lets an error be what it says."""
        return self.status in JUDGED or 200 <= self.status < 300

    @property
    def order_id(self) -> str | None:
        """Kite: a string of 15 or 19 digits, beyond what a float can hold."""
        match self.data:
            case {"order_id": bool()}:
                return None
            case {"order_id": str() | int() as found} if str(found).isascii() and str(found).isdigit():
                return str(found)
            case _:
                return None


def placing(reply: Reply) -> Placing:
    """What became of an order that was to be placed."""
    if not reply.written:
        return _not_placed(Reason.BROKER_UNREACHABLE, _told(reply))
    said = _said(reply)
    if reply.status == TOO_MANY_REQUESTS and not (said and said.success):
        return _not_placed(Reason.TOO_MANY_REQUESTS, _told(reply, said))
    if said is None:
        return Unanswered(_told(reply))
    if said.success:
        accepted = 200 <= said.status < 300 and said.order_id is not None
        return Accepted(said.order_id) if accepted and said.order_id else Unanswered(_told(reply, said))
    reason = _refusal(said)
    match reason:
        case None:
            return Unanswered(_told(reply, said))
        case Reason.SESSION_EXPIRED:
            return _not_placed(reason, said.message, session=True)
        case _:
            return _not_placed(reason, with_maximum(said.message))


def changing(reply: Reply) -> Changing:
    """What became of a cancel or a change. Repeating one is harmless, and the book says what is true: so any error that
    judges the request is a refusal, whatever its type."""
    if not reply.written:
        return Refused(Reason.BROKER_UNREACHABLE.value)
    said = _said(reply)
    if reply.status == TOO_MANY_REQUESTS and not (said and said.success):
        return Refused(Reason.TOO_MANY_REQUESTS.value)
    if said is None:
        return Unanswered(_told(reply))
    if said.success:
        done = 200 <= said.status < 300 and said.order_id is not None
        return Done() if done else Unanswered(_told(reply, said))
    reason = _refusal(said)
    if reason is None and said.error_type == "GeneralException" and said.judged and not is_undecided(said.message):
        reason = Reason.REJECTED
    if reason is None:
        return Unanswered(_told(reply, said))
    return Refused(f"{reason.value}: {_cut(said.message)}" if reason is Reason.REJECTED else reason.value)


def reading(reply: Reply) -> Any:
    """The `data` of a successful reading; JSON's numbers are ints and Decimals.

    Raises SessionExpired, and BrokerUnavailable for everything that is not a whole, successful answer.
    """
    said = _said(reply) if reply.written else None
    if said is not None and said.success and 200 <= said.status < 300:
        return said.data
    if said is not None and said.error and said.judged and is_session_over(said.error_type, said.message):
        raise SessionExpired(_cut(said.message))
    raise BrokerUnavailable(_told(reply, said))


def dump(reply: Reply) -> bytes:
    """The body of an instruments dump, which is CSV when it succeeds. Raises as `reading` does."""
    if not reply.trouble and reply.status == 200 and "csv" in reply.content_type.lower():
        return reply.body
    reading(reply)
    raise BrokerUnavailable(f"{reply.content_type or 'no content type'} instead of the dump")


def _refusal(said: Said) -> Reason | None:
    """Why the request was certainly not carried out; None: that is not certain."""
    if not said.error or not said.judged or is_undecided(said.message):
        return None
    known, typed = by_text(said.message), by_type(said.error_type)
    if typed is None and known is None:
        session = said.error_type == "" and is_session_over("", said.message)
        return Reason.SESSION_EXPIRED if session else None
    if is_session_over(said.error_type, said.message):
        return Reason.SESSION_EXPIRED
    return known or typed


def _said(reply: Reply) -> Said | None:
    """The answer as Kite's envelope, or None if it is not wholly here or not one."""
    if reply.trouble or reply.status is None or "json" not in reply.content_type.lower():
        return None
    try:
        body = _json.decode(reply.body)
    except (msgspec.DecodeError, RecursionError, ArithmeticError):  # the last: a number beyond all Decimals
        return None
    if not isinstance(body, dict):
        return None
    error_type, message = body.get("error_type"), body.get("message")
    error = body.get("status") == "error" or bool(error_type)
    return Said(
        status=reply.status,
        success=body.get("status") == "success" and not error,
        error=error,
        data=body.get("data"),
        error_type=error_type if isinstance(error_type, str) else "",
        message=message if isinstance(message, str) else "",
    )


def _not_placed(reason: Reason, text: str, *, session: bool = False) -> NotPlaced:
    return NotPlaced(
        reason=reason.value, curable=reason.curable, counted=reason.counted, session=session, text=_cut(text)
    )


def _told(reply: Reply, said: Said | None = None) -> str:
    """What is known, in words."""
    if not reply.written:
        return _cut(f"not sent: {reply.trouble}")
    parts = [f"HTTP {reply.status}"] if reply.status is not None else []
    if reply.trouble:
        parts.append(reply.trouble)
    elif said is None:
        parts.append(f"{len(reply.body)} bytes of {reply.content_type or 'no content type'}, not an answer of Kite's")
    else:
        said_so = f"{said.error_type}: {said.message}".strip(": ")
        parts.append(said_so or ("success, without what was asked for" if said.success else "no error_type"))
    return _cut(", ".join(parts))


def _cut(text: str) -> str:
    return " ".join(text.split())[:LONGEST_TEXT]
