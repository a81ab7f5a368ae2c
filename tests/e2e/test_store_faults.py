"""A capture in a broken world, for real: damaged shards, a full disk, a read-only medium."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from mnemoscope.flow.run import run, run_stage
from mnemoscope.maps.store import MapStore
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import parse_settings
from mnemoscope.study.stages import STAGES
from study_files import assert_same, mounted
from tiny_models import save_model

pytestmark = pytest.mark.whole

N_SEQUENCES = 240


def maps_of(study: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((study / "maps" / "model").iterdir())}


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A study of 240 sequences of 16 tokens, nothing captured; read only."""
    folder = tmp_path_factory.mktemp("faults")
    model = save_model(folder / "model")
    tokens = np.random.default_rng(0).integers(1, 300, (N_SEQUENCES, 16))
    table = pl.DataFrame({"sequence_id": np.arange(N_SEQUENCES), "tokens": tokens.tolist()})
    table.write_parquet(folder / "tokens.parquet")
    values = {
        "model": {"name": str(model), "batch_size": 2},
        "sequences": {"source": str(folder / "tokens.parquet"), "length": 16},
        "capture": {"shard_rows": 2},
    }
    run(parse_settings(values, where="test"), folder / "study", until="sequences")
    return folder / "study"


@pytest.fixture(scope="module")
def captured(begun, tmp_path_factory) -> Path:
    """The same study after one undisturbed capture; read only."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    shutil.copytree(begun, folder)
    run_stage(Study(folder), "capture")
    return folder


def test_damaged_shards_are_named_and_capture_redoes_just_those(
    captured, tmp_path, call, succeed, refused
):
    """How a store finds what is cut, flipped or gone: tests/maps."""
    study = Path(shutil.copytree(captured, tmp_path / "study"))
    shards = sorted(study.glob("maps/model/shard-*.safetensors"))
    times = {path: path.stat().st_mtime_ns for path in shards}
    for position in (3, 90):  # whole, of the right shape, from elsewhere
        tensors = load_file(shards[position])
        save_file({name: one.flip(0).clone() for name, one in tensors.items()}, shards[position])
    line = refused("status", study / "maps" / "model")
    assert shards[3].name in line
    assert f"'mnemoscope capture {study}'" in line
    done = succeed("capture", study)
    assert all(str(shards[position]) in done.err for position in (3, 90))
    assert maps_of(study) == maps_of(captured)
    redone = [path for path in shards if path.stat().st_mtime_ns != times[path]]
    assert redone == [shards[3], shards[90]]
    assert "Nothing to do" in call("capture", study, "-q").out


def test_a_finished_study_that_runs_again_has_every_file_as_it_was(study_at, tiny_studies, succeed):
    study, whole = study_at("report"), tiny_studies["report"]
    stages = [one.name for one in STAGES if one.function and Study(study).is_done(one.name)]
    named = {name: Study(study).store.record(f"manifests/{name}")["files"] for name in stages}
    files = sorted(study / file for each in named.values() for file in each)
    assert len(files) > 12
    for number, path in enumerate(files):  # one is gone, one cut short, one has a bit flipped
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes((b"", data[:-9], data)[number % 3])
        if number % 3 == 0:
            path.unlink()
    (study / "manifests" / "train.json").write_text("{")
    (study / "manifests" / "label.json").unlink()
    said = succeed("run", "-o", study).err
    assert "Redoing what is damaged" in said
    assert "manifests/train.json" in said
    assert_same(study, whole)
    assert "Redoing" not in succeed("run", "-o", study).err
    (study / "labels.parquet").unlink()  # alone: what follows is whole, and is made again
    succeed("run", "-o", study)
    assert_same(study, whole)


def test_a_disk_that_fills_up_leaves_a_valid_store_that_goes_on(
    begun, captured, tmp_path, succeed, refused
):
    disk = tmp_path / "disk"
    with mounted(disk, "size=400k"):
        study = Path(shutil.copytree(begun, disk / "study"))
        line = refused("capture", study, "-q")
        assert "the disk is full" in line
        assert "Make room and run the same command again" in line
        store = MapStore(study / "maps" / "model")
        store.check()
        assert 0 < len(store) < N_SEQUENCES
        assert "the disk is full" in refused("capture", study, "-q")  # still full
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        kept = {
            path: path.stat().st_mtime_ns
            for path in sorted(study.glob("maps/model/shard-*.safetensors"))
        }
        succeed("capture", study, "-q")
        assert maps_of(study) == maps_of(captured)
        redone = [path for path in kept if path.stat().st_mtime_ns != kept[path]]
        assert len(redone) <= 1  # a shard that came before the index that names it


def test_a_read_only_medium_is_read_and_not_written(captured, tmp_path, succeed, refused):
    disk = tmp_path / "disk"
    with mounted(disk, "size=40m"):
        study = Path(shutil.copytree(captured, disk / "study"))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        store = MapStore(study / "maps" / "model")
        store.check()
        ids = store.index["sequence_id"].to_numpy()
        assert len(store.dataset(ids, "true", "mean").__getitems__([0, 5, N_SEQUENCES - 1])) == 3
        succeed("status", study)
        succeed("status", study / "maps" / "model")
        assert "cannot be written to" in refused("capture", study, "-q")
