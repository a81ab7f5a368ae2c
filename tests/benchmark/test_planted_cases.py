"""End to end on small CNNs: a mark in the attention is excess, a difference in text is none."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from benchmark_cases import CLASSES, TAXONOMY, predictions_of

from mnemoscope.benchmark.baseline import BaselineFit
from mnemoscope.benchmark.blind import blind_maps, ngram_logits
from mnemoscope.benchmark.control_task import permute_labels
from mnemoscope.benchmark.table import score_benchmark
from mnemoscope.cnn.prediction import predict_logits
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import train_cnn
from mnemoscope.maps.dataset import MapSource, TensorMaps
from mnemoscope.maps.triangle import pack_triangle, unpack_triangle

N_TRAIN, N_EVAL, LENGTH = 240, 240, 16
LABELS = np.arange(N_TRAIN + N_EVAL) % 3
SPLITS = np.repeat(["train", "eval"], [N_TRAIN, N_EVAL])
SETTING = CnnSetting(3, 6, "mean")
QUICK = replace(PRESETS["small"], epochs=1, min_steps=150, learning_rate=4e-3)
SEEDS = (0, 1)


def random_attention(seed: int) -> torch.Tensor:
    """Causal maps of two layers, rows summing to one."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(LABELS), 2, LENGTH, LENGTH, generator=generator)
    above = torch.ones(LENGTH, LENGTH).triu(1).bool()
    return scores.masked_fill(above, -torch.inf).softmax(-1)


def packed(maps: torch.Tensor) -> torch.Tensor:
    return pack_triangle(maps / maps.sum(-1, keepdim=True))


def case_mark_in_attention() -> tuple[np.ndarray, torch.Tensor]:
    """Tokens at random; class c > 0 attends to a region of its own."""
    tokens = np.random.default_rng(0).integers(0, 40, (len(LABELS), LENGTH))
    maps = random_attention(0)
    for c in (1, 2):
        maps[c == LABELS, c - 1, 10:14, 4 * c - 4 : 4 * c - 1] += 1
    return tokens, packed(maps)


def case_difference_in_text() -> tuple[np.ndarray, torch.Tensor]:
    """Class 1 repeats with period 3, class 2 repeats its first half; attention follows that."""
    tokens = np.random.default_rng(1).integers(0, 40, (len(LABELS), LENGTH))
    one, two = LABELS == 1, LABELS == 2
    tokens[one] = np.tile(tokens[one, :3], 6)[:, :LENGTH]
    tokens[two, LENGTH // 2 :] = tokens[two, : LENGTH // 2]
    text = unpack_triangle(blind_maps(tokens).read(torch.arange(len(LABELS)))).float()
    return tokens, packed(random_attention(1) + text)


def train_and_predict(source: str, maps: torch.Tensor, labels: np.ndarray):
    """Train a CNN a seed; its predictions and its rows in the table of trainings."""
    predictions, runs = [], []
    is_train = SPLITS == "train"
    train, held_out = (TensorMaps(maps[torch.from_numpy(part)]) for part in (is_train, ~is_train))
    for seed in SEEDS:
        trained = train_cnn(
            train,
            torch.from_numpy(labels[is_train]),
            n_classes=3,
            setting=SETTING,
            preset=QUICK,
            seed=seed,
        )
        shares = predict_logits(trained, held_out).softmax(dim=1).numpy()
        predictions.append(
            predictions_of(
                source,
                labels[~is_train],
                {seed: shares.argmax(axis=1)},
                probabilities=shares,
                setting="k3",
            )
        )
        runs.append(run_row(source, "k3", seed, trained.did_train))
    return predictions, runs


def run_row(source: str, setting: str, seed: int, did_train: bool) -> dict:
    key = {"taxonomy": TAXONOMY, "source": source, "setting": setting, "seed": seed}
    return key | {"did_train": did_train, "train_min_f1": 0.5}


def read_all(maps: MapSource) -> torch.Tensor:
    return maps.read(torch.arange(len(maps)))


def benchmark(tokens: np.ndarray, attention: torch.Tensor) -> pl.DataFrame:
    """The same CNNs on attention, on permuted labels and on blind maps, and the n-grams."""
    train, held_out = SPLITS == "train", SPLITS == "eval"
    control = permute_labels(np.arange(len(LABELS)), LABELS, SPLITS, seed=0)
    fit: BaselineFit = ngram_logits(tokens[train], LABELS[train], tokens[held_out], 0)
    predictions = [
        predictions_of(
            "ngram",
            LABELS[held_out],
            {0: fit.predicted},
            setting="-",
            probabilities=fit.probabilities,
        )
    ]
    runs = [run_row("ngram", "-", 0, fit.did_train)]
    for source, maps, labels in (
        ("model", attention, LABELS),
        ("control", attention, control),
        ("blind", read_all(blind_maps(tokens)), LABELS),
    ):
        more_predictions, more_runs = train_and_predict(source, maps, labels)
        predictions += more_predictions
        runs += more_runs
    return score_benchmark(
        pl.concat(predictions), pl.DataFrame(runs), {TAXONOMY: CLASSES}, n_resamples=300
    )


@pytest.fixture(scope="module")
def marked() -> pl.DataFrame:
    return benchmark(*case_mark_in_attention())


@pytest.fixture(scope="module")
def textual() -> pl.DataFrame:
    return benchmark(*case_difference_in_text())


def row_of(table: pl.DataFrame, source: str) -> dict:
    return table.row(by_predicate=pl.col("source") == source, named=True)


def test_a_mark_in_the_attention_alone_is_excess(marked: pl.DataFrame) -> None:
    row = row_of(marked, "model")
    assert row["min_f1"] > 0.95
    # The text says nothing: what a baseline reaches by chance is all that is taken off.
    assert row["excess"] > 0.5
    assert row["excess_low"] > 0.4
    assert row["verdict_kind"] == "adds"


def test_a_difference_in_text_alone_is_a_high_figure_and_no_excess(textual: pl.DataFrame) -> None:
    row = row_of(textual, "model")
    assert row["min_f1"] > 0.9
    assert abs(row["excess"]) < 0.05
    assert row["excess_low"] <= 0.02
    assert row["verdict_kind"] in ("nothing", "unclear")
    assert row_of(textual, "blind")["min_f1"] > 0.9


def test_permuted_labels_are_at_chance_however_plain_the_mark(marked: pl.DataFrame) -> None:
    control = row_of(marked, "control")
    # Non-Memo keeps its own label and its look; the other two are a coin's toss.
    assert control["f1"][0] > 0.95
    assert min(control["f1"][1:]) < 0.6


def test_a_mark_in_the_attention_survives_matching_on_the_text(marked: pl.DataFrame) -> None:
    row = row_of(marked, "model")
    assert row["matched_n_per_class"] > 40
    assert row["matched_min_f1"] > 0.9


def test_a_difference_in_text_leaves_nothing_to_match(textual: pl.DataFrame) -> None:
    row = row_of(textual, "model")
    assert row["matched_min_f1"] is None
    assert "too few" in row["matched_note"]
