"""How Kite refuses: HTTP status, `error_type` and text, with the texts that were collected from the field.

Where the text or the type of an error is not on record, the wording is ours; clients must not depend on it.
"""

from decimal import Decimal

__all__ = [
    "IP_NOT_ALLOWED",
    "NO_IPS",
    "KiteError",
    "closed",
    "expired_token",
    "freeze_exceeded",
    "general",
    "input_error",
    "insufficient_funds",
    "insufficient_holding",
    "off_grid",
    "timed_out",
    "too_many",
    "unknown_order",
    "wrong_token",
]


class KiteError(Exception):
    """An answer of `{"status": "error"}`: the request was not carried out."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message


NO_IPS = "No IPs configured for this app. Add allowed IPs on the Kite developer console."
IP_NOT_ALLOWED = (
    "IP is not allowed to place orders for this app. Add it to the allowed IPs on the Kite developer console."
)


def input_error(message: str) -> KiteError:
    return KiteError(400, "InputException", message)


def general(status: int, message: str) -> KiteError:
    return KiteError(status, "GeneralException", message)


def wrong_token() -> KiteError:
    return KiteError(403, "TokenException", "Incorrect `api_key` or `access_token`.")


def expired_token() -> KiteError:
    return KiteError(403, "TokenException", "Token is invalid or has expired.")


def too_many(message: str = "Too many requests") -> KiteError:
    """Kite: 429 comes as NetworkException, the class that also stands for an order of unknown state."""
    return KiteError(429, "NetworkException", message)


def timed_out() -> KiteError:
    """Kite: seen with HTTP 400 although the order was placed."""
    return input_error("Order request timed out. Please check the order book and confirm before placing again.")


def unknown_order() -> KiteError:
    return general(404, "Couldn't find that `order_id`.")


def closed() -> KiteError:
    return input_error("Markets are closed right now. Use GTT for placing long-standing instructions instead.")


def off_grid(tick_size: Decimal) -> KiteError:
    return input_error(
        f"Tick size for this script is {tick_size:.2f}. Kindly enter price in the multiple of tick size for this script"
    )


def freeze_exceeded(quantity: int, freeze: int, lot: int) -> KiteError:
    return input_error(
        f"The order quantity {quantity} ({quantity // lot} lots) is higher than the maximum quantity of {freeze} "
        f"({freeze // lot} lots) allowed by the exchanges. Please reduce the order quantity."
    )


def insufficient_funds(required: Decimal, available: Decimal) -> KiteError:
    text = f"Insufficient funds. Required margin is {required:.2f} but available margin is {available:.2f}."
    return KiteError(400, "MarginException", text)


def insufficient_holding(symbol: str, available: int) -> KiteError:
    text = f"Insufficient stock holding in your account: {symbol.rpartition(':')[2]}, {available} available to sell."
    return KiteError(400, "HoldingException", text)
