"""`python -m bahi.prove.under DEFECT ARGUMENT…`: pytest on code that has a planted defect; exits as pytest does."""

import sys

import pytest

from bahi.prove.defects import EVERY_DEFECT
from bahi.prove.planting import plant

__all__ = ["main"]


def main(name: str, *arguments: str) -> int:
    (defect,) = (each for each in EVERY_DEFECT if each.name == name)
    with plant(defect.changes):
        return int(pytest.main(list(arguments)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
