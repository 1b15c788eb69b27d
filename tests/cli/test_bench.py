"""`bahi bench kite` runs: a simulated Kite in a process of its own, an engine here, and figures that fit together."""

import pytest

from tests.cli.terminal import Done, bahi


@pytest.fixture(scope="module")
def bench() -> Done:
    return bahi("bench", "kite", "--quick", "--json", timeout=120)


def test_it_measures_both_ways_of_syncing_the_log(bench: Done) -> None:
    assert bench.code == 0, bench
    assert {each["fsync"] for each in bench.object} == {"always", "everysec"}


def test_the_way_to_kite_s_socket_contains_the_way_to_the_broker(bench: Done) -> None:
    for fsync in ("always", "everysec"):
        written, called, first, own, ratio = (each for each in bench.object if each["fsync"] == fsync)
        for each in (written, called, first, own):
            assert 0 < each["value"] <= each["p99"]
        assert called["value"] < written["value"]
        assert [each["note"] for each in (written, first, own)] == ["25 samples", "25 samples", "50 samples"]
        assert ratio["value"] > 0


def test_a_measurement_that_does_not_exist_is_refused_by_name() -> None:
    done = bahi("bench", "kites")
    assert done.code == 2
    assert "kites" in done.err


def test_a_market_cannot_stand_still_and_play_a_recorded_day() -> None:
    done = bahi("kite-sim", "--still", "--ticks", "day.csv")
    assert done.code == 2
    assert "--still and --ticks" in done.err
