"""Do attention weights carry memory? Memorized against held-out text of the embedded model.

    python -m experiments.memory_in_weights.run [--keep]

Windows of Python's library (prose and code), of which a random draw was trained on: memorized
against held-out ones, each with its own text, so that text and genre cancel. Readers see each
sequence's attention, pooled over heads, in the model and in its reference, trained as long on
others of the same kinds. Folds, and groups of the bootstrap, are documents.
"""

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from sklearn.model_selection import GroupKFold

from experiments.memory_in_weights.tables import READERS
from experiments.pages import publish
from mnemoscope.benchmark.baselines import all_statistics, classify_statistics
from mnemoscope.benchmark.excess import Resamples, Votes, auc_of_each
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.lm.attention import PooledMaps, capture_pooled
from mnemoscope.lm.continue_ import capture_and_scan, scan_memorized
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel
from mnemoscope.maps.shape import row_statistics
from mnemoscope.maps.triangle import pack_triangle, unpack_triangle
from mnemoscope.maps.views import StackedMaps, TensorMaps
from mnemoscope.stats import Estimate, draw_within, estimate_of

FOLDS = 5
PERMUTATIONS = 5
BATCH = 64


class Maps(NamedTuple):
    """Packed float16 maps of all sequences, (n, layers, triangle) each."""

    mean: torch.Tensor
    max: torch.Tensor


def captured(tokens: np.ndarray) -> tuple[dict[str, Maps], np.ndarray]:
    """Maps by model and reference, and which sequences the model has memorized."""
    model, reference = load_model(model_path()), load_model(reference_path())
    batches = [*capture_and_scan(model, tokens, batch_size=BATCH)]
    verdicts = np.concatenate([scan.is_memorized for _, scan in batches])
    maps = {"model": packed([one for one, _ in batches])}
    maps["reference"] = packed([*capture_pooled(reference, tokens, batch_size=BATCH)])
    return maps, verdicts


def packed(batches: list[PooledMaps]) -> Maps:
    """Batches as a study stores them."""
    return Maps(
        *(
            torch.cat([pack_triangle(getattr(one, name)).half() for one in batches])
            for name in Maps._fields
        )
    )


def stacked(maps: Maps) -> StackedMaps:
    """Mean and maximum, one behind the other."""
    return StackedMaps(*map(TensorMaps, maps))


def row_figures(maps: StackedMaps) -> np.ndarray:
    """How the queries look back: (n, channels, 24).

    Mean and standard deviation of each of `ROW_STATISTICS` over the queries of either half, the
    first query left out.
    """
    parts = []
    for rows in torch.split(torch.arange(len(maps)), 256):
        of_query = row_statistics(unpack_triangle(maps.read(rows)).float())[..., 1:]
        half = maps.length // 2 - 1
        halves = of_query[..., :half], of_query[..., half:]
        parts.append(torch.cat([f for one in halves for f in (one.mean(-1), one.std(-1))], -1))
    return torch.cat(parts).double().numpy()


def verdicts(lm: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """Which sequences a model continues with their suffix."""
    scans = scan_memorized(lm, tokens, batch_size=BATCH)
    return np.concatenate([one.is_memorized for one in scans])


def documents_of(table: pl.DataFrame) -> np.ndarray:
    """Their documents as numbers, (n,)."""
    return table["document"].rank("dense").to_numpy().astype(np.int64)


def statistics_of(maps: Maps, tokens: np.ndarray) -> np.ndarray:
    """Statistics of the maps of every sequence, (n, columns)."""
    return all_statistics(stacked(maps), tokens).reshape(len(tokens), -1)


class Trial(NamedTuple):
    """Labels of the sequences (n,), their documents as numbers, and what each reader sees."""

    labels: np.ndarray
    documents: np.ndarray
    genres: np.ndarray
    seen: dict[str, np.ndarray]

    def at(self, rows: np.ndarray, labels: np.ndarray) -> "Trial":
        """Some of the sequences, labelled anew."""
        seen = {name: one[rows] for name, one in self.seen.items()}
        return Trial(labels[rows], self.documents[rows], self.genres[rows], seen)


def out_of_fold(trial: Trial, columns: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability of class 1 by a regression fitted on the other documents, (n,)."""
    found = np.zeros(len(labels))
    for train, asked in GroupKFold(FOLDS, shuffle=True, random_state=0).split(
        columns, groups=trial.documents
    ):
        fit = classify_statistics(columns[train], labels[train], columns[asked], 0)
        found[asked] = fit.probabilities[:, 1]
    return found


def areas(trial: Trial, scores: np.ndarray, n_resamples: int) -> np.ndarray:
    """AUC on the sequences as they are, then of each resample of documents; (1 + resamples,)."""
    n = len(trial.labels)
    probabilities = np.stack([1 - scores, scores], axis=1)
    votes = Votes(
        np.arange(n), trial.labels, (scores > 0.5).astype(int)[None], np.zeros(1), 2,
        probabilities, scores=probabilities[None].astype(np.float32), score_seeds=np.zeros(1),
    )  # fmt: skip
    drawn = draw_within(trial.labels, np.random.default_rng(0), n_resamples, groups=trial.documents)
    weights = Resamples(np.concatenate([np.ones((1, n), dtype=np.int32), drawn]))
    found: np.ndarray = auc_of_each(votes, (0, 1), weights.sequences)[0]
    return found


def compared(trial: Trial, n_resamples: int = 1000) -> dict[str, dict[str, Estimate]]:
    """AUC of each reader on the model, on the reference, and the difference, paired."""
    found: dict[str, dict[str, Estimate]] = {}
    for reader in READERS:
        of = {
            role: areas(
                trial,
                out_of_fold(trial, trial.seen[f"{role} {reader}"], trial.labels),
                n_resamples,
            )
            for role in ("model", "reference")
        }
        of["difference"] = of["model"] - of["reference"]
        found[reader] = {name: estimate_of(one[0], one[1:]) for name, one in of.items()}
    return found


def permuted(trial: Trial) -> dict[str, list[float]]:
    """AUC of each reader on the model where labels are dealt out anew within the genres."""
    generator, found = np.random.default_rng(0), {reader: list[float]() for reader in READERS}
    for _ in range(PERMUTATIONS):
        labels = trial.labels.copy()
        for genre in np.unique(trial.genres):
            inside = np.flatnonzero(trial.genres == genre)
            labels[inside] = generator.permutation(labels[inside])
        for reader, values in found.items():
            scores = out_of_fold(trial, trial.seen[f"model {reader}"], labels)
            values.append(float(areas(trial._replace(labels=labels), scores, 0)[0]))
    return found


def other_genre(trial: Trial) -> dict[str, dict[str, float]]:
    """AUC of the model's readers fitted on one genre and asked on the other."""
    found: dict[str, dict[str, float]] = {}
    for reader in READERS:
        columns, found[reader] = trial.seen[f"model {reader}"], {}
        for genre in ("prose", "code"):
            train, asked = (np.flatnonzero((trial.genres == genre) == one) for one in (True, False))
            fit = classify_statistics(columns[train], trial.labels[train], columns[asked], 0)
            left = trial.at(asked, trial.labels)
            found[reader][genre] = float(areas(left, fit.probabilities[:, 1], 0)[0])
    return found


def main() -> dict[str, Any]:
    """All figures."""
    started = time.monotonic()
    is_source = pl.col("genre").is_in(["prose", "code"]) & (pl.col("form") == "plain")
    table = read_table(sequences_path()).filter(is_source)
    tokens = token_matrix(table)
    maps, is_memorized = captured(tokens)
    seen = {}
    for role, one in maps.items():
        seen[f"{role} statistics"] = statistics_of(one, tokens)
        seen[f"{role} rows"] = row_figures(stacked(one)).reshape(len(tokens), -1)
    is_new = table["held_out"].to_numpy()
    whole = Trial((~is_new).astype(np.int64), documents_of(table), table["genre"].to_numpy(), seen)
    rows = np.flatnonzero(is_memorized != is_new)
    trial = whole.at(rows, whole.labels)
    counts = {
        "memorized": int(trial.labels.sum()),
        "held_out": int((trial.labels == 0).sum()),
        "inserted": int(whole.labels.sum()),
        "documents": len(np.unique(trial.documents)),
    }
    found = {
        "counts": counts,
        "memorized": compared(trial),
        "inserted": compared(whole),
        "permuted": permuted(trial),
        "other_genre": other_genre(trial),
    }
    found["seconds"] = round(time.monotonic() - started, 1)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    publish("memory_in_weights", main(), keep=parser.parse_args().keep)
