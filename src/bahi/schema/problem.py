"""What a check found."""

from msgspec import Struct

__all__ = ["Problem"]


class Problem(Struct, frozen=True, order=True):
    """One thing that is wrong: in which file of the folder, what, why it matters, and what to do about it."""

    file: str
    what: str
    why: str
    todo: str
