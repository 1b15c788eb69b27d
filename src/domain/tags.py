"""An order's tag: its name at the broker, from which everything about it can be found without our records.

Kite: a tag has at most 20 characters, longer ones are refused; letters and digits are safe. The 20 characters are, in
base 36: 4 for the log, 7 for the strategy, 5 for the run, 2 for the order's number within the run, 2 for a check.
"""

from msgspec import Struct

from domain.values import Tag

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WIDTHS = (("strategy", 7), ("run", 5), ("number", 2))
_PRIME = 1291
"""The largest prime under 36²: a wrong or swapped character changes the check."""

LENGTH = 20
LOG_ID_LENGTH = 4


class TagParts(Struct, frozen=True):
    """What a tag says: the log's id, the strategy, the run (its version), the order's number in the run (from 1)."""

    log_id: str
    strategy_id: int
    run: int
    number: int


def make_tag(log_id: str, strategy_id: int, run: int, number: int) -> Tag:
    """The tag of the `number`-th order of a run. Raises ValueError when a part does not fit."""
    if len(log_id) != LOG_ID_LENGTH or any(c not in _DIGITS for c in log_id):
        raise ValueError(f"log id must be {LOG_ID_LENGTH} characters [0-9A-Z], was {log_id!r}")
    numbers = (strategy_id, run, number)
    body = log_id + "".join(_base36(n, width, what) for n, (what, width) in zip(numbers, _WIDTHS, strict=True))
    return Tag(body + _check(body))


def parse_tag(text: str | None) -> TagParts | None:
    """The parts of a tag, or None if `text` is not one of ours (wrong length, characters or check)."""
    if text is None or len(text) != LENGTH or any(c not in _DIGITS for c in text) or _check(text[:-2]) != text[-2:]:
        return None
    return TagParts(text[:4], int(text[4:11], 36), int(text[11:16], 36), int(text[16:18], 36))


def _base36(n: int, width: int, what: str) -> str:
    if not 0 <= n < 36**width:
        raise ValueError(f"{what} {n} does not fit in {width} base-36 digits")
    out = ""
    for _ in range(width):
        n, digit = divmod(n, 36)
        out = _DIGITS[digit] + out
    return out


def _check(body: str) -> str:
    return _base36(int(body, 36) % _PRIME, 2, "check")
