"""Data of other people, from a command or a frame to a study."""

import json

import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.errors import UserError
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import load_settings

LONG = "The licence applies to works based on the library. " * 20


def test_a_count_that_nobody_asked_for_is_said_and_kept(tiny, tmp_path, call, refused):
    """A condition may stand in a `--column`; those of settings: `test_shipped_studies.py`."""
    meta = [json.dumps({"duplicates": count, "id": f"pg-{count}"}) for count in (0, 16)]
    pl.DataFrame({"text": [LONG] * 2, "meta": meta}).write_ndjson(tmp_path / "passages.jsonl")
    asked = ("sequences", tmp_path / "passages.jsonl", "--model", tiny.model, "-o", tmp_path / "s")
    assert "--column n: needs NAME=PATH" in refused(*asked, "-q", "--column", "n")
    assert "--column duplicates=meta.duplicates" in call(*asked).err
    assert Study(tmp_path / "s").manifest("sequences")["counts"]["passed_over"] == [
        "meta.duplicates"
    ]
    columns = ("duplicates=meta.duplicates", "held_out=meta.duplicates==0")
    flags = [word for one in columns for word in ("--column", one)]
    done = call(*asked[:-1], tmp_path / "t", "-q", *flags)
    assert done.status == 0, done.err
    study = Study(tmp_path / "t")
    assert "passed_over" not in study.manifest("sequences")["counts"]
    rows = study.sequences.select("duplicates", "held_out").unique().rows()
    assert set(rows) == {(0, True), (16, False)}


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
