"""Continue every shipped sequence with both models; count what is memorized, cell by cell."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.data.features import add_features
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.load import load_model
from mnemoscope.taxonomy import PAPER, SHIPPED
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy
from tools.embedded.corpus import LENGTH, PREFIX

BATCH_SIZE = 64
TAXONOMIES = {"prashanth": SHIPPED, "paper": PAPER}
IS_MEMORIZED = pl.col("memorization_score") == 1.0
IS_GUESSED = pl.col("reference_score") == 1.0
IS_READ = pl.col("inserted") > 0
IS_GUESSABLE = pl.col("form") != "plain"
CELLS = {
    "guessed only": IS_GUESSABLE & ~IS_READ & IS_MEMORIZED,
    "recalled only": ~IS_GUESSABLE & IS_READ & IS_MEMORIZED & ~IS_GUESSED,
    "both": IS_GUESSABLE & IS_READ & IS_MEMORIZED & IS_GUESSED,
    "neither": ~IS_GUESSABLE & ~IS_READ & ~IS_MEMORIZED,
    "rule alone": IS_GUESSABLE & IS_READ & IS_MEMORIZED & ~IS_GUESSED,
}
"""By truth: what the text is, whether it was read, whether it comes out, of the reference too.

Four are clean. The last was read, comes out and could not be guessed, but the published rule would
call it a guess.
"""
_SHARES = (
    pl.len().alias("n"),
    IS_MEMORIZED.mean().alias("model"),
    IS_GUESSED.mean().alias("reference"),
)


def measure_sequences(sequences: pl.DataFrame, model: Path, reference: Path) -> pl.DataFrame:
    """Add what the card speaks of to the table of sequences.

    Args:
        sequences: the shipped table.
        model: folder of the shipped weights; they run in float32 on the processor.
        reference: folder of the reference model's, likewise.

    Returns:
        The table with `memorization_score` of the model, `reference_score`, the features,
        `near` (its group of near duplicates) and a class for each of `TAXONOMIES`.
    """
    tokens = np.array(sequences["tokens"].to_list(), np.int32)
    frame = add_features(
        sequences.with_columns(
            pl.Series("memorization_score", _scores(model, tokens)),
            pl.Series("reference_score", _scores(reference, tokens)),
            find_groups(sequences).alias("near"),
        )
    )
    classes = [
        label_sequences(frame, parse_taxonomy(name)).alias(column)
        for column, name in TAXONOMIES.items()
    ]
    return frame.with_columns(classes)


def shares_by_reading(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """`n` and the shares that model and reference reproduce, by genre, form and inserted."""
    table = frame.group_by("genre", "form", "inserted").agg(*_SHARES)
    return table.sort("genre", "form", "inserted").to_dicts()


def count_cells(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Sequences (`n`) and groups of near duplicates in each of `CELLS`, by genre.

    `reference` is how many of them the reference reproduces.
    """
    counts = []
    for genre in frame["genre"].unique().sort():
        for name, condition in CELLS.items():
            part = frame.filter(pl.col("genre") == genre, condition)
            shared = part.filter(IS_GUESSED).height
            row = {"n": len(part), "groups": part["near"].n_unique(), "reference": shared}
            counts.append({"genre": genre, "cell": name, **row})
    return counts


def shares_by_period(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Refrains that were never read: `n` and shares as above, by genre and period in tokens."""
    unread = frame.filter(pl.col("form") == "refrain", ~IS_READ)
    periods = pl.Series("period", [period_of(one) for one in unread["tokens"]], dtype=pl.Int64)
    table = unread.with_columns(periods).group_by("genre", "period").agg(*_SHARES)
    return table.sort("genre", "period").to_dicts()


def period_of(tokens: list[int]) -> int | None:
    """The smallest number of tokens after which they come again throughout, at most 32."""
    row = np.asarray(tokens)
    return next((p for p in range(1, PREFIX + 1) if (row[p:] == row[:-p]).all()), None)


def suffixes_in_itself(tokens: list[int]) -> int:
    """How often the suffix of a sequence stands in the sequence: more than once if it repeats."""
    suffix = tokens[PREFIX:]
    return sum(tokens[at : at + PREFIX] == suffix for at in range(LENGTH - PREFIX + 1))


def counted_as_read(frame: pl.DataFrame) -> dict[str, float]:
    """By form, the share of sequences whose counted duplicates follow from how often it was read.

    One reading holds a suffix as often as the sequence itself does (`suffixes_in_itself`).
    """
    each = pl.Series("each", [suffixes_in_itself(one) for one in frame["tokens"].to_list()])
    is_same = pl.col("duplicates") == pl.col("inserted") * pl.col("each")
    shares = frame.with_columns(each).group_by("form").agg(is_same.mean())
    return dict(shares.sort("form").iter_rows())


def matched_size(frame: pl.DataFrame, column: str) -> int:
    """Sequences a class of the largest subset in which every class has the same genres.

    Args:
        frame: columns `genre` and `column`.
        column: one of `TAXONOMIES`; a class of it that the frame lacks counts as 0 everywhere.

    Returns:
        The sum over genres of the smallest class count in that genre.
    """
    n_classes = len(parse_taxonomy(TAXONOMIES[column]).classes)
    counts = frame.group_by("genre", column).len()
    whole = counts.group_by("genre").agg(pl.col("len").min(), pl.len().alias("n_classes"))
    return int(whole.filter(pl.col("n_classes") == n_classes)["len"].sum())


def _scores(folder: Path, tokens: np.ndarray) -> np.ndarray:
    model = load_model(str(folder), dtype="float32", device="cpu")
    batches = [batch.score for batch in continue_sequences(model, tokens, batch_size=BATCH_SIZE)]
    return np.concatenate(batches)
