"""Somebody else's Parquet file, damaged at any place, ends in an error and not in the process."""

import errno
import os
import signal
import subprocess
import sys

import polars as pl
import pytest

from mnemoscope.data.table import read_table
from mnemoscope.errors import DamagedDataError, NoRoomError, UserError
from mnemoscope.files import fault_of_parquet, read_parquet

FRAME = pl.DataFrame(
    {"sequence_id": [1, 2, 3], "tokens": [list(range(64))] * 3, "text": ["abc def", "x", "é"]}
)


def test_a_file_with_any_byte_flipped_is_read_or_refused(tmp_path) -> None:
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


def test_a_byte_of_which_polars_ends_the_process_is_known(tmp_path, monkeypatch) -> None:
    """As measured with Polars 1.34 and later: it asks for 2^61 bytes. Any reader may die."""
    path = tmp_path / "deadly.parquet"
    FRAME.write_parquet(path)
    monkeypatch.setattr("mnemoscope.files._PROGRAM", "import os; input(); os.abort()")
    monkeypatch.setattr("mnemoscope.files._process", None)
    for read in (read_table, read_parquet):
        with pytest.raises(DamagedDataError, match="it crashes the Parquet reader"):
            read(path)
    monkeypatch.undo()
    path.write_bytes(b"")
    with pytest.raises(DamagedDataError, match="an empty file"):
        read_table(path)


def test_a_reader_that_says_nothing_is_not_waited_for(tmp_path, monkeypatch) -> None:
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
def test_under_a_limit_of_memory_a_good_file_is_never_called_damaged(tmp_path, kind) -> None:
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


def test_a_reader_that_the_system_kills_or_cannot_start_is_no_damage(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.parquet"
    FRAME.write_parquet(path)
    program = f"import os; input(); os.kill(os.getpid(), {int(signal.SIGKILL)})"
    monkeypatch.setattr("mnemoscope.files._PROGRAM", program)
    monkeypatch.setattr("mnemoscope.files._process", None)
    for read in (read_table, read_parquet):
        with pytest.raises(
            NoRoomError, match=r"not enough memory to check.*\(the system ended its"
        ):
            read(path)

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("mnemoscope.files._process", None)
    monkeypatch.setattr(subprocess, "Popen", no_room)
    with pytest.raises(NoRoomError, match="its reader does not start: Cannot allocate"):
        read_table(path)
