"""Parts of a stage made by several processes, merged: byte for byte what one process makes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml

from mnemoscope.data.table import table_digest
from mnemoscope.files import write_record
from mnemoscope.flow.run import run
from mnemoscope.lm import model as batching
from mnemoscope.maps import store
from mnemoscope.pipeline import blocks, capture
from mnemoscope.study.folder import Study, hold_folder
from mnemoscope.study.settings import parse_settings
from study_files import assert_same, content, ending
from tiny_models import make_sequences, save_model

COMMAND = Path(sys.executable).with_name("mnemoscope")
N = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """One study, scanned, by the stage it has come to, made by one process; read only."""
    folder = tmp_path_factory.mktemp("parts")
    model, reference = save_model(folder / "model"), save_model(folder / "reference", seed=1)
    make_sequences(model, 120).write_parquet(folder / "sequences.parquet")
    values = {
        "model": {"name": str(model), "batch_size": 12},
        "sequences": {"source": str(folder / "sequences.parquet")},
        "continue": {"part_rows": 16, "scan": True, "check_rows": 8},
        "label": {
            "taxonomies": ["Non-Memo, Recite[5], Recollect"],
            "n_train": 20,
            "n_eval": 10,
            "minimum": 12,
        },
        "capture": {"reference": str(reference), "shard_rows": 15},
    }
    copies = {}
    for stage in ("sequences", "continue", "label", "capture"):
        run(parse_settings(values, where="test"), folder / "study", until=stage)
        copies[stage] = folder / stage
        shutil.copytree(folder / "study", copies[stage])
    return copies


@pytest.fixture
def begun(whole, tmp_path):
    """A copy of the study as it stands before a stage."""

    def begun(stage: str) -> Path:
        before = {"continue": "sequences", "capture": "label"}[stage]
        return Path(shutil.copytree(whole[before], tmp_path / "study"))

    return begun


def folder_of(study: Path, stage: str, number: int) -> Path:
    return study / "parts" / stage / f"{number}-of-{N}"


@pytest.fixture
def do(call):
    """Run a verb to its end; gives what it says."""

    def do(*arguments) -> str:
        done = call(*arguments, "-q")
        assert done.status == 0, done.err
        return done.out

    return do


@pytest.fixture
def make_parts(do):
    def make_parts(study: Path, stage: str, numbers=range(1, N + 1), n: int = N) -> None:
        for number in numbers:
            assert "mnemoscope merge" in do(stage, study, "--part", f"{number}/{n}")

    return make_parts


@pytest.mark.parametrize(
    ("stage", "numbers", "n"),
    [("continue", (3, 1, 2), 3), ("capture", range(1, 8), 7)],  # in any order; of six shards
)
def test_merged_parts_are_what_one_process_makes(stage, numbers, n, begun, whole, do, make_parts):
    study = begun(stage)
    before = content(study)
    make_parts(study, stage, numbers, n)
    outside = {name: data for name, data in content(study).items() if not name.startswith("parts")}
    assert outside == before  # a part only reads the study
    do("merge", study)
    assert_same(study, whole[stage])
    assert "Nothing to do" in do(stage, study)
    assert "Nothing to do" in do(stage, study, "--part", "1/2")


def stopped(arguments, folder, module, call, monkeypatch) -> None:
    """End a part by Ctrl-C as its second file is written."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_bytes", ending(module.write_bytes, 2))
        assert call(*arguments).status == 130


def killed(arguments, folder, module, call, monkeypatch) -> None:
    """Kill a part's process once it has written some of its files."""
    partial = {"continue": "part-*.parquet", "capture": "maps/model/shard-00001.safetensors"}
    process = subprocess.Popen([COMMAND, *arguments], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 300
    while not any(folder.glob(partial[arguments[0]])) and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(("stage", "module"), [("continue", blocks), ("capture", store)])
@pytest.mark.parametrize("end", [stopped, pytest.param(killed, marks=pytest.mark.slow)])
def test_a_part_that_was_ended_is_refused_and_goes_on(
    stage, module, end, begun, whole, call, do, make_parts, refused, monkeypatch
):
    study = begun(stage)
    make_parts(study, stage, (1, 3))
    folder = folder_of(study, stage, 2)
    end([stage, study, "--part", f"2/{N}", "-q"], folder, module, call, monkeypatch)
    line = refused("merge", study, "-q")
    assert f"{stage}, part 2 of {N} is not finished" in line
    assert f"--part 2/{N}" in line
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*-0*.*")}
    assert kept
    make_parts(study, stage, (2,))
    redone = [path for path in kept if path.stat().st_mtime_ns != kept[path]]
    assert len(redone) <= 1  # a shard that the index did not name yet, nothing else is done twice
    do("merge", study)
    assert_same(study, whole[stage])


def test_parts_of_a_scan_that_do_not_fit_or_are_not_whole_are_named(begun, do, make_parts, refused):
    study = begun("continue")
    third = ("continue", study, "--part", f"3/{N}")
    make_parts(study, "continue", (1, 2))
    do(*third, "--batch-size", 7)
    line = refused("merge", study, "-q")
    assert str(folder_of(study, "continue", 3)) in line
    assert "model.batch_size 7 (here 12)" in line
    assert "begun with model.batch_size 7 (here 12)" in refused(*third, "-q")
    do(*third, "--redo")
    do("continue", study, "--part", "1/2")
    assert "parts of 2 and parts of 3" in refused("merge", study, "-q")
    shutil.rmtree(study / "parts" / "continue" / "1-of-2")
    chunk = folder_of(study, "continue", 2) / "part-000000016.parquet"
    data = chunk.read_bytes()
    chunk.unlink()
    line = refused("merge", study, "-q")
    assert str(chunk) in line
    assert f"--part 2/{N}" in line
    chunk.write_bytes(data)
    table = Study(study).sequences
    table.with_columns(table["sequence_id"] + 1).write_parquet(study / "sequences.parquet")
    assert "made from another table of sequences" in refused("merge", study, "-q")


def test_parts_of_a_capture_that_do_not_fit_or_are_damaged_are_named(
    begun, whole, do, make_parts, refused
):
    study = begun("capture")
    make_parts(study, "capture", (1,))
    before = content(study)
    line = refused("merge", study, "-q")
    assert f"capture, parts 2, 3 of {N} are missing" in line
    assert f"mnemoscope capture {study} --part 2/{N}" in line
    assert content(study) == before
    make_parts(study, "capture", (2, 3))
    path = folder_of(study, "capture", 3) / "part.json"
    right = path.read_text()
    for keys, words in (
        (("models", "model", "fingerprint"), "models.model.fingerprint 'other'"),
        (("versions", "torch"), "versions.torch 'other'"),
        (("table",), "table 'other'"),
        (("settings", "capture", "shard_rows"), "capture.shard_rows 'other' (here 15)"),
    ):
        record = inner = json.loads(right)
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = "other"
        write_record(path, record)
        assert f"3-of-3: does not fit part 1/3: made with {words}" in refused("merge", study, "-q")
    path.write_text("{}")
    assert f"{path}: damaged" in refused("merge", study, "-q")
    path.write_text(right)
    shard = folder_of(study, "capture", 2) / "maps" / "model" / "shard-00000.safetensors"
    data = shard.read_bytes()
    for damaged in (data[:1000], data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], None):
        shard.unlink()
        if damaged is not None:
            shard.write_bytes(damaged)
        line = refused("merge", study, "-q")
        assert str(shard) in line
        assert f"mnemoscope capture {study} --part 2/{N}" in line
        make_parts(study, "capture", (2,))
    assert not (study / "maps").exists()
    do("merge", study)
    assert_same(study, whole["capture"])


def test_a_part_is_not_begun_with_another_model_of_the_same_name(begun, refused):
    study = begun("capture")
    values = yaml.safe_load((study / "study.yaml").read_text(encoding="utf-8"))
    values["record"]["models"]["model"]["fingerprint"] = "other"
    (study / "study.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert "made by another model" in refused("capture", study, "--part", f"3/{N}", "-q")


def test_without_the_check_a_merge_loads_no_model(begun, whole, do, make_parts, monkeypatch):
    study = begun("continue")
    make_parts(study, "continue")
    monkeypatch.setattr("mnemoscope.study.models.load_model", None)
    do("merge", study, "--no-check")
    found, wanted = (Study(one).manifest("continue") for one in (study, whole["continue"]))
    assert found["counts"].pop("scan_check") == {"checked": 0, "disagree": 0}
    wanted["counts"].pop("scan_check")
    assert found == wanted
    assert content(study)["sequences.parquet"] == content(whole["continue"])["sequences.parquet"]


def test_what_is_in_use_or_no_part_is_refused(begun, refused):
    study = begun("continue")
    for text in ("0/3", "4/3", "3", "a/b", "-1/3", "1/0", ""):
        assert "--part 3/8" in refused("continue", study, f"--part={text}", "-q")
    assert not (study / "parts").exists()
    assert "holds no parts" in refused("merge", study, "-q")
    folder = folder_of(study, "continue", 1)
    folder.parent.mkdir(parents=True)
    assert "holds no parts" in refused("merge", study, "-q")
    folder.mkdir(parents=True)
    first = ("continue", study, "--part", f"1/{N}", "-q")
    with hold_folder(folder):
        assert f"in use by process {os.getpid()}" in refused(*first)
    with Study(study).lock(shared=True):
        assert "parts of it" in refused("continue", study, "-q")
    with Study(study).lock():
        assert f"in use by process {os.getpid()}" in refused(*first)


def test_another_mask_of_the_same_tokens_is_another_table() -> None:
    table = pl.DataFrame({"sequence_id": [1, 2], "tokens": [[3, 4, 5], [6, 7, 8]]})
    masks = [[1, 1, 1], [1, 1, 0]], [[1, 1, 1], [0, 1, 1]]
    tables = [table, *(table.with_columns(attention_mask=pl.Series(mask)) for mask in masks)]
    assert len(set(map(table_digest, tables))) == 3


# -- of a capture that judges in the same forward ---------------------------------------------


@pytest.fixture
def founded(tmp_path, whole, do):
    """`founded("name")`: a study of a table of tokens, to be scanned, with nothing done yet."""
    model, table = (whole["label"].parent / name for name in ("model", "sequences.parquet"))
    tokens = pl.read_parquet(table).select("sequence_id", "tokens").head(72)
    tokens.write_parquet(tmp_path / "tokens.parquet")
    flags = ["--model", model, "--batch-size", 12, "-o", tmp_path / "founded"]
    for one in ("continue.scan=true", "continue.part_rows=20", "continue.check_rows=8"):
        flags += ["--set", one]
    do("sequences", tmp_path / "tokens.parquet", *flags, "--set", "capture.shard_rows=10")
    return lambda name: Path(shutil.copytree(tmp_path / "founded", tmp_path / name))


def no_scan(*_arguments, **_settings):
    raise AssertionError("this forward was to be saved")


def test_merged_parts_hold_the_maps_and_verdicts_of_one_forward(
    founded, call, do, make_parts, refused, monkeypatch
):
    one, parted = founded("one"), founded("parted")
    do("capture", one)
    make_parts(parted, "capture", (3, 1))
    with monkeypatch.context() as patch:  # between verdicts and maps
        patch.setattr(capture, "write_bytes", ending(capture.write_bytes, 2))
        assert call("capture", parted, "--part", f"2/{N}", "-q").status != 0
    assert "capture, part 2 of 3 is not finished" in refused("merge", parted, "-q")
    make_parts(parted, "capture", (2,))
    torn = Path(shutil.copytree(parted, parted.with_name("torn")))
    merged = do("merge", parted)
    assert f"Next: mnemoscope continue {parted}" in merged  # there are no labels yet
    assert list(parted.glob("continuation/*/part-*.parquet"))
    assert_same(parted, one)

    noted = folder_of(torn, "capture", 2) / "verdicts" / "from-110.parquet"
    noted.write_bytes(noted.read_bytes()[:100])
    assert str(noted) in refused("merge", torn, "-q")
    noted.unlink()
    do("merge", torn)
    assert len(list(torn.glob("continuation/*/part-*.parquet"))) == 3  # of 4
    do("continue", torn)

    monkeypatch.setattr(blocks, "scan_memorized", no_scan)
    together = Path(shutil.copytree(parted, parted.with_name("together")))
    for study in (one, together):
        do("continue", study)
    assert_same(together, one)
    make_parts(parted, "continue")  # which take the verdicts over as well
    do("merge", parted)
    assert_same(parted, one)
    verdicts = [Study(study).sequences["is_memorized"].to_list() for study in (torn, one)]
    assert verdicts[0] == verdicts[1]


def test_a_halved_batch_of_a_killed_run_is_on_record_of_the_parts_that_take_it_over(
    founded, call, do, make_parts, monkeypatch
):
    study = founded("parted")
    attempt = batching._try

    def lacking(step, batch, device):
        return attempt(step, batch, device) if len(batch) <= 3 else None

    with monkeypatch.context() as patch:
        patch.setattr(batching, "_try", lacking)
        patch.setattr(blocks, "write_bytes", ending(blocks.write_bytes, 2))
        assert call("continue", study, "-q").status != 0
    make_parts(study, "continue")
    do("merge", study)
    assert Study(study).manifest("continue")["counts"]["batch_size_halved_to"] == 3
    assert Study(study).sequences["is_memorized"].sum() == 48
    assert not (study / "continuation").exists()
