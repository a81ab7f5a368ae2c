"""What a run ends with: counts of what was drawn, each verdict once, one style of numbers."""

import json

import polars as pl
import pytest

from mnemoscope.cli.summary import print_summary
from mnemoscope.study.folder import Study
from planted_studies import GUESS, RECITE, plant
from study_files import put_in_place, rewrite_record

SAME = f"{GUESS} (same genre)"


@pytest.fixture
def study(tiny_studies, tmp_path) -> Study:
    """A benchmarked study with a repetition on matched sequences."""
    from mnemoscope.flow.run import run_stage

    folder = plant(tiny_studies["train"], tmp_path / "study", right={RECITE: 0.5, GUESS: 0.9})
    path = folder / "manifests" / "label.json"
    manifest = json.loads(path.read_text())
    samples = manifest["counts"]["samples"]
    (main,) = (one for one in samples if one["taxonomy"] == GUESS)
    same = {"variant": "equal_shares", "title": "same genre", "n_train": 30, "n_eval": 15}
    samples.append(main | same)
    rewrite_record(path, **manifest)
    for name in ("predictions.parquet", "runs.parquet"):
        rows = pl.read_parquet(folder / name)
        again = rows.filter(taxonomy=GUESS).with_columns(variant=pl.lit("equal_shares"))
        put_in_place(folder, **{name: pl.concat([rows, again])})
    run_stage(Study(folder), "benchmark")
    return Study(folder)


def shown(study: Study, capsys) -> str:
    capsys.readouterr()
    print_summary(study)
    return capsys.readouterr().out


def test_a_repetition_tells_what_it_drew_and_each_verdict_is_said_once(study, call, capsys) -> None:
    lines = {line.partition(": ")[0]: line for line in shown(study, capsys).splitlines()}
    main, same = lines[f"2  {GUESS}"], lines[f"3  {SAME}"]
    assert "Recall 160" in main
    assert main.endswith("120 + 60 of each class drawn")
    assert same == f"3  {SAME}: 30 + 15 of each class drawn"
    result = call("benchmark", study.folder, "--redo")
    verdict = "cannot be said: no control was run"
    assert verdict not in result.err
    assert result.out.count(verdict) == 3  # one a row


def test_an_empty_study_has_a_summary(tiny_studies, capsys) -> None:
    assert "impossible" in shown(Study(tiny_studies["label"]), capsys)
