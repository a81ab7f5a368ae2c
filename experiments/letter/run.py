"""What the paper's code does beside what its text says and what we do, on the embedded model.

    python -m experiments.letter.run WORK --labels [--keep]     # labels that differ: minutes
    python -m experiments.letter.run WORK --keep                # and all 54 taxonomies: hours
    python -m experiments.letter.run WORK --taxonomies "Non-Memo, Code, Others" --repeats 1

CNNs of each `VARIANTS`, in `--repeats` seeds, on as many sequences a class as the model has: the
order of the taxonomies by min-F1, the paper's conclusions, and the layer profile of Δ by either
rule. Guess or Recall and Prashanth et al.'s taxonomy are always among them. Every CNN and every
repeat is kept in WORK as it ends: a stopped run goes on. Of texts that the embedded model read 5
times or less it memorized templates alone, so Prashanth et al.'s taxonomy stands there at δ = 50
too; 34 of the 54 can be trained. Makes the tables of `docs/letter.md`.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

import mnemoscope as ms
from experiments.pages import publish, results_of, stored
from mnemoscope.benchmark.published import Measured, draw_conclusions
from mnemoscope.cnn.metrics import confusion_matrix, min_f1
from mnemoscope.cnn.presets import GRIDS, PresetName
from mnemoscope.data.table import token_matrix
from mnemoscope.embedded import model_path
from mnemoscope.files import write_parquet, write_text
from mnemoscope.localize.delta import average, decisiveness, layer_profile
from mnemoscope.pipeline.label import samples_of
from mnemoscope.pipeline.localize import localized_rows
from mnemoscope.pipeline.train import (
    Job,
    job_maps,
    job_rows,
    jobs_of,
    load_outcome,
    run_jobs,
    trained_cnn,
)
from mnemoscope.progress import say
from mnemoscope.study.settings import StudySettings, parse_settings
from mnemoscope.taxonomy import PAPER, PRASHANTH
from mnemoscope.taxonomy.catalogue import rho_name
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy
from mnemoscope.taxonomy.sample import SampleKey

NAME = "letter"
ALWAYS = (PAPER, PRASHANTH, "Non-Memo, Recite[50], Reconstruct, Recollect")
PART = 2048  # sequences that are kept together
END = 0  # of a text, in the tokenizers of the embedded model and of Pythia


class Variant(NamedTuple):
    """How CNNs are trained and counted."""

    split: str
    preset: PresetName
    counts_untrained: bool


VARIANTS = {
    "as run": Variant("row", "as_run", True),
    "as written": Variant("row", "as_written", True),
    "ours": Variant("group", "small", False),
}


def counted_labels(work: Path) -> dict[str, Any]:
    """How many labels depend on ROUGE in floats, and on the way in which the model writes on."""
    settings = parse_settings({"title": NAME}, where=NAME)
    table = ms.run(settings, work / "labels", until="features").sequences
    memorized = table.filter("is_memorized")

    def labels(tenth: int, *, as_run: bool) -> pl.Series:
        name = rho_name(tenth / 10, rouge_l=False, rouge_3=True, as_run=as_run)
        found = label_sequences(memorized, parse_taxonomy(name))
        return found == "Recall"

    differ = {
        f"{tenth / 10:g}": int((labels(tenth, as_run=True) != labels(tenth, as_run=False)).sum())
        for tenth in range(1, 10)
    }
    tokens, prefix = token_matrix(table), settings.sequences.n_prefix
    published = _written(work, table, prefix)
    own = table["is_memorized"]
    others = ~own & ~published["is_memorized"]
    rewritten = (table["continuation"] != published["continuation"]) & others
    return {
        "sequences": table.height,
        "memorized": memorized.height,
        "rouge_3": differ,
        "end_in_prefix": int((tokens[:, :prefix] == END).any(axis=1).sum()),
        "end_in_suffix": int((tokens[:, prefix:] == END).any(axis=1).sum()),
        "verdicts": int((own != published["is_memorized"]).sum()),
        "lost": int((own & ~published["is_memorized"]).sum()),
        "non_memo": int(others.sum()),
        "rewritten": int(rewritten.sum()),
        "guessed": {
            name: _guessed(table, one["is_memorized"])
            for name, one in (("plain", table), ("published", published))
        },
    }


def _written(work: Path, table: pl.DataFrame, prefix: int) -> pl.DataFrame:
    """Verdicts and continuations as published, of parts of the table that are kept in WORK."""
    parts = []
    for start in range(0, table.height, PART):
        path = work / f"published-{start}.parquet"
        if not path.exists():
            rows = table[start : start + PART]
            found = ms.scan(
                str(model_path()), rows, decode=True, decoding="published", prefix=prefix
            )
            write_parquet(path, found.select("sequence_id", "is_memorized", "continuation"))
        parts.append(pl.read_parquet(path))
    return pl.concat(parts)


def _guessed(table: pl.DataFrame, is_memorized: pl.Series) -> float:
    """Share of the memorized sequences that are Guess."""
    labels = label_sequences(table.with_columns(is_memorized=is_memorized), parse_taxonomy(PAPER))
    return (labels == "Guess").to_numpy().sum() / is_memorized.to_numpy().sum()  # type: ignore[no-any-return]


def settings_for(variant: Variant, taxonomies: Sequence[str], repeat: int) -> StudySettings:
    """A study of the embedded model; each repeat has other seeds, as many as the preset's grid."""
    n_seeds = len(GRIDS[variant.preset].seeds) if variant.counts_untrained else 1
    seeds = [repeat * n_seeds + one for one in range(n_seeds)]
    values = {
        "title": NAME,
        "continue": {"scan": True},
        "label": {"taxonomies": list(taxonomies), "split": variant.split},
        "train": {"preset": variant.preset, "seeds": seeds},
        "benchmark": {"controls": False},
        "localize": {"attributions": ["gradient"], "rankings": [], "sanity": False},
    }
    return parse_settings(values, where=NAME)


def digest_of(taxonomies: Sequence[str]) -> str:
    """What tells one list of taxonomies from another in WORK."""
    return hashlib.sha256("\n".join(taxonomies).encode()).hexdigest()[:8]


def opened(work: Path, settings: StudySettings) -> ms.Study:
    """The study of a split, labelled and captured, with these settings of its CNNs."""
    folder = work / f"{settings.label.split}-{digest_of(settings.label.taxonomies)}"
    study = ms.run(settings, folder, until="capture", redo=True)
    with study.lock():
        study.adopt(settings, redo=True)
    return study


def trained(study: ms.Study) -> dict[SampleKey, list[Job]]:
    """The CNNs of every taxonomy that can be trained, trained where they are not there."""
    jobs = [job for job in jobs_of(study) if job.source == "model"]
    run_jobs(study, jobs, "Training")
    return {key: [job for job in jobs if job.sample == key] for key in {j.sample: 0 for j in jobs}}


def confusion_of(study: ms.Study, jobs: Sequence[Job], n_classes: int) -> np.ndarray:
    """Counts summed over CNNs and the epochs that count."""
    total = np.zeros((n_classes, n_classes), dtype=np.int64)
    for job in jobs:
        true = job_rows(study, job).evaluation["class_index"].to_numpy()
        for predicted in load_outcome(job).predicted:
            total += confusion_matrix(true, predicted, n_classes)
    return total


def profile_of(study: ms.Study, jobs: Sequence[Job], rows: str) -> list[list[float]] | None:
    """Layer profile of Δ of these CNNs by a rule of `localize.rows`; None where none counts."""
    wanted = study.settings.localize.model_copy(update={"rows": rows})
    study.settings = study.settings.model_copy(update={"localize": wanted})
    parts = []
    for job in jobs:
        if rows != "as_run" and not load_outcome(job).facts.did_train:
            continue
        assert job.setting is not None
        read = localized_rows(study, job)
        of_maxima = replace(job, setting=replace(job.setting, pooling="max"))
        found = decisiveness(
            trained_cnn(job),
            job_maps(study, job, read),
            torch.from_numpy(read["class_index"].to_numpy().copy()),
            max_maps=job_maps(study, of_maxima, read),
            correct_only=rows == "correct",
        )
        parts.append(found)
    return layer_profile(average(parts).delta.numpy()).round(4).tolist() if parts else None


def measured(work: Path, name: str, taxonomies: Sequence[str], repeat: int) -> dict[str, Any]:
    """One variant in one repeat: min-F1 by published name, conclusions, profiles, seconds."""
    variant = VARIANTS[name]
    study = opened(work, settings_for(variant, taxonomies, repeat))
    every, entries = trained(study), samples_of(study)
    catalogue: dict[str, Measured] = {}
    facts: dict[str, Any] = {"min_f1": {}, "untrained": 0, "seconds": 0.0, "cnns": 0}
    for key, jobs in every.items():
        outcomes = [load_outcome(job) for job in jobs]
        facts["cnns"] += len(jobs)
        facts["seconds"] += sum(one.seconds for one in outcomes)
        counted = [
            job
            for job, one in zip(jobs, outcomes, strict=True)
            if variant.counts_untrained or one.facts.did_train
        ]
        facts["untrained"] += sum(not one.facts.did_train for one in outcomes)
        if not counted:
            continue
        entry = entries[key]
        confusion = confusion_of(study, counted, len(entry.trained_classes))
        published, value = entry.published_name, min_f1(confusion)
        facts["min_f1"][published] = round(value, 4)
        catalogue[published] = Measured(published, value, confusion.astype(np.float64))
    facts["conclusions"] = {
        one.key: one.verdict
        for one in draw_conclusions(catalogue, {}, by_sign=True)
        if one.key in ("best", "confused", "few-shot")
    }
    own = next(jobs for key, jobs in every.items() if key.taxonomy == PAPER)
    facts["profiles"] = {rows: profile_of(study, own, rows) for rows in ("as_run", "correct")}
    paper = entries[own[0].sample]
    facts["n_train"], facts["classes"] = paper.n_train, list(paper.trained_classes)
    return facts


def everything(work: Path, taxonomies: Sequence[str], repeats: int) -> Iterator[tuple[str, Any]]:
    """What every variant gave in every repeat, read where it is kept."""
    for name in VARIANTS:
        found = []
        for repeat in range(repeats):
            path = work / f"{name.replace(' ', '-')}-{digest_of(taxonomies)}-{repeat}.json"
            if not path.exists():
                write_text(path, json.dumps(measured(work, name, taxonomies, repeat)))
            found.append(json.loads(path.read_text(encoding="utf-8")))
            done = found[-1]
            seconds = done["seconds"] / max(1, done["cnns"])
            say(f"{name}, repeat {repeat}: {done['cnns']} CNNs, {seconds:.1f} s each")
        yield name, found


def main() -> None:
    """Measure, then print or keep the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--labels", action="store_true", help="count labels alone; no CNN")
    parser.add_argument("--taxonomies", nargs="+", default=["catalogue"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    before = results_of(NAME) if NAME in stored() else {}
    found = before | {"labels": counted_labels(options.work)}
    if not options.labels:
        names = [*dict.fromkeys([*ALWAYS, *options.taxonomies])]
        found["variants"] = dict(everything(options.work, names, options.repeats))
    publish(NAME, found, keep=options.keep)


if __name__ == "__main__":
    main()
