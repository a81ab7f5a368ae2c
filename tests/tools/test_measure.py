"""The genre-matched subset against its definition worked out by hand."""

import polars as pl

from tools.embedded.measure import matched_size


def _frame(counts: dict[tuple[str, str], int]) -> pl.DataFrame:
    rows = [key for key, n in counts.items() for _ in range(n)]
    return pl.DataFrame(rows, schema=["genre", "paper"], orient="row")


def test_matched_size_sums_the_smallest_class_of_each_genre():
    prose = {("prose", "Non-Memo"): 9, ("prose", "Recall"): 5}
    counts = prose | {("prose", "Guess"): 2}
    counts |= {("template", "Non-Memo"): 3, ("template", "Recall"): 4, ("template", "Guess"): 7}
    assert matched_size(_frame(counts), "paper") == 2 + 3
    assert matched_size(_frame(prose), "paper") == 0  # a genre that lacks a class is left out
