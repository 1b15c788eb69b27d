"""Whoever works together keeps to one core, and leaves the others to others."""

import os
import subprocess
import sys
from contextlib import ExitStack, suppress

import pytest

from bahi.servers.core import on_one_core

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nobody else lets the core be chosen")


def test_it_and_what_it_starts_keep_to_a_core_until_it_ends() -> None:
    before = os.sched_getaffinity(0)
    with suppress(ZeroDivisionError), on_one_core() as core:
        expected = before if core is None else {core}
        assert os.sched_getaffinity(0) == expected
        told = "import os; print(*os.sched_getaffinity(0))"
        done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
        assert {int(each) for each in done.stdout.split()} == expected
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == before


def test_each_has_a_core_of_its_own_as_long_as_there_is_one() -> None:
    before = os.sched_getaffinity(0)
    with ExitStack() as stack:
        cores = []
        for _ in range(len(before) + 1):
            cores.append(stack.enter_context(on_one_core()))
            os.sched_setaffinity(0, before)  # as another process would begin
        taken = [core for core in cores if core is not None]
        assert len(taken) == len(set(taken)) <= len(before)
        assert set(taken) <= before
        assert cores[-1] is None
    assert os.sched_getaffinity(0) == before
