"""A capture of a whole table hands its verdicts to `continue`; a halved batch is on record."""

import functools

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from transformers import GPTNeoXModel

from mnemoscope.pipeline import blocks, capture
from mnemoscope.study.folder import Study
from study_files import ending

SCAN = ("--set", "continue.scan=true", "--set", "continue.part_rows=32")


@pytest.fixture
def table(tiny, tmp_path):
    """Ids and tokens of a table of which two thirds are memorized, as a user has it."""
    frame = pl.read_parquet(tiny.table).select("sequence_id", "tokens").head(72)
    frame.write_parquet(tmp_path / "tokens.parquet")
    return tmp_path / "tokens.parquet"


@pytest.fixture
def captured(tiny, table, call, tmp_path):
    """`captured("name", *flags)`: a study of that table, captured before it has labels."""

    def captured(name, *flags):
        folder = tmp_path / name
        model = ("--model", tiny.model, "--batch-size", 16, "--set", "capture.shard_rows=16")
        done = call("capture", "--sequences", table, "-o", folder, *model, *flags)
        assert done.status == 0, done.err
        return folder, done

    return captured


def maps_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "maps" / "model").iterdir()}


def no_scan(*_arguments, **_settings):
    raise AssertionError("this forward was to be saved")


def test_continue_takes_the_verdicts_of_the_capture_over(captured, call, monkeypatch):
    plain, _ = captured("plain")
    both, done = captured("both", *SCAN)
    assert maps_of(both) == maps_of(plain)  # to the byte
    assert "Verdicts of 72 sequences found in the same forward" in done.err
    assert call("continue", plain, *SCAN).status == 0
    monkeypatch.setattr(blocks, "scan_memorized", no_scan)
    found = call("continue", both)
    assert found.status == 0, found.err
    columns = ["sequence_id", "is_memorized", "memorization_score", "continuation"]
    ours, scanned = Study(both).sequences, Study(plain).sequences
    assert_frame_equal(ours.select(columns), scanned.select(columns))
    assert ours["is_memorized"].sum() == 48
    # Logits up to about 20 in float32, by another attention code.
    np.testing.assert_allclose(ours["smallest_gap"], scanned["smallest_gap"], atol=1e-4)
    checked = Study(both).manifest("continue")["counts"]["scan_check"]
    assert checked == {"checked": 72, "disagree": 0}
    assert not (both / "continuation").exists()
    assert maps_of(both) == maps_of(plain)  # and they are still there


def test_a_killed_capture_keeps_its_verdicts(captured, monkeypatch, call, tmp_path):
    whole, _ = captured("whole", *SCAN)
    monkeypatch.setattr(capture, "write_bytes", ending(capture.write_bytes, 2))
    with pytest.raises(AssertionError):
        captured("killed", *SCAN)
    monkeypatch.undo()
    folder = tmp_path / "killed"
    assert call("capture", folder).status == 0
    for study in (folder, whole):
        assert call("continue", study).status == 0
    assert_frame_equal(Study(folder).sequences, Study(whole).sequences)


def test_without_the_setting_nothing_is_judged_and_a_later_scan_keeps_the_maps(captured, call):
    folder, done = captured("plain")
    assert not (folder / "continuation").exists()
    assert "Verdicts" not in done.err
    before = maps_of(folder)
    assert call("continue", folder, *SCAN).status == 0
    assert maps_of(folder) == before


def limit_memory(patch) -> None:
    """Let no more than six rows fit into memory."""
    forward = GPTNeoXModel.forward

    @functools.wraps(forward)
    def small(self, *arguments, **named):
        ids = named.get("input_ids", arguments[0] if arguments else None)
        if len(ids) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *arguments, **named)

    patch.setattr(GPTNeoXModel, "forward", small)


def test_a_halved_batch_of_a_killed_run_is_on_record(captured, call, tmp_path):
    """The run after it has memory enough: the shards of the first were made with less."""
    with pytest.MonkeyPatch.context() as patch:
        limit_memory(patch)
        patch.setattr(capture, "write_bytes", no_scan)
        with pytest.raises(AssertionError):
            captured("killed", *SCAN)
    folder = tmp_path / "killed"
    assert call("capture", folder).status == 0
    counts = Study(folder).manifest("capture")["counts"]
    assert (counts["batch_size"], counts["batch_size_halved_to"]) == (16, 4)
    assert [path.name for path in (folder / "maps").iterdir()] == ["model"]


@pytest.mark.parametrize("flags", [(), SCAN], ids=["capture", "capture and scan"])
def test_a_halved_batch_is_said_and_on_record(captured, call, monkeypatch, flags):
    plain, _ = captured("plain", *flags)
    assert "batch_size_halved_to" not in Study(plain).manifest("capture")["counts"]
    limit_memory(monkeypatch)
    folder, done = captured("halved", *flags)
    counts = Study(folder).manifest("capture")["counts"]
    assert (counts["batch_size"], counts["batch_size_halved_to"]) == (16, 4)
    assert done.status == 0
    assert call("continue", folder).status == 0
    counts = Study(folder).manifest("continue")["counts"]
    assert (counts["batch_size"], counts["batch_size_halved_to"]) == (16, 4)


def test_a_torn_file_of_verdicts_is_left_to_the_scan(captured, monkeypatch, call, tmp_path):
    whole, _ = captured("whole", *SCAN)
    note = capture.write_bytes

    def torn(path, data):
        first = Study(tmp_path / "torn").sequences["sequence_id"].min()
        note(path, data[:100] if path.name == f"from-{first}.parquet" else data)

    monkeypatch.setattr(capture, "write_bytes", torn)
    folder, done = captured("torn", *SCAN)
    assert ".parquet: torn. 'mnemoscope continue' finds these verdicts anew." in done.err
    assert "Verdicts of 40 sequences found in the same forward" in done.err
    for study in (whole, folder):
        assert call("continue", study).status == 0
    columns = ["sequence_id", "is_memorized"]
    assert_frame_equal(
        Study(folder).sequences.select(columns), Study(whole).sequences.select(columns)
    )
