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


def test_python_page_has_every_public_name():
    named = set(re.findall(r"^::: ([\w.]+)$", python(), re.M))
    lists = {
        ".".join(path.relative_to(ROOT / "src").parent.parts): path.read_text(encoding="utf-8")
        for path in (ROOT / "src").rglob("__init__.py")
    }
    public = {f"mnemoscope.plugin.{name}" for name in plugin.__all__} | {
        f"{room}.{name}"
        for room, text in lists.items()
        for names in re.findall(r"^__all__ = \[(.*?)\]", text, re.M | re.S)
        for name in re.findall(r'"(\w+)"', names)
    }
    assert {f"mnemoscope.{name}" for name in mnemoscope.__all__} <= public
    assert named == public


def test_every_page_stands_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"])))
    pages = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if path.parent.name != "reference"
    }
    assert {one for one in named if not one.startswith("reference/")} == pages


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
