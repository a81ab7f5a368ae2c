"""A Ray cluster of several workers: the bytes of one process, whatever dies on the way."""

import contextlib
import os
import shutil
import socket
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(os.name != "posix", reason="Ray clusters are POSIX here"),
]

from mnemoscope.cluster import local  # noqa: E402
from mnemoscope.cluster.ray import RayExecutor  # noqa: E402
from mnemoscope.cluster.run import run_units, use_executor  # noqa: E402
from mnemoscope.cluster.storage import SharedStore  # noqa: E402
from mnemoscope.cluster.units import Needs, Opened, UnitStore  # noqa: E402
from mnemoscope.errors import NoRoomError, UserError  # noqa: E402
from mnemoscope.flow.run import run_stage  # noqa: E402
from mnemoscope.lm import model as batching  # noqa: E402
from mnemoscope.pipeline import questions  # noqa: E402
from mnemoscope.pipeline.sequences import create_study  # noqa: E402
from mnemoscope.study.folder import Study  # noqa: E402
from mnemoscope.study.models import Models  # noqa: E402
from mnemoscope.study.settings import parse_settings  # noqa: E402
from refusals import refusal  # noqa: E402
from study_files import assert_same, content  # noqa: E402
from tiny_models import make_sequences, save_model  # noqa: E402
from toy_units import TWO, Evaluated, powers, runs_of  # noqa: E402

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
    "train": {"preset": "as_run", "seeds": [0], "kernels": [3], "filters": [6]},
    "benchmark": {"n_resamples": 100},
    "localize": {"attributions": ["gradient"], "sanity": False},
    "search": {
        "nodes": ["Recite[2..9]", "Entropy[3.2..4]"],
        "classes": [3],
        "candidates": 2,
        "finalists": 1,
        "seeds": [0],
        "baselines": [],
        "minimum": 8,
    },
}
SECONDS = "mnemoscope.report.content.seconds_of"  # what alone may differ in a report
GRAFTED = ("parts=[layers.0.qk]", "draws=1", "n_sequences=12", "n_heldout=6")
PATCHED = ("patch=true", "patch_blocks=1")
GRAFT = [part for one in (*GRAFTED, *PATCHED) for part in ("--set", f"graft.{one}")]
SEARCH = ("--set", "train.preset=small", "--set", "train.poolings=[mean]")


def limit_memory(patch, rows: int) -> None:
    attempt = batching._try

    def lacking(step, batch, device):
        return attempt(step, batch, device) if len(batch) <= rows else None

    patch.setattr(batching, "_try", lacking)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
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
        patch.setattr(local, "n_processes", lambda asked: 1)
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
def bucket_server():
    """A bucket's server, if moto is installed, which listens before Ray takes ports of its own."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        yield None
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = server.get_host_and_port()
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"the bucket's server at {address} does not answer")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def cluster(bucket_server):
    """A cluster of this machine with room for two workers, who know the bucket's server."""
    # What is defined here goes to the workers as it is: they need not import all that is above.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # it counts what others use as well
        if bucket_server is not None:
            host, port = bucket_server.get_host_and_port()
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        with RayExecutor(n_workers=2) as executor:
            yield executor


@pytest.fixture(scope="module")
def bucket(bucket_server, cluster):
    pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    system = s3fs.S3FileSystem()
    system.mkdir("shards")
    return system


BEFORE = {"continue": "sequences", "train": "capture"}


def names_in(bucket) -> list[str]:
    bucket.invalidate_cache()
    return bucket.find("shards")


def begun(whole, stage: str, folder: Path) -> Study:
    return Study(shutil.copytree(whole[BEFORE[stage]], folder / "study"))


def by_ray(cluster, units, store, context=TWO, needs=Needs(threads=1)) -> list:  # noqa: B008
    with use_executor(cluster):
        return list(run_units(units, store, context, needs=needs))


def test_workers_and_what_they_opened_outlive_their_units(cluster, tmp_path) -> None:
    log = tmp_path / "opened"

    def open_it() -> int:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return 2

    once = Opened(open_it)
    for number in range(3):
        by_ray(cluster, powers(4), UnitStore(tmp_path / f"{number}"), once)
    opened = log.read_text().split()
    assert len(opened) == len(set(opened)) <= 2


def test_a_bucket_keeps_units_as_a_folder_does(cluster, bucket, tmp_path) -> None:
    """Every byte goes over HTTP; what was altered there is made again."""
    alone = list(run_units(powers(), UnitStore(tmp_path / "alone"), TWO))
    store, log = SharedStore("s3://shards/folder"), tmp_path / "log"
    found = by_ray(cluster, powers(log=log), store)
    assert [one.files["bin"] for one in found] == [one.files["bin"].read_bytes() for one in alone]
    assert [one.sha256 for one in found] == [one.sha256 for one in alone]
    assert len(store.all_keys()) == 12
    bucket.pipe_file("shards/folder/power-4.bin", b"altered")
    by_ray(cluster, powers(log=log), store)
    assert runs_of(log)[12:] == [4]
    store.remove_all()
    assert names_in(bucket) == []
    with pytest.raises(UserError, match="the storage refuses"):
        SharedStore("s3://no-such-bucket/folder").write("a", b"")
    assert not bucket.exists("no-such-bucket")


def test_a_full_storage_is_named(tmp_path, monkeypatch) -> None:
    store = SharedStore(f"file://{tmp_path}/bucket")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._fs, "pipe_file", full)
    assert "the storage is full" in refusal(store.put, "key", {"bin": b"data"}, error=NoRoomError)
    assert list(tmp_path.glob("bucket/*")) == []


def test_two_workers_with_little_memory_capture_and_scan_in_one_forward_as_one_process(
    cluster, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr("mnemoscope.pipeline.capture.Maps", RoomForSix)
    study = Study(shutil.copytree(whole["sequences"], tmp_path / "study"))
    with use_executor(cluster):
        run_stage(study, "capture")
    assert_same(study.folder, whole["halved"])
    counts = study.manifest("capture")["counts"]
    assert (counts["batch_size"], counts["batch_size_halved_to"]) == (16, 4)
    verdicts = list(study.folder.glob("units/continue/verdicts-*.parquet"))
    assert len(pl.concat(map(pl.read_parquet, verdicts))) == study.sequences.height


class RoomForSix(questions.Maps):
    """Maps where memory has room for six rows."""

    def ask(self, model, progress):
        with pytest.MonkeyPatch.context() as patch:
            limit_memory(patch, 6)
            return super().ask(model, progress)


def test_one_worker_captures_through_a_bucket_as_one_process(
    cluster, bucket, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster, "_n_workers", 1)
    monkeypatch.setattr(cluster, "storage", "s3://shards/study")
    study = Study(shutil.copytree(whole["sequences"], tmp_path / "study"))
    with use_executor(cluster):
        run_stage(study, "capture")
    assert_same(study.folder, whole["alone"])
    assert names_in(bucket) == []


@pytest.fixture
def cluster_is_there(cluster, monkeypatch) -> None:
    """Verbs enter the cluster of these tests; here one process does what is done here."""

    def enter(executor: RayExecutor) -> RayExecutor:  # with the workers of the tests before
        executor._actors, executor._kind = cluster._actors, cluster._kind
        return executor

    def leave(executor: RayExecutor, *_) -> None:
        cluster._actors, cluster._kind = executor._actors, executor._kind

    monkeypatch.setattr(RayExecutor, "__enter__", enter)
    monkeypatch.setattr(RayExecutor, "__exit__", leave)
    monkeypatch.setattr(local, "n_processes", lambda asked: 1)
    monkeypatch.setattr(SECONDS, lambda *_: 1.0)


@pytest.mark.usefixtures("cluster_is_there")
def test_the_verb_run_on_a_cluster_writes_what_one_process_writes(
    whole, tmp_path, call, monkeypatch
):
    """All stages from the sequences on: maps, CNNs, benchmark, the page itself."""
    monkeypatch.setattr(local, "run_unit", None)  # it is the cluster's work
    folder = shutil.copytree(whole["sequences"], tmp_path / "study")
    done = call("run", "-o", folder, "--engine", "ray", "--ray-workers", 2, "-q")
    assert done.status == 0, done.err
    assert_same(folder, whole["report"])
    assert {"benchmark.parquet", "report.html"} <= content(folder).keys()


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
    assert "To use the found ones: -t " in shown[0]
    assert shown[1] == shown[0]


@pytest.mark.usefixtures("cluster_is_there")
def test_grafts_on_a_cluster_are_those_of_one_process(whole, tmp_path, call):
    folders = {}
    for name, flags in (("local", ()), ("ray", ("--engine", "ray", "--ray-workers", 2))):
        folders[name] = Path(shutil.copytree(whole["label"], tmp_path / name))
        done = call("graft", folders[name], *GRAFT, *flags, "-q")
        assert done.status == 0, done.err
    assert_same(folders["ray"], folders["local"])
    assert len(list(folders["ray"].glob("graft/*.parquet"))) > 9


def test_values_come_back_and_a_workers_refusal_keeps_its_words(cluster, monkeypatch):
    """A unit has as many threads as it needs, however many this process has."""
    monkeypatch.setattr("mnemoscope.cluster.ray.n_threads", lambda: 2)
    texts = ["5 - 2", "__import__('torch').get_num_threads()", "1 + 1"]
    found = by_ray(cluster, [Evaluated(text) for text in texts], None)
    assert [one.values["value"] for one in found] == [3, 1, 2]
    assert by_ray(cluster, [], None) == []
    with pytest.raises(UserError, match="no such folder"):
        by_ray(cluster, [Evaluated("1")], None, Opened(open_nowhere))


def open_nowhere() -> Study:
    return Study("/no/such")


BAD = [
    (("--engine", "rya"), "choose local or ray. Did you mean 'ray'?"),
    (("--ray-workers", "2"), "need --engine ray"),
    (("--engine", "ray", "--ray-address", "127.0.0.1:1"), "no Ray cluster can be reached"),
    (("--engine", "ray", "--ray-address", "nowhere"), "wants host:port"),
    (("--engine", "ray", "--ray-address", "ray://127.0.0.1:10001"), "wants host:port"),
    (("--engine", "ray", "--storage", "foo://bar"), "no storage that fsspec knows"),
    (("--engine", "ray", "--storage", "file:///etc"), "Give --storage a folder of its own"),
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
            RayExecutor(f"127.0.0.1:{head.getsockname()[1]}"),
        ):
            pass
    assert ("set RAY_AUTH_MODE=token" in str(raised.value)) == (mode is None)
    assert "\n" not in str(raised.value)


def test_what_only_reads_studies_takes_no_cluster(whole, refused):
    both = "benchmark", whole["benchmark"], whole["train"]
    assert "several studies and --compare only read" in refused(*both, "--engine", "ray", "-q")


def test_without_ray_the_command_is_given(whole, tmp_path, refused, hide):
    hide("ray")
    study = begun(whole, "continue", tmp_path)
    line = refused("continue", study.folder, "--engine", "ray", "-q")
    assert "'ray>=2.40'" in line


def test_gpus_are_handed_out_one_a_worker(cluster):
    assert "Write device cuda" in refusal(cluster.gpus, "cuda:1")
    assert "Write device cuda, and no map" in refusal(cluster.gpus, "auto", "auto")
    assert cluster.gpus("cpu") == cluster.gpus("auto") == 0.0
    assert cluster.gpus("cuda") == 1.0
    with pytest.raises(UserError, match="no machine of the cluster has room"):
        by_ray(cluster, powers(1), None, needs=Needs(gpus=1.0))


def test_a_machine_that_does_not_see_the_store_is_named(cluster, tmp_path):
    with pytest.raises(UserError, match=r"machine .* of the cluster does not see .*storage"):
        cluster.check_sees(Elsewhere(tmp_path / "store"))
    assert list(tmp_path.glob("store/*")) == []


class Elsewhere(UnitStore):
    """A folder that is another one on every other machine."""

    def __getstate__(self):
        return vars(self) | {"folder": Path(f"{self.url}-of-another-machine")}


def test_units_give_what_one_process_gives_though_workers_die(cluster, tmp_path) -> None:
    """One dies once, and a unit that kills every worker ends the work and keeps the rest.

    The last test of these: each worker takes seconds to start.
    """
    alone = list(run_units(powers(), UnitStore(tmp_path / "alone"), TWO))
    mark, log, store = tmp_path / "died", tmp_path / "log", UnitStore(tmp_path / "ray")
    killer = Evaluated("__import__('os').kill(__import__('os').getpid(), 9)")
    with pytest.raises(UserError, match="a worker died again and again"):
        by_ray(cluster, [*powers(log=log, mark=mark), killer], store)
    assert mark.exists()
    found = by_ray(cluster, powers(log=log), store)
    assert [one.values for one in found] == [one.values for one in alone]
    assert content(tmp_path / "ray") == content(tmp_path / "alone")
    assert sorted(runs_of(log)) == list(range(12))  # the one that died had not written
