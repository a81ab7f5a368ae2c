"""A study's CNNs asked by an audit: the same figures by another way, refusals, and reasons."""

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import brier_score_loss

from mnemoscope.audits import ground as audit_study
from mnemoscope.audits.ground import (
    MEMORIZED_A_CLASS,
    check_study,
    make_study,
    read_ground,
    recall_probabilities,
)
from mnemoscope.audits.questions import audit_settings
from mnemoscope.cnn import calibration
from mnemoscope.cnn.presets import PRESETS
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.errors import UserError
from mnemoscope.lm.load import load_model
from mnemoscope.study.folder import Study

NAME = "Non-Memo, Guess, Recall"
PLAIN = ("--reference", "none", "--edits", 0, "--near-length", 0)
"""Without the other evidence."""


@pytest.fixture(scope="module")
def lm():
    return load_model(str(model_path()), device="cpu")


@pytest.fixture(scope="module")
def study(small_demo, lm):
    return check_study(small_demo, lm, audit_settings())


@pytest.fixture(scope="module")
def ground(study):
    return read_ground(study)


@pytest.fixture(scope="module")
def evaluated(study):
    """Memorized evaluation sequences with the probabilities that the study itself kept."""
    said = study.read("predictions.parquet").filter(taxonomy=NAME, source="model")
    said = said.filter(pl.col("epoch") == pl.col("epoch").max())
    rows = study.read("samples.parquet").filter(taxonomy=NAME, split="eval")
    rows = rows.filter(pl.col("class") != "Non-Memo")
    columns = said.select("sequence_id", "probabilities")
    return rows.join(columns, on="sequence_id").join(
        study.sequences.select("sequence_id", "tokens"), on="sequence_id"
    )


def odds_of(probabilities):
    """Log-odds of Recall against Guess."""
    return np.array([math.log(max(p[2], 1e-7) / max(p[1], 1e-7)) for p in probabilities])


def by_hand(ground, probabilities):
    """What the calibration makes of the probabilities that the study kept."""
    fit = ground.calibration
    if fit.method == "isotonic":
        return np.interp(odds_of(probabilities), *np.array(fit.knots).T)
    return 1 / (1 + np.exp(-odds_of(probabilities) / fit.temperature))


def test_windows_get_what_the_study_said_of_the_same_sequences(ground, evaluated, lm):
    windows = np.array(evaluated["tokens"].to_list(), dtype=np.int32)
    found = recall_probabilities(ground, lm, windows, batch_size=16)
    # another batch size changes the last bits of attention in float16
    assert found == pytest.approx(by_hand(ground, evaluated["probabilities"]), abs=5e-3)


def test_what_is_reported_was_measured_apart_from_training_and_fit(ground, evaluated, study):
    trained = study.read("samples.parquet").filter(taxonomy=NAME, split="train")
    assert not set(trained["sequence_id"]) & set(evaluated["sequence_id"])
    facts = ground.facts["measured"]
    assert facts["n_guess"] + facts["n_recall"] == evaluated.height
    assert sum(one["n"] for one in facts["bins"]) == evaluated.height
    raw = 1 / (1 + np.exp(-odds_of(evaluated["probabilities"])))
    truth = (evaluated["class"] == "Recall").to_numpy()
    assert facts["brier_uncalibrated"]["value"] == pytest.approx(
        brier_score_loss(truth, raw), rel=1e-4
    )
    # fitted on all of them, a calibration looks better than on those it has not seen
    seen = brier_score_loss(truth, by_hand(ground, evaluated["probabilities"]))
    assert seen <= facts["brier"]["value"] + 1e-6


@pytest.mark.parametrize("settings", [{"prefix": 16}, {"chat_template": True}])
def test_other_windows_are_refused_before_any_work(small_demo, lm, settings, tmp_path):
    with pytest.raises(UserError, match=r"32|plain text"):
        check_study(small_demo, lm, audit_settings(**settings))
    with pytest.raises(UserError, match=r"32|plain text"):
        make_study(tmp_path, audit_settings(**settings), model="embedded")
    assert not list(tmp_path.iterdir())


def test_no_probability_has_its_reason(study, tiny_studies, lm, monkeypatch):
    impossible = read_ground(Study(tiny_studies["report"]))
    assert impossible.calibration is None
    assert "could not train" in impossible.facts["reason"]
    load, samples = audit_study.load_outcome, audit_study.samples_of(study)

    def untrained(job):
        outcome = load(job)
        return replace(outcome, facts=replace(outcome.facts, did_train=False))

    by_row = {key: replace(one, split_by="row") for key, one in samples.items()}
    for name, value, reason in (
        ("ENOUGH_A_CLASS", 1000, "too few held-out sequences"),
        ("load_outcome", untrained, "did not train"),
        ("USABLE_INPUTS", ("mean",), "see max"),
        ("samples_of", lambda _: by_row, "split by row"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(audit_study, name, value)
            found = read_ground(study)
        assert reason in found.facts["reason"]
        assert found.calibration is None


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """A passage that the model was trained on."""
    rows = pl.read_parquet(sequences_path()).filter(genre="prose", form="plain", inserted=64)
    path = tmp_path_factory.mktemp("documents") / "a.txt"
    path.write_text("The lamp on the hill.\n" + rows["text"][0] + "\nA ferry crossed.\n" * 3)
    return path


def test_the_verb_gives_probabilities_and_shows_what_they_are_worth(
    call, document, small_demo, tmp_path
):
    out = tmp_path / "out"
    arguments = ("audit", "embedded", document, "-o", out, "-q", *PLAIN)
    result = call(*arguments, "--study", small_demo, "--junit", tmp_path / "junit.xml")
    assert result.status == 0, result.err
    spans = pl.read_parquet(out / "spans.parquet")
    assert spans.height
    assert spans["probability"].is_between(0, 1).all()
    says = pl.when(pl.col("probability") >= 0.5).then(pl.lit("recall")).otherwise(pl.lit("guess"))
    assert spans["cnn_says"].equals(spans.select(says).to_series(), check_names=False)
    facts = json.loads((out / "audit.json").read_text())["cnn"]
    assert facts["reason"] is None
    scores = facts["calibration"]["brier_by_method"]
    assert scores[facts["calibration"]["method"]] <= scores["none"]
    assert "<testsuite" in (tmp_path / "junit.xml").read_text()
    assert (out / "audit.html").read_text().count("<circle") == len(facts["measured"]["bins"])
    assert "other documents or settings" in call(*arguments).err


def test_a_study_that_is_none_of_this_model_or_was_not_trained_is_refused(
    refused, document, small_demo, tiny, tiny_studies, tmp_path
):
    for folder, words in (
        (small_demo, "another model"),
        ("nowhere", "no such folder"),
        (tiny_studies["label"], "stage 'train' has not been run"),
    ):
        line = refused("audit", tiny.model, document, "-o", tmp_path / "x", "-q", "--study", folder)
        assert words in line
    assert not (tmp_path / "x").exists()


def times(folder, pattern):
    return {path: path.stat().st_mtime_ns for path in folder.rglob(pattern)}


def test_auto_says_how_many_it_found_and_gives_nothing_on_too_few(tmp_path, monkeypatch, lm):
    said = []
    monkeypatch.setattr(audit_study, "say", said.append)
    made = make_study(tmp_path, audit_settings(), model="embedded", device="cpu", lm=lm, limit=30)
    assert "making a study" in said[0]
    assert "Of 30 sequences the model has memorized" in said[1]
    assert f"each needs {MEMORIZED_A_CLASS}" in said[2]
    assert not (made.folder / "maps").exists()
    before = times(made.folder, "*.parquet")
    again = make_study(tmp_path, audit_settings(), model="embedded", device="cpu", lm=lm, limit=30)
    assert before == times(again.folder, "*.parquet")
    assert "already there" in said[3]
    found = check_study(again.folder, lm, audit_settings())
    assert "could not train" in read_ground(found).facts["reason"]


@pytest.fixture
def small_auto(monkeypatch):
    """`--study auto` of 160 sequences, scanned, as few a class as they hold, briefly trained."""
    known = audit_study.study_settings

    def few(*arguments, **named):
        made = known(*arguments, **named | {"limit": 160})
        label = made.label.model_copy(update={"n_train": 12, "n_eval": 12, "minimum": 8})
        train = made.train.model_copy(
            update={"workers": 1, "seeds": [0], "kernels": [3], "filters": [6]}
        )
        scanned = made.continue_.model_copy(update={"scan": True, "check_rows": 8})
        sections = {"continue_": scanned, "label": label, "train": train}
        return made.model_copy(update=sections)

    monkeypatch.setattr(audit_study, "study_settings", few)
    monkeypatch.setattr(audit_study, "ENOUGH_A_CLASS", 8)
    monkeypatch.setattr(calibration, "_N_REPEATS", 1)
    monkeypatch.setitem(PRESETS, "small", replace(PRESETS["small"], epochs=1, min_steps=50))


@pytest.mark.whole
def test_auto_goes_to_its_end_on_where_it_was_stopped_and_serves_again(
    call, document, small_auto, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    arguments = ("audit", "embedded", document, "-o", out, "--study", "auto", *PLAIN)

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mnemoscope.pipeline.train.train_stage", dies)
        assert call(*arguments).status != 0
    assert not (out / "audit.json").exists()
    maps = times(out, "maps/**/*.safetensors")
    assert maps
    result = call(*arguments)
    assert result.status == 0, result.err
    assert "going on with the study that was begun" in result.err
    assert "Probabilities from 1 CNNs" in result.err
    assert times(out, "maps/**/*.safetensors") == maps
    assert pl.read_parquet(out / "spans.parquet")["probability"].null_count() == 0
    record = json.loads((out / "audit.json").read_text())
    assert record["cnn"]["reason"] is None

    kept = times(out, "cnn/*")
    assert "this audit is already there" in call(*arguments).err
    again = call(*arguments, "--stride", "32", "--redo")
    assert again.status == 0, again.err
    assert "study of this model is already there" in again.err
    assert kept == times(out, "cnn/*")
    other = json.loads((out / "audit.json").read_text())
    assert other["cnn"]["measured"] == record["cnn"]["measured"]
