"""`bahi instruments`: what may be traded, and a dump from a file."""

import gzip
from decimal import Decimal
from pathlib import Path

from tests.cli.terminal import Installation
from tests.kite.dumps import dump, row, stocks

NAMES = ["SBIN", "INFY", "TCS", "ZOMATO", "RELIANCE", "M&M"]


def written(folder: Path, content: bytes, name: str = "instruments.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_before_anything_is_loaded_it_says_so(day: Installation) -> None:
    overview = day.here("instruments")
    assert (overview.code, overview.err) == (0, "")
    assert "not loaded yet" in overview.out
    assert day.here("instruments", "--json").out == ""
    one = day.here("instruments", "NSE:INFY")
    assert one.code == 1
    assert "not loaded yet" in one.err


def test_a_dump_is_loaded_looked_at_and_replaced(own: Installation, folder: Path) -> None:
    first = written(folder, dump(*stocks(NAMES), row("BSE:SBIN", 500112), row("NFO:X", 1, token=258)))
    done = own.here("instruments", "--import", first)
    assert done.code == 0, done.err
    assert done.lines[:2] == ["BSE: 1 listed", "NSE: 6 listed"]

    shown = own.here("instruments", "INFY")
    assert shown.code == 0
    assert "NSE:INFY" in shown.out
    assert "513" in shown.out
    told = own.here("instruments", "NSE:INFY", "--json").object
    assert (told["symbol"], told["token"], told["tick_size"], told["listed"]) == (
        "NSE:INFY",
        513,
        Decimal("0.05"),
        True,
    )

    renamed = ["ETERNAL" if name == "ZOMATO" else name for name in NAMES if name != "M&M"]
    second = written(folder, gzip.compress(dump(*stocks(renamed), "damaged")), "instruments.csv.gz")
    done = own.here("instruments", "--import", second)
    assert done.code == 0
    assert "1 renamed: NSE:ZOMATO to NSE:ETERNAL" in done.out
    assert "line 7: has 1 columns, not 12" in done.err

    overview = own.here("instruments", "--json").objects
    assert [(each["exchange"], each["listed"], each["renamed"], each["left_out"]) for each in overview] == [
        ("BSE", 1, 0, 0),
        ("NSE", 5, 1, 1),
    ]
    assert "NSE" in own.here("instruments").out

    for symbol, said in (
        ("NSE:ZOMATO", "is not listed any more; the last dump with it is of"),
        ("NSE:ZOMATO", "did you mean NSE:ETERNAL"),
        ("INFFY", "NSE:INFFY is not listed: did you mean NSE:INFY"),
        ("QQQQQQ", "NSE:QQQQQQ is not listed"),
    ):
        unknown = own.here("instruments", symbol)
        assert unknown.code == 1
        assert said in unknown.out
    told = own.here("instruments", "ZOMATO", "--json")
    assert told.code == 1
    assert (told.object["listed"], told.object["was_listed"], told.object["near"][0]) == (False, True, "NSE:ETERNAL")

    short = written(folder, dump(*stocks(["SBIN", "INFY"])), "short.csv")
    refused = own.here("instruments", "--import", short)
    assert refused.code == 2
    assert "2 instruments of NSE, where 5 are listed" in refused.err
    assert "--force" in refused.err
    assert own.here("instruments", "--import", short, "--force", "--json").object["listed"] == {"NSE": 2}

    broken = written(folder, b"<html>", "broken.csv")
    refused = own.here("instruments", "--import", broken, "--force")
    assert refused.code == 2
    assert "what was listed stays" in refused.err
    assert own.here("instruments", "SBIN").code == 0


def test_what_makes_no_sense_is_refused(day: Installation, folder: Path) -> None:
    missing = day.here("instruments", "--import", folder / "none.csv")
    assert missing.code == 2
    assert "none.csv" in missing.err
    assert day.here("instruments", "--force").code == 2
    both = day.here("instruments", "SBIN", "--import", folder / "none.csv")
    assert both.code == 2
    assert "not both" in both.err
