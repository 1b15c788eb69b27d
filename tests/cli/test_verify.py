"""`bahi verify` finds what was tampered with, `bahi rebuild` makes anew what follows from the log."""

import pytest

from bahi.cli.verify import CHECKS
from projections.replay import Kind
from tests.cli.terminal import Done, Installation


def test_every_kind_of_fault_belongs_to_a_check() -> None:
    kinds = {value for name, value in vars(Kind).items() if name.isupper()}
    assert {kind for _, some in CHECKS.values() for kind in some} == kinds


def test_an_untouched_installation_is_all_right(day: Installation) -> None:
    done = day.here("verify", "--json")
    told = done.object
    assert done.code == 0
    assert told["ok"] is True
    assert all(told["checks"].values())
    assert told["first_fault"] is None
    events = day.events()[: told["events"]]
    assert told["events"] == len(events)
    assert told["archived"] == day.sql("SELECT count(*) FROM events")[0][0]
    assert told["strategies"] == len({it.strategy_id for it in events if it.strategy_id})
    table = day.here("verify")
    assert table.code == 0
    assert table.out.count("✓") == len(CHECKS)
    assert f"{len(events) + 1} events, {told['archived']} of them archived" in table.out  # the looking was recorded


def test_the_newest_seal_can_be_written_down_and_asked_for(day: Installation) -> None:
    (newest,) = day.here("verify", "--json").object["newest_seals"]
    assert newest["position"] == day.sql("SELECT max(last) FROM seals")[0][0]
    assert newest["anchor"] in day.here("verify").out.replace("\n", "")
    assert day.here("verify", "--anchor", newest["anchor"]).code == 0
    other = faulty(day.here("verify", "--anchor", f"1:{'ab' * 32}", "--json"))
    assert other["first_fault"]["position"] == 1
    assert not other["checks"]["seals_chain"]
    later = faulty(day.here("verify", "--anchor", f"{newest['number'] + 1}:{'ab' * 32}", "--json"))
    assert later["first_fault"]["position"] == newest["position"] + 1
    for wrong, why in (("1:ab", "NUMBER:HASH"), (f"3-1:{'ab' * 32}", "no such partition")):
        done = day.here("verify", "--anchor", wrong)
        assert done.code == 2
        assert why in done.err


def faulty(done: Done) -> dict:  # type: ignore[type-arg]
    assert done.code == 1
    told = done.object
    assert told["ok"] is False
    assert told["first_fault"] == told["faults"][0]
    return told


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [("runtime:2", "bought", "7"), ("runtime:2", "lock_state", "SOMEBODY"), ("strategy:2", "quantity", "1000000")],
)
def test_a_changed_field_is_named_and_a_rebuild_repairs_it(own: Installation, key: str, field: str, value: str) -> None:
    was = own.redis.hget(key, field)
    own.redis.hset(key, field, value)
    told = faulty(own.here("verify", "--json"))
    assert [name for name, holds in told["checks"].items() if not holds] == ["replay_equal"]
    assert told["first_fault"]["strategy_id"] == 2
    assert f"strategy 2.{field}" in told["first_fault"]["text"]
    last = max(it.position for it in own.events() if it.strategy_id == 2)
    assert told["first_fault"]["position"] == last
    table = own.here("verify")
    assert table.code == 1
    assert f"strategy 2.{field}" in table.out.replace("\n", "")
    assert "bahi rebuild" in table.out
    done = own.here("rebuild", "--json")
    assert done.code == 0
    assert done.object["verify"]["ok"] is True
    assert own.redis.hget(key, field) == was
    assert own.here("verify").code == 0


def test_a_forgotten_strategy_comes_back(own: Installation) -> None:
    own.redis.delete("strategy:3", "runtime:3")
    assert faulty(own.here("verify", "--json"))["first_fault"]["strategy_id"] == 3
    assert own.here("rebuild").code == 0
    assert own.here("verify").code == 0


def test_an_archived_event_that_was_changed_is_named_by_its_position(own: Installation) -> None:
    own.sql("UPDATE events SET envelope = envelope || '\\x00' WHERE position = 40")
    told = faulty(own.here("verify", "--json"))
    assert told["first_fault"]["position"] == 40
    assert told["checks"]["archive_equal"] is False


@pytest.mark.parametrize("trimmed", [False, True], ids=["in both stores", "in the archive alone"])
def test_what_somebody_does_to_the_archive_is_found_where_it_was_done(own: Installation, trimmed: bool) -> None:
    """A sample: tests/projections/test_tampering.py has them all."""
    if trimmed:
        for name in ("critical", "high", "medium", "low"):
            own.redis.xtrim(f"events:{name}", minid="100-0")
        assert own.here("verify").code == 0
    ((first, last),) = own.sql("SELECT (SELECT first FROM seals WHERE number = 2), max(position) FROM events")
    for tampering, undoing, position, check in (
        (
            "UPDATE events SET envelope = set_byte(envelope, 12, get_byte(envelope, 12) # 1) WHERE position = 57",
            "UPDATE events SET envelope = set_byte(envelope, 12, get_byte(envelope, 12) # 1) WHERE position = 57",
            57,
            "seals_cover",
        ),
        (
            "UPDATE events SET user_id = user_id + 1 WHERE position = 58",
            "UPDATE events SET user_id = user_id - 1 WHERE position = 58",
            58,
            "columns_agree",
        ),
        (
            "UPDATE events SET recorded_at = recorded_at - 1 WHERE position = 59",
            "UPDATE events SET recorded_at = recorded_at + 1 WHERE position = 59",
            59,
            "seals_cover",
        ),
        (
            "UPDATE checkpoint SET position = position - 3",
            "UPDATE checkpoint SET position = position + 3",
            last - 2,
            "archive_equal",
        ),
        (
            "UPDATE seals SET sealed_at = sealed_at + 1 WHERE number = 2",
            "UPDATE seals SET sealed_at = sealed_at - 1 WHERE number = 2",
            first,
            "seals_signed",
        ),
        ("ALTER TABLE seals RENAME TO away; CREATE TABLE seals AS TABLE away WITH NO DATA", "", 1, "seals_chain"),
    ):
        own.sql(tampering)
        told = faulty(own.here("verify", "--json"))
        assert told["first_fault"]["position"] == position, (tampering, told["faults"])
        assert told["checks"][check] is False, (tampering, told)
        table = own.here("verify")
        assert table.code == 1
        assert f"The first fault: position {position}:" in table.out.replace("\n", " ")
        if undoing:
            own.sql(undoing)
            assert own.here("verify").code == 0


def test_what_runs_must_seal(own: Installation) -> None:
    """The seals are gone, the keys that tell of them as well; only time tells that there should be some."""
    own.sql("DELETE FROM seals")
    own.redis.delete("sealed")
    assert own.here("verify").code == 0
    assert own.here("verify", "--json").object["sealed"] == 0
    own.redis.set("alive:archive", "1", ex=600)
    told = faulty(own.here("verify", "--json"))
    assert told["first_fault"]["position"] == 1
    assert "sealing has stopped" in told["first_fault"]["text"]
    assert told["checks"]["seals_cover"] is False


def test_an_event_that_is_gone_everywhere_is_a_hole_and_no_rebuild_hides_it(own: Installation) -> None:
    own.sql("DELETE FROM events WHERE position = 41")
    for name in ("critical", "high", "medium", "low"):
        own.redis.xdel(f"events:{name}", "41-0")
    told = faulty(own.here("verify", "--json"))
    assert told["first_fault"]["position"] == 41
    assert told["checks"]["positions_gapless"] is False
    done = own.here("rebuild")
    assert done.code == 2
    assert "position 41 is missing" in done.err


def test_a_rebuild_makes_the_tables_what_they_were(own: Installation) -> None:
    tables = {
        "strategies": "SELECT * FROM strategies ORDER BY id",
        "order_logs": "SELECT * FROM order_logs ORDER BY tag",
    }
    were = {name: own.sql(query) for name, query in tables.items()}
    assert all(were.values())
    own.sql("UPDATE strategies SET quantity = 1, status = 'created' WHERE id = 1")
    own.sql("DELETE FROM order_logs WHERE strategy_id IN (1, 2, 3)")
    done = own.here("rebuild", "--json")
    assert done.code == 0
    assert {name: own.sql(query) for name, query in tables.items()} == were
    told = done.object["rebuilt"]
    assert told["events"] == told["archived"] == len(own.events())
    assert told["strategies"] == len(were["strategies"])


def test_a_rebuild_is_refused_while_the_engine_runs_unless_forced(own: Installation) -> None:
    own.redis.set("alive:worker", "1", ex=600)
    done = own.here("rebuild")
    assert done.code == 2
    assert "the engine runs here (worker)" in done.err
    assert "--force" in done.err
    assert own.here("rebuild", "--force").code == 0
