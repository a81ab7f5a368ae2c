"""Continue every shipped sequence with both models and give it its classes."""

from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.data.features import add_features
from mnemoscope.embedded.templates import FORMS
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.load import load_model
from mnemoscope.taxonomy import PAPER, PRASHANTH
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy

BATCH_SIZE = 64
TAXONOMIES = {"prashanth": PRASHANTH, "paper": PAPER}


def measure_sequences(sequences: pl.DataFrame, model: Path, reference: Path) -> pl.DataFrame:
    """Add what the card speaks of to the table of sequences.

    Args:
        sequences: the shipped table.
        model: folder of the shipped weights; they run in float32 on the processor.
        reference: folder of the reference model's, likewise.

    Returns:
        The table with `memorization_score` of the model, `reference_score`, the features, `kind`
        (the form's kind for templates, else the genre) and a class for each of `TAXONOMIES`.
    """
    tokens = np.array(sequences["tokens"].to_list(), np.int32)
    frame = add_features(
        sequences.with_columns(
            pl.Series("memorization_score", _scores(model, tokens)),
            pl.Series("reference_score", _scores(reference, tokens)),
            pl.Series("kind", [_kind(row) for row in sequences.iter_rows(named=True)]),
        )
    )
    classes = [
        label_sequences(frame, parse_taxonomy(name)).alias(column)
        for column, name in TAXONOMIES.items()
    ]
    return frame.with_columns(classes)


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


def _kind(row: dict[str, str]) -> str:
    if row["genre"] != "template":
        return row["genre"]
    return FORMS[row["document"].removeprefix("template:")].kind


def _scores(folder: Path, tokens: np.ndarray) -> np.ndarray:
    model = load_model(str(folder), dtype="float32", device="cpu")
    batches = [batch.score for batch in continue_sequences(model, tokens, batch_size=BATCH_SIZE)]
    return np.concatenate(batches)
