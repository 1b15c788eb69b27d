"""The shapes of what bahi writes and says, as files for others: `schemas/`.

Written from the types by `export`; `check` finds files that are stale, and changes that could not read old events.
"""

from bahi.schema.folder import Exported, check, export
from bahi.schema.problem import Problem

__all__ = ["Exported", "Problem", "check", "export"]
