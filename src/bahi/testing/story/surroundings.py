"""Words for the world around a strategy: the clock, the price, the account, the rules."""

import datetime as dt
from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from bahi.testing.story.scene import DAY, Rules, Scene, Word, clock_time
from domain.calendar import Calendar
from domain.facts import Halt, Policy


def at(text: str, day: dt.date = DAY) -> Word:
    """The exchange's clock shows this."""
    return lambda scene: scene.look(now=clock_time(text, day))


def later(seconds: float) -> Word:
    return lambda scene: scene.look(now=scene.facts.now + round(seconds * 1_000_000))


def woken(scene: Scene) -> None:
    """Somebody asks; nothing happened."""


def price(text: str | None, age: float = 0) -> Word:
    def word(scene: Scene) -> None:
        value = None if text is None else Decimal(text)
        scene.look(price=value, price_at=scene.facts.now - round(age * 1_000_000))

    return word


def halted(square_off: bool = False) -> Word:
    return lambda scene: scene.look(halt=Halt(square_off))


def resumed(scene: Scene) -> None:
    scene.look(halt=None)


def disconnected(scene: Scene) -> None:
    """The account has no broker session."""
    scene.look(connected=False)


def connected(scene: Scene) -> None:
    scene.look(connected=True)


def day_spent(scene: Scene) -> None:
    """The account may ask for no order any more today."""
    scene.look(day_spent=True)


def day_begun(scene: Scene) -> None:
    scene.look(day_spent=False)


def sold_elsewhere(quantity: int) -> Word:
    """The account sold shares that bahi did not."""
    return lambda scene: scene.look(foreign=-quantity)


def instrument(**rules: Any) -> Word:
    return lambda scene: scene.look(instrument=Rules(**rules))


def no_instrument(scene: Scene) -> None:
    scene.look(instrument=None)


def calendar(known: Calendar) -> Word:
    return lambda scene: scene.look(calendar=known)


def policy(**changes: Any) -> Word:
    return lambda scene: scene.look(policy=replace(scene.facts.policy or Policy(), **changes))
