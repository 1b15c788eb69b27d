"""What one of the doctor's checks says."""

from msgspec import Struct

__all__ = ["Check", "ok"]


class Check(Struct, frozen=True):
    """`state` is ok, warning, failed, or skipped: it does not apply yet."""

    name: str
    state: str
    found: str
    todo: str = ""


def ok(name: str, found: str) -> Check:
    return Check(name, "ok", found)
