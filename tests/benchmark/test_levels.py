"""Figures by level of duplicates, against planted doses and counts by hand."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.benchmark.excess import Votes
from mnemoscope.benchmark.levels import (
    MOST_LEVELS,
    among,
    count_levels,
    levels_of,
    score_level,
)
from mnemoscope.stats import rows_of
from study_files import put_in_place

LEVELS = (0, 4, 64)
N = 240  # a level
CLASSES = ("Non-Memo", "Guess", "Recall")


def table(**columns) -> pl.DataFrame:
    return pl.DataFrame(columns)


def test_only_few_levels_with_0_among_them_are_levels():
    assert levels_of(table(duplicates=[0, 4, 0, 16, None])) == [0, 4, 16]
    assert levels_of(table(duplicates=[1, 4, 16])) == []
    assert levels_of(table(duplicates=[0, 4])) == []
    assert levels_of(table(duplicates=list(range(MOST_LEVELS + 1)))) == []
    assert levels_of(table(text=["a"])) == []


def test_shares_by_level_are_counted_over_passages():
    rows = table(
        sequence_id=list(range(80)),
        duplicates=[0] * 40 + [4] * 20 + [16] * 20,
        is_memorized=[True] * 10 + [False] * 30 + [True] * 20 + [True] * 10 + [False] * 10,
        group=[f"p{number // 2}" for number in range(80)],
    )
    named = [("Guess", 10), ("Non-Memo", 30), ("Recall", 30), ("Non-Memo", 10)]
    classes = [name for name, n in named for _ in range(n)]
    labels = table(sequence_id=list(range(80)), Paper=classes)
    found = count_levels(rows, labels, (0, 4, 16))
    whole = found.filter(pl.col("class") == "memorized")
    assert [row["share"].value for row in rows_of(whole)] == [0.25, 1.0, 0.5]
    assert whole["n"].to_list() == [40, 20, 20]
    assert whole["n_groups"].to_list() == [20, 10, 10]
    of_class = found.filter(pl.col("class") == "Recall", taxonomy="Paper")
    assert [row["share"].value for row in rows_of(of_class)] == [0.0, 1.0, 1.0]
    assert of_class["n"].to_list() == [10, 20, 10]
    first = next(rows_of(whole))["share"]
    # Twice as many sequences as passages, alike in pairs: the interval of 20 passages.
    alone = next(rows_of(count_levels(rows[::2], labels[::2], LEVELS[:1])))["share"]
    assert first == pytest.approx(alone, abs=0.02)


def votes_of(true: np.ndarray, scores: np.ndarray) -> Votes:
    """A source of these probabilities, (trainings, n, classes); sequences stand in pairs."""
    n_trainings, n, n_classes = scores.shape
    return Votes(
        sequence_ids=np.arange(n), true=true, predicted=scores.argmax(-1),
        seeds=np.arange(n_trainings), n_classes=n_classes, probabilities=scores.mean(0),
        scores=scores.astype(np.float32), score_seeds=np.arange(n_trainings),
        groups=np.arange(n) // 2 * 2,
    )  # fmt: skip


LEVEL = np.repeat(LEVELS, N)
TRUE = np.tile(np.arange(3), len(LEVEL) // 3)


def votes(accuracy, *, seed) -> Votes:
    """A source that holds the right class likeliest in a share of the sequences of each level."""
    rng = np.random.default_rng(seed)
    right = rng.random((3, len(LEVEL))) < np.repeat(accuracy, N)
    picked = np.where(right, TRUE, rng.integers(0, 3, right.shape))
    return votes_of(TRUE, np.eye(3)[picked] * 0.5 + rng.dirichlet([1, 1, 1], right.shape) * 0.5)


def test_a_planted_dose_shows_by_level_and_nothing_where_nothing_is():
    """The model's attention leads the controls by nothing at 0, some at 4, much at 64."""
    accuracies = {"model": [0.4, 0.6, 0.95], "blind": [0.4] * 3, "reference": [0.35] * 3}
    sources = {name: votes(one, seed=at) for at, (name, one) in enumerate(accuracies.items())}
    asked = {"source": "model", "controls": ("blind", "reference"), "n_resamples": 300, "seed": 0}
    rows = [score_level(sources, one == LEVEL, CLASSES, **asked) for one in LEVELS]
    assert [row["n_eval"] for row in rows] == [N] * 3
    assert all(row["classes"] == list(CLASSES) for row in rows)
    assert rows[0]["excess"].low < 0 < rows[1]["excess"].low
    assert rows[2]["excess"].value > rows[1]["excess"].value > rows[0]["excess"].value
    assert all(row["excess"].low <= row["excess"].value <= row["excess"].high for row in rows)
    model = sources["model"]
    right = (among(model, LEVEL == 64, [0, 1, 2]).predicted == model.true[LEVEL == 64]).mean()
    assert rows[2]["min_f1"].value == pytest.approx(right, abs=0.05)


def test_a_class_that_does_not_occur_at_a_level_is_not_asked_for():
    model = votes([0.9, 0.9, 0.9], seed=0)
    here = (LEVEL == 0) & (TRUE < 2)
    asked = among(model, here, [0, 1])
    assert asked.n_classes == 2
    np.testing.assert_array_equal(asked.predicted, model.scores[:, here][..., :2].argmax(-1))
    lonely = (LEVEL == 0) & ((TRUE == 0) | (np.arange(len(LEVEL)) < 12))
    asked = {"source": "model", "controls": (), "n_resamples": 100, "seed": 0}
    row = score_level({"model": model}, lonely, CLASSES, **asked)
    assert row["classes"] == ["Non-Memo"]
    assert "fewer than two classes" in row["note"]


def dosed(share, *, seed) -> Votes:
    """A reader of three classes that holds Non-Memo less likely by a share of its level's rows."""
    rng = np.random.default_rng(seed)
    memorized = rng.random((3, len(LEVEL))) < np.repeat(share, N)
    nothing = np.where(memorized, 0.2, 0.6) + rng.normal(0, 0.02, memorized.shape)
    return votes_of(TRUE, np.stack([nothing, (1 - nothing) / 2, (1 - nothing) / 2], axis=-1))


def test_a_level_is_told_from_none_by_what_was_planted_and_not_otherwise():
    """Two flat shares p and q overlap in closed form: AUC = 1/2 + (q - p) / 2."""
    shares = {"model": [0.1, 0.1, 0.9], "blind": [0.1] * 3, "reference": [0.1] * 3}
    sources = {name: dosed(one, seed=at) for at, (name, one) in enumerate(shares.items())}
    asked = {"source": "model", "controls": ("blind", "reference"), "n_resamples": 300, "seed": 0}
    rows = {
        one: score_level(
            sources, one == LEVEL, CLASSES, at_zero=LEVEL == 0 if one else None, **asked
        )
        for one in LEVELS
    }
    assert "dose_auc" not in rows[0]
    assert rows[64]["dose_auc"].value == pytest.approx(0.9, abs=0.04)
    assert rows[64]["dose_excess"].low > 0.3
    assert rows[4]["dose_auc"].value == pytest.approx(0.5, abs=0.06)
    assert rows[4]["dose_excess"].low < 0


def test_a_study_of_few_levels_writes_them_and_its_report_shows_them(study_at, tiny_studies):
    from mnemoscope.flow.run import run_stage
    from mnemoscope.study.folder import Study

    study = Study(study_at("train"))
    rows = study.sequences
    is_zero = (pl.col("sequence_id") % 3 == 0) & (pl.col("duplicates") == 2)
    levels = rows.with_columns(duplicates=pl.when(is_zero).then(0).otherwise("duplicates"))
    put_in_place(study.folder, sequences__parquet=levels)
    for stage in ("benchmark", "localize", "report"):
        run_stage(Study(study.folder), stage)
    found = Study(study.folder).read("levels.parquet")
    assert found["duplicates"].unique().sort().to_list() == [0, 2, 9]
    page = (study.folder / "report.html").read_text()
    assert "By level of duplicates" in page
    assert "of the sequences that were never trained on" in page
    # Counted duplicates are no levels.
    assert not (tiny_studies["report"] / "levels.parquet").exists()
    assert "By level of duplicates" not in (tiny_studies["report"] / "report.html").read_text()
