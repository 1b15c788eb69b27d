"""What takes long for an auditor, in a process of its own: `python -m bahi.audit_process verify`, or `… export JSON`.

The event loop that trades must not wait for it, so it does not run there, and it runs with less urgency. It is told
where everything is by its environment. The reading was recorded by whoever started it.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import typer

from bahi.quiet import loading

with loading():
    from bahi.cli.archive_export import Asked, export_archive
    from bahi.cli.common import load_settings, run_async
    from bahi.cli.verify import verify_all

__all__ = ["main"]

NICE: Final = 10


def main(arguments: Sequence[str]) -> int:
    """The exit code of `bahi verify --json`, or of `bahi archive export -`."""
    os.nice(NICE)
    try:
        settings = load_settings()
        if arguments[0] == "verify":
            return run_async(verify_all(settings, None, (), json=True, recorded=False))
        wish = msgspec.json.decode(arguments[1], type=dict[str, Any])
        asked = msgspec.convert({"file": "-", **wish}, Asked, dec_hook=lambda kind, value: kind(value))
        return run_async(export_archive(settings, asked, json=False, recorded=False))
    except typer.Exit as ended:
        return ended.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
