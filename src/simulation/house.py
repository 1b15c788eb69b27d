"""The house rules of a simulated world, and whose accounts there are."""

from typing import Final

from domain.facts import Policy
from domain.values import SECOND

__all__ = ["ACCOUNTS", "POLICY", "USERS"]

USERS: Final = (7, 8)
ACCOUNTS: Final = {f"PAPER-{user}": user for user in USERS}
POLICY: Final = Policy(
    send_deadline=2 * SECOND,
    request_timeout=3 * SECOND,
    skew=SECOND // 2,
    quarantine_ambiguous=25 * SECOND,
    quarantine_dead_sender=5 * SECOND,
)
"""The house rules, with shorter spans than in production, so that a life of minutes sees all of them end."""
