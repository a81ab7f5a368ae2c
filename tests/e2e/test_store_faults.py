"""A capture in a broken world, for real: damaged shards, a full disk, a second writer."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from mnemoscope.cli import main
from mnemoscope.errors import DamagedDataError
from mnemoscope.flow.run import run, run_stage
from mnemoscope.maps.store import MapStore
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import parse_settings
from tiny_models import save_model

N_SEQUENCES = 240
PATIENCE_SECONDS = 300


def maps_of(study: Path) -> dict[str, bytes]:
    """The files of the store."""
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


@pytest.fixture
def capturing(forkserver) -> Iterator:
    """Start `mnemoscope capture` in a process of its own."""
    started = []

    def start(study: Path):
        process = forkserver.Process(target=main, args=(["capture", str(study), "-q"],))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def wait_for_shards(study: Path, n: int, process) -> None:
    limit = time.monotonic() + PATIENCE_SECONDS
    while len(list(study.glob("maps/model/shard-*.json"))) < n and process.is_alive():
        assert time.monotonic() < limit, f"waited in vain for {n} shards"
        time.sleep(0.001)


def damage(shard: Path, how: str) -> None:
    """Do to a shard what a disk or a person does."""
    data = bytearray(shard.read_bytes())
    if how == "bit-flipped":
        data[-50] ^= 8
        shard.write_bytes(data)
    else:  # whole, of the right shape, from elsewhere; what is cut or gone: tests/maps
        save_file({name: one.flip(0).clone() for name, one in load_file(shard).items()}, shard)


def read_all(study: Path, *, verify: bool) -> torch.Tensor:
    """Open a store and read all its maps, the shards compared on opening or when asked for."""
    store = MapStore(study / "maps" / "model", verify=verify)
    maps = store.dataset(store.index["sequence_id"].to_numpy(), "true", "mean")
    return maps.read(torch.arange(len(maps)))


@pytest.mark.parametrize("how", ["bit-flipped", "foreign"])
def test_damaged_shards_are_named_and_capture_redoes_just_those(
    how, captured, tmp_path, call, refused
):
    study = Path(shutil.copytree(captured, tmp_path / "study"))
    shards = sorted(study.glob("maps/model/shard-*.safetensors"))
    times = {path: path.stat().st_mtime_ns for path in shards}
    for position in (3, 90):
        damage(shards[position], how)
    assert str(shards[3]) in refused("describe", study / "maps" / "model")
    for verify in (True, False):
        with pytest.raises(DamagedDataError, match=f"{shards[3].name}.*'mnemoscope capture STUDY'"):
            read_all(study, verify=verify)
    done = call("capture", study)
    assert done.status == 0, done.err
    assert all(str(shards[position]) in done.err for position in (3, 90))
    assert maps_of(study) == maps_of(captured)
    redone = [path for path in shards if path.stat().st_mtime_ns != times[path]]
    assert redone == [shards[3], shards[90]]
    assert torch.equal(read_all(study, verify=True), read_all(captured, verify=True))
    assert "Nothing to do" in call("capture", study, "-q").out


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system in memory at a folder; skips where it may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.getuid() != 0 or subprocess.run(command).returncode:
        pytest.skip("a file system may be mounted by root alone")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_leaves_a_valid_store_that_goes_on(
    begun, captured, tmp_path, call, refused
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
        assert call("capture", study, "-q").status == 0
        assert maps_of(study) == maps_of(captured)
        redone = [path for path in kept if path.stat().st_mtime_ns != kept[path]]
        assert len(redone) <= 1  # a shard that came before the index that names it


def test_a_second_writer_is_refused_with_the_firsts_number(begun, tmp_path, capturing, refused):
    study = Path(shutil.copytree(begun, tmp_path / "study"))
    first = capturing(study)
    wait_for_shards(study, 1, first)
    os.kill(first.pid, signal.SIGSTOP)
    state = Path(f"/proc/{first.pid}/stat")
    while state.is_file() and state.read_text().rsplit(")", 1)[1].split()[0] != "T":
        time.sleep(0.001)  # the write that it is at ends first
    try:
        before = maps_of(study)
        assert f"in use by process {first.pid}." in refused("capture", study, "-q")
        assert maps_of(study) == before
    finally:
        os.kill(first.pid, signal.SIGCONT)


def test_a_read_only_medium_is_read_and_not_written(captured, tmp_path, call, refused):
    disk = tmp_path / "disk"
    with mounted(disk, "size=40m"):
        study = Path(shutil.copytree(captured, disk / "study"))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        store = MapStore(study / "maps" / "model")
        store.check()
        ids = store.index["sequence_id"].to_numpy()
        assert len(store.dataset(ids, "true", "mean").__getitems__([0, 5, N_SEQUENCES - 1])) == 3
        assert call("describe", study).status == 0
        assert call("describe", study / "maps" / "model").status == 0
        assert "cannot be written to" in refused("capture", study, "-q")
