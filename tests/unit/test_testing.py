"""`bahi.testing`: what it ships is there, and it says what it needs."""

import subprocess
import sys

import pytest

import bahi.testing


@pytest.mark.parametrize("name", bahi.testing.__all__)
def test_every_name_that_it_promises_is_there_and_documented(name: str) -> None:
    assert getattr(bahi.testing, name).__doc__


def test_a_name_that_it_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_that_kind"):
        bahi.testing.nothing_of_that_kind  # noqa: B018


WITHOUT = """
import sys
sys.modules["hypothesis"] = None
sys.modules["hypothesis.strategies"] = None
import bahi.testing
bahi.testing.given
try:
    bahi.testing.logs
except ImportError as error:
    print(error)
"""


def test_without_hypothesis_the_words_work_and_the_strategies_say_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "bahi.testing.logs needs Hypothesis, which is not installed: pip install 'bahi[testing]'"
    )
