"""Errors, atomic writing and progress: what every room builds on."""

import errno
import io
from pathlib import Path

import polars as pl
import pytest

from mnemoscope import progress
from mnemoscope.errors import NoRoomError, UserError, nearest
from mnemoscope.files import atomic_path, write_json, write_parquet, write_text


def test_nearest_names_the_likely_word_and_nothing_else() -> None:
    assert nearest("batchsize", ["batch_size", "device"]) == " Did you mean 'batch_size'?"
    assert nearest("RECAL", ["Recall", "Guess"]) == " Did you mean 'Recall'?"
    assert nearest("zzz", ["batch_size"]) == ""


def test_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("new, but")
        raise RuntimeError("the process failed here")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_full_disk_says_so_and_keeps_what_was_there(tmp_path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(NoRoomError, match="disk is full"), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_device_that_is_always_full_is_recognized() -> None:
    with (
        pytest.raises(OSError, match="No space") as raised,
        open("/dev/full", "wb", buffering=0) as handle,
    ):
        handle.write(b"x")
    assert raised.value.errno == errno.ENOSPC  # the number that atomic_path listens for


def test_missing_folder_is_the_users_mistake(tmp_path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_json(tmp_path / "none" / "a.json", {})


def test_parquet_round_trip(tmp_path) -> None:
    frame = pl.DataFrame({"a": [1, None], "b": [[1, 2], []]})
    write_parquet(tmp_path / "a.parquet", frame)
    assert pl.read_parquet(tmp_path / "a.parquet").equals(frame, null_equal=True)


def test_progress_is_silent_unless_asked_and_plain_off_a_terminal(capsys) -> None:
    with progress.track("Working", total=2) as bar:
        bar.advance(2)
    assert capsys.readouterr() == ("", "")
    stream = io.StringIO()
    with progress.show_progress(stream), progress.track("Working", total=2) as bar:
        bar.advance(2)
    assert stream.getvalue().startswith("Working: 2 of 2 sequences in 0 s")
    with progress.track("Working", total=2) as bar:
        bar.advance(2)
    assert stream.getvalue().count("\n") == 1
