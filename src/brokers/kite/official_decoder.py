"""The official client's decoder, to measure ours against. Importing it brings Twisted along, so only who asks pays."""

from collections.abc import Callable
from typing import Any

__all__ = ["official_decoder"]


def official_decoder() -> Callable[[bytes], list[dict[str, Any]]]:
    """Reads a binary frame as `kiteconnect.KiteTicker` does before it calls `on_ticks`; it makes no connection."""
    from kiteconnect import KiteTicker

    decoder: Callable[[bytes], list[dict[str, Any]]] = KiteTicker("", "")._parse_binary
    return decoder
