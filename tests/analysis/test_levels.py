"""Levels and transitions against a table made by hand."""

import numpy as np
import polars as pl
import pytest

from figure_columns import apart
from mnemoscope.analysis import levels
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


@pytest.fixture
def followed(monkeypatch, inputs_with):
    """The analysis of two models: `small`, of which these are the rows, then the study's own."""

    def followed(table, small, **settings):
        def decoded(inputs, lm, rows, *, label):
            return rows.select("sequence_id").join(small, on="sequence_id", maintain_order="left")

        monkeypatch.setattr(levels, "decode_rows", decoded)
        inputs = inputs_with(table, others={"small": None})
        return levels.analyse(inputs, levels.Settings(**settings))

    return followed


def test_the_analysis_follows_planted_scores(followed) -> None:
    """The frames hold the table made by hand."""
    own = pl.Series("memorization_score", [1.0] * 18 + [0.0] * 2, dtype=pl.Float32)
    table = pl.DataFrame({"sequence_id": range(20), "tokens": [[0] * 4] * 20}).with_columns(own)
    scores = pl.Series("memorization_score", [1.0] * 10 + [0.0] * 10)
    small = table.select("sequence_id").with_columns(scores)
    result = followed(table, small)
    for said in ("10 sequences", "100.0 %", "90.0 %", "of all 20 sequences"):
        assert said in result.sentence
    moved = result.frames["transitions"].filter(pl.col("n") > 0)
    assert moved.select("from", "to", "n").rows() == [
        ("very low", "very low", 2),
        ("very low", "very high", 8),
        ("very high", "very high", 10),
    ]
    empty = result.frames["transitions"].filter(pl.col("from") == "medium")
    assert empty["share"].is_null().all()
    assert result.figures[0].values[2] == (None,) * 5
    assert not any("incrementing" in line for line in result.further)  # no features, no patterns
    # Of the 10 reproduced before, 5 count and 2 repeat; what is not known (null) is no pattern.
    patterns = table.with_columns(
        is_incrementing=pl.Series([True] * 5 + [False] * 4 + [None] + [True] * 10),
        is_repeating=pl.Series([False] * 5 + [True] * 2 + [False] * 2 + [None] + [False] * 10),
    )
    said = followed(patterns, small).further[1]
    assert said.startswith("Of 10 sequences that small reproduces whole, 7 are incrementing or")
    assert "of the 10 sequences drawn of 20." in followed(table, small, n_sequences=10).sentence


def test_patterns_of_near_duplicates_are_counted_as_groups(followed) -> None:
    """Of 40 texts 30 are patterns; of five copies each there are no more texts, of 8 too few."""
    table = pl.DataFrame({"sequence_id": range(40), "tokens": [[0] * 4] * 40}).with_columns(
        memorization_score=pl.lit(1.0), is_incrementing=pl.int_range(pl.len()) < 30
    )
    table = table.with_columns(is_repeating=False, near_duplicates="sequence_id")
    five = pl.concat([table] * 5).with_columns(sequence_id=pl.int_range(pl.len()))

    def said(rows):
        small = rows.select("sequence_id", "memorization_score")
        return followed(rows, small).further[1].split("(")[1]

    wilson = str(share_of(30, 40))
    assert said(table).startswith(wilson)
    assert said(five).startswith(wilson[:10])  # [59, rounded: its variance has 39 degrees
    assert said(five.with_columns(pl.col("near_duplicates") % 8)).startswith("75.0 %)")


def test_scores_of_shorter_continuations(followed) -> None:
    """Row i of the second model is right for 8 i tokens: at n its score is min(8 i, n) / n."""
    half = 32
    tokens = np.tile(np.arange(1, 2 * half + 1), (5, 1))
    written = tokens[:, half:].copy()
    for i in range(5):
        written[i, 8 * i :] = 0
    ids = list(range(5))
    small = pl.DataFrame({"sequence_id": ids, "continuation": written.tolist()}).with_columns(
        memorization_score=pl.Series([8 * i / half for i in ids])
    )
    table = pl.DataFrame({"sequence_id": ids, "tokens": tokens.tolist()}).with_columns(
        memorization_score=pl.lit(1.0), continuation=pl.lit(None, dtype=pl.List(pl.Int32))
    )
    found = followed(table, small, lengths=(16, 32, 48)).frames["lengths"]
    rows = {(row["model"], row["tokens"]): row for row in apart(found).iter_rows(named=True)}
    assert set(rows) == {(name, n) for name in ("small", "this model") for n in (16, 32)}
    for n in (16, 32):
        wanted = [min(8 * i, n) / n for i in ids]
        assert rows["small", n]["score"] == pytest.approx(np.mean(wanted))
        assert rows["small", n]["memorized"] == pytest.approx(np.mean(np.array(wanted) == 1))
        assert rows["this model", n]["score"] == 1  # scored whole: its suffix is its continuation
