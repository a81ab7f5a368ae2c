"""Levels and transitions against a table made by hand."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.analysis import levels
from mnemoscope.analysis.inputs import AnalysisInputs, OtherModel
from mnemoscope.analysis.levels import level_of, stays, transitions
from mnemoscope.stats import share_of


def test_levels_end_where_the_paper_says() -> None:
    """Up to .2 very low, .4 low, .6 medium, .8 high; all scores k/32 as float32 too."""
    scores = np.arange(33) / 32
    by_rule = [sum(k / 32 > end for end in (0.2, 0.4, 0.6, 0.8)) for k in range(33)]
    assert level_of(scores).tolist() == by_rule
    assert level_of(scores.astype(np.float32)).tolist() == by_rule
    ends = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    assert level_of(ends).tolist() == level_of(ends.astype(np.float32)).tolist() == [0, 1, 2, 3, 4]


def test_transitions_of_a_table_made_by_hand() -> None:
    before = [0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 1.0, 0.9]
    after = [0.0, 1.0, 0.3, 0.9, 0.1, 1.0, 0.9, 0.5]
    wanted = np.zeros((5, 5), dtype=int)
    for row, column in [(0, 0), (0, 4), (1, 1), (2, 4), (3, 0), (4, 4), (4, 4), (4, 2)]:
        wanted[row, column] += 1
    assert transitions(before, after).tolist() == wanted.tolist()
    found = stays(before, after)
    assert found == {"very high": (3, share_of(2, 3)), "memorized": (2, share_of(1, 2))}
    assert str(stays([0.0, 0.1], [1.0, 0.1])["memorized"][1]) == "none to count"


def _followed(table: pl.DataFrame, before: dict[int, float], monkeypatch, **settings: object):
    """The analysis of two models whose scores are known: `small`, then the study's own."""

    def decoded(inputs, lm, rows, *, label):
        return pl.DataFrame({"memorization_score": [before[i] for i in rows["sequence_id"]]})

    monkeypatch.setattr(levels, "decode_rows", decoded)
    monkeypatch.setattr("mnemoscope.analysis.inputs.count_forwards", lambda lm, forwards: lm)
    others = (OtherModel("small", lambda: None),)
    inputs = AnalysisInputs(where="", table=table, load_model=lambda: None, others=others)
    return levels.analyse(inputs, levels.Settings(**settings))


def test_the_analysis_follows_planted_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames hold the table made by hand."""
    own = pl.Series("memorization_score", [1.0] * 18 + [0.0] * 2, dtype=pl.Float32)
    table = pl.DataFrame({"sequence_id": range(20), "tokens": [[0] * 4] * 20}).with_columns(own)
    result = _followed(table, {i: float(i < 10) for i in range(20)}, monkeypatch)
    for said in ("10 sequences", "100.0 %", "90.0 %", "of all 20 sequences"):
        assert said in result.sentence
    assert not any("incrementing" in line for line in result.further)  # no features, no patterns
    moved = result.frames["transitions"].filter(pl.col("n") > 0)
    assert moved.select("from", "to", "n").rows() == [
        ("very low", "very low", 2),
        ("very low", "very high", 8),
        ("very high", "very high", 10),
    ]
    empty = result.frames["transitions"].filter(pl.col("from") == "medium")
    assert empty["share"].is_nan().all()
    assert result.figures[0].values[2] == (None,) * 5


def test_patterns_among_what_was_reproduced_are_counted_and_the_draw_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the 12 reproduced before, 5 count and 2 repeat; what is not known (null) is no pattern."""
    table = pl.DataFrame(
        {
            "sequence_id": range(20),
            "tokens": [[0] * 4] * 20,
            "memorization_score": [1.0] * 20,
            "is_incrementing": [True] * 5 + [False] * 6 + [None] + [True] * 8,
            "is_repeating": [False] * 5 + [True] * 2 + [False] * 4 + [None] + [False] * 8,
        }
    )
    before = {i: float(i < 12) for i in range(20)}
    said = _followed(table, before, monkeypatch).further[1]
    assert said.startswith("Of 12 sequences that small reproduces whole, 7 are incrementing or")
    few = _followed(table, before, monkeypatch, n_sequences=10)
    assert "of the 10 sequences drawn of 20." in few.sentence


def test_scores_of_shorter_continuations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row i of the second model is right for 8 i tokens: at n its score is min(8 i, n) / n."""
    half = 32
    tokens = np.tile(np.arange(1, 2 * half + 1), (5, 1))
    written = tokens[:, half:].copy()
    for i in range(5):
        written[i, 8 * i :] = 0
    ids = list(range(5))
    other = pl.DataFrame({"sequence_id": ids, "continuation": written.tolist()}).with_columns(
        memorization_score=pl.Series([8 * i / half for i in ids])
    )
    monkeypatch.setattr(levels, "decode_rows", lambda inputs, lm, rows, *, label: other)
    monkeypatch.setattr("mnemoscope.analysis.inputs.count_forwards", lambda lm, forwards: lm)
    table = pl.DataFrame({"sequence_id": ids, "tokens": tokens.tolist()}).with_columns(
        memorization_score=pl.lit(1.0), continuation=pl.lit(None, dtype=pl.List(pl.Int32))
    )
    inputs = AnalysisInputs(
        where="", table=table, load_model=lambda: None, others=(OtherModel("other", lambda: None),)
    )
    found = levels.analyse(inputs, levels.Settings(lengths=(16, 32, 48))).frames["lengths"]
    rows = {(row["model"], row["tokens"]): row for row in found.iter_rows(named=True)}
    assert set(rows) == {(name, n) for name in ("other", "this model") for n in (16, 32)}
    for n in (16, 32):
        wanted = [min(8 * i, n) / n for i in ids]
        assert rows["other", n]["score"] == pytest.approx(np.mean(wanted))
        assert rows["other", n]["memorized"] == pytest.approx(np.mean(np.array(wanted) == 1))
        assert (
            rows["this model", n]["score"] == 1
        )  # scored whole, so its suffix is its continuation
