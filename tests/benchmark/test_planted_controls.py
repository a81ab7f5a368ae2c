"""Each control on planted maps: it must take off what the text shows and leave what it does not.

Four classes, small maps, real CNNs: the whole way from tokens and attention to the table.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from benchmark_cases import predictions_of

from mnemoscope.benchmark.baselines import blind_maps, ngram_logits, permute_labels
from mnemoscope.benchmark.matched import BALANCED
from mnemoscope.benchmark.table import RUN_KEY, score_benchmark
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import Wanted, predict_logits, train_cnns
from mnemoscope.maps.triangle import pack_triangle, unpack_triangle
from mnemoscope.maps.views import MapSource, TensorMaps
from mnemoscope.stats import rows_of

CLASSES = ("Non-Memo", "Recite", "Reconstruct", "Recollect")
N_TRAIN, N_EVAL, LENGTH = 320, 320, 16
LABELS = np.arange(N_TRAIN + N_EVAL) % 4
TRAIN = np.repeat([True, False], [N_TRAIN, N_EVAL])
SETTING = CnnSetting(3, 6, "mean")
QUICK = replace(PRESETS["small"], epochs=1, min_steps=150, learning_rate=4e-3)


class Planted(NamedTuple):
    """What a study would hold: tokens, the model's and the reference's packed attention."""

    tokens: np.ndarray
    attention: torch.Tensor
    reference: torch.Tensor


def random_weights(seed: int) -> torch.Tensor:
    """Causal weights of two layers before they are scaled, rows summing to one."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(LABELS), 2, LENGTH, LENGTH, generator=generator)
    above = torch.ones(LENGTH, LENGTH).triu(1).bool()
    return scores.masked_fill(above, -torch.inf).softmax(-1)


def random_tokens(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 40, (len(LABELS), LENGTH))


def packed(weights: torch.Tensor) -> torch.Tensor:
    return pack_triangle(weights / weights.sum(-1, keepdim=True))


def with_mark(weights: torch.Tensor) -> torch.Tensor:
    """Class c > 0 attends to a region of its own."""
    for c in (1, 2, 3):
        weights[c == LABELS, c % 2, 10:14, 3 * c - 3 : 3 * c] += 1
    return weights


def with_repeats(tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Give these rows their class's repetition: period 2, period 5, second half as first."""
    for c, period in ((1, 2), (2, 5), (3, LENGTH // 2)):
        own = rows & (c == LABELS)
        tokens[own] = np.tile(tokens[own, :period], LENGTH)[:, :LENGTH]
    return tokens


def shown_text(tokens: np.ndarray, even: float) -> torch.Tensor:
    """Attention that is a function of the text and of nothing else; `even` is for all keys."""
    text = unpack_triangle(read_all(blind_maps(tokens))).float()
    return text + even * torch.ones(LENGTH, LENGTH).tril()


def mark_in_attention() -> Planted:
    """Tokens at random; the mark is in the model's attention and not in the reference's."""
    return Planted(
        random_tokens(0), packed(with_mark(random_weights(0))), packed(random_weights(1))
    )


def difference_in_text() -> Planted:
    """Classes differ in their text; both models' attention is a function of the text."""
    tokens = with_repeats(random_tokens(1), np.ones(len(LABELS), dtype=bool))
    return Planted(tokens, packed(shown_text(tokens, 0.1)), packed(shown_text(tokens, 0.3)))


def both_in_part() -> Planted:
    """A mark in the attention of all, and a text that gives away a third of each class."""
    gives_away = np.random.default_rng(2).random(len(LABELS)) < 1 / 3
    tokens = with_repeats(random_tokens(2), gives_away)
    return Planted(tokens, packed(with_mark(random_weights(2))), packed(random_weights(3)))


def read_all(maps: MapSource) -> torch.Tensor:
    return maps.read(torch.arange(len(maps)))


def outcome(
    source: str, setting: CnnSetting | None, labels: np.ndarray, shares: np.ndarray, did_train: bool
):
    """A training's predictions and its row in the table of trainings."""
    predicted = {0: shares.argmax(axis=1)}
    table = predictions_of(source, labels[~TRAIN], predicted, probabilities=shares, setting=setting)
    run = table.select(RUN_KEY).row(0, named=True)
    return table, run | {"did_train": did_train, "train_min_f1": 0.5, "n_train": N_TRAIN}


def with_cnn(source: str, maps: torch.Tensor, labels: np.ndarray):
    train, held_out = (TensorMaps(maps[torch.from_numpy(part)]) for part in (TRAIN, ~TRAIN))
    classes = torch.from_numpy(labels[TRAIN])
    (trained,) = train_cnns(train, [Wanted(classes, SETTING, 0)], n_classes=4, preset=QUICK)
    shares = predict_logits(trained, held_out).softmax(dim=1).numpy()
    return outcome(source, SETTING, labels, shares, trained.did_train)


def benchmark(planted: Planted, *others: str) -> pl.DataFrame:
    """The same CNNs on the model's attention, on what is blind and on the others; n-grams."""
    splits = np.where(TRAIN, "train", "eval")
    permuted = permute_labels(np.arange(len(LABELS)), LABELS, splits, seed=0)
    tokens, attention = planted.tokens, planted.attention
    fit = ngram_logits(tokens[TRAIN], LABELS[TRAIN], tokens[~TRAIN], 0)
    made = [
        with_cnn("model", attention, LABELS),
        with_cnn("blind", read_all(blind_maps(tokens)), LABELS),
        outcome("ngram", None, LABELS, fit.probabilities, fit.did_train),
    ]
    if "control" in others:
        made.append(with_cnn("control", attention, permuted))
    if "reference" in others:
        made.append(with_cnn("reference", planted.reference, LABELS))
    predictions, runs = pl.concat(one for one, _ in made), pl.DataFrame([run for _, run in made])
    return score_benchmark(predictions, runs, CLASSES, n_resamples=300)


@pytest.fixture(scope="module")
def marked() -> pl.DataFrame:
    return benchmark(mark_in_attention(), "reference", "control")


@pytest.fixture(scope="module")
def textual() -> pl.DataFrame:
    return benchmark(difference_in_text(), "reference")


@pytest.fixture(scope="module")
def mixed() -> pl.DataFrame:
    return benchmark(both_in_part())


def row_of(table: pl.DataFrame, source: str) -> dict:
    (row,) = rows_of(table.filter(source=source))
    return row


def test_a_mark_in_the_attention_alone_is_excess_near_the_full_figure(marked) -> None:
    row = row_of(marked, "model")
    assert row["min_f1"].value > 0.95
    # The text says nothing: what a control reaches by chance is all that is taken off.
    assert row["excess"].value > 0.5
    assert row["excess"].low > 0.4
    assert row["gain"].low > 0.5  # of ln 4 that guessing leaves open
    assert row["verdict"].startswith("attention did better than the text (one training; three ")
    # Every pair is told apart, where guessing (and so the best control) gives about a half.
    assert min(one.value for one in row["auc"]) > 0.98
    assert min(one.low for one in row["auc_excess"]) > 0.25


def test_a_difference_in_text_alone_is_a_high_figure_and_no_excess(textual) -> None:
    row = row_of(textual, "model")
    assert row["min_f1"].value > 0.9
    assert abs(row["excess"].value) < 0.05
    assert row["excess"].low <= 0.02
    assert row["gain"].low < 0
    assert row["gain"].high < 0.1
    assert row["verdict_kind"] in ("nothing", "unclear")
    assert max(one.value for one in row["auc_excess"]) < 0.05
    # Text is seen by both: no model at all, and a model without memory.
    assert row_of(textual, "blind")["min_f1"].value > 0.9
    assert row_of(textual, "reference")["min_f1"].value > 0.9


def test_permuted_labels_are_at_chance_among_themselves(marked) -> None:
    control = row_of(marked, "control")
    # Non-Memo keeps its own label and its look, so it is told apart all the same.
    assert control["f1"][0].value > 0.7
    # The other three are dealt out anew: an AUC of a half, ± 4 of its standard errors for 80
    # sequences of each class (0.046 each), whatever the CNN leans to.
    among_memorized = control["auc"][3:]
    assert control["auc_pairs"][3:] == [
        "Recite | Reconstruct",
        "Recite | Recollect",
        "Reconstruct | Recollect",
    ]
    assert all(abs(one.value - 0.5) < 0.19 for one in among_memorized)
    assert min(one.value for one in control["f1"][1:]) < 0.5


def test_matching_balances_the_blind_scores_and_leaves_the_mark(mixed) -> None:
    row = row_of(mixed, "model")
    assert row["difference_before"] > BALANCED
    assert row["difference_after"] < BALANCED == 0.1
    assert row["matched_n_per_class"] >= 20
    assert row["matched_note"] is None
    assert row["matched_min_f1"].value > 0.9
    # On sequences chosen by its own scores the blind baseline is weak by construction.
    assert row["matched_blind_min_f1"].value < row_of(mixed, row["matched_by"])["min_f1"].value
    assert row["matched_blind_min_f1"].value < 0.35  # guessing gives a quarter


def test_a_text_that_gives_everything_away_leaves_nothing_to_match(textual) -> None:
    row = row_of(textual, "model")
    assert row["matched_min_f1"].value is None
    assert row["difference_before"] > 1
    assert "too few" in row["matched_note"]
