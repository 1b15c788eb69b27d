"""Words for the user, the run and its triggers."""

import datetime as dt
from decimal import Decimal
from typing import Any

from bahi.testing.story.scene import DAY, SYMBOL, Scene, Word
from domain.calendar import instant, load_nse
from domain.events import (
    BuyTriggered,
    Event,
    ForceStop,
    SafetyAbort,
    SellTriggered,
    StoplossTriggered,
    StrategyCreated,
    StrategyReady,
    StrategyRunning,
    StrategyStarted,
    StrategyStartRequested,
    StrategyStopRequested,
    StrategyUpdated,
    TriggerMissed,
)
from domain.values import Abort, Config, Product, Tick


def config(
    qty: int = 10,
    buy: str = "09:20",
    sell: str = "15:10",
    stop: str = "95",
    product: Product = Product.MIS,
) -> Config:
    return Config(
        symbol=SYMBOL,
        quantity=qty,
        buy_time=dt.time.fromisoformat(buy),
        sell_time=dt.time.fromisoformat(sell),
        stop_loss=Decimal(stop),
        product=product,
    )


def happened(*events: Event) -> Word:
    return lambda scene: scene.fold(*events)


def created(**changes: Any) -> Word:
    return happened(StrategyCreated(config=config(**changes)))


def start_requested(scene: Scene) -> None:
    scene.fold(StrategyStartRequested())


def registered(scene: Scene) -> None:
    """The scheduler has registered the run's timers."""
    scene.fold(StrategyReady(run=scene.state.run), StrategyRunning(run=scene.state.run))


def started_with(day: dt.date = DAY, **changes: Any) -> Word:
    """A run, armed for `day` and running; its number is the version of STRATEGY_STARTED."""

    def word(scene: Scene) -> None:
        armed = config(**changes)
        session = load_nse().session_on(day)
        assert session is not None
        if scene.state.version == 0:
            scene.fold(StrategyCreated(config=armed))
        started = StrategyStarted(
            session_date=day,
            open_at=session.open_at,
            close_at=session.close_at,
            buy_at=instant(day, armed.buy_time),
            sell_at=instant(day, armed.sell_time),
            config=armed,
        )
        scene.fold(StrategyStartRequested(), started)
        registered(scene)
        if scene.facts.now < session.open_at:
            scene.look(now=instant(day, dt.time(9, 16)))

    return word


started = started_with()


def updated(**changes: Any) -> Word:
    def word(scene: Scene) -> None:
        revision = scene.state.stop_revision + ("stop_loss" in changes)
        scene.fold(StrategyUpdated(stop_revision=revision, **changes))

    return word


def stop_requested(square_off: bool = False) -> Word:
    return happened(StrategyStopRequested(square_off=square_off))


force_stopped = happened(ForceStop(reason="OPERATOR"))


def aborted(reason: Abort = Abort.OPERATOR) -> Word:
    return lambda scene: scene.fold(SafetyAbort(run=scene.state.run, reason=reason))


def decided(scene: Scene) -> None:
    """A worker looked at the strategy, and what it decided was appended."""
    scene.take(scene.decide())


def buy_triggered(scene: Scene) -> None:
    """The alarm clock rings at the buying time."""
    scene.look(now=max(scene.facts.now, scene.state.buy_at))
    scene.fold(BuyTriggered(run=scene.state.run, due_at=scene.state.buy_at))


def sell_triggered(scene: Scene) -> None:
    scene.fold(SellTriggered(run=scene.state.run, due_at=scene.state.sell_at))


def buy_missed(scene: Scene) -> None:
    scene.fold(TriggerMissed(run=scene.state.run, due_at=scene.state.buy_at, lateness=31_000_000))


def stoploss_triggered(at: str = "94.95", run: int | None = None, revision: int | None = None) -> Word:
    def word(scene: Scene) -> None:
        tick = Tick(SYMBOL, Decimal(at), scene.facts.now)
        scene.look(price=tick.price)
        scene.fold(
            StoplossTriggered(
                run=scene.state.run if run is None else run,
                stop_revision=scene.state.stop_revision if revision is None else revision,
                tick=tick,
                stop_loss=scene.state.stop_loss,
            )
        )

    return word
