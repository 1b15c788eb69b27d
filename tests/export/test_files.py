"""A file is whole and on the disk, or it is not there."""

import errno
import gzip
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eventstore.export import files
from eventstore.export.files import Compressed, NewFile, Unreadable, read_lines


def write(path: Path, content: bytes, *, replace: bool = False) -> int:
    with NewFile(path, replace=replace) as new:
        new.file.write(content)
        return new.commit()


def test_a_file_appears_when_it_is_whole_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    with NewFile(tmp_path / "x") as new:
        new.file.write(b"half")
        new.file.flush()
        assert not (tmp_path / "x").exists()
        new.file.write(b" and whole")
        assert new.commit() == 14
    assert (tmp_path / "x").read_bytes() == b"half and whole"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["x"]


def fail_on_the_way(path: Path, error: type[BaseException], *, replace: bool = False) -> None:
    with NewFile(path, replace=replace) as new:
        new.file.write(b"half")
        raise error


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            fail_on_the_way(tmp_path / "x", error)
    with NewFile(tmp_path / "x"):
        pass  # never committed
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_there_is_replaced_only_on_demand_and_only_by_a_whole_one(tmp_path: Path) -> None:
    write(tmp_path / "x", b"old")
    with pytest.raises(FileExistsError, match="is there already"):
        write(tmp_path / "x", b"new")
    with pytest.raises(RuntimeError):
        fail_on_the_way(tmp_path / "x", RuntimeError, replace=True)
    assert (tmp_path / "x").read_bytes() == b"old"
    write(tmp_path / "x", b"new", replace=True)
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_file_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with NewFile(tmp_path / "x") as new:
        (tmp_path / "x").write_bytes(b"theirs")
        with pytest.raises(FileExistsError):
            new.commit()
    assert (tmp_path / "x").read_bytes() == b"theirs"


def fill(path: Path, size: int) -> None:
    with NewFile(path) as new:
        packed = Compressed(new.file)
        for _ in range(0, size, 1_000_000):
            packed.write(os.urandom(min(size, 1_000_000)))
        packed.close()
        new.commit()


@pytest.mark.parametrize("size", [10, 20_000_000])
def test_a_full_disk_is_told(size: int) -> None:
    with pytest.raises(OSError, match="No space left"):
        fill(Path("/dev/full"), size)


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    program = """
import os, resource, signal, sys
from pathlib import Path
from eventstore.export.files import Compressed, NewFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
try:
    with NewFile(Path(sys.argv[1])) as new:
        packed = Compressed(new.file)
        for _ in range(10):
            packed.write(os.urandom(1_000_000))
        packed.close()
        new.commit()
except OSError as error:
    sys.exit(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "x"], check=False, timeout=500)
    assert done.returncode == errno.EFBIG
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder"), NewFile(tmp_path):
        pass


def test_a_killed_writer_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from eventstore.export.files import NewFile
with NewFile(Path(sys.argv[1])) as new:
    new.file.write(b"half"); new.file.flush(); print("there", flush=True); sys.stdin.read()
"""
    command = [sys.executable, "-c", program, tmp_path / "x"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.wait(30)
    assert not (tmp_path / "x").exists()
    write(tmp_path / "x", b"whole")


# --- reading ----------------------------------------------------------------------------------------------------------


def test_lines_are_read_packed_or_not() -> None:
    content = b"one\n\ntwo\n"
    for packed in (content, gzip.compress(content), gzip.compress(b"one\n") + gzip.compress(b"\ntwo\n")):
        assert list(read_lines(io.BytesIO(packed))) == [b"one", b"", b"two"]
    assert list(read_lines(io.BytesIO(b""))) == []


@pytest.mark.parametrize(
    "packed",
    [b"one\ntwo", gzip.compress(b"one\ntwo"), gzip.compress(b"one\ntwo\n")[:-1]],
    ids=["plain", "packed", "cut"],
)
def test_a_file_that_stops_in_the_middle_is_told_after_the_lines_that_are_whole(packed: bytes) -> None:
    lines = read_lines(io.BytesIO(packed))
    assert next(lines) == b"one"
    with pytest.raises(Unreadable, match="cut short"):
        list(lines)


def test_a_line_without_an_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST", 1_000)
    with pytest.raises(Unreadable, match="longer than 1000 bytes"):
        list(read_lines(io.BytesIO(gzip.compress(b"x" * 5_000))))


def test_packing_gives_gzip_that_other_programs_read_and_always_the_same() -> None:
    packed: list[bytes] = []
    for _ in range(2):
        into = io.BytesIO()
        out = Compressed(into)
        for number in range(3_000):
            out.write(b"%d\n" % number * 200)
        out.close()
        packed.append(into.getvalue())
    assert packed[0] == packed[1]
    assert gzip.decompress(packed[0]) == b"".join(b"%d\n" % number * 200 for number in range(3_000))
