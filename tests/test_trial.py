"""Somebody else's Parquet file, damaged at any place, ends in an error and not in the process."""

import polars as pl
import pytest

from mnemoscope.data.table import read_table
from mnemoscope.errors import DamagedDataError, UserError
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
