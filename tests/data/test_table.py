"""The table of sequences: what is written is read back, what is wrong is refused with its place."""

import errno
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mnemoscope.data.table import (
    SCHEMA_VERSION,
    check_sequences,
    read_table,
    scan_table,
    sink_table,
    token_matrix,
    write_table,
)
from mnemoscope.errors import DamagedDataError, NoRoomError
from refusals import refusal


def table(n=3, length=64, **columns):
    tokens = np.arange(n * length).reshape(n, length) % 100
    return pl.DataFrame(
        {
            "sequence_id": pl.Series(range(10, 10 + n), dtype=pl.Int64),
            "tokens": pl.Series(tokens.tolist(), dtype=pl.List(pl.Int32)),
            **columns,
        }
    )


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_what_is_written_is_read_back_and_equal_tables_are_equal_files(tmp_path, ending):
    frame = table(
        text=["a\nb\r\n", "é日🎉\x00", None],
        duplicates=[1, None, 7],
        is_code=[True, None, False],
        rouge_l=[0.1, 1 / 3, None],
        mine=[{"a": [1]}, {"a": []}, None],
        nothing=pl.Series([None] * 3, dtype=pl.String),
    )
    path = tmp_path / f"table{ending}"
    write_table(path, frame)
    found = read_table(path)
    if ending == ".jsonl":  # JSON has no type for a column that holds nothing
        found = found.with_columns(pl.col("nothing").cast(pl.String))
    assert_frame_equal(found, frame)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    write_table(tmp_path / f"again{ending}", frame)
    assert (tmp_path / f"again{ending}").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl"])
def test_a_full_disk_leaves_the_former_table_and_nothing_else(tmp_path, monkeypatch, name):
    write_table(tmp_path / name, table())
    before = (tmp_path / name).read_bytes()

    def full(path, data):
        with open(path, "wb") as handle:
            handle.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    assert name in refusal(write_table, tmp_path / name, table(n=9), error=NoRoomError)
    for sink in ("sink_parquet", "sink_ndjson"):  # Polars gives no errno
        large = Mock(side_effect=OSError("File too large (os error 27)"))
        monkeypatch.setattr(pl.LazyFrame, sink, large)
    said = refusal(sink_table, tmp_path / name, table().lazy(), where="t", error=NoRoomError)
    assert "no file this large" in said
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


def test_known_columns_come_at_their_types(tmp_path):
    frame = table().with_columns(
        pl.col("sequence_id").cast(pl.UInt8),
        pl.col("tokens").cast(pl.List(pl.UInt16)).list.to_array(64),
        pl.lit("x").cast(pl.Categorical).alias("genre"),
        pl.lit(None).alias("is_code"),
        pl.lit(2).cast(pl.Int16).alias("unknown"),
    )
    frame.write_parquet(tmp_path / "t.parquet")
    schema = read_table(tmp_path / "t.parquet").schema
    assert schema == {
        "sequence_id": pl.Int64,
        "tokens": pl.List(pl.Int32),
        "genre": pl.String,
        "is_code": pl.Boolean,
        "unknown": pl.Int16,
    }


def test_a_missing_file_a_folder_and_another_ending_are_refused(tmp_path):
    for name in ("gone.parquet", "gone.jsonl"):
        assert f"{name}: no such file" in refusal(read_table, tmp_path / name)
    (tmp_path / "t.xlsx").write_text("sequence_id\n1\n")
    assert "must end in .parquet, .jsonl," in refusal(read_table, tmp_path / "t.xlsx")
    assert ".parquet or .jsonl" in refusal(write_table, tmp_path / "t.csv", table())
    assert "folder" in refusal(read_table, tmp_path)
    assert "no such folder" in refusal(write_table, tmp_path / "gone" / "t.jsonl", table())


def test_every_torn_or_altered_parquet_file_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, table(n=50, text=["some text"] * 50))
    whole = path.read_bytes()
    altered = whole[:20] + bytes(255 - byte for byte in whole[20:60]) + whole[60:]
    sizes = {0, 1, 4, 8, len(whole) // 2, len(whole) - 9, len(whole) - 1}
    for data in [altered, *(whole[:size] for size in sizes)]:
        path.write_bytes(data)
        assert str(path) in refusal(read_table, path, error=DamagedDataError)


def test_a_table_damaged_while_it_is_read_is_not_taken_for_a_full_disk(tmp_path):
    path, out = tmp_path / "t.parquet", tmp_path / "out.parquet"
    write_table(path, table(n=50))
    scanned, whole = scan_table(path), path.read_bytes()
    path.write_bytes(whole[:20] + bytes(255 - byte for byte in whole[20:60]) + whole[60:])
    said = refusal(sink_table, out, scanned, where="t", error=DamagedDataError)
    assert "t: cannot be read whole" in said
    assert not out.exists()


@pytest.mark.parametrize("version", [str(SCHEMA_VERSION + 1), "odd"])
def test_a_newer_schema_is_refused(tmp_path, version):
    path = tmp_path / "t.parquet"
    table().write_parquet(path, metadata={"mnemoscope.schema_version": version})
    assert f"schema version {version}" in refusal(read_table, path)


GOOD = b'{"sequence_id": 1, "tokens": [1, 2], "text": "a", "is_code": true}\n\n'
BAD = [  # what a .jsonl file holds, words of the one line
    (GOOD + b'{"sequence_id": 2', ", line 3: not JSON"),
    (GOOD + b"[1]", ", line 3: a list where an object"),
    (GOOD + b'{"sequence_id": 2, "x": NaN}', ", line 3: not JSON (NaN"),
    (GOOD + b'{"sequence_id": true}', ", line 3, column 'sequence_id': true where integers"),
    (GOOD + b'{"sequence_id": 2.5}', ", line 3, column 'sequence_id': 2.5 where integers"),
    (GOOD + b'{"sequence_id": 2, "tokens": [1.5]}', ", line 3, column 'tokens'"),
    (GOOD + b'{"sequence_id": 2, "text": 7}', ", line 3, column 'text': 7 where text"),
    (GOOD + b'{"is_code": 1}', ", line 3, column 'is_code': 1 where true or false"),
    (GOOD + b'{"text": "\\ud800"}', ", line 3, column 'text': half of a surrogate"),
    (b"", ", no line holds a row"),
    (b'{"text": "a"}\n{"text": "\xff"}', ", line 2: byte 10 is not UTF-8"),
    (b'{"tokens": [4294967297]}', ", column 'tokens': a number does not fit"),
    (b'{"duplicates": 3}\n{"duplicates": -2}', ", row 1, column 'duplicates': -2 where 0"),
    (b'{"start": -1}', ", row 0, column 'start': -1 where 0 is the least"),
    (b'{"text": ' + b"[" * 400 + b"]" * 400 + b"}", ", line 1: not JSON (nested more than 100"),
    (b'{"text": "' + b"a" * (9 << 20) + b'"}', ", line 1: longer than 8 MB"),
]


@pytest.mark.parametrize(("data", "words"), BAD, ids=[words for _, words in BAD])
def test_a_bad_line_of_jsonl_is_named(tmp_path, data, words):
    path = tmp_path / "t.jsonl"
    path.write_bytes(data + b"\n" if data else data)
    assert refusal(read_table, path).startswith(f"{path}{words}")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    for name in ("t.parquet", "t.jsonl"):
        write_table(tmp_path / name, table())

    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    for name in ("read_parquet", "read_parquet_metadata"):
        monkeypatch.setattr(pl, name, forbidden)
    monkeypatch.setattr("mnemoscope.data.formats.open", forbidden, raising=False)
    for name in ("t.parquet", "t.jsonl"):
        assert "no permission" in refusal(read_table, tmp_path / name)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pl.DataFrame({"sequence_id": [10]}), "t: no column 'tokens'. It holds: sequence_id."),
        (table().clear(), "t: no rows"),
        (table(tokens=[[0.5] * 64] * 3), "lists of integers"),
        (table(sequence_id=["a", "b", "c"]), "column 'sequence_id': String where integers"),
        (table(sequence_id=[1, 2, 1]), "t, row 2: sequence_id 1 is there already"),
        (table(sequence_id=[1, None, 3]), "t, row 1: no sequence_id"),
        (table(tokens=[[1] * 64, [1] * 61, [1] * 64]), "t, row 1: 61 tokens where 64"),
        (table(tokens=[[1] * 64, [1] * 63 + [None], [1] * 64]), "t, row 1: a null among"),
        (table(tokens=[[1] * 64, [2] * 63 + [100], [1] * 64]), "t, row 1, token 63: id 100"),
        (table(tokens=[[1] * 64, [1] * 64, [1, -1] * 32]), "t, row 2, token 1: id -1"),
    ],
)
def test_a_table_that_cannot_be_shown_to_a_model_is_refused_with_its_place(frame, words):
    assert words in refusal(check_sequences, frame, where="t", vocab_size=100)
    check_sequences(table(length=32), where="t", vocab_size=100, length=32)


def test_token_matrix_holds_the_lists_and_refuses_what_is_no_matrix():
    tokens = np.arange(6).reshape(2, 3)
    for dtype in (pl.List(pl.Int64), pl.Array(pl.UInt16, 3)):
        matrix = token_matrix(pl.DataFrame([pl.Series("tokens", tokens.tolist(), dtype=dtype)]))
        assert matrix.dtype == np.int32
        np.testing.assert_array_equal(matrix, tokens)
    for lists in ([[1], [1, 2]], [[1], None], [[1], [None]], [[1], [2**31]], [[1], [-1]]):
        frame = pl.DataFrame({"tokens": pl.Series(lists, dtype=pl.List(pl.Int64))})
        assert "column 'tokens'" in refusal(token_matrix, frame)
