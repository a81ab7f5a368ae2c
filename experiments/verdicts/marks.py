"""How small a planted mark the CNNs find: min-F1 on marked maps of a study, by size of the mark.

    python -m experiments.verdicts.marks STUDY 0.05 0.02 0.01 0.005

STUDY has gone through `capture`. Labels are permuted among all sequences of its first taxonomy, so
nothing but the mark tells the classes apart; CNNs as its settings say, one training a size.
"""

import argparse
from pathlib import Path

import polars as pl
import torch

from mnemoscope.benchmark.baselines import permute_labels
from mnemoscope.cnn.metrics import confusion_matrix, min_f1
from mnemoscope.cnn.presets import PRESETS
from mnemoscope.cnn.training import Wanted, predict_logits, train_cnns
from mnemoscope.maps.views import MarkedMaps
from mnemoscope.pipeline.label import samples_of
from mnemoscope.pipeline.train import job_maps, make_job, sample_rows
from mnemoscope.pipeline.trainings import settings_of
from mnemoscope.study.folder import Study


def main(folder: Path, sizes: list[float]) -> None:
    """Print a line a size."""
    study = Study(folder)
    sample = next(key for key, one in samples_of(study).items() if not one.impossible)
    rows = sample_rows(study, sample)
    both = pl.concat([rows.train, rows.evaluation])
    columns = (both[name].to_numpy() for name in ("sequence_id", "class_index", "split"))
    labels = torch.from_numpy(permute_labels(*columns, seed=0, non_memo=None))
    train, true = labels[: rows.train.height], labels[rows.train.height :]
    setting = settings_of(study.settings, "model")[0]
    assert setting is not None  # only baselines have none
    job = make_job(study, sample, rows, "model", setting, 0)
    preset, n_classes = PRESETS[job.preset], len(rows.classes)
    per_class = f"{len(train) // n_classes:,} + {len(true) // n_classes:,} sequences a class"
    print(f"{sample.taxonomy}: {per_class}, {setting.slug}, guessing {1 / n_classes:.1%}")
    for size in sizes:
        (trained,) = train_cnns(
            MarkedMaps(job_maps(study, job, rows.train), train, size),
            [Wanted(train, setting, 0)],
            n_classes=n_classes,
            preset=preset,
        )
        marked = MarkedMaps(job_maps(study, job, rows.evaluation), true, size)
        predicted = predict_logits(trained, marked).argmax(dim=1)
        found = min_f1(confusion_matrix(true, predicted, n_classes))
        print(f"mark {size:.1%}: min-F1 {found:.1%}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("sizes", type=float, nargs="+")
    asked = parser.parse_args()
    main(asked.study, asked.sizes)
