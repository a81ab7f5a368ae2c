"""A tiny study whose predictions are exchanged for planted ones: the figures are known."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.benchmark.table import RUN_KEY
from study_files import put_in_place, rewrite_record

RECITE = "Non-Memo, Recite[5], Recollect"
GUESS = "Non-Memo, Guess, Recall"
N_CLASS = 60


def plant(made: Path, folder: Path, *, right: dict[str, float], seed: int = 0) -> Path:
    """Copy a trained study and let its CNNs be right this often, taxonomy by taxonomy.

    The taxonomy that the tiny study cannot fill is made possible on paper; both are evaluated
    on the same sequences.
    """
    shutil.copytree(made, folder)
    path = folder / "manifests" / "label.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["counts"]["samples"]:
        entry["impossible"] = None
        entry |= {"trained_classes": entry["classes"], "dropped": [], "warnings": []}
        entry |= {"n_train": 2 * N_CLASS, "n_eval": N_CLASS, "n_groups_crossing": 0}
    rewrite_record(path, **manifest)
    generator = np.random.default_rng(seed)
    tables = [_predictions(name, share, generator) for name, share in right.items()]
    predictions = pl.concat(tables)
    runs = predictions.select(RUN_KEY).unique(maintain_order=True)
    runs = runs.with_columns(
        n_train=pl.lit(6 * N_CLASS),
        did_train=pl.lit(True),
        train_min_f1=pl.lit(0.9),
        key=pl.lit("planted"),
    )
    put_in_place(folder, predictions__parquet=predictions, runs__parquet=runs)
    return folder


def confusion_of(folder: Path, name: str) -> np.ndarray:
    """Count the planted predictions of one taxonomy, without any code of ours."""
    rows = pl.read_parquet(folder / "predictions.parquet").filter(
        (pl.col("taxonomy") == name) & (pl.col("source") == "model")
    )
    counts = np.zeros((3, 3), dtype=np.int64)
    np.add.at(counts, (rows["true"].to_numpy(), rows["predicted"].to_numpy()), 1)
    return counts


def _predictions(name: str, right: float, generator: np.random.Generator) -> pl.DataFrame:
    """Two seeds on `N_CLASS` sequences a class; a wrong guess is any of the three."""
    true = np.repeat(np.arange(3), N_CLASS)
    parts = []
    for seed in (0, 1):
        guess = generator.integers(0, 3, len(true))
        predicted = np.where(generator.random(len(true)) < right, true, guess)
        parts.append(
            pl.DataFrame(
                {
                    "taxonomy": name,
                    "variant": "main",
                    "source": "model",
                    **{"kernel": 6, "filters": 10, "input": "mean"},
                    "seed": np.full(len(true), seed),
                    "epoch": np.full(len(true), 0),
                    "sequence_id": np.arange(len(true)),
                    "true": true,
                    "predicted": predicted,
                    "probabilities": pl.Series(
                        np.eye(3)[predicted].tolist(), dtype=pl.List(pl.Float32)
                    ),
                }
            )
        )
    return pl.concat(parts)
