"""Events as they come: each one once, in order, to whoever may see it and nobody else."""

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from api.stream.streams import StreamTerms
from bahi.schema.openapi import openapi_document
from domain.events import AuditRead, BrokerAuthFailed
from eventstore.envelope import NewEvent, Recorded
from eventstore.epochs import Epoch
from tests.api.conftest import OpenWorld
from tests.api.streaming import Stream, served, streaming
from tests.api.test_strategies import holding
from tests.api.world import Trader, World, problem

QUICK = StreamTerms(heartbeat=0.05)


@pytest.fixture
async def address(world: World) -> AsyncIterator[str]:
    async with served(world) as address:
        yield address


class Later(dt.datetime):
    """A clock that is an hour ahead: every access token has expired by then."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
        return dt.datetime.now(tz) + dt.timedelta(hours=1)


async def mine(world: World, *users: Trader) -> list[int]:
    """The positions of everything of these users, or of all."""
    ids = {each.user_id for each in users}
    return [it.position for it in await world.history() if not ids or it.user_id in ids]


async def test_what_happens_comes_as_it_is_archived_in_order_and_to_its_user_only(
    world: World, address: str, alice: Trader, bob: Trader
) -> None:
    await world.archive()
    async with streaming(address, alice) as hers, streaming(address, bob) as his:
        assert hers.response.headers["content-type"].startswith("text/event-stream")
        assert hers.response.headers["x-accel-buffering"] == "no"
        assert "no-cache" in hers.response.headers["cache-control"]
        before = await world.log.last_position()
        strategy_id = await holding(world, alice, 10)
        await bob.create()
        await bob.post("/halt", {})
        await world.archive()
        for stream, user in ((hers, alice), (his, bob)):
            positions = [p for p in await mine(world, user) if p > before]
            events = await stream.take(len(positions))
            assert [each.position for each in events] == positions
            assert {each.data["user_id"] for each in events} == {user.user_id}
            assert [each.name for each in events] == [each.data["type"] for each in events]
            assert [each.id for each in events] == [f"{world.log.epoch}-{position}" for position in positions]
        listed = (await alice.get(f"/strategy/{strategy_id}/events")).json()["events"]
        async with streaming(address, alice, last="0", strategy_id=strategy_id) as again:
            for each in listed:
                event = await again.next()
                assert event is not None
                assert each.items() <= event.data.items(), "the same as in the list of events"


async def test_only_what_is_archived_is_told(world: World, address: str, alice: Trader) -> None:
    await world.archive()
    async with streaming(address, alice) as stream:
        await alice.create()
        coming = asyncio.create_task(stream.next())
        assert (await alice.get("/halt")).status_code == 200
        assert not coming.done()
        await world.archive()
        event = await coming
        assert event is not None
        assert event.name == "STRATEGY_CREATED"


@pytest.mark.parametrize("way", ["header", "parameter"])
async def test_it_goes_on_right_after_any_event_without_gap_or_repetition(
    world: World, address: str, alice: Trader, bob: Trader, way: str
) -> None:
    await holding(world, alice, 10)
    await bob.create()
    await world.archive()
    positions = await mine(world, alice)
    async with streaming(address, alice, last="0") as stream:
        everything = await stream.take(len(positions))
    assert [each.position for each in everything] == positions
    for number, event in enumerate(everything[:-1]):
        how: dict[str, Any] = {"last": event.id} if way == "header" else {"last_event_id": event.id}
        async with streaming(address, alice, **how) as stream:
            following = await stream.next()
            assert following == everything[number + 1]


async def test_a_stream_that_told_nothing_yet_can_be_resumed_too(world: World, address: str, alice: Trader) -> None:
    await world.archive()
    async with streaming(address, alice) as stream:
        last = stream.id
    await alice.create()
    await world.archive()
    async with streaming(address, alice, last=last) as stream:
        event = await stream.next()
        assert event is not None
        assert event.name == "STRATEGY_CREATED"


async def test_auditors_see_all_and_filter_and_that_is_recorded(
    world: World, address: str, alice: Trader, bob: Trader
) -> None:
    hers, his = await holding(world, alice, 10), await bob.create()
    auditor = await world.auditor()
    await world.archive()
    history = [it for it in await world.history() if not isinstance(it.event, AuditRead)]
    two = ["STRATEGY_CREATED", "ORDER_FILLED"]
    cases: list[tuple[dict[str, Any], Callable[[Recorded], bool]]] = [
        ({}, lambda it: True),
        ({"user_id": bob.user_id}, lambda it: it.user_id == bob.user_id),
        ({"strategy_id": hers}, lambda it: it.strategy_id == hers),
        ({"type": two}, lambda it: it.event.type in two),
        (
            {"type": "STRATEGY_CREATED", "strategy_id": his},
            lambda it: it.version == 1 and it.user_id == bob.user_id,
        ),
    ]
    for filters, keep in cases:
        expected = [it.position for it in history if keep(it)]
        async with streaming(address, auditor, last="0", **filters) as stream:
            assert [each.position for each in await stream.take(len(expected))] == expected
        read = (await world.history(AuditRead))[-1]
        assert (read.user_id, read.event.what) == (auditor.user_id, "stream")  # type: ignore[attr-defined]
        assert read.event.filters.keys() == {*filters, "after"}  # type: ignore[attr-defined]
    async with streaming(address, auditor, user_id=alice.user_id) as live:
        await bob.create()
        created = await alice.create()
        await world.archive()
        event = await live.next()
        assert event is not None
        assert event.data["strategy_id"] == created


async def test_nobody_gets_a_stream_of_somebody_elses(world: World, address: str, alice: Trader, bob: Trader) -> None:
    hers = await alice.create()
    operator = await world.person("operator")
    for caller in (bob, operator):
        problem(await caller.get("/events/stream", params={"user_id": alice.user_id}), 403, "ROLE_NOT_ALLOWED")
        problem(await caller.get("/events/stream", params={"strategy_id": hers}), 404, "NOT_FOUND")
    problem(await world.client.get("/events/stream"), 401, "UNAUTHENTICATED")
    async with streaming(address, alice, user_id=alice.user_id, strategy_id=hers) as stream:
        assert stream.id


async def test_an_id_of_anothers_stream_tells_only_what_is_the_callers(
    world: World, address: str, alice: Trader, bob: Trader
) -> None:
    """Positions count everybody's events: an id says where to go on, never whose events they are."""
    await world.archive()
    async with streaming(address, alice) as stream:
        await alice.create()
        await world.archive()
        event = await stream.next()
        assert event is not None
        assert event.id is not None
    await alice.create()
    await bob.create()
    await world.archive()
    async with streaming(address, bob, last=event.id) as stream:
        (seen,) = await stream.take(1)
    assert (seen.name, seen.data["user_id"]) == ("STRATEGY_CREATED", bob.user_id)
    assert seen.position == (await mine(world, bob))[-1]


async def test_an_id_that_was_never_given_is_refused(world: World, alice: Trader) -> None:
    epoch, end = world.log.epoch, await world.log.last_position()
    for last in [
        "x",
        "-1",
        f"{epoch}-",
        f"{epoch}-x",
        f"{epoch}-01",
        f"{epoch}-{end + 1}",
        f"OTHER-{end}",
        f"0-{epoch}-1",
    ]:
        problem(await alice.get("/events/stream", params={"last_event_id": last}), 400, "UNKNOWN_EVENT_ID")
        problem(await alice.get("/events/stream", headers={"Last-Event-ID": last}), 400, "UNKNOWN_EVENT_ID")


async def test_it_goes_on_when_the_server_was_restarted(opened: OpenWorld) -> None:
    async with opened() as world, served(world) as address:
        alice = await world.trader()
        await world.archive()
        async with streaming(address, alice) as stream:
            await alice.create()
            await world.archive()
            (created,) = await stream.take(1)
    async with opened() as world, served(world) as address, streaming(address, alice, last=created.id) as stream:
        await world.log.append([NewEvent(BrokerAuthFailed(broker="paper", reason=""), user_id=alice.user_id)])
        await world.archive()
        (following,) = await stream.take(1)
    assert (created.name, following.name) == ("STRATEGY_CREATED", "BROKER_AUTH_FAILED")
    assert following.position == created.position + 1


async def test_an_id_of_an_earlier_epoch_counts_as_far_as_that_epoch_was_kept(opened: OpenWorld, redis: Redis) -> None:
    async with opened() as world, served(world) as address:
        alice = await world.trader()
        await holding(world, alice, 10)
        await world.archive()
        async with streaming(address, alice, last="0") as stream:
            told = await stream.take(len(await mine(world, alice)))
        old, keys = world.log.epoch, world.log.keys
    kept = 5
    first = Epoch(number=1, epoch=old, log_id="TEST")
    second = Epoch(number=2, epoch="SECOND", log_id="TEST", after=kept, reason="REDIS_LOST")
    await redis.rpush(keys.epochs, *(msgspec.json.encode(each) for each in (first, second)))
    await redis.set(keys.epoch, second.epoch)
    async with opened() as world, served(world) as address:
        assert world.log.epoch == second.epoch
        for event in told:
            async with streaming(address, alice, last=event.id) as stream:
                if event.position > kept:
                    reset = await stream.next()
                    assert reset is not None
                    assert (reset.name, reset.id) == ("reset", f"SECOND-{kept}")
                    assert reset.data["code"] == "EVENTS_LOST"
                    assert f"after {kept}" in reset.data["detail"]
                following = await stream.next()
            assert following is not None
            goes_on = next(each for each in told if each.position > min(event.position, kept))
            assert following.data == goes_on.data
            assert following.id == f"SECOND-{goes_on.position}"


async def test_a_slow_reader_misses_nothing_and_costs_little(
    opened: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.stream.feed.MOST_WAITING", 3)
    monkeypatch.setattr("api.stream.feed.PAGE", 4)
    async with opened() as world, served(world) as address:
        alice, bob = await world.trader(), await world.trader()
        await world.archive()
        async with streaming(address, alice) as slow, streaming(address, bob) as other:
            before = await world.log.last_position()
            text = "x" * 5000
            for _ in range(40):  # more than the sockets between them hold
                batch = [NewEvent(BrokerAuthFailed(broker="paper", reason=text), user_id=alice.user_id)] * 30
                await world.log.append(batch)
                await world.archive()
            await bob.create()
            await world.archive()
            (his,) = await other.take(1)  # who reads is not held up
            feed = world.deps.streams._feeds[0]
            (listener,) = feed._listeners[alice.user_id]
            assert len(listener._waiting) <= 3
            events = await slow.take(1200)
            assert [each.position for each in events] == list(range(before + 1, before + 1201))
            assert his.position == before + 1201


async def test_streams_share_one_reading_of_the_archive(
    world: World, address: str, alice: Trader, bob: Trader, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[Any] = []
    history = world.deps.history
    events = history.events

    async def counted(*args: Any) -> Any:
        readings.append(args)
        return await events(*args)

    await world.archive()
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(streaming(address, alice)) for _ in range(4)]
        await stack.enter_async_context(streaming(address, bob))
        monkeypatch.setattr(history, "events", counted)
        await alice.create()
        await world.archive()
        for stream in streams:
            (event,) = await stream.take(1)
            assert event.name == "STRATEGY_CREATED"
    assert len(readings) == 1, "one for five streams"
    assert sorted(readings[0][3].users) == sorted([alice.user_id, bob.user_id])


async def test_nobody_has_more_streams_than_allowed(opened: OpenWorld) -> None:
    async with opened(stream_terms=StreamTerms(per_user=2)) as world, served(world) as address:
        alice, bob = await world.trader(), await world.trader()
        async with streaming(address, alice), streaming(address, bob):
            async with streaming(address, alice):
                assert world.deps.registry.get_sample_value("bahi_event_streams") == 3
                answer = await alice.get("/events/stream")
                problem(answer, 429, "TOO_MANY_STREAMS")
                assert int(answer.headers["retry-after"]) > 0
            async with asyncio.timeout(60):
                while world.deps.streams._open[alice.user_id] > 1:  # noqa: ASYNC110 (until it has seen the closing)
                    await asyncio.sleep(0.01)
            async with streaming(address, alice):
                pass


async def test_a_silent_stream_beats_and_moves_its_id_along(opened: OpenWorld) -> None:
    async with opened(stream_terms=QUICK) as world, served(world) as address:
        alice, bob = await world.trader(), await world.trader()
        async with streaming(address, alice) as stream:
            await bob.create()
            await world.archive()
            end = await world.log.last_position()
            while stream.id != f"{world.log.epoch}-{end}":
                await stream.beat()


async def test_it_ends_with_the_login_or_the_role_and_says_so(opened: OpenWorld) -> None:
    async with opened(stream_terms=QUICK) as world, served(world) as address:
        alice, auditor = await world.trader(), await world.auditor()
        await world.archive()
        async with streaming(address, alice) as hers, streaming(address, auditor) as audited:
            body = {"refresh_token": alice.tokens["refresh_token"]}
            assert (await world.client.post("/auth/logout", json=body)).status_code == 204
            async with world.engine.begin() as connection:
                await connection.exec_driver_sql("UPDATE users SET role = 'trader' WHERE role = 'auditor'")
            for stream, code in ((hers, "LOGGED_OUT"), (audited, "ROLE_NOT_ALLOWED")):
                while (event := await stream.next()) is not None and event.name != "end":
                    pass
                assert event is not None
                assert event.data["code"] == code
                assert await stream.next() is None, "and nothing after it"


async def test_it_ends_with_the_access_token(opened: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(stream_terms=QUICK) as world, served(world) as address:
        alice = await world.trader()
        await world.archive()
        async with streaming(address, alice) as stream:
            monkeypatch.setattr("jwt.api_jwt.datetime", Later)
            event = await stream.next()
            assert event is not None
            assert (event.name, event.data["code"]) == ("end", "INVALID_TOKEN")


async def test_a_stop_ends_all_streams_at_once(world: World, alice: Trader) -> None:
    await world.archive()
    async with AsyncExitStack() as stack:
        async with served(world) as address:
            streams: list[Stream] = [await stack.enter_async_context(streaming(address, alice)) for _ in range(3)]
        # The server has stopped in good order, although nobody had closed anything.
        for stream in streams:
            event = await stream.next()
            assert event is not None
            assert (event.name, event.data["code"]) == ("end", "STOPPING")
            assert await stream.next() is None


async def test_an_auditor_follows_several_partitions_and_resumes_in_each(opened: OpenWorld) -> None:
    async with opened(partitions=3) as world, served(world) as address:
        traders = [await world.trader() for _ in range(5)]
        auditor = await world.auditor()
        for trader in traders:
            await trader.create()
        await world.archive()
        history = [(n, it.position) for n, desk in enumerate(world.desks) async for it in desk.log.read()]
        total = len(history)
        async with streaming(address, auditor, last="0") as stream:
            events = await stream.take(total)
        places = [tuple(map(int, each.data["position"].split("-"))) for each in events]
        assert sorted(places) == sorted(history)
        assert re.fullmatch(r"0-\w+-\d+,1-\w+-\d+,2-\w+-\d+", events[0].id)
        for number in (0, total // 2, total - 2):
            async with streaming(address, auditor, last=events[number].id) as stream:
                rest = await stream.take(total - number - 1)
            assert sorted(each.data["position"] for each in rest) == sorted(
                each.data["position"] for each in events[number + 1 :]
            )
        async with streaming(address, traders[0], last="0") as stream:
            (event,) = await stream.take(1)
        assert re.fullmatch(rf"{traders[0].user_id % 3}-\w+-\d+", event.id)
        other = (traders[0].user_id + 1) % 3
        for last in (events[0].id, event.id.replace(f"{traders[0].user_id % 3}-", f"{other}-", 1)):
            answer = await traders[0].get("/events/stream", headers={"Last-Event-ID": last})
            problem(answer, 400, "UNKNOWN_EVENT_ID")


def test_it_is_in_the_document() -> None:
    operation = openapi_document()["paths"]["/events/stream"]["get"]
    assert operation["responses"]["200"]["content"].keys() == {"text/event-stream"}
    assert {"Last-Event-ID", "last_event_id"} <= {each["name"] for each in operation["parameters"]}
