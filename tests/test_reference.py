"""The reference pages name everything there is."""

import re
from pathlib import Path

import yaml

import mnemoscope
from mnemoscope import plugin
from mnemoscope.cli.app import verbs
from mnemoscope.study.settings import StudySettings
from mnemoscope.study.stages import STAGES
from tools.reference import (
    PLUGIN_PAGE,
    STUDY_PAGE,
    STUDY_TABLES,
    command_line,
    filled_plugin_page,
    filled_study_page,
    python,
    settings,
)

ROOT = Path(__file__).parents[1]


def test_command_line_page_has_every_verb_and_its_options():
    page = command_line()
    for verb in verbs():
        assert f"## `mnemoscope {verb}`" in page
    assert "`--fail-if" in page
    assert not re.search(r"^\* .*\.\.\.$", page, re.M)
    assert "&#" not in page


def test_settings_page_has_every_setting():
    named = set(re.findall(r"^\| `([^`]+)`", settings(), re.M))
    assert named == {
        f"{section}.{name}"
        for section, values in StudySettings().as_dict().items()
        if isinstance(values, dict)
        for name in values
    }


def test_python_pages_have_every_public_name_once_and_an_overview_links_to_it():
    overview, *pages = python().values()
    named = [name for page in pages for name in re.findall(r"^::: ([\w.]+)$", page, re.M)]
    public = [f"{one.__name__}.{name}" for one in (mnemoscope, plugin) for name in one.__all__]
    assert sorted(named) == sorted(public)
    linked = re.findall(r"^\| \[`\w+`\]\([\w-]+\.md#([\w.]+)\) \| \S", overview, re.M)
    first, rest = linked[:4], linked[4:]
    assert first == [f"mnemoscope.{name}" for name in ("run", "audit", "scan", "Study")]
    assert rest == [name for name in named if not name.startswith("mnemoscope.plugin.")]


def test_every_page_stands_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"])))
    pages = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if path.parent.name != "reference"
    }
    made = {f"reference/{name}.md" for name in ("command-line", "settings", *python())}
    assert named == pages | made


def test_docs_list_the_tool_box_of_plugins_as_it_is():
    page = PLUGIN_PAGE.read_text("utf-8")
    assert page == filled_plugin_page(page)  # make docs writes it
    listed = page.partition("tool box -->")[2]
    assert re.findall(r"^\| `(\w+)` \| \S", listed, re.M) == plugin.__all__


def test_docs_have_the_tables_of_a_study_as_the_code_has_them():
    page = STUDY_PAGE.read_text("utf-8")
    assert page == filled_study_page(page)  # make docs writes them
    shown = {name for files in STUDY_TABLES.values() for name in files}
    written = {one for stage in STAGES for one in stage.outputs if one.endswith(".parquet")}
    told_otherwise = {f"{one}.parquet" for one in ("sequences", "verdicts", "labels", "inputs")}
    with_columns_of_nodes = {"features.parquet", "measures.parquet", "search_measures.parquet"}
    assert written - shown == told_otherwise | with_columns_of_nodes
