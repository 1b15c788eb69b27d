"""What an order's tag says, read anew from its description.

Twenty characters of `0-9A-Z`, in base 36: 4 name the log, 7 the strategy, 5 the run, 2 the order's number within the
run, 2 are a check: the eighteen before, read as one number, modulo 1291.
"""

import re
from typing import Final, NamedTuple

__all__ = ["Parts", "read_tag"]

_FORM: Final = re.compile(r"[0-9A-Z]{20}\Z", re.ASCII)


class Parts(NamedTuple):
    log: str
    strategy: int
    run: int
    number: int


def read_tag(tag: str) -> Parts | None:
    """None if it is no tag of this form, or its check does not hold."""
    if not _FORM.match(tag) or int(tag[:18], 36) % 1291 != int(tag[18:], 36):
        return None
    return Parts(tag[:4], int(tag[4:11], 36), int(tag[11:16], 36), int(tag[16:18], 36))
