"""Shares of a stage's units, done in copies of the study: copied together they are one run.

That any share of any units gives the same files is tested in `tests/cluster/test_units.py`.
"""

import os
import shutil
from pathlib import Path

import polars as pl
import pytest

from mnemoscope.cluster import local
from mnemoscope.data.table import table_digest
from mnemoscope.pipeline import questions
from mnemoscope.study.folder import Study
from study_files import assert_same, content

pytestmark = pytest.mark.whole


@pytest.fixture
def do(call):
    """Run a verb to its end; gives what it says."""

    def do(*arguments) -> str:
        done = call(*arguments, "-q")
        assert done.status == 0, done.err
        return done.out

    return do


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The kind of every unit that ran in this process."""
    ran, run_unit = [], local.run_unit

    def spy(unit, *arguments):
        ran.append(type(unit).__name__)
        return run_unit(unit, *arguments)

    monkeypatch.setattr(local, "run_unit", spy)
    return ran


@pytest.mark.parametrize(
    ("stage", "before", "n", "late"),
    [
        ("continue", "sequences", 3, {"Facts", "Check"}),
        ("capture", "label", 7, {"Facts", "Verdicts"}),  # more shares than shards; of the reference
        ("train", "capture", 2, set()),
        ("localize", "benchmark", 2, set()),
    ],
)
def test_shares_in_copies_of_a_study_copied_together_are_one_run(
    stage, before, n, late, tiny_studies, tmp_path, do, asked
):
    copies = [
        Path(shutil.copytree(tiny_studies[before], tmp_path / f"{i}")) for i in range(1, n + 1)
    ]
    outside = content(copies[0])
    for number, copy in reversed(list(enumerate(copies, 1))):
        assert f"mnemoscope {stage} {copy}" in do(stage, copy, "--part", f"{number}/{n}")
        made = content(copy).keys() - outside.keys()
        assert all(name.startswith(("units/", "cnn/")) for name in made)
        assert not Study(copy).is_done(stage)
    for copy in copies[1:]:
        shutil.copytree(copy, copies[0], dirs_exist_ok=True)
    asked.clear()
    do(stage, copies[0])
    assert set(asked) == late
    assert_same(copies[0], tiny_studies[stage])
    assert "Nothing to do" in do(stage, copies[0], "--part", "1/2")


def test_grafts_of_two_shares_are_those_of_one_run(tiny_studies, tmp_path, do):
    settings = ("parts=[layers.0.qk]", "draws=1", "n_sequences=12", "n_heldout=6")
    flags = [part for one in settings for part in ("--set", f"graft.{one}")]
    one, first, second = (
        Path(shutil.copytree(tiny_studies["label"], tmp_path / name)) for name in "abc"
    )
    do("graft", one, *flags)
    for number, copy in enumerate((first, second), 1):
        do("graft", copy, *flags, "--part", f"{number}/2")
        assert not Study(copy).is_done("graft")
    shutil.copytree(second, first, dirs_exist_ok=True)
    do("graft", first, *flags)
    assert_same(first, one)


def test_the_study_takes_the_settings_of_its_shares_over(tiny_studies, tmp_path, call, do):
    study = shutil.copytree(tiny_studies["sequences"], tmp_path / "study")
    do("continue", study, "--part", "1/2", "--batch-size", 7)
    assert Study(study).settings.model.batch_size == 7
    done = call("continue", study, "--batch-size", 8)
    assert done.status == 0
    assert "results there are of other settings, another model" in done.err
    assert not (study / "units" / "continue").exists()


def test_answers_of_a_model_elsewhere_are_not_mixed_with_those_of_one_here(
    tiny_studies, tmp_path, do, refused, monkeypatch
):
    """As on a machine of another kind: what is there names its device, and stays."""
    study = shutil.copytree(tiny_studies["sequences"], tmp_path / "study")
    facts_of = questions.facts_of
    with monkeypatch.context() as patch:
        patch.setattr(questions, "facts_of", lambda *one: facts_of(*one) | {"device": "cuda:0"})
        do("continue", study, "--part", "1/2")
    before = content(study)
    line = refused("continue", study, "-q")
    assert "device 'cpu', but the study's results so far were made with 'cuda:0'" in line
    assert content(study) == before


def test_what_is_in_use_or_no_share_is_refused(tiny_studies, tmp_path, refused):
    study = shutil.copytree(tiny_studies["sequences"], tmp_path / "study")
    for text in ("0/3", "4/3", "3", "a/b", "-1/3", "1/0", ""):
        assert "--part 3/8" in refused("continue", study, f"--part={text}", "-q")
    with Study(study).lock(shared=True):
        assert "parts of it" in refused("continue", study, "-q")
    with Study(study).lock():
        line = refused("continue", study, "--part", "1/2", "-q")
        assert f"in use by process {os.getpid()}" in line


def test_another_mask_of_the_same_tokens_is_another_table() -> None:
    table = pl.DataFrame({"sequence_id": [1, 2], "tokens": [[3, 4, 5], [6, 7, 8]]})
    masks = [[1, 1, 1], [1, 1, 0]], [[1, 1, 1], [0, 1, 1]]
    tables = [table, *(table.with_columns(attention_mask=pl.Series(mask)) for mask in masks)]
    assert len(set(map(table_digest, tables))) == 3


# -- of a capture that judges in the same forward ---------------------------------------------


@pytest.fixture
def founded(tmp_path, tiny, do):
    """`founded("name")`: a study of a table of tokens, to be scanned, with nothing done yet."""
    tokens = pl.read_parquet(tiny.table).select("sequence_id", "tokens").head(72)
    tokens.write_parquet(tmp_path / "tokens.parquet")
    flags = ["--model", tiny.model, "--batch-size", 12, "-o", tmp_path / "founded"]
    for one in ("continue.scan=true", "continue.part_rows=20", "continue.check_rows=8"):
        flags += ["--set", one]
    do("sequences", tmp_path / "tokens.parquet", *flags, "--set", "capture.shard_rows=10")
    return lambda name: Path(shutil.copytree(tmp_path / "founded", tmp_path / name))


def test_shares_hold_the_maps_and_verdicts_of_one_forward(founded, do, asked):
    one, shared = founded("one"), founded("shared")
    do("capture", one)
    for number in (3, 1, 2):
        do("capture", shared, "--part", f"{number}/3")
    assert f"Next: mnemoscope continue {shared}" in do("capture", shared)  # there are no labels
    assert_same(shared, one)
    parted = Path(shutil.copytree(shared, shared.with_name("parted")))
    asked.clear()
    do("continue", one)
    assert "Verdicts" not in asked  # they are those of the capture
    for number in (1, 2):
        do("continue", parted, "--part", f"{number}/2")
    do("continue", parted)
    assert "Verdicts" not in asked
    assert_same(parted, one)
