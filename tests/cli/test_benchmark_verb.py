"""The verb benchmark, alone and of several models as one, and the summary that a run ends with."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import f1_score

from mnemoscope.cli.summary import print_summary
from mnemoscope.stats import rows_of
from mnemoscope.study.folder import Study
from planted_studies import GUESS, N_CLASS, RECITE, confusion_of, plant
from study_files import put_in_place, rewrite_record, settings_with

RIGHT = {RECITE: 0.5, GUESS: 0.9}
KEYS = ["best", "confused", "plateau", "guessed", "few-shot"]
NUMBER = r"−?\d+\.\d"
FINGERPRINT = ("record", "models", "model", "fingerprint")


def change(folder: Path, *keys: str, value: object) -> None:
    """Change a setting or record behind the program's back; the manifests keep fitting."""
    path = folder / "study.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    reduce(getitem, keys[:-1], values)[keys[-1]] = value
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    study = Study(folder)
    for manifest in (folder / "manifests").glob("*.json"):
        said = {"key": study.key(manifest.stem)}
        if "model" in json.loads(manifest.read_text()):
            said["model"] = study.record["models"]["model"]["fingerprint"]
        rewrite_record(manifest, **said)


@contextmanager
def changed_label(folder: Path) -> Iterator[dict]:
    path = folder / "manifests" / "label.json"
    manifest = json.loads(path.read_text())
    yield manifest["counts"]
    rewrite_record(path, **manifest)


@pytest.fixture(scope="module")
def planted(tiny_studies, tmp_path_factory) -> list[Path]:
    """Three benchmarked studies with planted predictions; read only."""
    from mnemoscope.flow.run import run_stage

    place = tmp_path_factory.mktemp("planted")
    folders = [
        plant(tiny_studies["train"], place / f"model-{seed}", right=RIGHT, seed=seed)
        for seed in range(3)
    ]
    for folder in folders:
        change(folder, *FINGERPRINT, value=f"fingerprint of {folder.name}")
        run_stage(Study(folder), "benchmark")
    return folders


@pytest.fixture
def copied(planted, tmp_path) -> list[Path]:
    return [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in planted]


def min_f1(confusion: np.ndarray) -> float:
    """By scikit-learn, from one prediction a count."""
    cells = [(a, b) for a in range(3) for b in range(3) for _ in range(confusion[a, b])]
    true, predicted = np.array(cells).T
    return float(f1_score(true, predicted, average=None).min())


def test_one_study_is_shown_beside_the_published_figures(planted, succeed):
    result = succeed("benchmark", planted[0], "-q")
    text = " ".join(result.out.split())
    ours = 100 * min_f1(confusion_of(planted[0], GUESS))
    assert re.search(rf"Guess, Others +│ +{ours:.1f}", text)
    assert "89.0 / 89.9" in text  # all three models
    assert "= Recite[5], Recollect" in text  # Recollect[5] alone is the same partition
    assert f"{ours - 89.0:.1f}".replace("-", "−") in text
    assert "51 of the 54 published taxonomies are not in this study." in text
    assert "26 of the 27 settings of ρ are not in this study." in text
    assert "not given (2 of them can be compared; 4 are needed)" in text
    assert text.count("published: holds.") == len(KEYS)
    assert "2 taxonomies are too few to speak of all." in text


def test_the_tables_are_written_into_the_study_and_python_gives_the_same(planted):
    import mnemoscope as ms

    frame = pl.read_parquet(planted[0] / "comparison.parquet")
    assert frame.height == 54 + 27
    states = dict(frame.filter(pl.col("kind") == "catalogue")["state"].value_counts().rows())
    assert states == {"absent": 51, "measured": 2, "alias": 1}
    kept = json.loads((planted[0] / "conclusions.json").read_text())
    assert [one["key"] for one in kept["conclusions"]] == KEYS
    assert {one["verdict"] for one in kept["published_conclusions"]} == {"holds"}
    study = ms.Study(planted[0])
    assert study.comparison.equals(frame)
    assert [one.key for one in study.conclusions()] == KEYS
    wanted = min_f1(confusion_of(planted[0], GUESS)) - min_f1(confusion_of(planted[0], RECITE))
    assert study.compare(GUESS, RECITE).value == pytest.approx(wanted)
    together = ms.Study(planted[0]).together(*[ms.Study(one) for one in planted[1:]])
    assert together.frame.filter(pl.col("model") == "together").height == 2


def test_two_taxonomies_are_compared_on_their_shared_sequences(planted, call, succeed):
    result = succeed("benchmark", planted[0], "--compare", GUESS, RECITE)
    wanted = min_f1(confusion_of(planted[0], GUESS)) - min_f1(confusion_of(planted[0], RECITE))
    first = result.out.splitlines()[0]
    shown = re.search(rf"\+({NUMBER}) \[({NUMBER}),\s({NUMBER})\] points", first)
    assert shown is not None, first
    value, low, high = map(float, shown.groups())
    assert value == pytest.approx(100 * wanted, abs=0.05)
    assert low < value < high
    assert f"{3 * N_CLASS} of {3 * N_CLASS} and {3 * N_CLASS} evaluation sequences" in result.out
    spelled = ("Non-Memo, Guess[0.5-0.5], Others", "Non-Memo, Recollect[5], Others")
    other = call("benchmark", planted[0], "--compare", *spelled).out
    assert re.findall(NUMBER, result.out) == re.findall(NUMBER, other.replace("0.5", ""))


def test_what_cannot_be_compared_is_refused(planted, tiny_studies, refused):
    study, other = planted[:2]
    untold, unlabelled = tiny_studies["train"], tiny_studies["label"]
    for studies, first, second, more, what in (
        ([study], RECITE, "Non-Memo, Recollect[5], Others", [], "one partition"),
        ([study], RECITE, "Non-Memo, Code, Others", [], "no taxonomy"),
        ([untold], RECITE, GUESS, [], "has no figure"),
        ([unlabelled], RECITE, GUESS, [], "'train' has not been run"),
        ([study, other], RECITE, GUESS, [], "one study"),
        ([study], RECITE, GUESS, ["--redo"], "--redo"),
    ):
        assert what in refused("benchmark", *studies, "--compare", first, second, *more)


def test_three_studies_together_sum_their_matrices(planted, succeed, tmp_path):
    out = tmp_path / "together"
    result = succeed("benchmark", *planted, "-o", out)
    frame = pl.read_parquet(out / "together.parquet")
    for name in (RECITE, GUESS):
        own = [confusion_of(folder, name) for folder in planted]
        rows = {row["model"]: row for row in rows_of(frame.filter(taxonomy=name))}
        assert list(rows) == ["model-0", "model-1", "model-2", "together"]
        for model, confusion in zip(rows, [*own, sum(own)], strict=True):
            assert rows[model]["confusion"] == confusion.tolist()
            assert rows[model]["min_f1"].value == pytest.approx(min_f1(confusion), abs=1e-12)
        value, low, high = rows["together"]["min_f1"]
        assert low < value < high
        # Three times the sequences: an interval about 1/sqrt(3) as wide; min-F1 is a minimum of
        # noisy figures, so half again is allowed.
        figures = [rows[model]["min_f1"] for model in list(rows)[:3]]
        width = np.mean([one.high - one.low for one in figures])
        assert (high - low) < 1.5 * width / np.sqrt(3)
        assert f"{100 * value:.1f}" in result.out
    assert "89.0 / 89.9" in result.out
    compared = pl.read_parquet(out / "comparison.parquet").filter(pl.col("state") == "measured")
    assert set(compared["n_eval"]) == {9 * N_CLASS}
    assert json.loads((out / "conclusions.json").read_text())["models"] == list(rows)[:3]


def test_a_taxonomy_that_one_model_cannot_fill_has_no_sum(copied, succeed, tmp_path):
    with changed_label(copied[1]) as counts:
        (entry,) = (one for one in counts["samples"] if one["taxonomy"] == GUESS)
        entry["impossible"] = "Guess has 3"
    result = succeed("benchmark", *copied, "-o", tmp_path / "out")
    assert "Guess, Recall: model-1: impossible: Guess has 3" in result.out
    frame = pl.read_parquet(tmp_path / "out" / "comparison.parquet")
    rows = frame.filter(pl.col("published_name") == "Non-Memo, Guess, Others")
    assert rows["state"].to_list() == ["impossible"] * 2  # of the 54, and ρ = 0.5


def test_other_rules_are_refused_with_the_difference(copied, succeed, refused):
    change(copied[1], "label", "seed", value=5)  # another draw is no other rule,
    change(copied[2], "train", "workers", value=2)  # nor are more processes
    succeed("benchmark", *copied)
    for section, key, value in (
        ("label", "n_eval", 30),
        ("label", "split", "row"),
        ("train", "preset", "small"),
        ("features", "patterns", "strict"),
        ("continue", "labels", "published"),
        ("continue", "decoding", "published"),
        ("benchmark", "untrained", "count"),
    ):
        own = Study(copied[1]).settings.as_dict()[section][key]
        change(copied[1], section, key, value=value)
        line = refused("benchmark", *copied)
        assert "cannot be put together" in line
        assert f"{section}.{key}: " in line
        assert repr(value) in line
        assert str(copied[1]) in line
        change(copied[1], section, key, value=own)
    with changed_label(copied[2]) as counts:
        counts["samples"] = [one for one in counts["samples"] if one["taxonomy"] != GUESS]
    line = refused("benchmark", *copied)
    assert f"'{GUESS}' is in {copied[0]} alone" in line
    with changed_label(copied[2]) as counts:
        alias = {"of": RECITE, "reason": "same labels here", "classes": [0, 1, 2]}
        counts["aliases"] = {GUESS: alias}
    assert f"(in {copied[2]} it labels as '{RECITE}' does)" in refused("benchmark", *copied)


def test_bad_requests_for_several_studies_are_refused(planted, tiny_studies, refused, tmp_path):
    first, second = planted[:2]
    copied = shutil.copytree(first, tmp_path / "copied")
    (tmp_path / "file").write_text("")
    for arguments, what in (
        ([first, second, first], "named twice"),
        ([first, tiny_studies["train"]], "has not been run"),
        ([first, tmp_path / "none"], "no such folder"),
        ([first, copied], "made of the same model as"),
        ([*planted, "-o", second], "is a study"),
        ([first, "-o", tmp_path / "x"], "Leave -o out"),
        ([*planted, "--set", "benchmark.seed=1"], "--redo"),
        ([*planted, "-o", tmp_path / "file"], "cannot be made"),
    ):
        assert what in refused("benchmark", *arguments)
    assert not (tmp_path / "x").exists()


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


def test_a_repetition_tells_what_it_drew_and_each_verdict_is_said_once(study, call, capsys):
    lines = {line.partition(": ")[0]: line for line in shown(study, capsys).splitlines()}
    main, same = lines[f"2  {GUESS}"], lines[f"3  {SAME}"]
    assert "Recall 160" in main
    assert main.endswith("of each class 120 train and 60 test the CNNs")
    assert same == f"3  {SAME}: of each class 30 train and 15 test the CNNs"
    result = call("benchmark", study.folder, "--redo")
    verdict = "cannot be said: no control was run"
    assert verdict not in result.err
    assert result.out.count(verdict) == 3  # one a row


@pytest.mark.parametrize(
    ("seeds", "why"), [([0], "fewer than three seeds"), ([0, 1, 2], "the better")]
)
def test_the_mark_of_the_headline_says_why(study, capsys, seeds, why):
    study.settings = settings_with(study, train={"seeds": seeds})
    (line,) = (one for one in shown(study, capsys).splitlines() if one.startswith("* "))
    assert why in line


def test_an_empty_study_has_a_summary(tiny_studies, capsys):
    assert "no CNN can be trained" in shown(Study(tiny_studies["label"]), capsys)
