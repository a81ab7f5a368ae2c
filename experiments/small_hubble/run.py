"""Two models that differ in nothing but passages inserted at random counts: is an excess memory?

    python -m experiments.small_hubble.run FOLDER [--keep]

A small model of Hubble's design (arXiv 2510.19811), from the standard library's own text. Passages
of 128 tokens are drawn within prose and within code, and dealt at random to be inserted 0, 1, 4,
16, 64 or 256 times. `perturbed` and `standard` are trained from one initialization on the same
rows in the same order; where `perturbed` reads a passage, `standard` reads further text. Among the
rows of both are refrains, so that both learn to continue new ones: these are guessed where passages
are recalled, and grafts of `standard` are laid beside each other on the two. Passages and models
are written as Hubble writes them, and the study reads them by the ready study's way. What is done
in the folder is not done again.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy.stats import rankdata
from tokenizers import Tokenizer

from experiments.grafts.run import as_flags, command, run_grafts
from experiments.memory_in_weights.run import (
    BATCH,
    Trial,
    areas,
    out_of_fold,
    packed,
    statistics_of,
    verdicts,
)
from experiments.pages import publish
from experiments.small_hubble.tables import LIKELIHOODS, ROLES
from mnemoscope.data.duplicates import hash_ngrams, share_ngram
from mnemoscope.data.read import read_sequences
from mnemoscope.data.table import token_matrix
from mnemoscope.embedded import reference_path
from mnemoscope.embedded.texts import read_segments
from mnemoscope.files import atomic_path, write_json, write_parquet
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import suffix_logprobs
from mnemoscope.pipeline.label import samples_of
from mnemoscope.stats import estimate_of, rows_of, share_true
from mnemoscope.study.folder import Study
from tools.embedded.corpus import (
    LENGTH,
    MIN_DISTINCT_TOKENS,
    NgramSet,
    choose_study,
    copy_rows,
    cut_segments,
    new_rows,
)
from tools.embedded.pretrain import Phase, new_model, prefers_bfloat16, train_phase
from tools.embedded.settings import FULL, Share
from tools.embedded.tokenizer import save_tokenizer

PASSAGES = {0: 160, 1: 100, 4: 100, 16: 100, 64: 40, 256: 12}  # of each genre, by count
PREFIX = 32  # tokens of a window
WINDOWS = 2  # of 64 tokens in a passage
COMMON = 37_000  # rows of text that both models read
REFRAINS, COPIES = 35_000, 20_000  # rows that both read: new refrains; random tokens, repeated
GUESSABLE = 300  # refrains of each genre that neither reads
GENRES = ("prose", "code")
SEED = 0
TAXONOMIES = ("Non-Memo, Guess, Recall", "Non-Memo, Recite[16], Reconstruct, Recollect")
STUDY_SETTINGS = {
    "model.revision": "null",
    "model.dtype": "float32",
    "model.device": "cpu",
    "label.n_train": 100,
    "label.n_eval": 60,
    "train.poolings": "[mean]",
}


class Passage(NamedTuple):
    """A passage, and how often one model reads it."""

    document: str
    genre: str
    times: int
    text: str
    tokens: np.ndarray


def passages(windows: dict[str, Any], tokenizer: Tokenizer, used: NgramSet) -> list[Passage]:
    """Draw passages of either genre that share no 24 tokens, and deal them to the counts."""
    found = []
    for genre in GENRES:
        counts = np.repeat(list(PASSAGES), list(PASSAGES.values()))
        counts = iter(np.random.default_rng([SEED, len(genre)]).permutation(counts).tolist())
        left = sum(PASSAGES.values())
        fits = windows["in_study"] & (windows["prose"] == (genre == "prose"))
        order = np.random.default_rng([SEED + 1, len(genre)]).permutation(np.flatnonzero(fits))
        for at in order:
            if not left:
                break
            if at + 1 == len(fits) or windows["segment"][at] != windows["segment"][at + 1]:
                continue
            tokens = windows["tokens"][at : at + WINDOWS].reshape(-1)
            text = tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
            if len(np.unique(tokens)) < 2 * MIN_DISTINCT_TOKENS or text != text.strip():
                continue
            if tokenizer.encode(text).ids != tokens.tolist():
                continue
            if used.take(hash_ngrams(tokens[None])[0].tolist()):
                document = windows["documents"][windows["segment"][at]]
                found.append(Passage(document, genre, next(counts), text, tokens))
                left -= 1
        if left:
            raise SystemExit(f"{genre}: {left} passages are missing")
    return found


def prepare(folder: Path) -> None:
    """Write the passages and the rows of both models; the last file written says that all is."""
    if (folder / "standard.npy").is_file():
        return
    tokenizer = Tokenizer.from_file(str(reference_path() / "tokenizer.json"))
    windows, used = cut_segments(read_segments(), tokenizer), NgramSet()
    drawn = passages(windows, tokenizer, used)
    cells = tuple(Share(genre, "refrain", (GUESSABLE, 0, 0, 0, 0)) for genre in GENRES)
    refrains = choose_study(windows, tokenizer, replace(FULL, study=cells), used)
    write_parquet(folder / "refrains.parquet", refrains)
    for genre in GENRES:
        write_passages(folder, genre, [one for one in drawn if one.genre == genre])
    free = windows["tokens"][~share_ngram(windows["tokens"], used.as_array())]
    free = free[np.random.default_rng([SEED, 2]).permutation(len(free))]
    inserted = np.concatenate(
        [np.tile(one.tokens.reshape(WINDOWS, LENGTH), (one.times, 1)) for one in drawn]
    )
    of_both = new_rows(
        windows,
        np.flatnonzero(~share_ngram(windows["tokens"], used.as_array())),
        tokenizer,
        (0, 0, REFRAINS, 0),
        f"small Hubble:{SEED}",
        used.as_array(),
    )
    of_both = np.concatenate([of_both, free[:COMMON]])
    order = np.random.default_rng([SEED, 3]).permutation(len(of_both) + len(inserted))
    copies = copy_rows(COPIES, FULL.vocabulary_size, SEED)
    further = free[COMMON : COMMON + len(inserted)]
    if len(further) < len(inserted):
        raise SystemExit(f"{len(free)} windows of text, {COMMON + len(inserted)} are needed")
    for role, rest in zip(ROLES, (inserted, further), strict=True):
        with atomic_path(folder / f"{role}.npy") as path, open(path, "wb") as handle:
            np.save(handle, np.concatenate([copies, np.concatenate([of_both, rest])[order]]))
    n = len(copies) + len(order)
    print(f"{len(drawn)} passages, {len(inserted):,} of {n:,} rows inserted", flush=True)


def train(folder: Path, role: str) -> str:
    """Train one model, resumably, and write its folder as the hub holds one."""
    bfloat16 = json.loads((folder / "bfloat16.json").read_text(encoding="utf-8"))
    rows = np.load(folder / f"{role}.npy")
    phase = Phase(folder / "training" / role, rows, None, SEED, bfloat16=bfloat16)
    weights = train_phase(phase, FULL, report=partial(print, role, flush=True))
    model = new_model(FULL)
    model.load_state_dict(weights)
    model.save_pretrained(folder / role)
    save_tokenizer(Tokenizer.from_file(str(reference_path() / "tokenizer.json")), folder / role)
    return role


def write_passages(folder: Path, genre: str, rows: list[Passage]) -> None:
    """Write passages in Hubble's layout: gzip, a line each, the count in `meta`, a JSON text."""
    target = folder / f"passages_{genre}"
    target.mkdir(exist_ok=True)
    with atomic_path(target / "train.jsonl.gz") as path, gzip.open(path, "wt") as handle:
        for at, one in enumerate(rows):
            meta = {"idx": at, "document": one.document, "duplicates": one.times}
            handle.write(json.dumps({"text": one.text, "meta": json.dumps(meta)}) + "\n")


def read_back(folder: Path) -> pl.DataFrame:
    """The windows of all passages as the ready study reads them, with their counts and groups."""
    tokenizer, columns = load_model(folder / "perturbed").tokenizer, {
        "duplicates": "meta.duplicates", "held_out": "meta.duplicates==0", "group": "@row",
    }  # fmt: skip
    tables = [
        read_sequences(folder / f"passages_{genre}", tokenizer, columns=columns).frame.with_columns(
            genre=pl.lit(genre), group=pl.format("{}:{}", pl.lit(genre), pl.col("group"))
        )
        for genre in GENRES
    ]
    return pl.concat(tables, how="diagonal").sort("duplicates", maintain_order=True)


def grafts(folder: Path, table: pl.DataFrame) -> None:
    """Graft parts of `standard` into `perturbed`, beside refrains that neither read."""
    refrains = pl.read_parquet(folder / "refrains.parquet")
    inserted = table.select(
        "text",
        "tokens",
        "genre",
        form=pl.lit("plain"),
        group=pl.col("group"),
        inserted=pl.col("duplicates").cast(pl.Int64),
    )
    rows = pl.concat(
        [refrains.select("text", "tokens", "genre", "form", "inserted"), inserted],
        how="diagonal_relaxed",
    )
    write_parquet(
        folder / "grafted.parquet",
        rows.with_columns(sequence_id=pl.int_range(pl.len(), dtype=pl.Int64)),
    )
    pair = folder / "perturbed", folder / "standard"
    run_grafts(folder / "grafts", folder / "grafted.parquet", *pair)


def figures_of(lm: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """Statistics of the attention of every window, (n, columns)."""
    return statistics_of(packed([*capture_pooled(lm, tokens, batch_size=BATCH)]), tokens)


class Level(NamedTuple):
    """A count's windows (`here`), and those to be told from the ones that were never inserted.

    Of count 0 one random half of the passages is to be told from the other.
    """

    times: int
    here: np.ndarray
    at: np.ndarray
    labels: np.ndarray


def levels(table: pl.DataFrame, groups: np.ndarray) -> Iterator[Level]:
    """Every count with its question."""
    counts = table["duplicates"].to_numpy()
    half = np.random.default_rng(SEED).permutation(groups.max() + 1) % 2 == 0
    for count in PASSAGES:
        at = np.flatnonzero((counts == 0) | (counts == count))
        labels = (half[groups] if count == 0 else counts == count)[at].astype(np.int64)
        yield Level(count, counts == count, at, labels)


def numbered_groups(table: pl.DataFrame) -> np.ndarray:
    """Passages as numbers."""
    return table["group"].rank("dense").to_numpy().astype(np.int64)


def dose(lms: dict[str, LanguageModel], table: pl.DataFrame) -> list[dict[str, Any]]:
    """By count: windows, what comes out, and the AUC of telling them from those never inserted.

    The reader is a regression on statistics of the maps, asked out of fold, by passage.
    """
    tokens, groups = token_matrix(table), numbered_groups(table)
    genres, rows = table["genre"].to_numpy(), []
    out = {role: verdicts(lm, tokens) for role, lm in lms.items()}
    seen = {role: figures_of(lm, tokens) for role, lm in lms.items()}
    for count, here, at, labels in levels(table, groups):
        trial = Trial(labels, groups[at], genres[at], {k: v[at] for k, v in seen.items()})
        of = {
            role: areas(trial, out_of_fold(trial, trial.seen[role], labels), 1000) for role in ROLES
        }
        of["difference"] = of["perturbed"] - of["standard"]
        rows.append(
            {
                "count": count,
                "windows": int(here.sum()),
                "passages": len(np.unique(groups[here])),
                "out": {role: share_true(one[here], groups[here]) for role, one in out.items()},
                "auc": {role: estimate_of(one[0], one[1:]) for role, one in of.items()},
            }
        )
        print(rows[-1], flush=True)
    return rows


def likelihood(lms: dict[str, LanguageModel], table: pl.DataFrame) -> list[dict[str, Any]]:
    """By count: the same question put to log-probabilities, and what attention adds to them.

    The suffix's log-probability under either model and their difference need no fit. One regression
    reads the log-probabilities of prefix and suffix under both models, another these and
    `perturbed`'s attention, out of fold; `gain` is the difference of their AUC, paired.
    """
    tokens, groups = token_matrix(table), numbered_groups(table)
    each = {role: suffix_logprobs(lm, tokens, batch_size=64, prefix=1) for role, lm in lms.items()}
    sums = {
        role: np.stack([one[:, : PREFIX - 1].sum(1), one[:, PREFIX - 1 :].sum(1)], axis=1)
        for role, one in each.items()
    }
    suffix = {role: one[:, 1] for role, one in sums.items()}
    suffix["ratio"] = suffix["perturbed"] - suffix["standard"]
    alone = np.concatenate([*sums.values()], axis=1)
    both = np.concatenate([alone, figures_of(lms["perturbed"], tokens)], axis=1)
    rows = []
    for count, _, at, labels in levels(table, groups):
        trial = Trial(labels, groups[at], labels, {})
        of = {  # ranks, for a log-probability is no share
            name: areas(trial, rankdata(one[at]) / (len(at) + 1), 1000)
            for name, one in suffix.items()
        }
        for name, columns in zip(LIKELIHOODS, (alone, both), strict=True):
            of[name] = areas(trial, out_of_fold(trial, columns[at], labels), 1000)
        of["gain"] = of[LIKELIHOODS[1]] - of[LIKELIHOODS[0]]
        found = {name: estimate_of(one[0], one[1:]) for name, one in of.items()}
        rows.append({"count": count, "auc": found})
        print(rows[-1], flush=True)
    return rows


def run_study(folder: Path) -> Study:
    """The ready study `hubble-1b` on the two small models, by the command."""
    paths = {
        "model.name": folder / "perturbed",
        "capture.reference": folder / "standard",
        "sequences.source": folder / f"passages_{GENRES[0]}",
        "sequences.also": [str(folder / f"passages_{one}") for one in GENRES[1:]],
        "label.taxonomies": list(TAXONOMIES),
    }
    command("run", "hubble-1b", "-o", folder / "study", *as_flags(paths | STUDY_SETTINGS))
    return Study(folder / "study")


def benchmark_rows(study: Study) -> list[dict[str, Any]]:
    """A row a sample and reader: classes, min-F1 of the model, its controls, excess.

    The reader that the study judges by is the one that `is_headline`.
    """
    rows = []
    for key, entry in samples_of(study).items():
        of = {one["source"]: one for one in rows_of(study.benchmark.filter(**key._asdict()))}
        if not of:
            continue
        for words, reader, blind, twin in (
            ("CNNs", "model", "blind", "reference"),
            ("regression", "statistics", "blind_statistics", "reference_statistics"),
        ):
            own = of[reader]
            pairs = [name for pair in own["auc_pairs"] for name in pair.split(" | ")]
            rows.append(
                {
                    "taxonomy": entry.shown,
                    "classes": [*dict.fromkeys(pairs)],
                    "reader": words,
                    "is_headline": own["is_headline"],
                    "min_f1": list(own["min_f1"]),
                    "blind": max(of[one]["min_f1"].value for one in (blind, "ngram")),
                    "twin": of[twin]["min_f1"].value,
                    "excess": list(own["excess"]),
                }
            )
    return rows


def level_rows(table: pl.DataFrame) -> list[dict[str, Any]]:
    """A row a taxonomy and count: how well the study's reader tells it from count 0."""
    return [
        {name: one[name] for name in ("taxonomy", "duplicates")}
        | {name: list(one[f"dose_{name}"]) for name in ("auc", "excess")}
        for one in rows_of(table.filter(pl.col("taxonomy").is_in(TAXONOMIES)))
    ]


def main(folder: Path) -> dict[str, Any]:
    """Write, train, read back, measure."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder)
    if not (folder / "bfloat16.json").is_file():
        write_json(folder / "bfloat16.json", prefers_bfloat16(FULL))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for role in pool.map(partial(train, folder), ROLES):
            print(f"{role} is trained", flush=True)
    lms, table = {role: load_model(folder / role) for role in ROLES}, read_back(folder)
    grafts(folder, table)
    kept = folder / "figures.json"
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    study = run_study(folder)
    found["benchmark"] = benchmark_rows(study)
    found["levels"] = level_rows(study.read("levels.parquet"))
    for measure in (dose, likelihood):
        if measure.__name__ not in found:
            found[measure.__name__] = json.loads(json.dumps(measure(lms, table)))
            write_json(kept, found)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    options = parser.parse_args()
    publish("small_hubble", main(options.folder), keep=options.keep)
