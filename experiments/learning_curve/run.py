"""How many sequences does a reader need? Every reader on all sequences of the embedded model.

    python -m experiments.learning_curve.run curve [--minutes 60] [--write PAGE.md]

`Non-Memo, Guess, Recall` with as many sequences of each class as the smallest has. Five folds by
document: each sequence is asked by what was trained on n a class of the other documents, whether
or not that left chance. One seed. Every training is kept in the folder, so a further run goes on;
tables show the cells that are whole.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from experiments.pages import figure, show_tables, table_of
from mnemoscope.benchmark.excess import Votes, estimate_auc, measure_excess, pair_names
from mnemoscope.cluster.run import run_units
from mnemoscope.cluster.units import Opened
from mnemoscope.cnn.metrics import estimate_scores
from mnemoscope.cnn.presets import CnnSetting
from mnemoscope.flow.run import run
from mnemoscope.pipeline.map_statistics import TOKENS, statistics_store, statistics_units
from mnemoscope.pipeline.train import (
    Job,
    SampleRows,
    cnn_store,
    fold_rows,
    load_outcome,
    make_job,
    run_jobs,
    sample_rows,
)
from mnemoscope.study.settings import parse_settings
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.sample import N_FOLDS, SampleKey

ALL = 0
RESAMPLING = {"seed": 0, "n_resamples": 1000}
SIZES = (100, 200, 400, 800, ALL)
SETTINGS = {
    "title": "Learning curve",
    "label": {"taxonomies": [PAPER], "split": "folds"},
}


class Reader(NamedTuple):
    """What reads the maps: a preset with its setting, or a regression (neither)."""

    name: str
    preset: str | None
    pooling: str | None
    sources: dict[str, str]
    sizes: tuple[int, ...] = SIZES

    @property
    def setting(self) -> CnnSetting | None:
        """Of the CNNs."""
        return CnnSetting(6, 10, self.pooling) if self.pooling else None


OF_CNN = {name: name for name in ("model", "reference", "blind")}
OF_REGRESSION = {
    "model": "statistics",
    "reference": "reference_statistics",
    "blind": "blind_statistics",
}
READERS = (
    Reader("regression on statistics", None, None, OF_REGRESSION),
    Reader("CNN over rows (`rows`, both poolings)", "rows", "both", OF_CNN),
    Reader("CNN (`small`, mean)", "small", "mean", OF_CNN),
    Reader("CNN, the paper's training (`as_run`, mean)", "as_run", "mean", OF_CNN, (ALL,)),
)
COLUMNS = tuple(OF_CNN)


class Cell(NamedTuple):
    """One reader of one source at one size."""

    reader: Reader
    size: int
    column: str


def cells() -> Iterator[Cell]:
    """All, the most telling first: what the model shows over its reference at every sequence."""
    for columns in (("model", "reference"), ("blind",)):
        for size in (ALL, 400, 100, 800, 200):
            for reader, column in product(READERS, columns):
                if size in reader.sizes and column in reader.sources:
                    yield Cell(reader, size, column)


class Trial:
    """A study up to its maps, and the folds of its sample by document."""

    def __init__(self, folder: Path) -> None:
        self.study = run(parse_settings(SETTINGS, where="learning curve"), folder, until="capture")
        rows = sample_rows(self.study, SampleKey(PAPER))
        documents = self.study.sequences.select(
            "sequence_id", group=pl.col("document").rank("dense").cast(pl.Int64)
        )
        whole = rows.evaluation.drop("group").join(
            documents, on="sequence_id", how="left", maintain_order="left"
        )
        folds = fold_rows(SampleRows(whole.clear(), whole, rows.classes), N_FOLDS)
        assert folds is not None
        self.whole, self.classes, self.folds = whole, rows.classes, folds
        for role in ("model", "reference", TOKENS):
            units, here = statistics_units(self.study, role), Opened(dict, self.study)
            list(run_units(units, statistics_store(self.study), here))

    def jobs(self, cell: Cell) -> Iterator[Job]:
        """One training a fold, on the first `size` of each class in the order of the seed."""
        source, preset = cell.reader.sources[cell.column], cell.reader.preset
        for fold in self.folds:
            train = fold.train
            if cell.size != ALL:
                train = train.filter(pl.int_range(pl.len()).over("class") < cell.size)
            rows = SampleRows(train, fold.evaluation, fold.classes)
            job = make_job(
                self.study, SampleKey(PAPER), rows, source, cell.reader.setting, 0, preset
            )
            yield replace(job, rows=rows)

    def is_whole(self, cell: Cell) -> bool:
        """Whether every fold is trained."""
        return all(cnn_store(self.study).has(job.key) for job in self.jobs(cell))

    def votes(self, cell: Cell) -> Votes:
        """What was said of every sequence out of its fold; groups are documents."""
        found = []
        for job in self.jobs(cell):
            outcome, rows = load_outcome(job), job.rows
            assert rows is not None
            found.append(
                rows.evaluation.select("sequence_id", "class_index", "group").with_columns(
                    predicted=pl.Series(outcome.predicted[-1]),
                    probabilities=pl.Series(outcome.probabilities.tolist()),
                )
            )
        said = pl.concat(found).sort("sequence_id")
        probabilities = np.stack(said["probabilities"].to_list())
        return Votes(
            said["sequence_id"].to_numpy(),
            said["class_index"].to_numpy(),
            said["predicted"].to_numpy()[None],
            np.zeros(1, np.int64),
            len(self.classes),
            probabilities,
            scores=probabilities[None].astype(np.float32),
            score_seeds=np.zeros(1, np.int64),
            groups=said["group"].to_numpy(),
        )


def page(trial: Trial, made: list[Cell]) -> str:
    """Tables of the whole cells: min-F1 and excess, then the AUC of each pair."""
    votes = {(cell.reader.name, cell.size, cell.column): trial.votes(cell) for cell in made}
    names = pair_names(trial.classes)
    per_class = trial.whole.height // len(trial.classes)
    said = (
        f"{per_class:,} sequences of each class in {trial.whole['group'].n_unique():,} documents. "
        "`all` is four fifths of them, less what balance by document leaves.\n"
    )
    lines, of_pairs = [], []
    for reader, size in product(READERS, SIZES):
        places = {one: (reader.name, size, one) for one in COLUMNS}
        own = {one: votes[place] for one, place in places.items() if place in votes}
        if "model" not in own:
            continue
        n = "all" if size == ALL else str(size)
        shown = [_min_f1(own[one]) if one in own else "–" for one in COLUMNS]
        free = {reader.sources[one]: own[one] for one in ("reference", "blind") if one in own}
        excess = ["–", "–"]
        if len(free) == 2:
            found = measure_excess(own["model"], free, reader=reader.sources["model"], **RESAMPLING)
            excess = [figure(found.value, found.low, found.high), found.strongest]
        lines.append([reader.name, n, *shown, *excess])
        aucs = {one: estimate_auc(each, **RESAMPLING) for one, each in own.items()}
        for at, pair in enumerate(names):
            cells_ = [figure(*of[at]) if (of := aucs.get(one)) else "–" for one in COLUMNS]
            of_pairs.append([reader.name, n, pair.replace(" | ", " and "), *cells_])
    scores = table_of(["reader", "n a class", *COLUMNS, "excess", "over"], lines)
    return "\n".join([said, scores, table_of(["reader", "n a class", "pair", *COLUMNS], of_pairs)])


def _min_f1(votes: Votes) -> str:
    """Per cent, with its interval."""
    found = estimate_scores(
        votes.predicted,
        votes.true,
        n_classes=votes.n_classes,
        groups=votes.groups,
        **RESAMPLING,
    )
    return figure(*found.min_f1)


def main(folder: Path, minutes: float) -> str:
    """Train for so long what is missing, in the order of `cells`; the tables."""
    torch.set_num_threads(1)
    started = time.monotonic()
    trial = Trial(folder)
    made = []
    for cell in cells():
        for job in trial.jobs(cell):
            if time.monotonic() - started < 60 * minutes:
                run_jobs(trial.study, [job], "Training")
        if trial.is_whole(cell):
            made.append(cell)
            print(f"{cell.reader.name}, {cell.size or 'all'}, {cell.column}", flush=True)
    return page(trial, made)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="study folder in which trainings are kept")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no training after this")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    show_tables(main(options.folder, options.minutes), options.write)
