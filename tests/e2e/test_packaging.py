"""Wheel and sdist, built and tried outside the checkout: what a user gets from `pip install`."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import polars as pl
import pytest
from hatchling.build import build_editable

from mnemoscope.study.settings import shipped_names

ROOT = Path(__file__).parents[2]
MOST_SHIPPED_BYTES = 24_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The sdist, and the wheel built from it (as an index would)."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """A folder outside the checkout that holds the wheel alone, beside the libraries it needs."""
    target = tmp_path_factory.mktemp("site")
    wheel = next(built.glob("*.whl"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", target, wheel],
        check=True,
        timeout=300,
    )
    return target


def run(installed: Path, folder: Path, *commands: tuple[str, ...]) -> None:
    """Run installed command lines where the checkout cannot be seen; each must succeed."""
    libraries = sysconfig.get_paths()["purelib"]
    code = (
        f"import sys; sys.path[:0] = [{str(installed)!r}]; sys.path.append({libraries!r})\n"
        "import mnemoscope; assert mnemoscope.__file__.startswith(sys.path[0])\n"
        "from mnemoscope.cli import main\n"
        f"for words in {commands}:\n"
        "    try: main(words)\n"
        "    except SystemExit as left: assert not left.code, words\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=folder,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.whole
def test_wheel_holds_the_shipped_data_and_nothing_computed_from_it(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {info.filename: info.file_size for info in wheel.infolist()}
    assert {"mnemoscope/py.typed", "mnemoscope/studies/shapes/pythia.yaml"} <= set(names)
    of_a_size = [one for one in shipped_names() if one.startswith(("pythia-", "letter-"))]
    files = {*shipped_names(), "pythia-SIZE", "letter-SIZE"} - {*of_a_size}
    assert {f"mnemoscope/studies/{one}.yaml" for one in files} <= set(names)
    data = {
        name: size for name, size in names.items() if name.startswith("mnemoscope/embedded/data")
    }
    kept = {Path(name).relative_to("mnemoscope/embedded/data").as_posix() for name in data}
    files = ("config.json", "model.safetensors", "tokenizer.json")
    assert {f"{role}/{name}" for role in ("model", "reference") for name in files} <= kept
    assert "sequences.parquet" in kept
    assert sum(data.values()) <= MOST_SHIPPED_BYTES
    assert not [name for name in names if "maps" in Path(name).name and name.endswith("tensors")]
    assert not [name for name in names if "benchmark.parquet" in name or "labels.parquet" in name]


@pytest.mark.whole
def test_shipped_table_holds_no_result(installed):
    table = pl.read_parquet(installed / "mnemoscope/embedded/data/sequences.parquet")
    results = {"memorization_score", "continuation", "is_memorized", "rouge_l", "is_repeating"}
    assert not results & set(table.columns)


def test_extra_all_holds_every_extra_of_a_user():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (named,) = extras["all"]
    of_users = {*extras} - {"all", "bench", "dev", "docs", "test"}
    assert set(re.findall(r"[\w-]+", named.partition("[")[2])) == of_users


def test_scripts_find_what_they_import_in_a_development_install(tmp_path, monkeypatch):
    """The paths that `pip install -e .` adds; that the modules are there, mypy checks."""
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build_editable(str(tmp_path))) as wheel:
        (added,) = (one for one in wheel.namelist() if one.endswith(".pth"))
        paths = wheel.read(added).decode().splitlines()
    found = {one.name for path in paths for one in Path(path).iterdir()}
    assert {"mnemoscope", "experiments", "tools"} <= found


def in_context() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line[1:] for line in lines if line[0] == "!"]


def test_image_is_built_from_what_the_context_holds_and_runs_as_no_root():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    licences = (name.partition("/")[0] for name in project["license-files"])
    needed = {"pyproject.toml", "src", project["readme"], *licences}
    assert needed <= set(in_context())
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    last = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert [line for line in last if line.startswith("USER ")] == ["USER 10001"]
    assert last.index("USER 10001") > max(i for i, line in enumerate(last) if line[:3] == "RUN")
    extras = re.search(r'EXTRAS="([\w,]+)"', "\n".join(lines))
    assert extras
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])


@pytest.mark.slow
def test_a_wheel_is_built_of_what_the_context_holds(tmp_path):
    """The first stage of the image without a container."""
    for name in in_context():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "build", "--wheel", "-n", "-o", tmp_path / "wheels"]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as files:
        assert "mnemoscope/embedded/data/sequences.parquet" in files.namelist()


@pytest.mark.whole
def test_sdist_holds_sources_and_tests(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "LICENSES/PSF-2.0.txt", "SECURITY.md"}
    wanted |= {".ci/run", "AGENTS.md", "locks/run.txt", "src/mnemoscope/__init__.py"}
    assert wanted <= names
    assert any(name.startswith("tests/") for name in names)


SMALLEST = {
    "sequences.limit": "120",
    "continue.scan": "true",
    "continue.check_rows": "2",
    "label.taxonomies": '["Non-Memo, Guess, Recall"]',
    "label.n_train": "8",
    "label.n_eval": "4",
    "label.minimum": "12",
    "train.preset": "as_run",
    "train.kernels": "[6]",
    "train.filters": "[10]",
    "train.seeds": "[0]",
    "train.workers": "1",
    "benchmark.controls": "false",
    "benchmark.n_resamples": "100",
    "localize.sanity": "false",
}


@pytest.mark.whole
def test_verbs_work_from_the_wheel_outside_the_checkout(installed, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"sequence_id": 1, "text": "1 2 3 4 5 6", "memorization_score": 1.0}\n'
        '{"sequence_id": 2, "text": "no pattern is in here", "memorization_score": 0.5}\n'
    )
    features = ("features", "in.jsonl", "-o", "out.parquet")
    taxonomy = ("-t", "Non-Memo, Reconstruct, Others")
    label = ("label", "out.parquet", *taxonomy, "-o", "labels.parquet")
    settings = [word for pair in SMALLEST.items() for word in ("--set", "=".join(pair))]
    table = installed / "mnemoscope/embedded/data/sequences.parquet"
    pl.read_parquet(table).head(20).write_parquet(tmp_path / "few.parquet")
    shutil.copytree(installed / "mnemoscope/embedded/data/model", tmp_path / "model")
    capture = ("capture", "--model", "model", "--sequences", "few.parquet", "-o", "captured")
    run(installed, tmp_path, features, label, ("run", "-o", "demo", *settings), capture)
    classes = pl.read_parquet(tmp_path / "labels.parquet")["class"].to_list()
    assert classes == ["Reconstruct", "Non-Memo"]
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert pl.read_parquet(tmp_path / "demo" / "benchmark.parquet").height > 0
    records = (tmp_path / "captured/maps/model").glob("shard-*.json")
    assert sum(len(json.loads(one.read_text())["sequence_ids"]) for one in records) == 20
