"""The planted defects, a file for each part of the engine; `EVERY_DEFECT` are all of them."""

from typing import Final

from bahi.prove.defects import archive, decisions, log, orders, sources
from bahi.prove.defects.defect import Defect

__all__ = ["EVERY_DEFECT", "Defect"]

EVERY_DEFECT: Final[tuple[Defect, ...]] = (
    *log.DEFECTS,
    *orders.DEFECTS,
    *decisions.DEFECTS,
    *sources.DEFECTS,
    *archive.DEFECTS,
)
