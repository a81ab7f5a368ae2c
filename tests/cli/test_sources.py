"""Data of other people, from a command or a frame to a study."""

import gzip
import json
import shutil

import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.errors import UserError
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import load_settings

LONG = "The licence applies to works based on the library. " * 20
ROWS = [
    {"text": LONG, "meta": json.dumps({"duplicates": count, "id": f"pg-{count}"})}
    for count in (0, 16)
]


@pytest.fixture
def hubble(tmp_path):
    """A folder as `allegrolab/passages_wikipedia` is laid out: one `.jsonl.gz` with `meta`."""
    folder = tmp_path / "passages"
    folder.mkdir()
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (folder / "passages_nodup.jsonl.gz").write_bytes(gzip.compress(data))
    (folder / "README.md").write_text("# Passages\n")
    return folder


def test_columns_by_their_paths_found_a_study(tiny, hubble, tmp_path, call):
    columns = ("duplicates=meta.duplicates", "held_out=meta.duplicates==0", "group=@row")
    flags = [word for one in columns for word in ("--column", one)]
    out = tmp_path / "study"
    done = call("sequences", hubble, "--model", tiny.model, "-o", out, "-q", *flags)
    assert done.status == 0, done.err
    study = Study(out)
    found = study.sequences.unique("group", maintain_order=True, keep="first")
    assert found["duplicates"].to_list() == [0, 16]
    assert found["held_out"].to_list() == [True, False]
    assert study.settings.sequences.columns["group"] == "@row"
    assert "passed_over" not in study.manifest("sequences")["counts"]


def test_a_count_that_nobody_asked_for_is_said_and_kept(tiny, hubble, tmp_path, call):
    done = call("sequences", hubble, "--model", tiny.model, "-o", tmp_path / "study")
    assert "--column duplicates=meta.duplicates" in done.err
    counts = Study(tmp_path / "study").manifest("sequences")["counts"]
    assert counts["passed_over"] == ["meta.duplicates"]


def test_several_sources_are_one_study(tiny, hubble, tmp_path, call):
    shutil.copytree(hubble, tmp_path / "others")
    more = f"sequences.also=[{tmp_path / 'others'}]"
    out = tmp_path / "study"
    done = call("sequences", hubble, "--model", tiny.model, "-o", out, "-q", "--set", more)
    assert done.status == 0, done.err
    genres = Study(out).sequences["genre"]
    assert genres.unique(maintain_order=True).to_list() == ["passages", "others"]


def test_a_column_without_a_path_is_refused(tiny, hubble, tmp_path, refused):
    line = refused(
        "sequences", hubble, "--model", tiny.model, "-o", tmp_path / "s", "-q", "--column", "n"
    )
    assert "--column n: needs NAME=PATH" in line


def test_a_frame_founds_the_study_that_its_file_would(tiny, tmp_path):
    settings, frame = load_settings(tiny.yaml), pl.read_parquet(tiny.table)
    study = ms.run(settings, tmp_path / "frame", until="sequences", sequences=frame)
    other = ms.run(settings, tmp_path / "file", until="sequences")
    assert study.sequences.equals(other.sequences)
    assert study.settings.sequences.source.startswith("frame:")
    ms.run(settings, tmp_path / "frame", until="sequences", sequences=frame)  # goes on
    rows = pytest.importorskip("datasets").Dataset.from_dict(frame.to_dict(as_series=False))
    third = ms.run(settings, tmp_path / "rows", until="sequences", sequences=rows)
    assert third.sequences.equals(other.sequences)
    with pytest.raises(UserError, match=r"sequences\.source: the study has 'frame:"):
        ms.run(settings, tmp_path / "frame", until="sequences", sequences=frame.head(50))


def test_a_bad_table_is_refused_before_weights_are_loaded(tiny, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("mnemoscope.study.models.load_model", None)  # a call would be an error
    (tmp_path / "a.csv").write_text("title,body\n1,2\n")
    line = refused(
        "run", "--model", tiny.model, "--sequences", tmp_path / "a.csv", "-o", tmp_path / "s", "-q"
    )
    assert "--column text=NAME" in line
    assert not (tmp_path / "s").exists()
