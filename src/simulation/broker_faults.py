"""The faults of the simulated broker: drawn for each order until the faults stop, and counted."""

from typing import Final

from brokers.paper.plan import FAITHFUL, NEVER, ChangeFault, Plan, Script
from brokers.paper.seeded import Rates, SeededPlan
from domain.values import SECOND, Duration, OrderRequest
from simulation.faults import BROKER, Fault, Faults

__all__ = ["HealingPlan"]

SURFACES: Final = (SECOND, 20 * SECOND)
"""When an order shows up whose placing was not answered."""


class HealingPlan:
    """The broker's faults, until it is healed."""

    def __init__(self, seed: int, faults: Faults, *, latency: Duration, timeout: Duration) -> None:
        rates = {name: rate for fault, (name, rate) in BROKER.items() if faults.knows(fault)}
        self._plan: Plan = SeededPlan(seed, Rates(**rates), latency=latency, timeout=timeout, surfaces=SURFACES)
        self._faults = faults

    def for_order(self, request: OrderRequest, n: int) -> Script:
        if self._faults.healed:
            return FAITHFUL
        script = self._plan.for_order(request, n)
        for fault in _faults_of(script):
            self._faults.note(fault)
        return script


def _faults_of(script: Script) -> list[Fault]:
    found: list[Fault] = []
    if script.refuse is not None:
        reasons = {"TOO_MANY_REQUESTS": Fault.THROTTLED, "MARGIN": Fault.MARGIN, "SESSION_EXPIRED": Fault.NO_SESSION}
        found.append(reasons.get(script.refuse.reason, Fault.REJECTED))
    if script.reject is not None:
        found.append(Fault.REJECTED_AFTER)
    if script.lost is not None:
        late = Fault.TIMEOUT_NEVER if script.lost.surfaces is None else Fault.TIMEOUT_SURFACES
        found.append(Fault.TIMEOUT_EXISTS if script.lost.surfaces == 0 else late)
    if script.fills:
        found.append(Fault.RESTS if script.rest == NEVER else Fault.PARTIAL)
    if script.failed_readings:
        found.append(Fault.READINGS)
    for change in script.cancels:
        lost = {ChangeFault.FILLED: Fault.CANCEL_FILLED, ChangeFault.REFUSED: Fault.CANCEL_REFUSED}
        found.append(lost.get(change, Fault.CANCEL_UNANSWERED))
    refused = (change is ChangeFault.REFUSED for change in script.modifies)
    found += [Fault.MODIFY_REFUSED if each else Fault.MODIFY_UNANSWERED for each in refused]
    return found
