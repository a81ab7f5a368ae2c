"""Figures of the card against tables small enough to count by hand."""

import polars as pl
import pytest

from tools.embedded.measure import (
    count_cells,
    counted_as_read,
    matched_size,
    period_of,
    shares_by_period,
    shares_by_reading,
    suffixes_in_itself,
)

REFRAIN = [*range(10)] * 7
SCHEMA = ["genre", "form", "inserted", "memorization_score", "reference_score"]


def _frame(counts: dict[tuple[str, str], int]) -> pl.DataFrame:
    rows = [key for key, n in counts.items() for _ in range(n)]
    return pl.DataFrame(rows, schema=["genre", "paper"], orient="row")


def test_matched_size_sums_the_smallest_class_of_each_genre():
    prose = {("prose", "Non-Memo"): 9, ("prose", "Recall"): 5}
    counts = prose | {("prose", "Guess"): 2}
    counts |= {("template", "Non-Memo"): 3, ("template", "Recall"): 4, ("template", "Guess"): 7}
    assert matched_size(_frame(counts), "paper") == 2 + 3
    assert matched_size(_frame(prose), "paper") == 0  # a genre that lacks a class is left out


@pytest.fixture
def measured() -> pl.DataFrame:
    """Eight sequences of code, each in the cell that its comment says."""
    rows = [
        ("code", "plain", 0, 0.5, 0.0),  # neither
        ("code", "plain", 0, 1.0, 0.0),  # comes out unread: no clean cell
        ("code", "plain", 4, 1.0, 0.9),  # recalled only
        ("code", "plain", 4, 1.0, 1.0),  # the reference has it, too: no clean cell
        ("code", "refrain", 0, 1.0, 1.0),  # guessed only
        ("code", "refrain", 0, 0.0, 1.0),
        ("code", "rule", 16, 1.0, 0.0),  # rule alone
        ("code", "refrain", 16, 1.0, 1.0),  # both
    ]
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return frame.with_columns(
        near=pl.Series(["a", "b", "c", "d", "e", "e", "f", "f"]),
        tokens=pl.Series([[*range(64)]] * 4 + [REFRAIN[:64]] * 2 + [[*range(64)], REFRAIN[:64]]),
        duplicates=pl.Series([0, 0, 4, 5, 0, 0, 16, 64]),
    )


def test_the_cells_are_apart_and_hold_what_the_truth_says(measured):
    found = {row["cell"]: row for row in count_cells(measured)}
    counted = {name: (row["n"], row["groups"], row["reference"]) for name, row in found.items()}
    assert counted == {
        "guessed only": (1, 1, 1),
        "recalled only": (1, 1, 0),
        "both": (1, 1, 1),
        "neither": (1, 1, 0),
        "rule alone": (1, 1, 0),
    }
    empty = {row["cell"]: row for row in count_cells(measured.filter(form="rule"))}
    assert empty["neither"] == {
        "genre": "code", "cell": "neither", "n": 0, "groups": 0, "reference": 0,
    }  # fmt: skip


def test_shares_are_of_a_kind_a_form_and_a_reading(measured):
    rows = {(one["form"], one["inserted"]): one for one in shares_by_reading(measured)}
    assert sum(one["n"] for one in rows.values()) == measured.height
    assert rows["refrain", 0] == {
        "genre": "code", "form": "refrain", "inserted": 0, "n": 2, "model": 0.5, "reference": 1.0,
    }  # fmt: skip
    assert rows["plain", 4]["reference"] == 0.5
    assert shares_by_period(measured) == [
        {"genre": "code", "period": 10, "n": 2, "model": 0.5, "reference": 1.0}
    ]


def test_one_reading_counts_as_often_as_a_sequence_holds_its_suffix(measured):
    assert suffixes_in_itself(REFRAIN[:64]) == 4  # 10 tokens: at 2, 12, 22 and 32
    assert suffixes_in_itself([*range(64)]) == 1
    assert period_of([7] * 64) == 1
    assert period_of([*range(33), *range(31)]) is None  # 33 tokens are more than a prefix
    assert counted_as_read(measured) == {"plain": 0.75, "refrain": 1.0, "rule": 1.0}
