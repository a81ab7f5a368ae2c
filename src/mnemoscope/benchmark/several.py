"""Several models as one: their confusion matrices summed, as for the paper's headline figures.

Intervals are stratified by model: each resample draws anew among the sequences of every model.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from polars.datatypes import DataType, DataTypeClass

from mnemoscope.cnn.intervals import interval_of
from mnemoscope.cnn.metrics import Floats, f1_per_class, precision_recall, scores

__all__ = ["TOGETHER_SCHEMA", "score_together"]

_Share = pl.Float64
_Shares = pl.List(pl.Float64)

_COLUMNS: dict[str, DataType | DataTypeClass] = {
    "taxonomy": pl.String,
    "model": pl.String,  # a model's name, or "together"
    "n_eval": pl.Int64,
    "n_runs": pl.Int64,
    "min_f1": _Share,
    "low": _Share,
    "high": _Share,
    "mean_f1": _Share,
    "mean_f1_low": _Share,
    "mean_f1_high": _Share,
    "f1": _Shares,
    "precision": _Shares,
    "recall": _Shares,
    "confusion": pl.List(pl.List(pl.Int64)),
    # Why there is no figure.
    "note": pl.String,
}

TOGETHER_SCHEMA = pl.Schema(_COLUMNS)


def score_together(confusions: Sequence[ArrayLike], draws: Sequence[Floats] = ()) -> dict[str, Any]:
    """Sum the models' matrices and score the sum.

    A model with more evaluation sequences or CNNs counts for more, as in the paper, whose models
    all have equally many.

    Args:
        confusions: of each model, (classes, classes), counts, rows true, classes in one order.
        draws: of each model, (resamples, classes, classes), each model resampled for itself.

    Returns:
        min_f1, mean_f1, f1, precision, recall, confusion; low, high, mean_f1_low, mean_f1_high
        (95 %) where there are draws.

    Raises:
        ValueError: matrices of different shapes, or none.
    """
    shapes = {np.shape(one) for one in confusions}
    if len(shapes) != 1:
        raise ValueError(f"confusion matrices of shapes {sorted(shapes)} cannot be summed")
    total = np.sum([np.asarray(one, dtype=np.int64) for one in confusions], axis=0)
    found = scores(total)
    precision, recall = precision_recall(total)
    row: dict[str, Any] = {
        "min_f1": found.min_f1,
        "mean_f1": found.mean_f1,
        "f1": found.f1.tolist(),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "confusion": total.tolist(),
    }
    if len(draws) == len(confusions):
        f1 = f1_per_class(np.sum(draws, axis=0))
        row["low"], row["high"] = interval_of(f1.min(axis=-1))
        row["mean_f1_low"], row["mean_f1_high"] = interval_of(f1.mean(axis=-1))
    return row
