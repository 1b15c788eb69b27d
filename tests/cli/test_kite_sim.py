"""`bahi kite-sim` says where it is and who may trade there, and stops when it is told to."""

import json
import signal

import httpx

from simulation.kite.faults import Fault
from tests.cli.terminal import here, start


def test_it_serves_customers_until_sigterm() -> None:
    with start("kite-sim", "--port", 0, "--ws-port", 0, "--users", 2, "--json") as sim:
        assert sim.stdout is not None
        told = json.loads(sim.stdout.readline())
        customer = told["customers"][1]
        token = f"token {customer['api_key']}:{customer['access_token']}"
        profile = httpx.get(f"{told['root']}/user/profile", headers={"Authorization": token, "X-Kite-Version": "3"})
        assert profile.json()["data"]["user_id"] == customer["user_id"] == "AB0002"
        assert told["ws_root"].startswith("ws://127.0.0.1:")
        sim.send_signal(signal.SIGTERM)
        assert sim.wait(120) == 0


def test_it_tells_people_how_to_point_bahi_at_it() -> None:
    with start("kite-sim", "--port", 0, "--ws-port", 0) as sim:
        assert sim.stdout is not None
        said = [sim.stdout.readline() for _ in range(9)]
        sim.send_signal(signal.SIGINT)
        assert sim.wait(120) == 0
    text = "".join(said)
    assert "export BAHI_KITE_ROOT=http://127.0.0.1:" in text
    assert "BAHI_KITE_WS_ROOT=ws://127.0.0.1:" in text
    assert "api_secret kite-sim-secret-1" in text


def test_the_faults_are_listed_and_a_wrong_one_is_refused() -> None:
    listed = here("kite-sim", "--faults")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == [fault.name for fault in Fault]
    unknown = here("kite-sim", "--fault", "F99=0.1")
    assert unknown.code == 2
    assert "F99 is no fault" in unknown.err
    wild = here("kite-sim", "--fault", "F1_ACCEPTED_THEN_HANGS=lots")
    assert wild.code == 2
    assert "between 0 and 1" in wild.err
