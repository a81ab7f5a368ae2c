"""Studies that many tests look at, made once a session; a test that changes one copies it."""

import gc
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from filelock import FileLock
from hypothesis import settings

# On a busy machine an example takes as long as it is let; timings belong in benchmarks.
settings.register_profile("untimed", deadline=None, max_examples=50)
settings.load_profile("untimed")

sys.path.append(str(Path(__file__).parent))  # for `tiny_models`

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What a killed process has written stays; these waits serve after a loss of power alone.
os.fsync = lambda descriptor: None


@pytest.fixture(scope="module")
def legends_carry_n() -> Iterator[None]:
    """Whatever `ms.analyze` draws, of a study or of a fitted model's rows, says of how many."""
    from figure_columns import uncounted
    from mnemoscope.report.notebook import draw_figure

    def draw(figure):
        assert not uncounted([figure])
        return draw_figure(figure)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mnemoscope.flow.analyze.draw_figure", draw)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """A million objects come with the imports and stay: look through none of them for garbage.

    What tests make stays little: it is looked through once in 20,000 objects, not in 700.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        gc.enable()
        if any("forkserver" in item.fixturenames for item in session.items):
            from forking import start_fork_server

            start_fork_server()


def pytest_ignore_collect(collection_path: Path, config) -> bool | None:
    """Import no module that is `whole` throughout where no such test is asked for."""
    if collection_path.suffix != ".py" or "not whole" not in config.getoption("markexpr"):
        return None
    found = re.search(r"^pytestmark = (.*|\[[^\]]*)mark\.whole", collection_path.read_text(), re.M)
    return True if found else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items) -> None:
    """What looks at the demo is `whole`; one worker makes it first, and no other waits for it."""
    first = {item.path for item in items if "small_demo" in item.fixturenames}
    items.sort(key=lambda item: item.path not in first)
    for item in items:
        if "small_demo" in item.fixturenames:
            item.add_marker(pytest.mark.whole)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder once for all workers of this session: `made_once("demo", make)`."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made_once(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / f"shared-{name}"
        with FileLock(f"{folder}.lock"):
            if not (done := folder.with_suffix(".done")).exists():
                make(folder)
                done.touch()
        return folder

    return made_once


@pytest.fixture(scope="module")  # a session would keep its event loop running for all tests
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    from chromium import CHROMIUM

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield made
        made.close()


@pytest.fixture(scope="session")
def small_demo(made_once) -> Path:
    """A finished demo: one taxonomy with its controls, CNNs trained as briefly as the paper's.

    With this seed the small CNNs of both leave chance: audits and comparisons have what they ask.
    """
    from mnemoscope.flow.run import demo_settings, run
    from mnemoscope.study.settings import parse_settings

    values = demo_settings(small=True).as_dict()
    values["sequences"]["limit"] = 1400
    values["continue"]["check_rows"] = 16
    values["label"] |= {"n_train": 88, "n_eval": 42}
    values["train"] |= {"preset": "as_run", "kernels": [4], "filters": [16], "poolings": ["max"]}
    values["train"] |= {"seeds": [0], "workers": 1}
    values["benchmark"]["control_taxonomies"] = ["Non-Memo, Guess, Recall"]
    values["localize"] |= {"sanity": False, "attributions": ["gradient"]}
    return made_once("demo", lambda folder: run(parse_settings(values, where="demo"), folder))


@pytest.fixture(scope="session")
def tiny(made_once) -> SimpleNamespace:
    """A tiny model, its reference, a table of sequences, and a study's settings for them."""
    from tiny_models import make_sequences, save_model

    def make(folder: Path) -> None:
        save_model(folder / "reference", seed=1)
        make_sequences(save_model(folder / "model")).write_parquet(folder / "sequences.parquet")

    folder = made_once("tiny", make)
    model, reference = folder / "model", folder / "reference"
    values = {
        "model": {"name": str(model), "batch_size": 32},
        "sequences": {"source": str(folder / "sequences.parquet")},
        "continue": {"part_rows": 32, "check_rows": 16},
        "label": {"n_train": 40, "n_eval": 20, "minimum": 12},
        "capture": {"reference": str(reference), "shard_rows": 16},
        "train": {"preset": "as_run", "kernels": [3], "filters": [6], "poolings": ["mean"]},
        "benchmark": {"n_resamples": 100},
    }
    values["label"]["taxonomies"] = ["Non-Memo, Recite[5], Recollect", "Non-Memo, Guess, Recall"]
    values["train"] |= {"seeds": [0, 1], "workers": 1}
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    named = {"table": folder / "sequences.parquet", "yaml": folder / "study.yaml"}
    return SimpleNamespace(folder=folder, model=model, reference=reference, values=values, **named)


@pytest.fixture(scope="session")
def tiny_studies(tiny, made_once) -> dict[str, Path]:
    """Copies of one study by the stage that it has come to, `report` the finished one; read only.

    Of its two taxonomies the second is impossible: no sequence is a guess.
    """
    from mnemoscope.flow.run import run
    from mnemoscope.study.settings import load_settings
    from mnemoscope.study.stages import STAGES

    stages = [one.name for one in STAGES if not one.is_optional]

    def make(folder: Path) -> None:
        for stage in stages:
            run(load_settings(tiny.yaml), folder / "study", until=stage)
            shutil.copytree(folder / "study", folder / stage)

    folder = made_once("tiny-studies", make)
    return {stage: folder / stage for stage in stages}


@pytest.fixture(scope="session")
def untrained(tiny, made_once) -> Path:
    """A study of one taxonomy that no CNN can be trained on, with its report; read only."""
    from mnemoscope.flow.run import run
    from mnemoscope.study.settings import parse_settings

    label = tiny.values["label"] | {"taxonomies": ["Non-Memo, Guess, Recall"]}
    settings = parse_settings(tiny.values | {"label": label}, where="untrained")
    return made_once("untrained", lambda folder: run(settings, folder))


@pytest.fixture
def study_at(tiny_studies, tmp_path) -> Callable[[str], Path]:
    """Copy the study that has come to a stage, to be changed: `study_at("label")`."""
    locks = shutil.ignore_patterns(".lock.pid")  # of a test beside, gone before it is copied
    return lambda stage: Path(
        shutil.copytree(tiny_studies[stage], tmp_path / "study", ignore=locks)
    )


@pytest.fixture
def call(capsys) -> Callable[..., SimpleNamespace]:
    """Run the command line in this process: `call("run", "-o", folder).status`, `.out`, `.err`."""
    from mnemoscope.cli import main

    def call(*arguments: object) -> SimpleNamespace:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(status=left.value.code, out=out, err=err)

    return call


@pytest.fixture
def succeed(call) -> Callable[..., SimpleNamespace]:
    """Run the command line in this process, which must end well."""

    def succeed(*arguments: object) -> SimpleNamespace:
        result = call(*arguments)
        assert result.status == 0, (arguments, result.err)
        return result

    return succeed


@pytest.fixture(scope="session")
def forkserver():
    """Processes that have the imports of the tests done already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    return multiprocessing.get_context("forkserver")


@pytest.fixture
def stopped_at(monkeypatch) -> Callable:
    """Ctrl-C in the n-th call of a function; without a number its calls are counted alone.

    `with stopped_at(module, "name", 3) as calls:`, where `calls` has an entry a call.
    """

    @contextmanager
    def stopped_at(module: object, name: str, n: int | None = None) -> Iterator[list]:
        plain, calls = getattr(module, name), []

        def counted(*given, **named):
            calls.append(given)
            if len(calls) == n:
                raise KeyboardInterrupt
            return plain(*given, **named)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, counted)
            yield calls

    return stopped_at


LIGHT = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import PathFinder
unloaded, hidden, found = json.loads(sys.argv[1]), json.loads(sys.argv[3]), []
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *a: None if name.split(".")[0] in hidden else find(name, *a)
)
from mnemoscope.cli import main
for words in json.loads(sys.argv[2]):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            main(words)
        except SystemExit as left:
            status = left.code
    loaded = [name for name in unloaded if name in sys.modules]
    assert not loaded, (words, loaded)
    found.append({"status": status, "out": out.getvalue(), "err": err.getvalue()})
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def call_light() -> Callable[..., list[SimpleNamespace]]:
    """Run command lines one after another in a process of its own, in which torch stays unloaded.

    `call_light([words, words], cwd=folder)` gives `.status`, `.out`, `.err` of each. Packages that
    are `hidden` cannot be imported.
    """

    def call_light(
        commands: list,
        unloaded: tuple[str, ...] = ("torch", "transformers"),
        *,
        hidden: tuple[str, ...] = (),
        **options: object,
    ) -> list[SimpleNamespace]:
        words = [[str(one) for one in command] for command in commands]
        done = subprocess.run(
            [sys.executable, "-c", LIGHT, *map(json.dumps, (unloaded, words, hidden))],
            capture_output=True,
            text=True,
            timeout=300,
            **options,
        )
        assert done.returncode == 0, done.stderr
        return [SimpleNamespace(**one) for one in json.loads(done.stdout)]

    return call_light


@pytest.fixture
def refused(call) -> Callable[..., str]:
    """Run the command line, check that it refuses as it should, and give the one line it says."""

    def refused(*arguments: object, status: int = 2) -> str:
        result = call(*arguments)
        assert result.status == status, (arguments, result)
        lines = result.err.splitlines()
        assert lines, result
        assert lines[-1].startswith("mnemoscope: "), result.err
        assert "Traceback" not in result.err
        if "-q" in arguments:
            assert len(lines) == 1, result.err
        return lines[-1]

    return refused


@pytest.fixture
def hide(monkeypatch):
    """Make a package look as if it were not installed: `hide("peft")`."""

    def hide(package):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *a: None if name == package else find(name, *a),
        )

    return hide
