"""What can be wrong with an exported file, besides its seals (`eventstore.seal_chain`)."""

from typing import Final

from msgspec import Struct

__all__ = ["DATA", "END", "FILE", "FILTER", "HOLE", "MANIFEST", "ORDER", "SIGNATURE", "FileFault"]

FILE: Final = "file"
"""It cannot be read, or not to its end."""
MANIFEST: Final = "manifest"
"""It says what cannot be, or the file is none of ours."""
HOLE: Final = "hole"
"""A position is missing."""
ORDER: Final = "order"
"""A line where none of its kind can be."""
DATA: Final = "data"
"""A line of an event is not what follows from the event's bytes."""
FILTER: Final = "filter"
"""An event that was not asked for, or one that was and is left out."""
SIGNATURE: Final = "signature"
"""Manifest or end are not signed by whom one trusts."""
END: Final = "end"
"""What the end says of the lines before is not so."""


class FileFault(Struct, frozen=True, kw_only=True):
    """What is wrong, and the line where it shows; `position` is 0 where it is of none. Where only a range can be named,
    it is `position` to `last`, and `exact` is False."""

    line: int
    kind: str
    text: str
    partition: int = 0
    position: int = 0
    last: int = 0
    exact: bool = True
