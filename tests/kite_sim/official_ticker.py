"""The official client's ticker, run as a program of its own: it keeps Twisted's reactor, which starts only once.

    python official_ticker.py ROOT API_KEY ACCESS_TOKEN TOKEN…

Each tick list, order update and error is a line of JSON; it ends when it was told an order is COMPLETE.
"""

import json
import sys
from datetime import datetime
from typing import Any

from kiteconnect import KiteTicker


def main(root: str, api_key: str, access_token: str, *tokens: str) -> None:
    wanted = [int(token) for token in tokens]
    ticker = KiteTicker(api_key, access_token, root=root)

    def tell(kind: str, what: Any) -> None:
        def text(value: Any) -> Any:
            return value.timestamp() if isinstance(value, datetime) else str(value)

        print(json.dumps([kind, what], default=text), flush=True)

    def on_connect(ws: Any, _response: Any) -> None:
        ws.subscribe(wanted)
        ws.set_mode(ws.MODE_FULL, wanted)
        tell("connected", None)

    def on_order_update(ws: Any, order: Any) -> None:
        tell("order", order)
        if order["status"] == "COMPLETE":
            ws.stop()

    ticker.on_connect = on_connect
    ticker.on_ticks = lambda _ws, ticks: tell("ticks", ticks)
    ticker.on_order_update = on_order_update
    ticker.on_error = lambda _ws, code, reason: tell("error", [code, str(reason)])
    ticker.connect()


if __name__ == "__main__":
    main(*sys.argv[1:])
