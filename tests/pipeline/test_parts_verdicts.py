"""Parts of a capture that judges in the same forward: maps and verdicts of one process, merged."""

import json
import shutil
from pathlib import Path

import pytest

from mnemoscope.lm import model as batching
from mnemoscope.pipeline import blocks, capture
from mnemoscope.study.folder import Study
from study_files import assert_same
from tiny_models import make_sequences, save_model

N = 3


@pytest.fixture
def founded(tmp_path, call):
    """`founded("name")`: a study of a table of tokens, to be scanned, with nothing done yet."""
    model = save_model(tmp_path / "model")
    table = make_sequences(model, 72).select("sequence_id", "tokens")
    table.write_parquet(tmp_path / "tokens.parquet")
    flags = ["--model", model, "--batch-size", 6, "-o", tmp_path / "founded", "-q"]
    for one in ("continue.scan=true", "continue.part_rows=20", "capture.shard_rows=10"):
        flags += ["--set", one]
    done = call("sequences", tmp_path / "tokens.parquet", *flags)
    assert done.status == 0, done.err
    return lambda name: Path(shutil.copytree(tmp_path / "founded", tmp_path / name))


def do(call, *arguments) -> None:
    done = call(*arguments, "-q")
    assert done.status == 0, done.err


def in_parts(call, study: Path, stage: str, numbers=range(1, N + 1)) -> None:
    for number in numbers:
        do(call, stage, study, "--part", f"{number}/{N}")


def no_scan(*_arguments, **_settings):
    raise AssertionError("this forward was to be saved")


def test_merged_parts_hold_the_maps_and_verdicts_of_one_forward(founded, call, monkeypatch):
    whole, parted = founded("whole"), founded("parted")
    do(call, "capture", whole)
    in_parts(call, parted, "capture", (2, 3, 1))
    merged = call("merge", parted, "-q")
    assert f"Next: mnemoscope continue {parted}" in merged.out  # there are no labels yet
    assert list(parted.glob("continuation/*/part-*.parquet"))
    assert_same(parted, whole)
    monkeypatch.setattr(blocks, "scan_memorized", no_scan)
    together = Path(shutil.copytree(parted, parted.with_name("together")))
    for study in (whole, together):
        do(call, "continue", study)
    assert_same(together, whole)
    in_parts(call, parted, "continue")  # which take the verdicts over as well
    do(call, "merge", parted)
    assert_same(parted, whole)


def test_a_part_that_ends_between_verdicts_and_maps_goes_on(founded, call, refused, monkeypatch):
    whole, study = founded("whole"), founded("parted")
    do(call, "capture", whole)
    in_parts(call, study, "capture", (1, 3))
    note, n_noted = capture.write_bytes, []

    def ending(*arguments):
        note(*arguments)
        n_noted.append(1)
        if len(n_noted) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(capture, "write_bytes", ending)
        assert call("capture", study, "--part", f"2/{N}", "-q").status != 0
    assert "capture, part 2 of 3 is not finished" in refused("merge", study, "-q")
    in_parts(call, study, "capture", (2,))
    do(call, "merge", study)
    assert_same(study, whole)


def test_verdicts_of_a_part_that_are_torn_are_named_and_without_them_it_is_scanned(
    founded, call, refused
):
    study, whole = founded("parted"), founded("whole")
    in_parts(call, study, "capture")
    noted = study / "parts" / "capture" / f"2-of-{N}" / "verdicts" / "from-110.parquet"
    noted.write_bytes(noted.read_bytes()[:100])
    assert str(noted) in refused("merge", study, "-q")
    noted.unlink()
    do(call, "merge", study)
    assert len(list(study.glob("continuation/*/part-*.parquet"))) == 3  # of 4
    do(call, "continue", study)
    do(call, "continue", whole)
    verdicts = [Study(one).sequences["is_memorized"].to_list() for one in (study, whole)]
    assert verdicts[0] == verdicts[1]


def test_a_halved_batch_of_a_killed_run_is_on_record_of_the_parts_that_take_it_over(
    founded, call, monkeypatch
):
    study = founded("parted")
    attempt, write = batching._try, blocks.write_bytes
    n_written = []

    def lacking(step, batch, device):
        return attempt(step, batch, device) if len(batch) <= 3 else None

    def ending(*arguments):
        write(*arguments)
        n_written.append(1)
        if len(n_written) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batching, "_try", lacking)
        patch.setattr(blocks, "write_bytes", ending)
        assert call("continue", study, "-q").status != 0
    in_parts(call, study, "continue")
    do(call, "merge", study)
    assert Study(study).manifest("continue")["counts"]["batch_size_halved_to"] == 3
    assert Study(study).sequences["is_memorized"].sum() == 48
    assert not (study / "continuation").exists()


def test_parts_that_cut_their_shards_elsewhere_or_have_another_model_do_not_fit(
    founded, call, refused, tmp_path
):
    study = founded("parted")
    in_parts(call, study, "capture", (1, 2))
    do(call, "capture", study, "--part", f"3/{N}", "--set", "capture.shard_rows=12")
    assert "capture.shard_rows 12 (here 10)" in refused("merge", study, "-q")
    in_parts_again = ("capture", study, "--part", f"3/{N}", "--redo")
    other = save_model(tmp_path / "other", seed=5)
    line = refused(*in_parts_again, "--model", other, "-q")
    assert "model.name" in line
    shutil.rmtree(tmp_path / "model")
    other.rename(tmp_path / "model")  # other weights under the same name
    assert "made by another model" in refused(*in_parts_again, "-q")


def test_parts_of_a_capture_by_other_counts_do_not_fit(founded, call, refused):
    study = founded("parted")
    in_parts(call, study, "capture")
    do(call, "capture", study, "--part", "2/2")  # overlaps with the others
    assert "parts of 2 and parts of 3" in refused("merge", study, "-q")
    assert not (study / "maps").exists()


@pytest.mark.parametrize(
    ("keys", "words"),
    [(("versions", "torch"), "versions.torch 'other'"), (("table",), "table 'other'")],
)
def test_parts_of_another_version_or_table_are_refused(founded, call, refused, keys, words):
    study = founded("study")
    in_parts(call, study, "capture")
    record = study / "parts" / "capture" / "3-of-3" / "part.json"
    values = json.loads(record.read_text())
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = "other"
    record.write_text(json.dumps(values))
    assert f"3-of-3: does not fit part 1/3: made with {words}" in refused("merge", study, "-q")
    assert not (study / "maps").exists()
