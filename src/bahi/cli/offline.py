"""`bahi verify --offline FILE`: an exported file proves itself, with no server and no installation."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import typer
from msgspec import Struct, field

from bahi.cli.common import CHECK_FAILED, OK, bar, fail, out, print_json, say, sorry, until_closed, verdict
from bahi.cli.places import Places
from eventstore.export.checking import Checker
from eventstore.export.faults import DATA, END, FILE, FILTER, HOLE, MANIFEST, ORDER, SIGNATURE, FileFault
from eventstore.export.files import Unreadable, read_lines
from eventstore.export.lines import encode, positions
from eventstore.export.parquet import MAGIC, joined_lines, proof_of
from eventstore.seal_chain import CHAIN, COVER, SIGNED, Anchor, parse_anchor

__all__ = ["CHECKS", "Examined", "examine", "file_lines", "public_keys", "show_faults", "verify_file"]

CHECKS: Final = {
    "file_whole": ("the file is whole, and every line is in its place", (FILE, ORDER, MANIFEST)),
    "positions_gapless": ("every position is told of, once", (HOLE,)),
    "events_exact": ("every event is shown as its bytes say, and is one of those asked for", (DATA, FILTER)),
    "seals_chain": ("the seals follow each other", (CHAIN,)),
    "seals_signed": ("every seal is signed", (SIGNED,)),
    "seals_cover": ("what is under a seal is exactly what was sealed", (COVER,)),
    "as_signed": ("manifest and end are as they were signed, and so is all between them", (SIGNATURE, END)),
}
"""What is checked of the file: what it says when it holds, and the kinds of faults that it does not bear."""
KEPT = 20
SHOWN = 5
_TICK = 5_000


class Examined(Struct, kw_only=True):
    """What came of it. `faults` are the first ones."""

    file: Path
    checker: Checker
    trusted: bool
    faults: list[FileFault] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Nothing is wrong within the file."""
        return not self.checker.faults

    @property
    def places(self) -> Places:
        manifest = self.checker.manifest
        return Places(1 if manifest is None else manifest.partitions)

    def holds(self, kinds: Sequence[str]) -> bool:
        return not self.kinds & set(kinds)


def verify_file(file: Path, public_key: str | None, anchor: Sequence[str] | None, json: bool) -> int:
    """Checks the file, says what was found, and returns the exit code: 0 only if a key that was named, or one that it
    vouches for, has signed all of it. Exits with 2 for what cannot be used."""
    it = examine(file, public_keys(public_key), anchors(anchor), quiet=json)
    code = OK if it.ok and it.trusted else CHECK_FAILED
    with until_closed(code):
        if json:
            print_json(as_object(it))
        else:
            _show(it)
    return code


def examine(file: Path, trusted: Sequence[bytes] | None, known: Sequence[Anchor] = (), *, quiet: bool) -> Examined:
    """Reads the file to its end. Exits with 2 when there is none, or when it needs what is not installed."""
    begun = time.perf_counter()
    faults: list[FileFault] = []
    kinds: set[str] = set()

    def told(fault: FileFault) -> None:
        kinds.add(fault.kind)
        if len(faults) < KEPT:
            faults.append(fault)

    checker = Checker(trusted, told, known)

    def differs(partition: int, position: int, text: str) -> None:
        checker.fault(DATA, text, partition=partition, position=position)

    with sorry(), file_lines(file, differs) as lines, bar(file.name, hidden=quiet) as progress:
        try:
            for number, line in enumerate(lines):
                checker.take(line)
                if number % _TICK == 0 and checker.manifest is not None:
                    progress(checker.events + checker.left_out, positions(checker.manifest.parts))
        except Unreadable as error:
            checker.broken_off(str(error))
        except KeyboardInterrupt:
            raise typer.Exit(128 + signal.SIGINT) from None
    checker.finish()
    it = Examined(file=file, checker=checker, trusted=trusted is not None, faults=faults, kinds=kinds)
    it.seconds = round(time.perf_counter() - begun, 3)
    return it


@contextmanager
def file_lines(file: Path, differs: Callable[[int, int, str], None]) -> Iterator[Iterator[bytes]]:
    """The lines of an exported file in either format. Exits with 2 when it is not there."""
    if not file.is_file():
        fail(f"there is no file {file}")
    with file.open("rb") as opened:
        is_table = opened.read(len(MAGIC)) == MAGIC
        opened.seek(0)
        if not is_table:
            yield read_lines(opened)
            return
        beside = proof_of(file)
        if not beside.is_file():
            fail(f"{beside} is missing: without it nothing is known of {file.name} but its rows")
        with beside.open("rb") as proof, needs_pyarrow():
            yield joined_lines(opened, read_lines(proof), differs)


@contextmanager
def needs_pyarrow() -> Iterator[None]:
    """Exits with 2 when it is not installed."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        fail("Parquet needs pyarrow, which is not installed: pip install 'bahi[parquet]'")


def public_keys(given: str | None) -> list[bytes] | None:
    """Of files or in hex, several with commas between them; None for none. Exits with 2 for what is no key."""
    if given is None:
        return None
    from bahi.seal_keys import read_public_key

    try:
        return [read_public_key(each.strip()) for each in given.split(",")]
    except (ValueError, OSError) as error:
        fail(str(error))


def anchors(given: Sequence[str] | None) -> list[Anchor]:
    """Exits with 2 for what is none."""
    try:
        return [parse_anchor(each) for each in given or ()]
    except ValueError as error:
        fail(str(error))


# --- telling ----------------------------------------------------------------------------------------------------------


def as_object(it: Examined) -> dict[str, Any]:
    """For `--json`."""
    import msgspec

    checker, manifest = it.checker, it.checker.manifest
    faults = [_fault(it, each) for each in it.faults]
    return {
        "ok": it.ok and it.trusted,
        "file": it.file,
        "checks": {**{name: it.holds(kinds) for name, (_, kinds) in CHECKS.items()}, "keys_trusted": it.trusted},
        "events": checker.events,
        "left_out": checker.left_out,
        "unreadable": checker.corrupt,
        "seals": checker.seals,
        "lines": checker.lines,
        "complete": manifest is not None and manifest.complete,
        "exported_at": None if manifest is None else manifest.exported_at,
        "filters": {} if manifest is None else msgspec.json.decode(encode(manifest.filters)),
        "signed_by": None if manifest is None else manifest.signed_by or None,
        "partitions": [] if manifest is None else [_part(it, part) for part in manifest.parts],
        "fault_count": checker.faults,
        "first_fault": faults[0] if faults else None,
        "faults": faults,
        "seconds": it.seconds,
    }


def _fault(it: Examined, fault: FileFault) -> dict[str, Any]:
    position = fault.position or None
    last = fault.last if fault.last > fault.position else None
    return {
        "line": fault.line,
        "partition": fault.partition,
        "position": None if position is None else it.places.plain(fault.partition, position),
        "last": None if last is None else it.places.plain(fault.partition, last),
        "exact": fault.exact,
        "kind": fault.kind,
        "text": fault.text,
    }


def _part(it: Examined, part: Any) -> dict[str, Any]:
    head = it.checker.heads.get(part.partition)
    return {
        "partition": part.partition,
        "log": part.source,
        "first": part.first,
        "last": part.last,
        "archived": part.archived,
        "sealed": 0 if head is None else head.last,
        "newest_seal": None if head is None else _anchor(it, head),
    }


def _anchor(it: Examined, head: Any) -> str:
    return f"{it.places.show(head.partition, head.number)}:{head.hash.hex()}"


def _show(it: Examined) -> None:
    checker, manifest = it.checker, it.checker.manifest
    if manifest is not None:
        for part in manifest.parts:
            shown = "nothing" if part.last < part.first else f"positions {part.first:,} to {part.last:,}"
            say(f"{part.source}: {shown}, exported {manifest.exported_at}")
        if told := _filters(manifest.filters):
            say(f"only {told}: that nothing of that is left out is the word of whoever signed the file, no seal tells")
    for what, kinds in CHECKS.values():
        verdict(what, it.holds(kinds))
    verdict("the signatures are of a key that you trust, or of one that it vouches for", it.trusted)
    left_out = f" and {checker.left_out:,} left out" if checker.left_out else ""
    say(f"{checker.events:,} events{left_out}, {checker.seals:,} seals, {it.seconds:.1f} s")
    show_faults(it)
    if it.ok and not it.trusted:
        by = f"key {manifest.signed_by}" if manifest is not None and manifest.signed_by else "nobody"
        say(f"The file agrees with itself. Whose it is, only --public-key can tell: it is signed by {by}.")
    if it.ok and it.trusted:
        for head in checker.heads.values():
            say(f"The newest seal is {_anchor(it, head)}: a later file that has it (--anchor) goes on from this one.")


def show_faults(it: Examined) -> None:
    """The first ones."""
    for number, fault in enumerate(it.faults[:SHOWN]):
        where = f"line {fault.line}"
        if fault.position:
            where += f", position {it.places.show(fault.partition, fault.position)}"
            where += f" to {fault.last}" if fault.last > fault.position and not fault.exact else ""
        say(f"{'The first fault' if number == 0 else 'Then'}: {where}: {fault.text}")
    if it.checker.faults > SHOWN:
        out.print(f"and {it.checker.faults - SHOWN:,} more")


def _filters(filters: Any) -> str:
    import msgspec

    told: dict[str, Any] = msgspec.json.decode(encode(filters))
    return ", ".join(
        f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}" for name, value in told.items()
    )
