"""All that can be told from the log alone: replay, comparison with what is live, verification, rebuilding."""

from projections.compare import Difference, compare_live, corrupt_strategies
from projections.rebuild import Rebuilt, rebuild, rebuild_redis, rebuild_sql
from projections.replay import BrokenHistory, Fault, Kind, Progress, Replay, replay_states
from projections.restoration import restore
from projections.tables import RowDifference, TablesRebuilt
from projections.verify import Report, verify

__all__ = [
    "BrokenHistory",
    "Difference",
    "Fault",
    "Kind",
    "Progress",
    "Rebuilt",
    "Replay",
    "Report",
    "RowDifference",
    "TablesRebuilt",
    "compare_live",
    "corrupt_strategies",
    "rebuild",
    "rebuild_redis",
    "rebuild_sql",
    "replay_states",
    "restore",
    "verify",
]
