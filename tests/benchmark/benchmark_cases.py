"""Long tables of predictions made to order."""

from collections.abc import Mapping
from dataclasses import astuple

import numpy as np
import polars as pl

from mnemoscope.benchmark.excess import SETTING, Votes
from mnemoscope.benchmark.table import RUN_KEY
from mnemoscope.cnn.presets import CnnSetting

TAXONOMY = "Non-Memo, Guess, Recall"
CLASSES = ("Non-Memo", "Guess", "Recall")
MEAN = CnnSetting(6, 10, "mean")


def predictions_of(
    source: str,
    true: np.ndarray,
    predicted: Mapping[int, np.ndarray],
    *,
    setting: CnnSetting | None = MEAN,
    epoch: int = -1,
    ids: np.ndarray | None = None,
    probabilities: np.ndarray | None = None,
    taxonomy: str = TAXONOMY,
    sure: float | None = None,
) -> pl.DataFrame:
    """Rows of one source: for each seed what it predicted.

    `sure` gives the class that it predicts so much more probability than each of the others.
    """
    parts = []
    for seed, classes in predicted.items():
        columns = {
            "taxonomy": taxonomy,
            "variant": "main",
            "source": source,
            **dict(zip(SETTING, astuple(setting) if setting else [None] * 3, strict=True)),
            "seed": np.full(len(true), seed, dtype=np.int64),
            "epoch": np.full(len(true), epoch, dtype=np.int64),
            "sequence_id": np.arange(len(true)) if ids is None else ids,
            "true": true.astype(np.int64),
            "predicted": classes.astype(np.int64),
        }
        if sure is not None:
            probabilities = (1 - sure) / len(CLASSES) + sure * np.eye(len(CLASSES))[classes]
        if probabilities is not None:
            columns["probabilities"] = pl.Series(probabilities.tolist(), dtype=pl.List(pl.Float32))
        parts.append(pl.DataFrame(columns, schema_overrides=SETTING))
    return pl.concat(parts)


def runs_of(predictions: pl.DataFrame, *, untrained: tuple[str, ...] = ()) -> pl.DataFrame:
    """One row a training, all trained but those of the sources named."""
    return (
        predictions.select(RUN_KEY)
        .unique(maintain_order=True)
        .with_columns(
            did_train=~pl.col("source").is_in(list(untrained)),
            train_min_f1=pl.lit(0.8),
            n_train=pl.lit(480),
        )
    )


def votes_of(true: np.ndarray, predicted: np.ndarray, seeds: list[int], n_classes: int) -> Votes:
    """Votes without a table."""
    return Votes(
        sequence_ids=np.arange(len(true)),
        true=true,
        predicted=predicted,
        seeds=np.array(seeds),
        n_classes=n_classes,
        probabilities=np.eye(n_classes)[predicted].mean(axis=0),
    )


def noisy(true: np.ndarray, share_right: float, seed: int, n_classes: int = 3) -> np.ndarray:
    """Predictions that are right with this probability and drawn blindly else."""
    generator = np.random.default_rng(seed)
    guess = generator.integers(0, n_classes, len(true))
    return np.where(generator.random(len(true)) < share_right, true, guess)
