"""Compare ways to train a CNN on a study's training sequences, a third of them held back.

Run: .venv/bin/mnemoscope demo -o demo --thorough
     .venv/bin/python -m experiments.choose_preset.run demo "Non-Memo, Guess, Recall"
Variants may be named after the taxonomy. The study's evaluation sequences are never read.
Takes minutes; CPU seconds are a CNN's.
"""

import statistics
import time
from dataclasses import replace

import polars as pl
import torch
from torch.nn.functional import cross_entropy

from benchmarks.given import parser_of
from mnemoscope.cnn.presets import GRIDS, PRESETS, TrainingPreset
from mnemoscope.cnn.training import Wanted, predict_logits, train_cnns
from mnemoscope.pipeline.train import Job, job_maps, jobs_of, sample_rows
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy.sample import SampleKey

SEEDS = (0, 1, 2)
SMALL = PRESETS["small"]
VARIANTS: dict[str, TrainingPreset] = {
    "small": SMALL,
    "small, maps raw": replace(SMALL, scaling="raw"),
    "small, constant rate": replace(SMALL, schedule="constant"),
    "small, dropout .5": replace(SMALL, dropout=0.5),
    "batch 16, 12 epochs, rate 1e-3": replace(SMALL, batch_size=16, epochs=12, learning_rate=1e-3),
    "batch 16, 24 epochs, rate 3e-3": replace(SMALL, batch_size=16, epochs=24, learning_rate=3e-3),
    "as_run": PRESETS["as_run"],
}


def main() -> None:
    torch.set_num_threads(1)
    parser = parser_of(__doc__)
    parser.add_argument("study")
    parser.add_argument("taxonomy")
    parser.add_argument("variants", nargs="*")
    options = parser.parse_args()
    study, name = Study(options.study), options.taxonomy
    job = next(
        job for job in jobs_of(study) if (job.sample, job.source) == (SampleKey(name), "model")
    )
    rows = sample_rows(study, name)
    groups = rows.train["group"].unique(maintain_order=True).shuffle(seed=0)
    held_back = rows.train["group"].is_in(groups[: len(groups) // 3].implode())
    parts = {"train": rows.train.filter(~held_back), "held back": rows.train.filter(held_back)}
    print(f"{name}: " + ", ".join(f"{frame.height} {part}" for part, frame in parts.items()))
    print(f"{'':32} {'train':>6} {'held back':>10} {'accuracy':>9} {'sd':>6} {'CPU s':>6}")
    for variant in options.variants or VARIANTS:
        figures = _compare(study, job, parts, VARIANTS[variant], len(rows.classes))
        print(f"{variant:32} {figures}", flush=True)


def _compare(
    study: Study, job: Job, parts: dict[str, pl.DataFrame], preset: TrainingPreset, n_classes: int
) -> str:
    """Mean losses, mean accuracy and its deviation over seeds."""
    maps = {part: job_maps(study, job, frame) for part, frame in parts.items()}
    labels = {part: torch.tensor(frame["class_index"].to_list()) for part, frame in parts.items()}
    losses: dict[str, list[float]] = {part: [] for part in parts}
    accuracies = []
    started = time.process_time()
    for seed in SEEDS:
        (trained,) = train_cnns(
            maps["train"],
            [Wanted(labels["train"], GRIDS["as_written"].settings[0], seed)],
            n_classes=n_classes,
            preset=preset,
        )
        for part in parts:
            logits = predict_logits(trained, maps[part])
            losses[part].append(float(cross_entropy(logits, labels[part])))
        accuracies.append(float((logits.argmax(1) == labels["held back"]).float().mean()))
    seconds = (time.process_time() - started) / len(SEEDS)
    means = [statistics.mean(losses[part]) for part in ("train", "held back")]
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    return f"{means[0]:6.3f} {means[1]:10.3f} {mean:9.3f} {deviation:6.3f} {seconds:6.1f}"


if __name__ == "__main__":
    main()
