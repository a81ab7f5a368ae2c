"""Two models, each of which memorized what the other never saw: is it memory, or only text?

    python -m experiments.crossover.run [-o crossover] [--start FOLDER] [--cnn] [--keep]

The windows of prose and code in the embedded model's table are dealt at random into two halves.
From what `make embedded` has after phase 1, which saw none of them, model A is trained on one half
and model B on the other, with equal steps. Every window is memorized in one model and unseen by the
other, so text, genre, training time and drift cancel. Asked for more windows than the table has,
the rest comes from the standard library: there that model read once or a few times what both
models start from, and the halves differ as before. Readers of attention must tell the halves
apart; parts of each model are put into the other; edges of attention that rankings name for what a
model memorized are cut. What is done in the folder is not done again.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from sklearn.model_selection import GroupKFold
from tokenizers import Tokenizer

from experiments.grafts.run import run_grafts
from experiments.memory_in_weights.run import (
    BATCH,
    Maps,
    Trial,
    areas,
    documents_of,
    out_of_fold,
    packed,
    statistics_of,
    verdicts,
)
from experiments.pages import publish
from mnemoscope.cnn.presets import GRIDS, PRESETS, CnnSetting
from mnemoscope.cnn.training import Wanted, predict_logits, train_cnns
from mnemoscope.data.duplicates import hash_ngrams
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import reference_path, sequences_path
from mnemoscope.embedded.texts import read_segments
from mnemoscope.files import write_json, write_parquet
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel, wrap_model
from mnemoscope.localize.cut import (
    class_mean,
    count_edges,
    cut_and_judge,
    equal_mass_edges,
    largest_edges,
)
from mnemoscope.localize.rankings import RANKINGS
from mnemoscope.maps.views import DifferenceMaps, StackedMaps, TensorMaps
from mnemoscope.stats import estimate_of, resampled_mean
from tools.embedded.corpus import NgramSet, choose_study, cut_segments
from tools.embedded.pretrain import Phase, prefers_bfloat16, train_phase
from tools.embedded.settings import FULL, Share

REPEATS = 18  # of each window in training, as the embedded model's text saw it in the middle
SETTING = replace(FULL, peak_learning_rate=1e-3, warmup_steps=30)
HALVES = ("A", "B")
SEED = 0
CUT = 300  # windows of a half that edges are ranked on, and cut in
STRENGTHS = (0.1, 0.3, 1.0)  # per cent of all edges; at 3 % everything breaks
ROWS = CnnSetting(6, 10, "both")


class Training(NamedTuple):
    """One half to train on, as sent to another process."""

    folder: str
    half: str
    n_rows: int
    bfloat16: bool
    start: str


def dealt(folder: Path, n: int | None) -> pl.DataFrame:
    """The windows with their half, at random; written once."""
    path = folder / "windows.parquet"
    if not path.is_file():
        table = read_table(sequences_path())
        is_source = pl.col("genre").is_in(["prose", "code"]) & (pl.col("form") == "plain")
        text = table.filter(is_source).select("sequence_id", "tokens", "document", "genre")
        if n is not None and n > text.height:
            text = pl.concat([text, more_windows(n - text.height, table)])
        table = text.sample(fraction=1.0, shuffle=True, seed=SEED).head(n or text.height)
        half = np.resize(np.array(HALVES), table.height)
        write_parquet(path, table.with_columns(half=pl.Series(half)).sort("sequence_id"))
    return pl.read_parquet(path)


def more_windows(n: int, table: pl.DataFrame) -> pl.DataFrame:
    """Plain windows of the library, half prose, that share no 24 tokens with the table."""
    used = NgramSet()
    for hashes in hash_ngrams(token_matrix(table)):
        used.take(hashes.tolist())
    tokenizer = Tokenizer.from_file(str(reference_path() / "tokenizer.json"))
    sizes = {"prose": n // 2, "code": n - n // 2}
    shares = tuple(Share(kind, "plain", (size, 0, 0, 0, 0)) for kind, size in sizes.items())
    found = choose_study(
        cut_segments(read_segments(), tokenizer), tokenizer, replace(FULL, study=shares), used
    )
    first = int(table["sequence_id"].to_numpy().max()) + 1
    return found.select(
        pl.int_range(first, first + pl.len())
        .cast(table.schema["sequence_id"])
        .alias("sequence_id"),
        pl.col("tokens").cast(table.schema["tokens"]),
        "document",
        "genre",
    )


def trained(task: Training) -> str:
    """Train one model from the start, resumably."""
    folder = Path(task.folder)
    windows = pl.read_parquet(folder / "windows.parquet").filter(half=task.half)
    generator = np.random.default_rng(SEED)  # the same order of places for both halves
    passes = [generator.permutation(task.n_rows) for _ in range(REPEATS)]
    rows = token_matrix(windows)[: task.n_rows].astype(np.uint16)[np.concatenate(passes)]
    start = load_model(task.start).model.state_dict()
    train_phase(
        Phase(folder / task.half, rows, dict(start), SEED, task.bfloat16),
        SETTING,
        report=partial(print, flush=True),
    )
    return task.half


def models(folder: Path, start: Path) -> dict[str, LanguageModel]:
    """A, B and, as their reference, what both began as."""
    found = {"reference": load_model(start)}
    for half in HALVES:
        other = load_model(start)
        state = torch.load(folder / half / "final.pt", weights_only=True)["model"]
        other.model.load_state_dict(state)
        found[half] = wrap_model(other.model, other.tokenizer, name=half)
    return found


def captured(lms: dict[str, LanguageModel], windows: pl.DataFrame) -> dict[str, Maps]:
    """Maps of every model."""
    tokens = token_matrix(windows)
    return {
        role: packed([*capture_pooled(lm, tokens, batch_size=BATCH)]) for role, lm in lms.items()
    }


def trial_of(windows: pl.DataFrame) -> Trial:
    """Half A against half B, by document."""
    labels = (windows["half"] == "A").to_numpy().astype(np.int64)
    return Trial(labels, documents_of(windows), windows["genre"].to_numpy(), {})


def read(
    maps: dict[str, Maps], windows: pl.DataFrame, *, cnn_folder: Path | None
) -> dict[str, Any]:
    """AUC of each reader at telling half A from half B, five folds by document."""
    tokens = token_matrix(windows)
    seen = {role: statistics_of(one, tokens) for role, one in maps.items()}
    seen["A minus B"] = seen["A"] - seen["B"]
    trial = trial_of(windows)
    labels = trial.labels
    found: dict[str, Any] = {"statistics": {}}
    for role, columns in seen.items():
        of = areas(trial, out_of_fold(trial, columns, labels), 1000)
        found["statistics"][role] = estimate_of(of[0], of[1:])
    mixed = np.random.default_rng(SEED).permutation(labels)
    again = trial._replace(labels=mixed)
    found["permuted"] = float(areas(again, out_of_fold(again, seen["A minus B"], mixed), 0)[0])
    if cnn_folder is not None:
        found["cnn"] = by_cnn(maps, trial, cnn_folder)
    return found


def by_cnn(maps: dict[str, Maps], trial: Trial, folder: Path) -> dict[str, list[float]]:
    """AUC of the paper's CNN on a fifth of the documents, at each setting of its grid."""
    folds = GroupKFold(5, shuffle=True, random_state=0)
    train, asked = next(folds.split(trial.labels, groups=trial.documents))

    folder.mkdir(exist_ok=True)

    def view(role: str, pooling: str, rows: np.ndarray) -> TensorMaps | DifferenceMaps:
        if role == "A minus B":
            return DifferenceMaps(*(view(one, pooling, rows) for one in HALVES))
        return TensorMaps(getattr(maps[role], pooling)[rows])

    def area(role: str, setting: CnnSetting) -> float:
        (cnn,) = train_cnns(
            view(role, setting.pooling, train),
            [Wanted(torch.from_numpy(trial.labels[train]), setting, 0)],
            n_classes=2,
            preset=PRESETS["as_run"],
        )
        logits = predict_logits(cnn, view(role, setting.pooling, asked))
        scores = logits.softmax(dim=1)[:, 1].numpy().astype(np.float64)
        return float(areas(trial.at(asked, trial.labels), scores, 0)[0])

    return {
        role: [
            kept_in(folder / f"{role}-{one.slug}.json", partial(area, role, one))
            for one in GRIDS["as_written"].settings
        ]
        for role in ("A minus B", *maps)
    }


def by_rows(maps: dict[str, Maps], trial: Trial) -> dict[str, list[float | None]]:
    """AUC of the CNN over the rows of a map, five folds by document, with its interval.

    Its statistics are of weights that add up to 1, so it is not shown a difference of maps but
    both models side by side, whose rows its first layer can subtract.
    """
    seen: dict[str, StackedMaps] = {
        role: StackedMaps(TensorMaps(one.mean), TensorMaps(one.max)) for role, one in maps.items()
    }
    seen["A minus B"] = StackedMaps(seen["A"], seen["B"])
    folds = [
        *GroupKFold(5, shuffle=True, random_state=0).split(trial.labels, groups=trial.documents)
    ]
    found: dict[str, list[float | None]] = {}
    for role, source in seen.items():
        scores = np.zeros(len(trial.labels))
        whole = TensorMaps(source.read(torch.arange(len(source))))
        for train, asked in folds:
            (cnn,) = train_cnns(
                TensorMaps(whole.read(torch.from_numpy(train))),
                [Wanted(torch.from_numpy(trial.labels[train]), ROWS, SEED)],
                n_classes=2,
                preset=PRESETS["rows"],
            )
            logits = predict_logits(cnn, TensorMaps(whole.read(torch.from_numpy(asked))))
            scores[asked] = logits.softmax(dim=1)[:, 1].numpy()
        of = areas(trial, scores, 1000)
        found[role] = [*estimate_of(of[0], of[1:])]
        print(f"rows, {role}: {of[0]:.3f}", flush=True)
    return found


def cuts(lms: dict[str, LanguageModel], windows: pl.DataFrame) -> list[dict[str, Any]]:
    """What breaks in a model of its own half when edges are cut that a ranking names.

    Edges are ranked on half of the documents and cut in windows of the others.
    """
    is_ranked = documents_of(windows) % 2 == 0
    measured = {one: token_matrix(windows.filter(is_ranked, half=one).head(CUT)) for one in HALVES}
    tried = {one: windows.filter(~is_ranked, half=one).head(CUT) for one in HALVES}
    weights = RANKINGS["weights"].measure
    mass = {one: class_mean(lms[one], measured[one], weights, BATCH) for one in HALVES}
    tokens = {one: token_matrix(tried[one]) for one in HALVES}
    documents = documents_of(pl.concat(tried.values()))
    rows = []
    for name in ("weights", "value_norm", "contribution", "total_effect"):
        for ranking, values in ranked_by(name, lms, measured).items():
            for strength in STRENGTHS:
                found = [
                    broken(lms[own], tokens[own], values[own], values[other], mass[own], strength)
                    for own, other in (HALVES, HALVES[::-1])
                ]
                of = {choice: np.concatenate([one[choice] for one in found]) for choice in found[0]}
                beyond = 1.0 * of["ranked"] - of["equal_mass"]
                rows.append(
                    {"ranking": ranking, "strength": strength}
                    | {choice: [*resampled_mean(one, documents)] for choice, one in of.items()}
                    | {"beyond": [*resampled_mean(beyond, documents)]}
                )
    return rows


def ranked_by(
    name: str, lms: dict[str, LanguageModel], measured: dict[str, np.ndarray]
) -> dict[str, dict[str, torch.Tensor]]:
    """Values of every edge for each model: a measure's mean over what the model memorized.

    Then that less its mean over the other half in the same model; and less that of the other model
    on the same windows, so that no text is in it.
    """
    of = {
        (lm, half): class_mean(lms[lm], measured[half], RANKINGS[name].measure, BATCH)
        for lm in HALVES
        for half in HALVES
    }
    pairs = (HALVES, HALVES[::-1])
    return {
        name: {one: of[one, one] for one in HALVES},
        f"{name}, less the other half": {
            own: of[own, own] - of[own, other] for own, other in pairs
        },
        f"{name}, less the other model": {
            own: of[own, own] - of[other, own] for own, other in pairs
        },
    }


def broken(
    lm: LanguageModel,
    tokens: np.ndarray,
    values: torch.Tensor,
    elsewhere: torch.Tensor,
    mass: torch.Tensor,
    strength: float,
) -> dict[str, np.ndarray]:
    """Which windows break by the largest edges, by equal mass, by those of the other model."""
    n = count_edges(strength, *values.shape[:2])
    edges = largest_edges(values, n)
    chosen = {
        "ranked": edges,
        "equal_mass": equal_mass_edges(edges, mass, torch.Generator().manual_seed(SEED)),
        "elsewhere": largest_edges(elsewhere, n),
    }
    judge = partial(cut_and_judge, lm, tokens, renormalize=False, batch_size=BATCH)
    return {
        choice: np.logical_not(judge(cut).is_right.all(axis=1)) for choice, cut in chosen.items()
    }


def grafts(folder: Path, lms: dict[str, LanguageModel], windows: pl.DataFrame) -> None:
    """Graft parts of the other model into either, beside refrains that nobody read.

    By the published rule: its own half is Recall, what comes out of the refrains is Guess.
    """
    table = read_table(sequences_path())
    refrains = table.filter(pl.col("form") == "refrain", pl.col("inserted") == 0)
    refrains = refrains.select("tokens", "document", "genre", "form")
    rows = pl.concat([refrains, windows], how="diagonal")
    rows = rows.with_columns(
        sequence_id=pl.int_range(pl.len(), dtype=pl.Int64),
        form=pl.col("form").fill_null("plain"),
        text=pl.Series(lms["A"].tokenizer.batch_decode(token_matrix(rows))),
    )
    for half in HALVES:
        lms[half].model.save_pretrained(folder / f"model-{half}")
        lms[half].tokenizer.save_pretrained(folder / f"model-{half}")
        read = (pl.col("half") == half).fill_null(False).cast(pl.Int64) * REPEATS
        write_parquet(folder / f"{half}.parquet", rows.with_columns(inserted=read).drop("half"))
    for half, other in (HALVES, HALVES[::-1]):
        pair = folder / f"model-{half}", folder / f"model-{other}"
        run_grafts(folder / f"grafts-{half}", folder / f"{half}.parquet", *pair)


def kept_in(path: Path, make: Callable[[], Any]) -> Any:
    """What was made before, or is made now and kept."""
    if not path.is_file():
        write_json(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def main(folder: Path, start: Path, *, n: int | None, with_cnn: bool) -> dict[str, Any]:
    """Deal, train, read, graft."""
    folder.mkdir(parents=True, exist_ok=True)
    started, windows = time.monotonic(), dealt(folder, n)
    n_rows = min(int((windows["half"] == one).sum()) for one in HALVES)
    bfloat16 = kept_in(folder / "bfloat16.json", lambda: prefers_bfloat16(SETTING))
    tasks = [Training(str(folder), half, n_rows, bfloat16, str(start)) for half in HALVES]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for half in pool.map(trained, tasks):
            print(f"model {half} is trained", flush=True)
    lms, tokens = models(folder, start), token_matrix(windows)
    kept = {role: verdicts(lm, tokens) for role, lm in lms.items()}
    is_a = (windows["half"] == "A").to_numpy()
    crossed = np.where(is_a, kept["A"] & ~kept["B"], kept["B"] & ~kept["A"]) & ~kept["reference"]
    known = windows.filter(crossed)
    maps = cache(partial(captured, lms, known))  # where a reader is still to be asked
    grafts(folder, lms, windows)
    return {
        "n": windows.height,
        "documents": windows["document"].n_unique(),
        "crossed": int(crossed.sum()),
        "kept": {
            role: {"A": float(one[is_a].mean()), "B": float(one[~is_a].mean())}
            for role, one in kept.items()
        },
        "read": kept_in(
            folder / "read.json",
            lambda: read(maps(), known, cnn_folder=folder / "cnn" if with_cnn else None),
        ),
        "rows": kept_in(folder / "rows.json", lambda: by_rows(maps(), trial_of(known))),
        "cuts": kept_in(folder / "cuts.json", lambda: cuts(lms, known)),
        "seconds": round(time.monotonic() - started),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("crossover"))
    parser.add_argument("--start", type=Path, default=Path("embedded-build/first"))
    parser.add_argument("--windows", type=int, help="so many (the table has 4,080)")
    parser.add_argument("--cnn", action="store_true", help="train the paper's CNN too")
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    options = parser.parse_args()
    figures = main(options.output, options.start, n=options.windows, with_cnn=options.cnn)
    publish("crossover", figures, keep=options.keep)
