"""`python -m simulation.independent HISTORY PAPER`: judges an exported history by the paper broker's own book.

Exit 0: everything holds; 1: something does not; 2: a file cannot be read.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from simulation.independent.book import BookUnreadable, Paper, read_book
from simulation.independent.finding import Finding
from simulation.independent.judging import judge
from simulation.independent.lines import HistoryUnreadable, read_history

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    try:
        paper = read_book(asked.book)
        history = list(read_history(asked.history))
        accounts = _accounts(paper, asked.account)
    except (HistoryUnreadable, BookUnreadable, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    found = judge(history, *paper, accounts=accounts, ended=asked.ended)
    events = sum("specversion" in line for line in history)
    if asked.json:
        told = {
            "events": events,
            "orders": len(paper.orders),
            "trades": len(paper.trades),
            "findings": [_told(one) for one in found],
        }
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        for one in found:
            sys.stdout.write(f"{one}\n".encode(errors="replace").decode())
        what = f"{events} events, {len(paper.orders)} orders, {len(paper.trades)} trades"
        sys.stdout.write(f"{what}: {f'{len(found)} findings' if found else 'everything holds'}\n")
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulation.independent",
        description="Judges an exported history by the paper broker's own book, with no code of the engine.",
    )
    parser.add_argument(
        "history", type=Path, help="a file of `bahi archive export`, of everything: .jsonl or .jsonl.gz"
    )
    parser.add_argument("book", type=Path, help="the paper broker's SQLite file, as it was after the export")
    parser.add_argument("--ended", action="store_true", help="no run may be alive any more, and no order unresolved")
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    parser.add_argument(
        "--account",
        action="append",
        default=[],
        metavar="ACCOUNT=USER",
        help="whose an account is; PAPER-7 is user 7's unless it is said otherwise",
    )
    return parser


def _accounts(paper: Paper, named: Sequence[str]) -> dict[str, int]:
    """Raises ValueError."""
    accounts: dict[str, int] = {}
    for order in paper.orders:
        prefix, _, user = str(order["account"]).partition("-")
        if prefix == "PAPER" and user.isascii() and user.isdecimal():
            accounts[order["account"]] = int(user)
    for each in named:
        account, equals, user = each.rpartition("=")
        if not equals or not user.isascii() or not user.isdecimal():
            raise ValueError(f"--account {each!r} is not ACCOUNT=USER")
        accounts[account] = int(user)
    return accounts


def _told(one: Finding) -> dict[str, object]:
    return {
        "rule": one.rule.value,
        "what": one.what,
        "partition": one.partition,
        "position": one.position,
        "order_id": one.order_id,
    }


if __name__ == "__main__":
    sys.exit(main())
