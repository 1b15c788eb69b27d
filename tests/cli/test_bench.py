"""`bahi bench` runs: what it measures is at work, in several processes, and its figures fit together."""

import pytest

from tests.cli.terminal import Done, bahi, here


@pytest.fixture(scope="module")
def bench() -> Done:
    return bahi("bench", "kite", "--quick", "--json")


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
    done = here("bench", "kites")
    assert done.code == 2
    assert "kites" in done.err


def test_a_market_cannot_stand_still_and_play_a_recorded_day() -> None:
    done = here("kite-sim", "--still", "--ticks", "day.csv")
    assert done.code == 2
    assert "--still and --ticks" in done.err


def test_the_archive_follower_is_measured_with_and_without_seals() -> None:
    done = bahi("bench", "archive", "--events", "1600", "--json")
    assert done.code == 0, done
    sealed, bare, share, work, lag, others, alone = done.object
    assert [each["name"] for each in (sealed, bare)] == [
        "archive follower, with seals",
        "archive follower, without seals",
    ]
    for each in (sealed, bare):
        assert each["value"] > 0
        assert each["met"] == (each["value"] >= 10_000)
    for each in (share, work):
        assert (each["unit"], each["goal"]) == ("%", "< 5")
    for each in (lag, others, alone):
        assert 0 <= each["value"] <= each["p99"]


def test_memory_is_looked_at_while_events_flow_through_the_archive() -> None:
    done = bahi("bench", "archive", "--memory", "--events", "8000", "--json")
    assert done.code == 0, done
    samples = done.object["samples"]
    assert [each["events"] for each in samples] == list(range(400, 8_001, 400))
    assert all(each["trimmed"] <= each["sealed"] <= each["events"] for each in samples)
    assert all(each["follower"] > 0 < each["redis"] for each in samples)
    assert len(done.object["figures"]) == 4


def test_rebuilding_is_measured_with_a_snapshot_and_without() -> None:
    done = bahi("bench", "rebuild", "--events", "3000", "--strategies", "40", "--json")
    assert done.code == 0, done
    figures = {each["name"]: each for each in done.object if each["unit"] == "s"}
    rate = done.object[0]
    assert (rate["unit"], rate["goal"]) == ("events/s", "≥ 150,000")
    assert float(rate["value"] * figures["PostgreSQL to states, every event"]["value"]) == pytest.approx(3000, rel=0.3)
    for where in ("states", "Redis"):
        assert "40 strategies, 300 events since" in figures[f"PostgreSQL to {where}, from a snapshot"]["note"]


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("stops", "--events", "2000"), "is for `bahi bench archive`"),
        (("archive", "--strategies", "20"), "is for `bahi bench rebuild`"),
        (("rebuild", "--memory"), "are for `bahi bench archive`"),
        (("archive", "--memory", "--no-seal"), "nothing is trimmed that is not sealed"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(words: tuple[str, ...], fact: str) -> None:
    done = here("bench", *words)
    assert done.code == 2
    assert fact in done.err
