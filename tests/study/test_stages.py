"""One list makes a stage: everything that names stages reads it."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import mnemoscope
from mnemoscope.cli.app import command
from mnemoscope.study.cost import Cost, Counts, Row
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import StudySettings
from mnemoscope.study.stages import STAGES, Stage, stage_named

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def count_words(study: Study, models: object) -> None:
    """The toy stage: it writes one file and counts."""
    with study.finishing("toy") as counts:
        counts["rows"] = study.sequences.height
        (study.folder / "toy.txt").write_text(str(counts["rows"]), encoding="utf-8")


def toy_cost(settings: StudySettings, counts: Counts) -> Cost:
    """What the toy stage would take."""
    return Cost(settings, counts, [Row("toys", f"{counts.need.n_maps:,}")])


@pytest.fixture
def toy():
    """A stage more, between the benchmark and the report, in one entry."""
    made = Stage(
        "toy",
        "how many rows there are",
        needs=("label",),
        settings=("title",),
        function=f"{__name__}:count_words",
        cost=f"{__name__}:toy_cost",
        outputs=("toy.txt",),
    )
    at = STAGES.index(stage_named("report"))
    STAGES.insert(at, made)
    command.cache_clear()
    yield made
    STAGES.remove(made)
    command.cache_clear()


def test_a_stage_of_one_entry_is_found_everywhere(toy, study_at, call) -> None:
    folder = study_at("report")
    asked = ("run", "-o", folder, "--dry-run", "--verbose", "--set", "title=another", "--redo")
    planned = call(*asked)
    assert "toy)" in planned.out or "toy," in planned.out
    n_maps = re.search(r"sequences captured \| (\d+)", planned.out)
    assert n_maps is not None
    assert f"\ntoys | {n_maps[1]}\n" in planned.out
    assert "toy" in call("status", folder).out
    helped = call("toy", "--help").out
    assert "How many rows there are." in helped
    assert "--part" not in helped
    assert "--engine" not in helped
    ran = call("run", "-o", folder)
    assert ran.status == 0, ran.err
    assert "Stage 1 of 1, toy: how many rows there are" in ran.err
    assert (folder / "toy.txt").read_text() == str(Study(folder).sequences.height)
    assert Study(folder).manifest("toy")["counts"] == {"rows": Study(folder).sequences.height}
    again = call("toy", folder)
    assert f"Nothing to do: {folder / 'toy.txt'}." in again.out
    changed = call("toy", folder, "--set", "title=another")
    assert changed.status == 2
    assert "'toy' was made with other settings" in changed.err
    Study(folder).forget("label")
    assert Study(folder).manifest("toy") is None


@pytest.mark.parametrize("stage", STAGES[1:], ids=lambda one: one.name)
def test_every_function_takes_a_study_and_its_models(stage: Stage) -> None:
    assert list(inspect.signature(stage.load()).parameters) == ["study", "models"]


def test_verbs_offer_parts_and_engines_where_a_stage_has_them() -> None:
    verbs = command().commands
    for stage in STAGES:
        flags = {flag for one in verbs[stage.name].params for flag in one.opts}
        assert ("--part" in flags, "--engine" in flags) == (bool(stage.part), stage.has_engine)


def test_needs_come_before() -> None:
    names = [one.name for one in STAGES]
    for at, stage in enumerate(STAGES):
        assert set(stage.needs) <= set(names[:at])


def test_no_other_list_of_stages() -> None:
    """A literal of three stages and nothing else registers them again."""
    names, found = {one.name for one in STAGES}, []
    source = Path(mnemoscope.__file__).parent
    for path in source.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if sum(f'"{name}"' in text for name in names) < 3:
            continue
        for node in ast.walk(ast.parse(text)):
            parts = getattr(node, "elts", None) or getattr(node, "keys", None) or []
            held = {getattr(one, "value", None) for one in parts}
            if len(held) >= 3 and held <= names:
                found.append(str(path.relative_to(source)))
    assert found == ["cli/app.py"]  # verbs with flags of their own


def test_the_page_shows_every_stage() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    wanted = [
        (
            one.name,
            one.purpose,
            ", ".join(one.needs) or "–",
            ", ".join(f"`{name}`" for name in one.outputs) or "columns of the table",
        )
        for one in STAGES
    ]
    assert [one for one in rows if one[0] in {stage.name for stage in STAGES}] == wanted
