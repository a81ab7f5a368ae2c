"""Pages show what the stored results of their experiments say, and the README knows them all."""

import importlib.metadata
import re
import shutil

import pytest

from experiments import pages as module
from experiments.analyses.tables import Table, percent
from experiments.pages import HERE, rendered, split_page, stored
from mnemoscope.parse import read_json

ROOT = HERE.parent
ROWS = [
    line.strip("| ").split(" | ")
    for line in (HERE / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "`" in line
]


@pytest.mark.parametrize("name", stored())
def test_a_page_shows_the_stored_results(name: str) -> None:
    for page, which, text in rendered(name):
        assert split_page(page.read_text("utf-8"), which)[1] == text, (
            f"{page.name}: {which}; not what {name} gives"
        )


def test_the_readme_has_every_script_page_and_stored_result() -> None:
    pages = {page: row for row in ROWS for page in row[0].split(", ")}
    scripts = {script for row in ROWS for script in re.findall(r"`([\w/]+\.py)`", row[1])}
    held = {path.relative_to(HERE).as_posix() for path in HERE.glob("*/*.py")}
    assert scripts == {path for path in held if not path.endswith("/tables.py")}
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        if "<!-- tables" in path.read_text(encoding="utf-8")
    }
    # tools/reference.py writes these
    by_reference = {"docs/audit-files.md", "docs/plugins.md", "docs/tables.md"}
    assert marked - by_reference <= pages.keys()
    guarded = {
        page.relative_to(ROOT).as_posix() for name in stored() for page, *_ in rendered(name)
    }
    kept = {page for row in ROWS if row[-1] == "yes" for page in row[0].split(", ")}
    assert guarded == marked & kept
    assert all((ROOT / page).is_file() for page in pages)


def test_keep_notes_the_versions_and_writes_the_pages(tmp_path, monkeypatch):
    name = "known_truth"
    results = module.results_of(name)
    for page, _, _ in [*rendered(name)]:
        copy = tmp_path / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, copy)
    monkeypatch.setattr(module, "HERE", tmp_path / "experiments")
    (tmp_path / "experiments" / name).mkdir(parents=True)
    noted = tmp_path / "experiments" / "versions.json"
    noted.write_text('{"other": {"python": "3.11.7"}}', encoding="utf-8")
    module.publish(name, results, keep=True)
    assert module.results_of(name) == results
    found = read_json(noted)
    assert found["other"] == {"python": "3.11.7"}
    assert found[name]["torch"] == importlib.metadata.version("torch")
    for page, which, text in rendered(name):
        assert split_page(page.read_text(encoding="utf-8"), which)[1] == text


def test_a_table_of_an_analysis_stands_across_with_its_intervals():
    table = Table(
        "shares", {"group": "group", "n": "sequences"}, {"share": percent("{}, %")}, {}, "kind"
    )
    rows = [
        {"group": "all", "n": 1200, "kind": "near", "share": [0.25, 0.2, 0.301]},
        {"group": "all", "n": 1200, "kind": "far", "share": [0.5, None, None]},
        {"group": "few", "n": 2, "kind": "near", "share": [None, None, None]},
    ]
    assert table.render(rows).splitlines() == [
        "| group | sequences | near, % | far, % |",
        "|---|---|---|---|",
        "| all | 1,200 | 25.0 [20.0, 30.1] | 50.0 |",
        "| few | 2 | – | – |",
    ]
