"""The command as a whole: it is there at once, and it never answers with a traceback."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from bahi.cli.main import COMMANDS, load
from tests.cli.terminal import bahi, here

HEAVY = ("sqlalchemy", "redis", "pydantic", "fastapi", "psycopg", "uvloop", "structlog", "domain.strategy")


def test_help_loads_nothing_that_a_command_needs() -> None:
    program = (
        "import sys; from bahi.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as end: assert end.code == 0, end\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_its_own_help_begins_with(name: str) -> None:
    done = here(name, "--help")
    assert done.code == 0
    assert (load(name).help or "").startswith(COMMANDS[name].rstrip(".")) or name == "schema"


def test_a_mistyped_command_is_met_with_near_names() -> None:
    done = here("evnts")
    assert done.code == 2
    assert "Did you mean 'events'?" in done.err


def test_no_command_shows_the_help() -> None:
    assert "events" in here().out


def test_the_version_is_that_of_the_package() -> None:
    assert here("--version").out == f"bahi {version('bahi')}\n"


def test_settings_that_cannot_be_used_are_named_all_at_once() -> None:
    done = bahi("events", BAHI_HTTP_PORT="many", BAHI_NONSENSE="1")
    assert done.code == 2
    assert "BAHI_HTTP_PORT" in done.err
    assert "BAHI_NONSENSE is no setting" in done.err
    assert "Traceback" not in done.err
