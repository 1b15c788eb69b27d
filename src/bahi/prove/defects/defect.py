"""What a planted defect is."""

from msgspec import Struct

from bahi.prove.planting import Change
from simulation.faults import EVERY, Fault

__all__ = ["Defect"]


class Defect(Struct, frozen=True, kw_only=True):
    """A mistake that a careful engineer could make, and what has to find it.

    `by`: how a finding of the simulated world begins that counts as having found it; a life that breaks down in any
    other way is no proof of a check. `faults` may happen in those lives. With `test`, a test of the suite finds it: the
    world cannot show it, for the reason given in `why`.
    """

    name: str
    what: str
    changes: tuple[Change, ...]
    by: tuple[str, ...] = ()
    faults: frozenset[Fault] = EVERY
    test: str = ""
    why: str = ""
