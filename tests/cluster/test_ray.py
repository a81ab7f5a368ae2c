"""A Ray cluster of several workers: the bytes of one process, whatever dies on the way."""

import os
import shutil
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import torch

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="Ray clusters are POSIX here")

from mnemoscope.cluster.engine import gpus_for, run_tasks, use_engine  # noqa: E402
from mnemoscope.pipeline.blocks import BlockWorker, ClusterWorker  # noqa: E402

from mnemoscope.cluster.ray import RayEngine, Storage  # noqa: E402
from mnemoscope.errors import DamagedDataError, UserError  # noqa: E402
from mnemoscope.flow.run import run_stage  # noqa: E402
from mnemoscope.lm import model as batching  # noqa: E402
from mnemoscope.pipeline import blocks  # noqa: E402
from mnemoscope.pipeline.sequences import create_study  # noqa: E402
from mnemoscope.study.folder import Study  # noqa: E402
from mnemoscope.study.models import Models  # noqa: E402
from mnemoscope.study.settings import parse_settings  # noqa: E402
from study_files import assert_same, content  # noqa: E402
from tiny_models import make_sequences, save_model  # noqa: E402

LENGTH = 16
STAGES = ("continue", "features", "label", "capture", "train", "benchmark", "localize", "report")
VALUES = {
    "model": {"batch_size": 16, "device": "cpu"},
    "sequences": {"length": LENGTH},
    "continue": {"part_rows": 32, "scan": True, "check_rows": 16},
    "label": {
        "taxonomies": ["Non-Memo, Recite[5], Recollect", "Non-Memo, Recall"],
        "n_train": 30,
        "n_eval": 12,
        "minimum": 12,
    },
    "capture": {"shard_rows": 16},
    "train": {"preset": "paper", "seeds": [0], "kernels": [3], "filters": [6]},
    "benchmark": {"n_resamples": 100},
    "localize": {"attributions": ["gradient"], "sanity": False},
    "search": {
        "nodes": ["Recite[2..9]", "Entropy[3.2..4]"],
        "classes": [3],
        "candidates": 2,
        "finalists": 1,
        "seeds": [0],
        "beside": [],
        "minimum": 8,
    },
}
SECONDS = "mnemoscope.report.content.seconds_of"  # what alone may differ in a report
GRAFTED = ("parts=[layers.0.qk]", "draws=1", "n_sequences=12", "n_heldout=6")
PATCHED = ("patch=true", "patch_blocks=1")
GRAFT = [part for one in (*GRAFTED, *PATCHED) for part in ("--set", f"graft.{one}")]
SEARCH = ("--set", "train.preset=small", "--set", "train.poolings=[mean]")


class FaultyWorker(BlockWorker):
    """Has memory for six rows; where a mark is named, one worker kills itself and leaves it.

    That one dies in its second block, when the first file of it is written and its record is not.
    There are more blocks than workers, so that one gets a second and dies, whatever the timing.
    """

    def __init__(self, mark, memory, *arguments):
        super().__init__(*arguments)
        self.mark, self.memory, self.n_done = mark, memory, 0

    def __call__(self, block):
        self.n_done += block.kind == "maps" and self._finished(self._name(block)) is None
        if self.n_done == 2 and self.mark is not None and is_first(self.mark):
            self._storage.write = partial(write_and_die, Storage(self._storage.url))
        with pytest.MonkeyPatch.context() as patch:
            if self.memory is not None:
                limit_memory(patch, self.memory)
            return super().__call__(block)


def is_first(mark: Path) -> bool:
    """Whether nobody has left the mark before; leaves it."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def write_and_die(storage, name, data):
    storage.write(name, data)
    os.kill(os.getpid(), signal.SIGKILL)


def limit_memory(patch, rows: int) -> None:
    attempt = batching._try

    def lacking(step, batch, device):
        return attempt(step, batch, device) if len(batch) <= rows else None

    patch.setattr(batching, "_try", lacking)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """This process and the workers use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Studies by the stage they have come to, made by one process; read only.

    `alone` and `halved` were captured without labels, the verdicts found in the same forward.
    """
    folder = tmp_path_factory.mktemp("ray")
    model, reference = save_model(folder / "model"), save_model(folder / "reference", seed=1)
    table = make_sequences(model, 180, length=LENGTH).drop("genre")
    is_code = pl.int_range(table.height) % 2 == 0
    table.with_columns(is_code=is_code).write_parquet(folder / "table.parquet")
    values = VALUES | {
        "model": VALUES["model"] | {"name": str(model)},
        "sequences": VALUES["sequences"] | {"source": str(folder / "table.parquet")},
        "capture": VALUES["capture"] | {"reference": str(reference)},
    }
    settings = parse_settings(values, where="test")
    create_study(folder / "study", settings, Models(settings))
    copies = {"sequences": shutil.copytree(folder / "study", folder / "sequences")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnemoscope.cluster.engine.n_workers", lambda asked: 1)
        patch.setattr("mnemoscope.pipeline.train.n_workers", lambda asked: 1)
        patch.setattr(SECONDS, lambda *_: 1.0)
        for stage in STAGES:
            run_stage(Study(folder / "study"), stage)
            copies[stage] = shutil.copytree(folder / "study", folder / stage)
        for name in ("alone", "halved"):
            copies[name] = shutil.copytree(copies["sequences"], folder / name)
            run_stage(Study(copies[name]), "capture")
            limit_memory(patch, 6)
    return copies


@pytest.fixture(scope="module")
def port() -> int:
    """Where the server of the bucket listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(port):
    """A cluster of this machine with room for two workers, who know the bucket's server."""
    # What is defined here goes to the workers as it is: they need not import all that is above.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # it counts what others use as well
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        with RayEngine(n_workers=2) as engine:
            with engine.workers(lambda: BlockWorker, gpus=0, at_most=2):
                pass  # while they import what they need, `whole` is made
            yield engine


@pytest.fixture(scope="module")
def bucket(port, cluster):
    """An S3 bucket of a server on this machine; gives a client of it."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    system = s3fs.S3FileSystem()
    system.mkdir("shards")
    yield system
    server.stop()


BEFORE = {"continue": "sequences", "train": "capture"}


def names_in(bucket) -> list[str]:
    bucket.invalidate_cache()
    return bucket.find("shards")


def begun(whole, stage: str, folder: Path) -> Study:
    return Study(shutil.copytree(whole[BEFORE[stage]], folder / "study"))


def faulty(monkeypatch, mark: Path | None = None, memory: int | None = None) -> Path | None:
    """Let workers be faulty from here on; gives the mark that the killed one will leave."""
    monkeypatch.setattr(blocks, "BlockWorker", partial(FaultyWorker, mark, memory))
    return mark


def test_two_workers_capture_as_one_process_after_kills_of_one_workers_driver_and_of_a_worker(
    cluster, whole, tmp_path, monkeypatch
):
    """What the driver that ended early left is kept but for what is torn."""
    study = Study(shutil.copytree(whole["sequences"], tmp_path / "study"))
    monkeypatch.setattr(cluster, "_n_workers", 1)
    with use_engine(cluster), monkeypatch.context() as patch:
        patch.setattr(ClusterWorker, "make", cut_short)
        patch.setattr(cluster, "_end_actors", lambda: None)
        with pytest.raises(KeyboardInterrupt):
            run_stage(study, "capture")
    storage = study.folder / "blocks"
    left = sorted(path.with_suffix(".parquet") for path in storage.glob("*.json"))
    assert len(left) >= 2
    left[0].write_bytes(b"x" + left[0].read_bytes()[1:])
    times, seen = times_of(left), {}
    monkeypatch.setattr(cluster, "_n_workers", 2)
    with use_engine(cluster), monkeypatch.context() as patch:
        patch.setattr(ClusterWorker, "drop", lambda *_: seen.update(times_of(left)))
        mark = faulty(patch, mark=tmp_path / "died")
        run_stage(study, "capture")
    assert mark.exists()
    assert [path for path in left if seen[path] != times[path]] == left[:1]
    assert_same(study.folder, whole["alone"])


def cut_short(self, blocks, progress):
    """End the driver once two blocks are finished, before it takes them over.

    Its worker has none at this moment and serves the next driver.
    """
    finished = self._workers.run(blocks)
    for _ in range(2):
        next(finished)
    raise KeyboardInterrupt


def times_of(paths: list[Path]) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths if path.exists()}


def test_two_workers_with_little_memory_capture_and_scan_in_one_forward_as_one_process(
    cluster, whole, tmp_path, monkeypatch
):
    faulty(monkeypatch, memory=6)
    study = Study(shutil.copytree(whole["sequences"], tmp_path / "study"))
    with use_engine(cluster):
        run_stage(study, "capture")
    assert_same(study.folder, whole["halved"])
    counts = study.manifest("capture")["counts"]
    assert (counts["batch_size"], counts["batch_size_halved_to"]) == (16, 4)
    verdicts = list(study.folder.glob("continuation/*/part-*.parquet"))
    assert len(pl.concat(map(pl.read_parquet, verdicts))) == study.sequences.height


def test_one_worker_captures_through_a_bucket_as_one_process(
    cluster, bucket, whole, tmp_path, monkeypatch
):
    """An S3 server: every byte of a shard goes over HTTP, and nothing of it stays there."""
    monkeypatch.setattr(cluster, "_n_workers", 1)
    monkeypatch.setattr(cluster, "storage", "s3://shards/study")
    in_bucket, drop = [], ClusterWorker.drop

    def dropping(worker, record):
        in_bucket.append(names_in(bucket))
        drop(worker, record)

    monkeypatch.setattr(ClusterWorker, "drop", dropping)
    study = Study(shutil.copytree(whole["sequences"], tmp_path / "study"))
    with use_engine(cluster):
        run_stage(study, "capture")
    assert_same(study.folder, whole["alone"])
    n_shards = len(list(study.folder.glob("maps/*/*.safetensors")))
    assert len(in_bucket) == n_shards > 6
    assert all(any(name.endswith(".shard") for name in names) for names in in_bucket)
    assert names_in(bucket) == []


def check_altered(storage, alter) -> None:
    """A file that was altered in the storage is known by its digest, and removed."""
    digest = storage.write("a", b"content")
    assert storage.read("a", digest) == b"content"
    alter(b"Content")
    with pytest.raises(DamagedDataError, match="changed since it was written"):
        storage.read("a", digest)
    assert storage.read("a") is None


def test_a_file_of_a_bucket_that_was_altered_is_known(cluster, bucket):
    def alter(data: bytes) -> None:
        assert names_in(bucket) == ["shards/folder/a"]
        bucket.pipe_file("shards/folder/a", data)

    check_altered(Storage("s3://shards/folder"), alter)
    with pytest.raises(UserError, match="the storage refuses"):
        Storage("s3://no-such-bucket/folder").leave_mark()
    assert not bucket.exists("no-such-bucket")


@pytest.fixture
def cluster_is_there(cluster, monkeypatch) -> None:
    """Verbs enter the cluster of these tests; here one process does what is done here."""

    def enter(engine: RayEngine) -> RayEngine:  # with the workers of the tests before
        engine._actors, engine._kind = cluster._actors, cluster._kind
        return engine

    def leave(engine: RayEngine, *_) -> None:
        cluster._actors, cluster._kind = engine._actors, engine._kind

    monkeypatch.setattr(RayEngine, "__enter__", enter)
    monkeypatch.setattr(RayEngine, "__exit__", leave)
    monkeypatch.setattr("mnemoscope.cluster.engine.n_workers", lambda asked: 1)
    monkeypatch.setattr(SECONDS, lambda *_: 1.0)


@pytest.mark.usefixtures("cluster_is_there")
def test_the_verb_run_on_a_cluster_writes_what_one_process_writes(
    whole, tmp_path, call, monkeypatch
):
    """All stages from the sequences on: maps, CNNs, benchmark, the page itself."""
    asked = []
    for kind, name in ((ClusterWorker, "open_worker"), (RayEngine, "run_tasks")):
        does = getattr(kind, name)
        spy = lambda *args, does=does, **named: asked.append(does.__name__) or does(*args, **named)  # noqa: E731
        monkeypatch.setattr(kind, name, spy)
    folder = shutil.copytree(whole["sequences"], tmp_path / "study")
    done = call("run", "-o", folder, "--engine", "ray", "--ray-workers", 2, "-q")
    assert done.status == 0, done.err
    assert_same(folder, whole["report"])
    assert {"benchmark.parquet", "report.html"} <= content(folder).keys()
    assert set(asked) == {"open_worker", "run_tasks"}  # it was the cluster's work


@pytest.mark.slow
@pytest.mark.usefixtures("cluster_is_there")
def test_the_verb_search_on_a_cluster_writes_what_one_process_writes(whole, tmp_path, call):
    shown, folders = [], {}
    for name, flags in (("local", ()), ("ray", ("--engine", "ray", "--ray-workers", 2))):
        folders[name] = begun(whole, "train", tmp_path / name).folder
        done = call("search", folders[name], *SEARCH, *flags, "-q")
        assert done.status == 0, done.err
        shown.append(done.out.replace(str(folders[name]), ""))
    assert_same(folders["ray"], folders["local"])
    assert "found, by excess" in shown[0]
    assert shown[1] == shown[0]


@pytest.mark.usefixtures("cluster_is_there")
def test_grafts_on_a_cluster_are_those_of_one_process(whole, tmp_path, call, monkeypatch):
    made, run_tasks = [], RayEngine.run_tasks
    monkeypatch.setattr(
        RayEngine,
        "run_tasks",
        lambda engine, function, tasks, **named: (
            made.extend(tasks) or run_tasks(engine, function, tasks, **named)
        ),
    )
    folders = {}
    for name, flags in (("local", ()), ("ray", ("--engine", "ray", "--ray-workers", 2))):
        folders[name] = Path(shutil.copytree(whole["label"], tmp_path / name))
        done = call("graft", folders[name], *GRAFT, *flags, "-q")
        assert done.status == 0, done.err
    assert_same(folders["ray"], folders["local"])
    assert len(made) == len(list(folders["ray"].glob("graft/*.parquet"))) > 9


def test_tasks_give_their_results_and_a_workers_refusal_keeps_its_words(cluster, monkeypatch):
    """A task has one thread, however many this process has."""
    monkeypatch.setattr("mnemoscope.cluster.ray._threads", lambda: 2)
    n_threads = "__import__('torch').get_num_threads()"
    with use_engine(cluster):
        assert sorted(run_tasks(eval, ["5 - 2", n_threads, "1 + 1"], workers=2)) == [1, 2, 3]
        assert list(run_tasks(abs, [], workers=2)) == []
        with pytest.raises(Exception, match="no such folder"):
            list(run_tasks(Study, ["/no/such"], workers=0))


BAD = [
    (("--engine", "rya"), "choose local or ray. Did you mean 'ray'?"),
    (("--ray-workers", "2"), "need --engine ray"),
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


@pytest.mark.parametrize("mode", [None, "token"])
def test_a_cluster_that_lets_nobody_in_may_want_a_token(mode, monkeypatch):
    """What Ray 2.60 says of a token that is missing: somebody listens, and that is all."""

    def init(**_):
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        with (
            pytest.raises(UserError, match=r"no Ray cluster can be reached \(Failed to") as raised,
            RayEngine(f"127.0.0.1:{head.getsockname()[1]}"),
        ):
            pass
    assert ("set RAY_AUTH_MODE=token" in str(raised.value)) == (mode is None)
    assert "\n" not in str(raised.value)


def test_what_only_reads_studies_takes_no_cluster(whole, refused):
    both = "benchmark", whole["benchmark"], whole["train"]
    assert "several studies and --compare only read" in refused(*both, "--engine", "ray", "-q")


def test_without_ray_the_extra_is_named(whole, tmp_path, refused, hide):
    hide("ray")
    study = begun(whole, "continue", tmp_path)
    line = refused("continue", study.folder, "--engine", "ray", "-q")
    assert "pip install 'mnemoscope[ray]'" in line


def test_one_of_several_gpus_cannot_be_named(cluster, whole, tmp_path):
    study = begun(whole, "continue", tmp_path)
    with use_engine(cluster), pytest.raises(UserError, match="Write --device cuda"):
        gpus_for("cuda:1", cluster)
    assert gpus_for("cpu", cluster) == gpus_for("auto", cluster) == 0.0
    assert gpus_for("cuda", cluster) == 1.0
    with use_engine(cluster), pytest.raises(UserError, match="no machine of the cluster has room"):
        list(run_tasks(abs, [1], workers=1, gpus=1.0))
    assert study.manifest("continue") is None


def test_a_storage_knows_a_file_that_was_altered_and_leaves_no_temporary_one(tmp_path):
    def alter(data: bytes) -> None:
        (file,) = tmp_path.glob("bucket/*")
        file.write_bytes(data)

    check_altered(Storage(f"file://{tmp_path}/bucket"), alter)
