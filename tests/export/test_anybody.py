"""Whoever has the page about the file, and nothing of ours, can check it: `docs/archive-file.md`."""

import base64
import gzip
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from eventstore.export.lines import Filters
from eventstore.export.writing import Wish
from tests.export.world import Archived


def tree(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, as it is written there."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()


def tree_of(first: int, end: int, known: dict[tuple[int, int], bytes]) -> bytes:
    """The same, from the hashes of some of its parts."""
    if (first, end) in known:
        return known[first, end]
    half = 1 << ((end - first - 1).bit_length() - 1)
    return sha256(b"\1" + tree_of(first, first + half, known) + tree_of(first + half, end, known)).digest()


def seal_text(seal: dict[str, Any]) -> bytes:
    names = ("partition", "number", "positions", "until", "previous", "root", "sealed_at", "key")
    values = {**seal, "positions": f"{seal['first']}-{seal['last']}", "key": seal["key_id"]}
    return b"".join(f"{line}\n".encode() for line in ["bahi-seal/1", *(f"{name} {values[name]}" for name in names)])


def believe(path: Path, trusted: bytes) -> list[bytes]:
    """The envelopes in the file. Every assertion is one of the page's."""
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    head, end = json.loads(lines[0]), json.loads(lines[-1])
    keys = {key["id"]: bytes.fromhex(key["public_key"]) for key in head["manifest"]["keys"]}
    assert all(sha256(key).hexdigest()[:16] == name for name, key in keys.items())
    assert trusted in keys.values()
    signer = Ed25519PublicKey.from_public_bytes(keys[head["manifest"]["signed_by"]])
    for kind, thing, line in (("manifest", head["manifest"], head), ("end", end["end"], end)):
        written = json.dumps(thing, separators=(",", ":"), ensure_ascii=False).encode()
        signer.verify(bytes.fromhex(line["signature"]), f"bahi-archive-{kind}/1\n".encode() + written + b"\n")
    assert sha256(b"".join(lines[:-1])).hexdigest() == end["end"]["sha256"]
    envelopes: list[bytes] = []
    known: dict[tuple[int, int], bytes] = {}
    begin, previous = 1, "00" * 32
    for line in map(json.loads, lines[1:-1]):
        if "specversion" in line:
            envelope = base64.b64decode(line["envelope"])
            text = f"{line['position']}|{line['stream']}|{line['version']}|{line['recordedat']}|"
            place = int(line["position"]) - begin
            known[place, place + 1] = sha256(b"\0" + text.encode() + envelope).digest()
            envelopes.append(envelope)
        elif "left_out" in line:
            first, last = line["left_out"]
            hashes = base64.b64decode(line["hashes"])
            place, stop = first - begin, last + 1 - begin
            while hashes:
                size = 1 << 40
                while place % size or place + size > stop:
                    size //= 2
                known[place, place + size], hashes, place = hashes[:32], hashes[32:], place + size
        else:
            seal = line["seal"]
            public = Ed25519PublicKey.from_public_bytes(keys[seal["key_id"]])
            public.verify(bytes.fromhex(seal["signature"]), seal_text(seal))
            assert (seal["first"], seal["previous"]) == (begin, previous)
            if known:
                assert tree_of(0, seal["last"] + 1 - begin, known).hex() == seal["root"]
            begin, previous, known = seal["last"] + 1, sha256(seal_text(seal)).hexdigest(), {}
    return envelopes


async def test_the_page_is_enough_to_check_a_file(archived: Archived, tmp_path: Path) -> None:
    raws = await archived.fill(330, seal=75)
    await archived.export(tmp_path / "whole")
    await archived.export(tmp_path / "some", Wish(told=Filters(strategies=(4, 11))))
    key = await archived.public()
    assert believe(tmp_path / "whole", key) == [raw.envelope for raw in raws]
    some = believe(tmp_path / "some", key)
    assert 20 < len(some) < 60
    assert set(some) < {raw.envelope for raw in raws}
    leaves = [sha256(bytes([number])).digest() for number in range(11)]
    assert tree(leaves) == tree_of(0, 11, {(number, number + 1): each for number, each in enumerate(leaves)})
