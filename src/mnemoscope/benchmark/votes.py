"""Turn the long table of predictions into arrays: one `Votes` a source.

A prediction is one row: taxonomy, source, setting ("-" where there is no CNN), seed, epoch
(-1 is the final weights), sequence_id, true and predicted class index, and where they are kept
the class probabilities of the final weights. Every row of a source counts, so preset `paper`
gives its three epochs and no -1, preset `small` -1 alone.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from mnemoscope.errors import DamagedDataError

__all__ = ["Votes", "collect_votes"]

_RUN = ["setting", "seed", "epoch"]
_GRID = ("sequence_id", "true", "predicted")


@dataclass(frozen=True)
class Votes:
    """All predictions of one source for one taxonomy.

    Attributes:
        sequence_ids: of the evaluation sequences, ascending, shape (n,), int64.
        true: class index of each, shape (n,), int64.
        predicted: shape (runs, n), int64; a run is one setting, seed and epoch.
        seeds: seed of each run, shape (runs,), int64.
        n_classes: classes of the taxonomy.
        probabilities: of each class, mean over runs, shape (n, classes), float64; where none
            were kept, the share of runs that predicted the class.
        scores: probabilities of each training (a setting and a seed; its final weights), shape
            (trainings, n, classes), float32; None where none were kept.
        score_seeds: seed of each training, shape (trainings,); None with `scores`.
    """

    sequence_ids: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    seeds: np.ndarray
    n_classes: int
    probabilities: np.ndarray
    scores: np.ndarray | None = None
    score_seeds: np.ndarray | None = None

    def at(self, rows: np.ndarray) -> "Votes":
        """Keep the evaluation sequences at these positions only."""
        return replace(
            self,
            sequence_ids=self.sequence_ids[rows],
            true=self.true[rows],
            predicted=self.predicted[:, rows],
            probabilities=self.probabilities[rows],
            scores=None if self.scores is None else self.scores[:, rows],
        )


def collect_votes(predictions: pl.DataFrame, n_classes: int, *, where: str) -> Votes:
    """Arrange the predictions of one taxonomy and source.

    Args:
        predictions: their rows, in any order, at least one.
        n_classes: classes of the taxonomy.
        where: taxonomy and source, for errors.

    Returns:
        Runs in the order of setting, seed, epoch; sequences in the order of their ids.

    Raises:
        DamagedDataError: a run lacks a sequence or has one twice, a sequence has two true
            classes, or a class index is outside the taxonomy.
    """
    ordered = predictions.sort([*_RUN, "sequence_id"])
    runs = ordered.select(_RUN).unique(maintain_order=True)
    ids = ordered["sequence_id"].unique().sort().to_numpy()
    shape = (len(runs), len(ids))
    repair = "Run 'mnemoscope train' again: the predictions are not whole."
    if ordered.height != runs.height * len(ids):
        raise DamagedDataError(
            f"predictions of {where}: {ordered.height} rows for {shape[0]} runs of {shape[1]} "
            f"sequences. {repair}"
        )
    grid = {name: ordered[name].to_numpy().reshape(shape) for name in _GRID}
    if (grid["sequence_id"] != ids).any() or (grid["true"] != grid["true"][0]).any():
        raise DamagedDataError(
            f"predictions of {where}: runs differ in their sequences or true classes. {repair}"
        )
    classes = np.concatenate([grid["true"], grid["predicted"]])
    if classes.min() < 0 or classes.max() >= n_classes:
        raise DamagedDataError(
            f"predictions of {where}: class {classes.min()} to {classes.max()}, wanted 0 to "
            f"{n_classes - 1}. {repair}"
        )
    votes = Votes(
        sequence_ids=ids,
        true=grid["true"][0],
        predicted=grid["predicted"],
        seeds=runs["seed"].to_numpy(),
        n_classes=n_classes,
        probabilities=np.eye(n_classes)[grid["predicted"]].mean(axis=0),
    )
    return _with_probabilities(votes, ordered, runs)


def _with_probabilities(votes: Votes, ordered: pl.DataFrame, runs: pl.DataFrame) -> Votes:
    """Add the class probabilities where they were kept; epochs of one training share theirs."""
    if "probabilities" not in ordered.columns or ordered["probabilities"].null_count():
        return votes
    kept = ordered["probabilities"].list.to_array(votes.n_classes).to_numpy()
    by_run = kept.reshape(*votes.predicted.shape, votes.n_classes)
    last = runs.select(pl.struct("setting", "seed").is_last_distinct()).to_series().to_numpy()
    return replace(
        votes,
        probabilities=by_run.mean(axis=0, dtype=np.float64),
        scores=by_run[last],
        score_seeds=votes.seeds[last],
    )
