"""The server's HTTP: what clients of all sorts may send it, the route prefix, the admin door."""

import asyncio
from typing import Any

import httpx
import pytest

from simulation.clock import VirtualClock
from simulation.kite.delays import Delays
from simulation.kite.orders import encode
from simulation.kite.routing import Context, Route
from simulation.kite.server import serve
from simulation.kite.sim import KiteSim
from simulation.kite.wire import Response

from .conftest import FRIDAY_TEN, KEY, SBIN, SECRET, USER, MakeWorld, World

ORDER = {
    "exchange": "NSE", "tradingsymbol": "SBIN", "transaction_type": "BUY", "quantity": "1", "product": "MIS",
    "order_type": "LIMIT", "price": "790",
}  # fmt: skip


async def raw(world: World, *pieces: bytes) -> bytes:
    """Sends the pieces one by one and reads until the server closes."""
    host, port = world.server.root.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


async def test_a_connection_is_kept_for_many_requests(world: World) -> None:
    header = world.header()

    answers = [await world.http.get("/user/profile", headers=header) for _ in range(5)]

    assert {answer.status_code for answer in answers} == {200}
    assert len(world.server.http.open) == 1


async def test_requests_may_be_pipelined_and_come_in_pieces(world: World) -> None:
    header = f"Authorization: {world.header()['Authorization']}\r\nHost: x\r\n"
    request = f"GET /orders HTTP/1.1\r\n{header}\r\n".encode()
    last = f"GET /orders HTTP/1.1\r\nConnection: close\r\n{header}\r\n".encode()

    answer = await raw(world, request + request[:20], request[20:], last[:5], last[5:])

    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.count(b'{"status":"success","data":[]}') == 3


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: many\r\nHost: x\r\n\r\n",
        b"A" * 100_000,
    ],
)
async def test_what_is_not_http_is_refused_and_the_server_lives(world: World, rubbish: bytes) -> None:
    answer = await raw(world, rubbish)

    assert answer.startswith(b"HTTP/1.1 400") or answer == b""
    assert (await world.http.get("/user/profile", headers=world.header())).status_code == 200


@pytest.mark.parametrize("target", ["//[", "/%ff%fe", "/orders/%00", "/?a=%zz", "http://[::1/orders"])
async def test_an_odd_target_is_not_found(world: World, target: str) -> None:
    answer = await raw(world, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    assert answer.split(b" ")[1] in (b"404", b"400")


async def test_a_body_that_is_too_large_is_refused(world: World) -> None:
    answer = await raw(
        world, b"POST /orders/regular HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n", b"a" * 1_100_000
    )

    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_target_with_scheme_and_host_is_understood(world: World) -> None:
    """As clients send it to an egress proxy that passes it on."""
    header = f"Host: x\r\nConnection: close\r\nAuthorization: {world.header()['Authorization']}\r\n"

    answer = await raw(world, f"GET http://api.kite.trade/user/profile?x=1 HTTP/1.1\r\n{header}\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 200")


async def test_unknown_routes_and_methods(world: World) -> None:
    assert (await world.http.get("/nowhere")).json()["error_type"] == "GeneralException"
    assert (await world.http.get("/nowhere")).status_code == 404
    assert (await world.http.delete("/orders", headers=world.header())).status_code == 405
    head = await world.http.head("/orders", headers=world.header())
    assert (head.status_code, head.content) == (405, b"")
    assert (await world.http.get("/orders", headers=world.header())).status_code == 200


async def test_prices_are_json_numbers_digit_for_digit(world: World) -> None:
    header = world.header()
    await world.http.post("/orders/regular", headers=header, data={**ORDER, "price": "790.10"})

    answer = await world.http.get("/orders", headers=header)

    assert b'"price":790.10,' in answer.content
    assert b'"quantity":1,' in answer.content


async def test_a_route_prefix_stands_before_all_but_the_login_and_the_admin_door(make_world: MakeWorld) -> None:
    world = await make_world(serve_with={"route_prefix": "/oms"})

    assert (await world.http.get("/oms/orders", headers=world.header())).status_code == 200
    assert (await world.http.get("/orders", headers=world.header())).status_code == 404
    assert (await world.http.get("/connect/login", params={"api_key": KEY})).status_code == 200
    assert (await world.http.get("/sim/state")).status_code == 200


async def test_hundreds_of_connections_at_once(world: World) -> None:
    header = world.header()
    limits = httpx.Limits(max_connections=120)
    async with httpx.AsyncClient(base_url=world.server.root, limits=limits, timeout=20, verify=False) as client:  # noqa: S501
        answers = await asyncio.gather(*(client.get("/orders", headers=header) for _ in range(120)))

    assert {answer.status_code for answer in answers} == {200}


async def test_connections_can_be_cut_and_clients_come_back(world: World) -> None:
    await world.http.get("/sim/state")
    async with httpx.AsyncClient(base_url=world.server.root, verify=False) as other:  # noqa: S501
        world.server.drop_connections()
        world.server.stop_streams()

        assert (await other.get("/sim/state")).status_code == 200


async def test_an_endpoint_that_fails_does_not_pass_for_a_fault() -> None:
    def broken(context: Context) -> Response:
        raise RuntimeError("a defect of the simulation")

    sim = KiteSim(VirtualClock(FRIDAY_TEN))
    route = Route(method="GET", path="/broken", handler=broken, session=False)
    serving = serve(sim, routes=[route])
    server = await serving.__aenter__()
    async with httpx.AsyncClient(verify=False) as client:  # noqa: S501
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{server.root}/broken")

    with pytest.raises(ExceptionGroup, match="endpoints failed"):
        await serving.__aexit__(None, None, None)


# --- the admin door


async def admin(world: World, path: str, body: Any) -> httpx.Response:
    return await world.http.post(path, content=encode(body))


async def test_another_process_registers_a_user_sets_prices_and_sees_the_orders(world: World) -> None:
    made = await admin(
        world,
        "/sim/users",
        {
            "user_id": "CD5678",
            "api_key": "k2",
            "api_secret": "s2",
            "cash": 5000000,
            "allowed_ips": None,
            "session": True,
        },
    )
    assert made.status_code == 201
    header = {"Authorization": f"token k2:{made.json()['access_token']}"}
    await world.http.post("/orders/regular", headers=header, data=ORDER)
    await admin(world, "/sim/prices", {SBIN: 789.95})

    seen = (await world.http.get("/sim/orders", params={"user_id": "CD5678"})).json()
    assert [order["status"] for order in seen["orders"]] == ["COMPLETE"]
    assert seen["orders"][0]["average_price"] == 789.95
    assert [(attempt["kind"], attempt["taken"]) for attempt in seen["attempts"]] == [("place", True)]
    state = (await world.http.get("/sim/state")).json()
    assert state["users"]["CD5678"]["trades"] == 1
    assert state["last_prices"] == {SBIN: 789.95}


async def test_another_process_logs_in_and_out(world: World) -> None:
    token = (await admin(world, "/sim/login", {"user_id": USER})).json()["request_token"]
    kite = world.client(None)
    await kite.generate_session(token, SECRET)

    await admin(world, "/sim/logout", {"user_id": USER})

    assert not world.account.has_session(kite.client.access_token, world.clock.now())


async def test_another_process_injects_faults(world: World) -> None:
    answer = await admin(world, "/sim/faults", {"fault": "F6_TIMED_OUT_400", "user_id": USER, "times": 2})
    assert answer.status_code == 200
    state = (await world.http.get("/sim/state")).json()
    assert state["waiting"] == [{"fault": "F6_TIMED_OUT_400", "user_id": USER, "times": 2}]

    refused = await world.http.post("/orders/regular", headers=world.header(), data=ORDER)

    assert refused.status_code == 400
    assert (await world.http.get("/sim/state")).json()["fired"] == {"F6_TIMED_OUT_400": 1}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sim/users", {"user_id": USER, "api_key": "k", "api_secret": "s"}),
        ("/sim/users", {"user_id": "X", "api_key": "k"}),
        ("/sim/users", {"user_id": "X", "api_key": "k", "api_secret": "s", "typo": 1}),
        ("/sim/prices", {"NSE:NOBODY": 1}),
        ("/sim/prices", {SBIN: 0}),
        ("/sim/prices", {SBIN: "much"}),
        ("/sim/faults", {"fault": "F99"}),
        ("/sim/faults", {"fault": "F6_TIMED_OUT_400", "user_id": "NOBODY"}),
        ("/sim/faults", {"fault": "F6_TIMED_OUT_400", "times": 0}),
        ("/sim/faults", {"fault": "F6_TIMED_OUT_400", "on": "read"}),
        ("/sim/login", {"user_id": "NOBODY"}),
        ("/sim/login", []),
    ],
)
async def test_the_admin_door_says_what_is_wrong(world: World, path: str, body: Any) -> None:
    answer = await admin(world, path, body)

    assert answer.status_code == 400
    assert answer.json()["message"]
    assert SECRET not in answer.text


async def test_what_time_alone_changes_is_told_without_anybody_asking(make_world: MakeWorld) -> None:
    world = await make_world(delays=Delays.of_each(1_000_000))
    await world.price("800")
    told: list[tuple[str, int]] = []

    class Listening:
        def on_order(self, user_id: str, payload: dict[str, Any]) -> None:
            told.append((payload["status"], payload["filled_quantity"]))

        def on_ticks(self, ticks: object) -> None:
            pass

    world.sim.observers.append(Listening())
    order_id = await world.logged_in().buy(3)

    await world.clock.advance(4_000_000)

    assert told == [("COMPLETE", 3)]  # acceptance and the interim states are not told
    assert world.account.orders[0].order_id == order_id
