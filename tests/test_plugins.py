"""Plugins: the example package, installed and used; broken ones, which cost a warning."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from mnemoscope import plugin
from mnemoscope.embedded import sequences_path
from mnemoscope.errors import UserError
from mnemoscope.plugins import find_plugins, load_plugin
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import StudySettings
from mnemoscope.taxonomy.names import parse_taxonomy

EXAMPLE = Path(__file__).parents[1] / "examples" / "mnemoscope-example"
LINKS = "Non-Memo, Link, Others"


@pytest.fixture
def seen(monkeypatch):
    """Let the packages of a folder be found in this process."""

    def forget() -> None:
        find_plugins.cache_clear()
        load_plugin.cache_clear()

    def seen(folder: Path) -> None:
        monkeypatch.syspath_prepend(folder)
        forget()

    yield seen
    monkeypatch.undo()
    forget()


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """The example, installed by pip without a network into a folder of its own."""
    source = tmp_path_factory.mktemp("example")  # hatchling writes nothing beside it then
    shutil.copytree(EXAMPLE, source / "package")
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", source / "site"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *flags, source / "package"],
        check=True,
        timeout=300,
    )
    return source / "site"


def write_package(folder: Path, name: str, points: str, code: str = "", version: str = "1.0"):
    """A package as pip leaves it: metadata, entry points, one module."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(points)
    (folder / f"{name}.py").write_text(code)
    return folder


def test_example_brings_an_analysis(example, seen, study_at, call, succeed):
    study = study_at("label")
    assert "no such analysis" in call("analyze", "links", study).err
    seen(example)
    assert "links" in call("analyze", "--list").out
    succeed("analyze", "links", study, "-q", "--set", "sign=a")
    table = Study(study).sequences
    has_it = table["text"].str.contains("a", literal=True)
    wanted = {flag: table.filter(has_it == flag)["is_memorized"].mean() for flag in (True, False)}
    found = pl.read_parquet(study / "analysis" / "links" / "links.parquet")
    assert dict(found.select("link", "value").iter_rows()) == pytest.approx(wanted)
    result = json.loads((study / "analysis" / "links" / "result.json").read_text())
    assert result["versions"]["mnemoscope-example"] == "0.1.0"
    assert result["inputs"]["plugin"] == ["links", "mnemoscope-example", "0.1.0"]
    assert "Text with links" in (study / "report.html").read_text(encoding="utf-8")
    succeed("analyze", "links", study, "-q", "--set", "sign=no text holds this")
    result = json.loads((study / "analysis" / "links" / "result.json").read_text())
    assert "None" not in result["sentence"]


def test_example_brings_a_node(example, seen, tmp_path, succeed, refused):
    table, out = tmp_path / "t.jsonl", tmp_path / "labels.jsonl"
    texts = ["see https://x.org", "nothing", "see https://x.org"]
    rows = {"sequence_id": [1, 2, 3], "text": texts, "memorization_score": [1.0, 1.0, 0.5]}
    pl.DataFrame(rows).write_ndjson(table)
    assert "unknown node 'Link'" in refused("label", table, "-t", LINKS, "-o", out)
    seen(example)
    succeed("label", table, "-t", LINKS, "-o", out)
    assert pl.read_ndjson(out)["class"].to_list() == ["Link", "Others", "Non-Memo"]
    out.unlink()
    succeed("label", table, "-t", "Non-Memo, Link[thing], Others", "-o", out)
    assert pl.read_ndjson(out)["class"].to_list() == ["Others", "Link[thing]", "Non-Memo"]
    texts = ["100% sure", "a_b", "it's"]  # no pattern, and a quote
    pl.DataFrame(rows | {"text": texts, "memorization_score": [1.0] * 3}).write_ndjson(table)
    for sign, has_it in {"_": [0, 1, 0], "%": [1, 0, 0], "t's": [0, 0, 1], "x": [0, 0, 0]}.items():
        out.unlink()
        asked = ("label", table, "-t", f"Non-Memo, Link[{sign}], Others", "-o", out)
        succeed(*asked)
        wanted = [f"Link[{sign}]" if one else "Others" for one in has_it]
        assert pl.read_ndjson(out)["class"].to_list() == wanted
    assert "Did you mean 'Link'" in refused(
        "label", table, "-t", "Non-Memo, Lnik, Others", "-o", out
    )
    with pytest.raises(UserError, match="looks like a node"):  # a slip is no free last class
        parse_taxonomy("Non-Memo, Guess, Lin")


def test_example_brings_a_reader(example, seen, tmp_path, succeed, refused):
    table, study = tmp_path / "texts.tsv", tmp_path / "study"
    shipped = pl.read_parquet(sequences_path())["text"].str.replace_all(r"[\t\r\n\"]", " ")[:9]
    pl.DataFrame({"text": shipped + shipped, "kind": ["x"] * 9}).write_csv(table, separator="\t")
    asked = ("sequences", table, "--model", "embedded", "-o", study, "-q")
    assert "commas (.csv) are needed" in refused(*asked)
    seen(example)
    succeed(*asked)
    assert Study(study).sequences["kind"].unique().to_list() == ["x"]
    manifest = Study(study).manifest("sequences")
    assert manifest is not None
    assert manifest["counts"]["readers"] == [["tsv", "mnemoscope-example", "0.1.0"]]


def test_key_of_labels_follows_the_version_of_a_node_alone(tmp_path, seen):
    values = StudySettings().as_dict()
    values["label"]["taxonomies"] = ["Non-Memo, Mine, Others"]
    study = Study.create(tmp_path / "study", StudySettings.model_validate(values))
    other = Study.create(tmp_path / "other", StudySettings())
    keys = []
    for version in ("1.0", "2.0"):
        folder = tmp_path / version
        seen(write_package(folder, "mine", "[mnemoscope.nodes]\nMine = mine:f\n", "", version))
        keys.append([study.key("label"), study.key("sequences"), other.key("label")])
    assert keys[0][0] != keys[1][0]
    assert keys[0][1:] == keys[1][1:]


_NEEDY = """
from mnemoscope.analysis.registry import Entry
ENTRY = Entry("ours", "t", "a", ("words",), "s")
"""


@pytest.mark.parametrize(
    ("points", "code", "said"),
    [
        ("[mnemoscope.analyses]\nours = bad\n", "import no_such_thing", "ModuleNotFoundError"),
        ("[mnemoscope.analyses]\nours = bad\n", "raise SystemExit(5)", "SystemExit: 5"),
        ("[mnemoscope.analyses]\nours = bad\n", "", "no ENTRY"),
        ("[mnemoscope.analyses]\nours = bad\n", _NEEDY, "ENTRY needs words; known are scores"),
        ("[mnemoscope.analyses]\nours = bad:gone\n", "", "AttributeError"),
        ("[mnemoscope.analyses]\nlevels = bad\n", "", "mnemoscope has this name itself"),
        ("[mnemoscope.analyses]\na/b = bad\n", "", "this cannot be its name"),
        ("[mnemoscope.analyses]\na\x1b[31m = bad\n", "", r"'a\x1b[31m': this cannot be its name"),
    ],
)
def test_broken_plugin_costs_one_line_that_names_its_package(
    points, code, said, tmp_path, seen, succeed, caplog, request
):
    request.addfinalizer(lambda: sys.modules.pop("bad", None))
    seen(write_package(tmp_path, "bad", points, code))
    done = succeed("analyze", "--list")
    assert "dynamics" in done.out
    lines = [one.getMessage() for one in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("mnemoscope: bad 1.0 left out, mnemoscope.analyses '")
    assert said in lines[0]


def test_names_that_are_ours_or_another_packages_are_left_out(tmp_path, seen, caplog):
    from mnemoscope.data.formats import plugin_readers
    from mnemoscope.taxonomy.nodes import plugin_nodes

    ours = "[mnemoscope.nodes]\nguess = bad:f\nOthers = bad:f\n[mnemoscope.readers]\ncsv = bad:f\n"
    seen(write_package(tmp_path / "1", "bad", ours))
    assert plugin_nodes() == plugin_readers() == {}
    assert len(caplog.records) == 3
    seen(write_package(tmp_path / "2", "good", "[mnemoscope.nodes]\nMine = good:f\n"))
    seen(write_package(tmp_path / "3", "aged", "[mnemoscope.nodes]\nMine = aged:f\n"))
    assert plugin_nodes()["Mine"].package == "aged"
    assert "aged brings the same name" in caplog.text


def test_a_package_whose_entry_points_cannot_be_read_hides_no_other(tmp_path, seen):
    from mnemoscope.taxonomy.nodes import plugin_nodes

    write_package(tmp_path, "unread", "[mnemoscope.nodes]\nno entry\n")
    seen(write_package(tmp_path, "good", "[mnemoscope.nodes]\nMine = good:f\n"))
    assert list(plugin_nodes()) == ["Mine"]


_BAD = """
def node(name, argument): 1 / 0
def other(name, argument): return name
def read(path): raise SystemExit(0)
"""


def test_a_result_holds_frames_alone():
    with pytest.raises(TypeError, match="'shares': no Polars frame"):
        plugin.AnalysisResult("Half of them.", {"shares": 0.5})


def test_plugin_that_fails_at_work_is_named(tmp_path, seen, refused, request):
    request.addfinalizer(lambda: sys.modules.pop("bad", None))
    points = "[mnemoscope.nodes]\nMine = bad:node\nYours = bad:other\n"
    points += "[mnemoscope.readers]\nodd = bad:read\n"
    seen(write_package(tmp_path, "bad", points, _BAD))
    for name, said in (("Mine", "bad fails (ZeroDivisionError"), ("Yours", "bad gives no Node")):
        with pytest.raises(UserError, match=re.escape(said)):
            parse_taxonomy(f"Non-Memo, {name}, Others")
    (tmp_path / "t.odd").write_text("x")
    assert "bad fails (SystemExit: 0)" in refused("status", tmp_path / "t.odd")
