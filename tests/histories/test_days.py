"""The days that are recorded, in small: that what a recording needs of the engine still works."""

import datetime as dt
from pathlib import Path

from bahi.histories.checking import check_folder, load_history
from bahi.histories.files import Head
from bahi.histories.kite_day import play_kite
from bahi.histories.paper_day import DATE, open_paper_day
from bahi.histories.recording import Recorder, write
from bahi.histories.shapes import construct
from domain.calendar import load_nse
from domain.events import EVENT_TYPES
from domain.values import Instant
from eventstore.envelope import decode

HEAD = Head(bahi="", name="small", version="0.1.0", seed=1, about="a day in small")


def _at(clock: str) -> Instant:
    return load_nse().instant(DATE, dt.time.fromisoformat(clock))


async def test_a_paper_day_with_a_lost_redis_is_recorded(tmp_path: Path) -> None:
    recorder = Recorder()
    with recorder.listening():
        async with open_paper_day(tmp_path / "home", plan="seed=1,latency=300ms", ticks=1_500) as day:
            asha = await day.join("asha")
            strategy = await asha.started("NSE:INFY", 10, "09:20:00", "09:40:00", "100")
            await day.until(_at("09:19:59"))
            day.archives = False
            await day.until(_at("09:20:30"))
            await day.close()
            day.lose_redis()
            day.archives = True
            await day.open()
            await day.until(_at("09:45:00"))
            state = (await day.states())[strategy]
            raws = await day.entries()
    assert (state.bought, state.sold, state.exit_reason) == (10, 10, "SELL")
    written = write(tmp_path / "v0", HEAD, raws, recorder, lossy=True)
    assert written.forgotten > 0, "what was decided on the lost end of the log is not told by it"
    assert {"SYSTEM_RECOVERY", "ORDER_RECOVERED", "RECOVERY_SETTLED", "EXECUTE_SELL"} <= written.types.keys()
    (checked,) = check_folder(tmp_path / "v0")
    assert (checked.differences, checked.decisions) == ([], written.decisions)
    assert len(load_history(tmp_path / "v0", "small").tables.policies) == 1


async def test_a_kite_day_is_recorded(tmp_path: Path) -> None:
    raws, recorder = await play_kite(3, strategies=4)
    written = write(tmp_path, HEAD, raws, recorder)
    assert (written.forgotten, written.types["STRATEGY_STARTED"]) == (0, 4)
    (checked,) = check_folder(tmp_path)
    assert (checked.differences, checked.strategies) == ([], 4)


def test_every_shape_of_every_event_is_constructed() -> None:
    raws = construct()
    assert {decode(raw).event.type for raw in raws} == EVENT_TYPES.keys() - {"PRICE_TICK"}
    assert [raw.position for raw in raws] == list(range(1, len(raws) + 1))
    assert construct() == raws
