"""After the end of the log was lost, while the order book cannot be read: whoever holds shares is alerted again."""

import pytest

from bahi.testing import Scene, given
from bahi.testing.story import at, bought, decided, happened, later, started
from domain.events import AlertTriggered, StrategyRecovered
from domain.values import MINUTE, SECOND, Code

EVERY = 5 * 60
"""Seconds after which an alert is repeated (Policy.alert_repeat)."""


def lost(scene: Scene) -> None:
    now = scene.facts.now
    happened(StrategyRecovered(epoch="E", at=now, settle_after=now + 10 * SECOND, entries_after=now + 30 * SECOND))(
        scene
    )


def alerts(scene: Scene) -> list[Code]:
    return [event.code for _, event in scene.events if isinstance(event, AlertTriggered)]


@pytest.mark.parametrize(("shares", "expected"), [(10, [Code.UNPROTECTED_POSITION] * 2), (0, [Code.OUTCOME_UNKNOWN])])
def test_it_is_told_again_as_long_as_there_are_shares_and_once_when_there_are_none(
    shares: int, expected: list[Code]
) -> None:
    """Found by seed 15965: of a flat strategy it was told again whenever something woke it by chance."""
    held = (bought(qty=shares),) if shares else ()
    scene = given(started, *held, at("10:00"), lost, later(60), decided, later(EVERY), decided).scene
    assert alerts(scene) == expected
    assert scene.wake_at is not None
    assert scene.facts.policy.alert_repeat == EVERY * SECOND
    if shares:
        assert scene.wake_at <= scene.facts.now + EVERY * SECOND, "time alone makes it tell again"
    else:
        assert scene.wake_at > scene.facts.now + 60 * MINUTE
