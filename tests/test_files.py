"""Files are whole or not there."""

import errno
from pathlib import Path

import numpy as np
import pytest
from filelock import Timeout

from mnemoscope.data.corpus import open_flat
from mnemoscope.data.rows import read_pair
from mnemoscope.errors import DamagedDataError, NoRoomError, UserError
from mnemoscope.files import (
    atomic_folder,
    atomic_path,
    open_array,
    write_json,
    write_text,
)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path) -> None:
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_device_that_is_always_full_is_recognized() -> None:
    with (
        pytest.raises(OSError, match="No space") as raised,
        open("/dev/full", "wb", buffering=0) as handle,
    ):
        handle.write(b"x")
    assert raised.value.errno == errno.ENOSPC  # the number that atomic_path listens for


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
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


def test_a_folder_that_another_makes_is_in_use_and_left_alone(tmp_path: Path) -> None:
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
def test_an_array_with_a_hostile_header_is_refused_in_one_line(tmp_path, header) -> None:
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
