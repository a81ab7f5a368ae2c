"""Files are whole or not there, and a damaged Parquet file of others ends in an error."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Timer

import numpy as np
import polars as pl
import pytest
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from mnemoscope.data.corpus import open_flat
from mnemoscope.data.rows import read_pair
from mnemoscope.data.table import read_table
from mnemoscope.errors import DamagedDataError, NoRoomError, UserError
from mnemoscope.files import (
    LOCK_FILE,
    atomic_folder,
    atomic_path,
    fault_of_parquet,
    hold_folder,
    open_array,
    write_json,
    write_text,
)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    full = OSError(errno.ENOSPC, "No space left on device")
    for error, raised in ((RuntimeError("failed"), RuntimeError), (full, NoRoomError)):
        with pytest.raises(raised, match=r"failed|disk is full"), atomic_path(path) as temporary:  # noqa: PT012
            temporary.write_text("new, but")
            raise error
        assert path.read_text() == "old"
        assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(UserError, match="no such folder"):
        write_json(tmp_path / "none" / "a.json", {})


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    out = tmp_path / "deep" / "out"

    def stopped() -> None:
        with atomic_folder(out) as made:
            (made / "a").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(out.parent.iterdir()) == []
    (out.parent / ".out.1.tmp" / "deep").mkdir(parents=True)  # a killed process left it
    with atomic_folder(out) as made:
        (made / "a").write_text("b")
    assert [one.name for one in out.parent.iterdir()] == ["out"]
    with pytest.raises(UserError, match="already there"), atomic_folder(out):
        pass
    assert (out / "a").read_text() == "b"


def test_a_holder_that_has_not_yet_written_its_number_is_waited_for_and_named(tmp_path: Path):
    with FileLock(tmp_path / LOCK_FILE, thread_local=False):
        late = Timer(0.2, (tmp_path / f"{LOCK_FILE}.pid").write_text, ["4711\n"])
        late.start()
        with pytest.raises(UserError, match="in use by process 4711"), hold_folder(tmp_path):
            pass
        late.join()


def test_a_folder_that_another_makes_is_in_use_and_left_alone(tmp_path: Path):
    """As two containers on one file system do, where both are process 1."""
    out = tmp_path / "out"
    with atomic_folder(out) as made:
        (made / "a").write_text("a")
        with pytest.raises(UserError, match="out: in use by") as said, atomic_folder(out):
            pass
        assert "\n" not in str(said.value)
        assert ".tmp" not in str(said.value)
        (made / "b").write_text("b")
    assert sorted(one.name for one in out.iterdir()) == ["a", "b"]
    assert [one.name for one in tmp_path.iterdir()] == ["out"]

    def timed_out() -> None:
        with atomic_folder(tmp_path / "other"):
            raise Timeout("a lock of the caller's")

    with pytest.raises(Timeout):
        timed_out()


GOOD_HEADER = "{'descr': '<i4', 'fortran_order': False, 'shape': (4, 4)}"
HEADERS = {
    "a text without end": "{'descr': '''<i4, 'shape': (4,",  # tokenize.TokenError
    "other indentation": "if 1:\n  a\n b\n",  # IndentationError
    "a list as a key": "{[]: 1}",  # TypeError
    "keys of two types": "{1: 1, 'a': 2}",
    "an axis beyond 64 bits": GOOD_HEADER.replace("(4,", f"({2**70},"),  # OverflowError
    "an axis beyond all memory": GOOD_HEADER.replace("(4,", f"({2**40},"),
    "depth": "-" * 3000 + "1",  # RecursionError
    "objects": GOOD_HEADER.replace("<i4", "O"),
    "more than there is": GOOD_HEADER.replace("(4,", "(5,"),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_an_array_with_a_hostile_header_is_refused_in_one_line(tmp_path, header):
    def npy(header: str) -> bytes:
        return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)

    paths = [tmp_path / f"a_{half}.npy" for half in ("prefix", "suffix")]
    for path in paths:
        path.write_bytes(npy(GOOD_HEADER))
        assert np.array_equal(open_array(path), np.zeros((4, 4)))
    assert read_pair(*paths, prefix=None).height == 4
    assert open_flat(paths[0], None).n_tokens == 16
    for path in paths:
        path.write_bytes(npy(header))
    readers = (
        open_array,
        lambda _: read_pair(*paths, prefix=None),
        lambda one: open_flat(one, None),
    )
    for read in readers:
        with pytest.raises(
            DamagedDataError, match=r"a_prefix\.npy: not a whole \.npy array"
        ) as said:
            read(paths[0])
        assert len(str(said.value)) < 400 + len(str(tmp_path))


FRAME = pl.DataFrame(
    {"sequence_id": [1, 2, 3], "tokens": [list(range(64))] * 3, "text": ["abc def", "x", "é"]}
)


def test_a_file_with_any_byte_flipped_is_read_or_refused(tmp_path):
    FRAME.write_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    assert fault_of_parquet(tmp_path / "whole.parquet") == ""
    n_refused = 0
    for place in range(5, len(whole), 41):
        data = bytearray(whole)
        data[place] ^= 1
        path = tmp_path / f"{place}.parquet"
        path.write_bytes(data)
        said = str(path)
        try:
            read_table(path)
        except (DamagedDataError, UserError) as error:
            n_refused += 1
            said = str(error)
        assert str(path) in said
        assert "\n" not in said
    assert n_refused > 5


def test_a_byte_of_which_polars_ends_the_process_is_known(tmp_path, monkeypatch):
    """As measured with Polars 1.34 and later: it asks for 2^61 bytes. Any reader may die."""
    path = tmp_path / "deadly.parquet"
    FRAME.write_parquet(path)
    monkeypatch.setattr("mnemoscope.files._PROGRAM", "import os; input(); os.abort()")
    monkeypatch.setattr("mnemoscope.files._process", None)
    with pytest.raises(DamagedDataError, match="it crashes the Parquet reader"):
        read_table(path)
    monkeypatch.undo()
    path.write_bytes(b"")
    with pytest.raises(DamagedDataError, match="an empty file"):
        read_table(path)


def test_a_reader_that_says_nothing_is_not_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "slow.parquet"
    FRAME.write_parquet(path)
    monkeypatch.setattr("mnemoscope.files._PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr("mnemoscope.files._process", None)
    monkeypatch.setattr("mnemoscope.files._SECONDS", 0.2)
    with pytest.raises(DamagedDataError, match="not read within 0 s"):
        read_table(path)


_UNDER = """
import resource, sys
from pathlib import Path
bytes_ = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_ if sys.argv[2] == "hard" else -1))
from mnemoscope.errors import NoRoomError
from mnemoscope.files import fault_of_parquet
for name in sys.argv[3:]:
    try:
        print(fault_of_parquet(Path(name)) or "whole")
    except NoRoomError as error:
        print("no room:", error)
"""


@pytest.mark.skipif(os.name != "posix", reason="no limits to set")
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_under_a_limit_of_memory_a_good_file_is_never_called_damaged(tmp_path, kind):
    good, torn = tmp_path / "good.parquet", tmp_path / "torn.parquet"
    FRAME.write_parquet(good)
    torn.write_bytes(good.read_bytes()[:-9])

    def said(limit: int) -> list[str]:
        command = [sys.executable, "-c", _UNDER, str(limit), kind, str(good), str(torn)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )

    first, second, _ = said(4 << 30)
    assert first == "whole"
    assert second not in ("whole", "its reader dies of it")
    assert "no room" not in second
    for line in said(160 << 20)[:2]:  # not enough to load Polars
        assert "parquet: not enough memory to check" in line
        assert "0.2 of 8 GiB" in line


@pytest.mark.skipif(os.name != "posix", reason="no limits to set")
@pytest.mark.parametrize("room", [5 << 30, 8 << 30])
def test_what_is_said_of_memory_is_no_damage_under_a_limit(tmp_path, monkeypatch, room):
    path = tmp_path / "a.parquet"
    FRAME.write_parquet(path)
    said = "could not spawn threads: Resource temporarily unavailable (os error 11)"
    monkeypatch.setattr("mnemoscope.files._PROGRAM", f"import json; print(json.dumps('{said}'))")
    monkeypatch.setattr("mnemoscope.files._process", None)
    monkeypatch.setattr("mnemoscope.files._room", lambda: room)
    error = NoRoomError if room < 8 << 30 else DamagedDataError
    with pytest.raises(error, match="had 5.0 of 8 GiB" if error is NoRoomError else "crashes"):
        read_table(path)


def test_a_reader_that_the_system_kills_or_cannot_start_is_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    FRAME.write_parquet(path)
    program = f"import os; input(); os.kill(os.getpid(), {int(signal.SIGKILL)})"
    monkeypatch.setattr("mnemoscope.files._PROGRAM", program)
    monkeypatch.setattr("mnemoscope.files._process", None)
    with pytest.raises(NoRoomError, match=r"not enough memory to check.*\(the system ended its"):
        read_table(path)

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("mnemoscope.files._process", None)
    monkeypatch.setattr(subprocess, "Popen", no_room)
    with pytest.raises(NoRoomError, match="its reader does not start: Cannot allocate"):
        read_table(path)


def test_a_full_disk_that_a_library_in_rust_reports_is_named(tmp_path):
    """safetensors' error of writing is no OSError."""
    with pytest.raises(NoRoomError, match="out"), atomic_folder(tmp_path / "out"):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    assert not [*tmp_path.iterdir()]
