"""The caller's kill switch: PostgreSQL first, then the log; answered when both have it."""

from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from api import answers
from api.dependencies import Deps
from api.models import HaltState, HaltTrading
from api.openapi import operation
from api.record import record
from api.security.caller import Caller
from api.writes import Write, write
from domain.events import UserHalted, UserResumed

__all__ = ["router"]

router: Final = APIRouter(tags=["halt"])


@write(router, "POST", "/halt", HaltTrading, answers={200: HaltState})
async def halt(attempt: Write[HaltTrading]) -> Response:
    """Buy nothing more and stop what is flat; with `square_off` sell everything held. Only DELETE lifts it."""
    deps, user_id, asked = attempt.deps, attempt.user_id, attempt.body
    kept = await deps.halts.set(user_id, square_off=asked.square_off, reason=asked.reason)
    halted = UserHalted(square_off=kept.square_off, reason=kept.reason)
    await record(deps, user_id, halted, correlation_id=attempt.request_id, dedupe=attempt.dedupe("halt"))
    state = HaltState(halted=True, square_off=kept.square_off, reason=kept.reason, at=answers.local(kept.at))
    return answers.json(state)


@write(router, "DELETE", "/halt", answers={200: HaltState})
async def resume(attempt: Write[HaltTrading]) -> Response:
    """Lift the kill switch. What it stopped is not started again."""
    deps, user_id = attempt.deps, attempt.user_id
    # The latch in the log goes last: until then no worker enters, so a failure in between leaves the user halted.
    await deps.halts.lift(user_id)
    resumed = UserResumed()
    await record(deps, user_id, resumed, correlation_id=attempt.request_id, dedupe=attempt.dedupe("resume"))
    return answers.json(HaltState(halted=False))


@router.get("/halt", operation_id="get_halt", **operation(answers={200: HaltState}))
async def get_halt(deps: Deps, caller: Caller) -> Response:
    """Whether the kill switch is on."""
    kept = await deps.halts.get(caller.user_id)
    if kept is None:
        return answers.json(HaltState(halted=False))
    state = HaltState(halted=True, square_off=kept.square_off, reason=kept.reason, at=answers.local(kept.at))
    return answers.json(state)
