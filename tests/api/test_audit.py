"""What auditors read: the events, the states, the differences, the orders."""

import datetime as dt
import json
from typing import Any

import pytest

from api import answers
from api.audit.states import plain_state
from domain.strategy import State, apply, initial
from domain.values import SECOND
from eventstore.envelope import Recorded
from tests.api.conftest import OpenWorld
from tests.api.test_openapi import follows
from tests.api.test_strategies import holding
from tests.api.world import Trader, World, problem, rules


async def told(caller: Trader, path: str, **params: Any) -> dict[str, Any]:
    answer = await caller.get(path, params={name.rstrip("_"): value for name, value in params.items()} or None)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def all_pages(caller: Trader, path: str, of: str, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = await told(caller, path, **params)
        found += page[of]
        if page["next_cursor"] is None:
            return found
        assert len(page[of]) == params["limit"]
        params["cursor"] = page["next_cursor"]


def folded(history: list[Recorded], strategy_id: int, until: int) -> State:
    """By the plainest fold there is."""
    state = initial(strategy_id)
    for it in history:
        if it.position <= until and it.strategy_id == strategy_id and it.version:
            state.user_id = it.user_id
            apply(state, it.event)
            state.version, state.updated_at, state.position_in_log = it.version, it.recorded_at, it.position
    return state


def as_answered(state: State) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(answers.encode(plain_state(state)))
    return plain


@pytest.fixture
async def lived(world: World, alice: Trader, bob: Trader) -> tuple[int, int]:
    """One strategy of Alice's that bought and one of Bob's, second by second, all of it archived."""
    world.clock.time += SECOND
    his = await bob.create(quantity=3)
    world.clock.time += SECOND
    hers = await holding(world, alice, 10)
    world.clock.time += SECOND
    await bob.post("/strategy/update", {"strategy_id": his, "quantity": 4})
    await world.archive()
    return hers, his


async def test_events_come_in_order_page_by_page_and_come_to_an_end(world: World, lived: tuple[int, int]) -> None:
    before = await world.history()
    auditor = await world.auditor()
    await world.archive()
    end = await world.log.last_position()
    found = []
    params: dict[str, Any] = {"limit": 1}
    while True:  # each page adds an event to the history, and is archived; the list ends where it ended at first
        page = await told(auditor, "/audit/events", **params)
        found += page["events"]
        await world.archive()
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert [int(each["position"]) for each in found] == list(range(1, end + 1))
    for each, it in zip(found, before, strict=False):
        assert (each["type"], each["event_id"], each["version"]) == (it.event.type, it.event_id, it.version)
        assert (each["strategy_id"] or 0, each["user_id"] or 0) == (it.strategy_id, it.user_id)
        assert dt.datetime.fromisoformat(each["recorded_at"]).timestamp() == it.recorded_at / SECOND
        assert each["error"] is None


async def test_filters_leave_just_what_they_say(
    world: World, alice: Trader, bob: Trader, lived: tuple[int, int]
) -> None:
    hers, his = lived
    history = await world.history()
    auditor = await world.auditor()

    async def positions(**filters: Any) -> list[int]:
        events = await all_pages(auditor, "/audit/events", "events", limit=2, **filters)
        return [int(each["position"]) for each in events]

    def those(keep: Any) -> list[int]:
        return [it.position for it in history if keep(it)]

    assert await positions(user_id=bob.user_id) == those(lambda it: it.user_id == bob.user_id)
    assert await positions(strategy_id=hers) == those(lambda it: it.strategy_id == hers)
    assert await positions(type="STRATEGY_CREATED") == those(lambda it: it.event.type == "STRATEGY_CREATED")
    two = ["STRATEGY_CREATED", "ORDER_FILLED"]
    assert await positions(type=two, user_id=alice.user_id) == those(
        lambda it: it.event.type in two and it.user_id == alice.user_id
    )
    assert await positions(strategy_id=his, user_id=alice.user_id) == []
    assert await positions(from_=5, until=9) == [5, 6, 7, 8, 9]
    created = next(it for it in history if it.strategy_id == hers)
    moment = dt.datetime.fromtimestamp(created.recorded_at // SECOND, dt.UTC).isoformat()
    assert await positions(from_=moment, until=moment) == those(lambda it: it.recorded_at == created.recorded_at)
    assert await positions(from_=moment, user_id=bob.user_id) == those(
        lambda it: it.user_id == bob.user_id and it.recorded_at >= created.recorded_at
    )
    assert await positions(from_=10**9) == await positions(until="2001-01-01T00:00:00Z") == []


async def test_a_rare_event_is_looked_for_stretch_by_stretch(
    world: World, lived: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.audit.search.STRETCH", 2)
    monkeypatch.setattr("api.audit.search.MOST", 4)
    auditor = await world.auditor()
    found, pages, params = [], 0, {"type": ["STRATEGY_UPDATED", "STRATEGY_CREATED"]}
    while True:
        page = await told(auditor, "/audit/events", **params)
        found += [each["type"] for each in page["events"]]
        pages += 1
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert found == ["STRATEGY_CREATED", "STRATEGY_CREATED", "STRATEGY_UPDATED"]
    assert pages == 4, "of 15 positions 4 to the page"


async def test_a_parameter_that_makes_no_sense_is_named(world: World, lived: tuple[int, int]) -> None:
    auditor = await world.auditor()
    for name, value in [
        ("type", "NOTHING_HAPPENED"),
        ("user_id", "x"),
        ("strategy_id", "-1"),
        ("from", "yesterday"),
        ("until", "2025-06-03T10:00:00"),
        ("until", "2025-13-03T10:00:00Z"),
        ("from", "1-5"),
        ("limit", "0"),
    ]:
        assert rules(await auditor.get("/audit/events", params={name: value})).keys() == {name}
    assert rules(await auditor.get("/audit/state", params={"at": "soon"})).keys() == {"at"}
    assert rules(await auditor.get("/audit/diff", params={"from": 5, "to": 4})) == {"to": "range"}
    assert rules(await auditor.get("/audit/events", params={"user": 1})) == {"user": "unknown"}


async def test_a_cursor_is_of_its_user_its_list_and_its_filters(world: World, lived: tuple[int, int]) -> None:
    auditor, other = await world.auditor(), await world.person("auditor", "second@example.com")
    cursor = (await told(auditor, "/audit/events", limit=2))["next_cursor"]
    for caller, path, params in [
        (other, "/audit/events", {}),
        (auditor, "/audit/state", {}),
        (auditor, "/audit/events", {"strategy_id": lived[0]}),
        (auditor, "/audit/users", {}),
    ]:
        problem(await caller.get(path, params=params | {"cursor": cursor}), 400, "INVALID_CURSOR")
    assert (await auditor.get("/audit/events", params={"cursor": cursor, "limit": 5})).status_code == 200


async def test_the_state_at_every_position_is_the_fold_up_to_it(world: World, lived: tuple[int, int]) -> None:
    history = await world.history()
    auditor = await world.auditor()
    for position in range(1, len(history) + 1):
        states = await all_pages(auditor, "/audit/state", "states", at=position, limit=1)
        there = sorted({it.strategy_id for it in history if it.position <= position and it.strategy_id})
        assert [each["strategy_id"] for each in states] == there
        for each in states:
            assert each["state"] == as_answered(folded(history, each["strategy_id"], position))
            assert each["as_of"]["position"] == str(position)
            assert each["faults"] == []


async def test_an_instant_means_what_was_known_then(world: World, lived: tuple[int, int]) -> None:
    _, his = lived
    history = await world.history()
    auditor = await world.auditor()
    changed = next(it for it in history if it.event.type == "STRATEGY_UPDATED")
    for at, quantity in ((changed.recorded_at - 1, 3), (changed.recorded_at, 4)):
        moment = dt.datetime.fromtimestamp(at // SECOND, dt.UTC) + dt.timedelta(microseconds=at % SECOND)
        (state,) = (await told(auditor, "/audit/state", at=moment.isoformat(), strategy_id=his))["states"]
        assert state["state"]["quantity"] == quantity
        known = max(it.position for it in history if it.recorded_at <= at)
        assert state["as_of"]["position"] == str(known)
    unescaped = f"/audit/state?at={moment.isoformat()}&strategy_id={his}"
    assert "+" in unescaped, "which is a space once it is decoded"
    assert (await told(auditor, unescaped))["states"] == [state]


async def test_before_the_first_event_and_beyond_the_last_there_is_no_state(
    world: World, lived: tuple[int, int]
) -> None:
    hers, _ = lived
    auditor = await world.auditor()
    await world.archive()
    first = (await told(auditor, "/audit/events", limit=1))["events"][0]["recorded_at"]
    for path, name in (("/audit/state", "at"), ("/audit/diff", "from"), ("/audit/diff", "to")):
        for text in ("0", "2001-01-01T00:00:00Z"):
            body = problem(await auditor.get(path, params={name: text}), 422, "BEFORE_FIRST_EVENT")
            assert first in body["detail"]
        for text in ("99999", "2099-01-01T00:00:00Z"):
            body = problem(await auditor.get(path, params={name: text}), 422, "BEYOND_LAST_EVENT")
            assert "its last event is" in body["detail"]
    problem(await auditor.get("/audit/state", params={"at": 1, "strategy_id": hers}), 404, "NOT_FOUND")
    problem(await auditor.get("/audit/state", params={"strategy_id": 2**53 - 1}), 404, "NOT_FOUND")


async def test_an_empty_archive_has_nothing_to_tell(world: World) -> None:
    auditor = await world.auditor()
    assert await told(auditor, "/audit/events") == {"events": [], "next_cursor": None}
    assert await told(auditor, "/audit/state") == {"states": [], "next_cursor": None}
    problem(await auditor.get("/audit/state", params={"at": "2025-01-01T00:00:00Z"}), 422, "BEFORE_FIRST_EVENT")


async def test_differences_are_those_of_the_two_states_and_count_what_happened(
    world: World, lived: tuple[int, int]
) -> None:
    _, his = lived
    history = await world.history()
    auditor = await world.auditor()
    end = len(history)
    for since, until in ((None, end), (5, end), (8, 9), (end, end)):
        found = await all_pages(
            auditor, "/audit/diff", "differences", limit=1, to=until, **({} if since is None else {"from_": since})
        )
        between = [it for it in history if (since or 0) < it.position <= until and it.version]
        assert [each["strategy_id"] for each in found] == sorted({it.strategy_id for it in between})
        for each in found:
            strategy_id = each["strategy_id"]
            was = as_answered(folded(history, strategy_id, since or 0))
            became = as_answered(folded(history, strategy_id, until))
            untold = {"version", "updated_at", "position_in_log", "user_id" if since is None else ""}
            assert {name: (one["before"], one["after"]) for name, one in each["changes"].items()} == {
                name: (was[name], became[name]) for name in became if was[name] != became[name] and name not in untold
            }
            mine = [it.event.type for it in between if it.strategy_id == strategy_id]
            assert each["events"] == {name: mine.count(name) for name in mine}
    (only,) = (await told(auditor, "/audit/diff", strategy_id=his))["differences"]
    assert only["strategy_id"] == his
    assert only["before"] == {"position": "0", "recorded_at": None}


async def test_an_order_is_explained_from_its_cause_to_its_end(world: World, lived: tuple[int, int]) -> None:
    hers, _ = lived
    auditor = await world.auditor()
    history = await world.history()
    tag = next(it.event.tag for it in history if it.event.type == "EXECUTE_BUY")  # type: ignore[attr-defined]
    story = await told(auditor, f"/audit/orders/{tag}")
    assert (story["tag"], story["strategy_id"], story["order_id"]) == (tag, hers, "O1")
    assert (story["outcome"], story["filled"], story["average_price"]) == ("complete", 10, 1490.123456)
    assert [step["step"] for step in story["steps"]] == [
        *("cause", "lock", "request", "outcome", "fill", "finalized"),
    ]
    problem(await auditor.get(f"/audit/orders/{'A' * 20}"), 404, "NOT_FOUND")
    assert rules(await auditor.get("/audit/orders/short")).keys() == {"tag"}


async def test_an_event_that_cannot_be_read_is_shown_as_such(world: World, lived: tuple[int, int]) -> None:
    hers, _ = lived
    auditor = await world.auditor()
    async with world.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE events SET envelope = 'x' WHERE position = 7")
    (event,) = (await told(auditor, "/audit/events", from_=7, until=7))["events"]
    assert event["error"]
    assert event["data"] == {}
    (state,) = (await told(auditor, "/audit/state", strategy_id=hers))["states"]
    assert state["faults"], "what could not be folded is said"


async def test_users_are_numbers(world: World, alice: Trader, lived: tuple[int, int]) -> None:
    auditor = await world.auditor()
    users = await all_pages(auditor, "/audit/users", "users", limit=2)
    assert [(each["role"], each["strategies"]) for each in users] == [("trader", 1), ("trader", 1), ("auditor", 0)]
    assert users[0].keys() == {"user_id", "role", "created_at", "strategies"}


async def test_every_answer_follows_the_document(world: World, lived: tuple[int, int]) -> None:
    auditor = await world.auditor()
    history = await world.history()
    tag = next(it.event.tag for it in history if it.event.type == "EXECUTE_BUY")  # type: ignore[attr-defined]
    for name, path in [
        ("GET /audit/events", "/audit/events?limit=5"),
        ("GET /audit/state", "/audit/state"),
        ("GET /audit/state", "/audit/state?at=0"),
        ("GET /audit/diff", "/audit/diff?from=3"),
        ("GET /audit/orders/{tag}", f"/audit/orders/{tag}"),
        ("GET /audit/orders/{tag}", f"/audit/orders/{'A' * 20}"),
        ("GET /audit/users", "/audit/users"),
        ("GET /audit/verify", "/audit/verify"),
        ("GET /audit/export", "/audit/export"),
    ]:
        follows(name, await auditor.client.get(path))


async def test_with_several_partitions_positions_name_theirs(opened: OpenWorld) -> None:
    async with opened(partitions=3) as world:
        traders = [await world.trader() for _ in range(4)]
        ids = [await trader.create() for trader in traders]
        await world.archive()
        auditor = await world.auditor()
        events = await all_pages(auditor, "/audit/events", "events", limit=2)
        places = [tuple(map(int, each["position"].split("-"))) for each in events]
        assert places == sorted(places)
        assert {partition for partition, _ in places} == {0, 1, 2}
        states = await all_pages(auditor, "/audit/state", "states", limit=1)
        assert sorted(each["strategy_id"] for each in states) == sorted(ids)
        mine = traders[0].user_id % 3
        (one,) = (await told(auditor, "/audit/state", strategy_id=ids[0], at=f"{mine}-3"))["states"]
        assert one["as_of"]["position"] == f"{mine}-3"
        assert rules(await auditor.get("/audit/state", params={"at": "2"})) == {"at": "partition"}
        assert rules(await auditor.get("/audit/state", params={"at": "9-2"})) == {"at": "partition"}
        other = (mine + 1) % 3
        answer = await auditor.get("/audit/diff", params={"from": f"{mine}-1", "to": f"{other}-1"})
        assert rules(answer) == {"to": "partition"}
