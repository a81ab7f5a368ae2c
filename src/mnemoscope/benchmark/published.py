"""The paper's published figures (arXiv 2508.02573), read from package data.

`data/README.md` says what each file holds. All figures are per cent; ours are fractions.
"""

import json
from functools import cache
from importlib import resources
from io import BytesIO
from typing import NamedTuple

import numpy as np
import polars as pl

from mnemoscope.errors import UserError, nearest

__all__ = [
    "PUBLISHED_MODELS",
    "PublishedConfusion",
    "published_confusions",
    "published_rho",
    "published_table",
]

PUBLISHED_MODELS = ("all", "12b", "6.9b", "2.8b")
"""Pythia sizes with a table of their own; ``all`` sums the three."""


class PublishedConfusion(NamedTuple):
    """One published confusion matrix with the figures printed for it.

    Attributes:
        taxonomy: name as published (``Others`` is the last class).
        classes: class names in the order of the matrix.
        confusion: counts, shape (classes, classes), int64; rows true, columns predicted.
        min_f1: smallest per-class F1, per cent, as printed.
        mean_f1: mean of the per-class F1, per cent, as printed.
    """

    taxonomy: str
    classes: tuple[str, ...]
    confusion: np.ndarray
    min_f1: float
    mean_f1: float


def published_table(model: str = "all") -> pl.DataFrame:
    """Give the published table of the 54 taxonomies.

    Args:
        model: one of `PUBLISHED_MODELS`.

    Returns:
        Columns tax_name, num_classes, min_f1, mean_f1, min_prec, mean_prec, min_rec, mean_rec
        (per cent) and mean_eval_loss (per-sample loss divided by the batch size 16), 54 rows in
        the published order (best min-F1 first among equally many classes).

    Raises:
        UserError: no table for this model.

    >>> published_table("12b").height
    54
    """
    if model not in PUBLISHED_MODELS:
        known = ", ".join(PUBLISHED_MODELS)
        raise UserError(
            f"published tables: no model '{model}'; there are {known}."
            f"{nearest(model, PUBLISHED_MODELS)}"
        )
    return pl.read_csv(BytesIO(_read(f"taxonomies_{model}.csv")))


def published_rho() -> pl.DataFrame:
    """Give the published sweep of the ROUGE threshold of the Guess node (Pythia 12b).

    Returns:
        Columns ``Rouge-L``, ``Rouge-3`` (bool: is this measure used), ``Threshold`` (ρ, a
        fraction) and the figures of `published_table`.
    """
    frame = pl.read_csv(BytesIO(_read("rho.csv")))
    return frame.with_columns(pl.col("Rouge-L", "Rouge-3") == "Yes")


@cache
def published_confusions() -> tuple[PublishedConfusion, ...]:
    """Give the 54 published confusion matrices.

    Each is summed over three models, eight CNN settings and three epochs: 144,000
    predictions a row, made on 2,000 evaluation sequences a class and model.

    Returns:
        One `PublishedConfusion` a taxonomy, in the order of the file.
    """
    return tuple(
        PublishedConfusion(
            taxonomy=entry["taxonomy"],
            classes=tuple(entry["labels"]),
            confusion=_frozen(entry["confusion"]),
            min_f1=entry["min_f1"],
            mean_f1=entry["mean_f1"],
        )
        for entry in json.loads(_read("taxonomy_confusions.json"))
    )


def _frozen(confusion: list[list[int]]) -> np.ndarray:
    """Make a read-only array: the cached matrices are shared by all callers."""
    counts = np.asarray(confusion, dtype=np.int64)
    counts.setflags(write=False)
    return counts


def _read(name: str) -> bytes:
    """Read one file of the package data."""
    return (resources.files("mnemoscope.benchmark") / "data" / name).read_bytes()
