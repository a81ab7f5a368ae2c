"""A Ray cluster of two workers: the bytes of one process, whatever dies on the way."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="Ray clusters are POSIX here")

from mnemoscope.config import EMBEDDED, parse_settings  # noqa: E402
from mnemoscope.engine import run_tasks, use_engine  # noqa: E402
from mnemoscope.engine.ray_cluster import RayEngine  # noqa: E402
from mnemoscope.engine.storage import Storage  # noqa: E402
from mnemoscope.errors import DamagedDataError, UserError  # noqa: E402
from mnemoscope.stages.blocks import BlockWorker  # noqa: E402
from mnemoscope.stages.models import Models  # noqa: E402
from mnemoscope.stages.run import run_stage  # noqa: E402
from mnemoscope.stages.sequences import found_study  # noqa: E402
from mnemoscope.stages.spread import gpus_for  # noqa: E402
from mnemoscope.study import Study  # noqa: E402

VALUES = {
    "model": {"name": EMBEDDED, "batch_size": 16, "device": "cpu"},
    "sequences": {"limit": 300, "source": EMBEDDED},
    "continue": {"part_rows": 64, "scan": True, "check_rows": 16},
    "label": {
        "taxonomies": ["Non-Memo, Guess, Recall"],
        "n_train": 16,
        "n_eval": 8,
        "minimum": 10,
    },
    "capture": {"shard_rows": 16},
    "train": {"preset": "paper", "seeds": [0], "kernels": [6], "filters": [10]},
    "benchmark": {"n_resamples": 100},
}
STAGES = ("continue", "features", "label", "capture", "train")


class DyingWorker(BlockWorker):
    """Kills its own process once, in the middle of a stage."""

    def __init__(self, mark, *arguments):
        super().__init__(*arguments)
        self.mark, self.n_done = Path(mark), 0

    def __call__(self, block):
        self.n_done += block.kind in ("verdicts", "maps")
        if self.n_done == 2 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(block)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("log.jsonl", ".lock") and path.suffix != ".seconds"
    }


def assert_same(folder: Path, whole: Path) -> None:
    found, wanted = content(folder), content(whole)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One study by the stage it has come to, made by one process with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ray") / "study"
    settings = parse_settings(VALUES, where="test")
    found_study(folder, settings, Models(settings))
    copies = {"sequences": shutil.copytree(folder, folder.with_name("sequences"))}
    for stage in STAGES:
        run_stage(Study(folder), stage)
        copies[stage] = shutil.copytree(folder, folder.with_name(stage))
    yield copies
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine with room for two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        torch.set_num_threads(1)
        with RayEngine(n_workers=2) as engine:
            yield engine


def begun(whole, stage: str, folder: Path) -> Study:
    before = {"continue": "sequences", "capture": "label", "train": "capture"}[stage]
    return Study(shutil.copytree(whole[before], folder / "study"))


def test_training_on_ray_gives_what_processes_give(whole, cluster, tmp_path):
    study = begun(whole, "train", tmp_path)
    with use_engine(cluster):
        run_stage(study, "train")
    assert_same(study.folder, whole["train"])


@pytest.mark.parametrize("stage", ["continue", "capture"])
def test_a_worker_that_is_killed_loses_nothing(stage, whole, cluster, tmp_path, monkeypatch):
    mark = tmp_path / "died"
    monkeypatch.setattr("mnemoscope.stages.spread.BlockWorker", partial(DyingWorker, mark))
    study = begun(whole, stage, tmp_path)
    with use_engine(cluster):
        run_stage(study, stage)
    assert mark.exists()
    assert_same(study.folder, whole[stage])


def test_one_worker_and_storage_elsewhere_give_the_same(whole, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_n_workers", 1)
    monkeypatch.setattr(cluster, "storage", f"file://{tmp_path}/bucket")
    monkeypatch.setattr(Storage, "_is_local", lambda self: False)  # copies, as of a bucket
    study = begun(whole, "capture", tmp_path)
    with use_engine(cluster):
        run_stage(study, "capture")
    assert_same(study.folder, whole["capture"])
    assert not list((tmp_path / "bucket").iterdir())


def test_tasks_give_their_results_and_a_workers_refusal_keeps_its_words(cluster):
    with use_engine(cluster):
        assert sorted(run_tasks(abs, [-1, -2, -3], workers=2)) == [1, 2, 3]
        with pytest.raises(Exception, match="no such folder"):
            list(run_tasks(Study, ["/no/such"], workers=0))


@pytest.mark.parametrize("how", ["altered", "killed"])
def test_blocks_of_a_driver_that_was_killed_are_taken_over(how, whole, cluster, tmp_path):
    """A driver that ends between two blocks leaves them in the storage."""
    study = begun(whole, "continue", tmp_path)
    with use_engine(cluster):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mnemoscope.stages.spread._Crew.take", stopped)
            with pytest.raises(KeyboardInterrupt):
                run_stage(study, "continue")
        left = sorted((study.folder / "blocks").glob("*.parquet"))
        assert left
        if how == "altered":
            left[0].write_bytes(b"x" + left[0].read_bytes()[1:])
        times = {path: path.stat().st_mtime_ns for path in left}
        seen = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "mnemoscope.stages.spread._Crew.drop",
                lambda *_: seen.update(
                    {path: path.stat().st_mtime_ns for path in left if path.exists()}
                ),
            )
            run_stage(study, "continue")
    redone = [path for path in left if seen[path] != times[path]]
    assert redone == (left[:1] if how == "altered" else [])
    assert_same(study.folder, whole["continue"])


def stopped(*_):
    raise KeyboardInterrupt


BAD = [
    (("--engine", "rya"), "wants local or ray. Did you mean 'ray'?"),
    (("--ray-workers", "2"), "want --engine ray"),
    (("--engine", "ray", "--part", "1/2"), "a part is one process"),
    (("--engine", "ray", "--ray-address", "127.0.0.1:1"), "no Ray cluster can be reached"),
    (("--engine", "ray", "--ray-address", "nowhere"), "wants host:port"),
    (("--engine", "ray", "--ray-address", "ray://127.0.0.1:10001"), "wants host:port or auto"),
    (("--engine", "ray", "--storage", "foo://bar"), "no storage that fsspec knows"),
    (("--engine", "ray", "--storage", "memory://x"), "other processes do not see this"),
    (("--engine", "ray", "--storage", "/proc/nowhere"), "the storage refuses"),
]


@pytest.mark.parametrize(("flags", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_is_refused_in_one_line(flags, words, whole, tmp_path, refused):
    study = begun(whole, "continue", tmp_path)
    before = content(study.folder)
    assert words in refused("continue", study.folder, *flags, "-q")
    assert content(study.folder) == before


def test_without_ray_the_extra_is_named(whole, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("mnemoscope.engine.ray_cluster.find_spec", lambda name: None)
    study = begun(whole, "continue", tmp_path)
    line = refused("continue", study.folder, "--engine", "ray", "-q")
    assert "pip install 'mnemoscope[ray]'" in line


def test_one_of_several_gpus_cannot_be_named(whole, cluster, tmp_path):
    study = begun(whole, "continue", tmp_path)
    with use_engine(cluster), pytest.raises(UserError, match="Write --device cuda"):
        gpus_for("cuda:1", cluster)
    assert gpus_for("cpu", cluster) == gpus_for("auto", cluster) == 0.0
    assert gpus_for("cuda", cluster) == 1.0
    with use_engine(cluster), pytest.raises(UserError, match="no machine of the cluster has room"):
        list(run_tasks(abs, [1], workers=1, gpus=1.0))
    assert study.manifest("continue") is None


def test_a_storage_knows_a_file_that_was_altered_and_leaves_no_temporary_one(tmp_path):
    storage = Storage(f"file://{tmp_path}/bucket")
    digest = storage.write("a", b"content")
    assert storage.read("a", digest) == b"content"
    assert [path.name for path in (tmp_path / "bucket").iterdir()] == ["a"]
    (tmp_path / "bucket" / "a").write_bytes(b"Content")
    with pytest.raises(DamagedDataError, match="changed since it was written"):
        storage.read("a", digest)
    assert storage.read("a") is None


def test_the_local_engine_loads_no_ray():
    code = "import mnemoscope.stages.run, sys; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr
