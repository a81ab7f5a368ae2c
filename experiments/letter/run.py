"""What the paper's code does beside what its text says and what we do, on the embedded model.

    python -m experiments.letter.run WORK --labels [--keep]     # labels that differ: minutes
    python -m experiments.letter.run WORK --keep                # and all 54 taxonomies: hours
    python -m experiments.letter.run WORK --taxonomies "Non-Memo, Code, Others" --seeds 1
    python -m experiments.letter.run WORK --kept --keep         # tables of what is in WORK so far

The CNNs of each of `VARIANTS`, trained once with each of `--seeds` seeds, on as many sequences a
class as the model has: the order of the taxonomies by min-F1, the paper's conclusions, and the
layer profile of Δ by either rule. Guess or Recall and Prashanth et al.'s taxonomy are always among
them and come first. What a variant gave of a taxonomy with a seed is kept in WORK as it ends, and
with `--keep` in the stored results: a stopped run goes on, on another machine too. Of texts that
the embedded model read 5 times or less it memorized templates alone, so Prashanth et al.'s taxonomy
stands there at δ = 50 too; 34 of the 54 can be trained. Makes the tables of `docs/letter.md`.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
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
from mnemoscope.localize.delta import average, decisiveness
from mnemoscope.localize.regions import layer_profile
from mnemoscope.pipeline.label import SampleEntry, samples_of
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
from mnemoscope.taxonomy.catalogue import load_taxonomies, rho_name
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy

NAME = "letter"
ALWAYS = (
    PAPER,
    PRASHANTH,
    "Non-Memo, Recite[50], Reconstruct, Recollect",
    "Non-Memo, Recite[1k], Reconstruct, Recollect",
)
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
    "as run, by group": Variant("group", "as_run", True),
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


def settings_for(
    variant: Variant, taxonomies: Sequence[str], n_seeds: int, workers: int = 1
) -> StudySettings:
    """A study of the embedded model: the grid of the variant's preset, with each of the seeds.

    The two grids of the paper train alike, so that `as written` takes over half of its CNNs, those
    over the mean, from `as run`: what differs is the maximum's.
    """
    grid = GRIDS[variant.preset]
    preset = "as_run" if variant.preset == "as_written" else variant.preset
    values = {
        "title": NAME,
        "continue": {"scan": True},
        "label": {"taxonomies": list(taxonomies), "split": variant.split},
        "train": {
            "preset": preset,
            "kernels": list(grid.kernels),
            "filters": list(grid.filters),
            "poolings": list(grid.poolings),
            "seeds": list(range(n_seeds)),
            "workers": workers,
        },
        "benchmark": {"controls": False},
        "localize": {"attributions": ["gradient"], "rankings": [], "sanity": False},
    }
    return parse_settings(values, where=NAME)


def opened(work: Path, split: str, taxonomies: Sequence[str]) -> ms.Study:
    """The study of a split, labelled and captured."""
    variant = next(one for one in VARIANTS.values() if one.split == split)
    return ms.run(settings_for(variant, taxonomies, 1), work / split, until="capture", redo=True)


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


def kept_file(work: Path, name: str, taxonomy: str, seed: int) -> Path:
    """Where WORK holds what a variant gave of a taxonomy with a seed."""
    digest = hashlib.sha256(taxonomy.encode()).hexdigest()[:8]
    return work / f"{name.replace(', ', '-').replace(' ', '-')}-{digest}-{seed}.json"


def measured(study: ms.Study, entry: SampleEntry, jobs: Sequence[Job]) -> dict[str, Any]:
    """What these CNNs of one taxonomy gave, trained where they are not there."""
    run_jobs(study, jobs, "Training")
    outcomes = [load_outcome(job) for job in jobs]
    did_train = [job for job, one in zip(jobs, outcomes, strict=True) if one.facts.did_train]
    n_classes = len(entry.trained_classes)
    found: dict[str, Any] = {
        "taxonomy": entry.published_name,
        "classes": list(entry.trained_classes),
        "n_train": entry.n_train,
        "n_eval": entry.n_eval,
        "cnns": len(jobs),
        "untrained": len(jobs) - len(did_train),
        "seconds": round(sum(one.seconds for one in outcomes), 1),
        "parts": {
            pooling: confusion_of(study, own, n_classes).tolist()
            for pooling in ("mean", "max")
            if (own := [job for job in jobs if job.setting and job.setting.pooling == pooling])
        },
        "every": confusion_of(study, jobs, n_classes).tolist(),
        "trained": confusion_of(study, did_train, n_classes).tolist(),
    }
    if entry.taxonomy == PAPER:
        found["profiles"] = {rows: profile_of(study, jobs, rows) for rows in ("as_run", "correct")}
    return found


def restored(work: Path, measured: Mapping[str, Any]) -> None:
    """Put into WORK what the stored results hold of each variant, seed and taxonomy."""
    for key, part in measured.items():
        name, seed, taxonomy = key.split(" | ")
        path = kept_file(work, name, taxonomy, int(seed))
        if not path.exists():
            write_text(path, json.dumps(part))


def train_all(
    work: Path,
    taxonomies: Sequence[str],
    variants: Mapping[str, Variant],
    n_seeds: int,
    workers: int,
) -> None:
    """Measure the variants with every seed and keep it: `ALWAYS`, then the cheapest first."""
    study_of = cache(partial(opened, work, taxonomies=tuple(taxonomies)))
    every = samples_of(study_of("row")).values()
    impossible = [one.published_name for one in every if one.impossible]
    entries = [one for one in every if not one.impossible]
    write_text(work / "impossible.json", json.dumps(impossible))
    cheapest = sorted(entries, key=lambda one: len(one.trained_classes) * one.n_train)
    rounds = [ALWAYS, *((one.taxonomy,) for one in cheapest)]
    for asked, (name, variant), seed in product(rounds, variants.items(), range(n_seeds)):
        study = study_of(variant.split)
        paths = {one: kept_file(work, name, one, seed) for one in asked}
        if all(path.exists() for path in paths.values()):
            continue
        with study.lock():
            study.adopt(settings_for(variant, taxonomies, n_seeds, workers), redo=True)
        jobs = [job for job in jobs_of(study) if job.source == "model" and job.seed == seed]
        for entry in samples_of(study).values():
            if entry.impossible or entry.taxonomy not in asked or paths[entry.taxonomy].exists():
                continue
            own = [job for job in jobs if job.sample == entry.key]
            done = measured(study, entry, own)
            write_text(paths[entry.taxonomy], json.dumps(done))
            seconds = done["seconds"] / done["cnns"]
            say(f"{name}, seed {seed}: {entry.taxonomy}, {seconds:.1f} s a CNN")


def collected(work: Path, taxonomies: Sequence[str], n_seeds: int) -> dict[str, Any]:
    """What WORK holds of every variant with every seed, of whichever taxonomies.

    `measured` holds every part as `measured` gave it, so that another machine can go on from the
    stored results. `variants`, of each seed: min-F1 by published name and the paper's
    conclusions, of all CNNs and of those that trained; min-F1 of each pooling alone; the
    profile of Δ; how many CNNs, and how long they took.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    every: dict[str, Any] = {}
    for name, seed in product(VARIANTS, range(n_seeds)):
        paths = {one: kept_file(work, name, one, seed) for one in taxonomies}
        parts = {
            f"{name} | {seed} | {one}": json.loads(path.read_text(encoding="utf-8"))
            for one, path in paths.items()
            if path.exists()
        }
        every |= parts
        if any("profiles" in one for one in parts.values()):
            found[name].append(summed(list(parts.values())))
    impossible = json.loads((work / "impossible.json").read_text(encoding="utf-8"))
    return {"impossible": impossible, "measured": every, "variants": found}


def summed(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One variant with one seed, of what `measured` gave of each taxonomy."""
    own = next(one for one in parts if "profiles" in one)
    facts: dict[str, Any] = {key: own[key] for key in ("classes", "profiles")}
    facts |= {key: sum(one[key] for one in parts) for key in ("cnns", "untrained")}
    facts["seconds"] = round(sum(one["seconds"] for one in parts))
    facts["sequences"] = {one["taxonomy"]: [one["n_train"], one["n_eval"]] for one in parts}
    facts["parts"] = {
        name: {one["taxonomy"]: round(min_f1(np.array(one["parts"][name])), 4) for one in parts}
        for name in own["parts"]
    }
    for counted in ("every", "trained"):
        catalogue = {}
        for one in parts:
            confusion = np.array(one[counted], dtype=np.float64)
            if confusion.any():
                value = min_f1(confusion)
                catalogue[one["taxonomy"]] = Measured(one["taxonomy"], value, confusion)
        facts[counted] = {
            "min_f1": {name: round(one.min_f1, 4) for name, one in catalogue.items()},
            "conclusions": {
                one.key: one.verdict
                for one in draw_conclusions(catalogue, {}, by_sign=True)
                if one.key in ("best", "confused", "few-shot")
            },
        }
    return facts


def main() -> None:
    """Measure, then print or keep the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--labels", action="store_true", help="count labels alone; no CNN")
    parser.add_argument("--kept", action="store_true", help="train nothing; collect what is kept")
    parser.add_argument("--taxonomies", nargs="+", default=["catalogue"])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--workers", type=int, default=1, help="CNNs that train at a time")
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    before = results_of(NAME) if NAME in stored() else {}
    found = before | {"labels": counted_labels(options.work)}
    if not options.labels:
        every = [one.name for one in load_taxonomies([*ALWAYS, *options.taxonomies])]
        restored(options.work, before.get("measured", {}))
        if not options.kept:
            chosen = {name: VARIANTS[name] for name in options.variants}
            train_all(options.work, every, chosen, options.seeds, options.workers)
        found |= collected(options.work, every, options.seeds)
    publish(NAME, found, keep=options.keep)


if __name__ == "__main__":
    main()
