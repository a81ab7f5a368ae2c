"""The token predictor on planted signals: learnt, batch-first, with level 1 included."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from figure_columns import apart
from mnemoscope.analysis.rows import generate_by_level, states_of
from mnemoscope.analysis.tokens import (
    Predictor,
    Settings,
    Training,
    analyse,
    predict_by_entropy,
    predict_probabilities,
    score,
    split_rows,
    train_predictor,
)
from mnemoscope.errors import UserError
from mnemoscope.progress import SILENT
from tests.analysis.conftest import assert_copies_tell_nothing_new

SMALL = Training(n_layers=1, n_heads=2, feedforward=16, n_epochs=12, learning_rate=3e-3)


def _planted(n: int = 400, steps: int = 6, width: int = 8):
    """A token is right where its state lies on one side of a plane; entropy says nothing."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(n, steps, width)).astype(np.float32)
    is_right = states @ rng.normal(size=width) > 0
    return states, rng.random((n, steps)).astype(np.float32), is_right


def test_planted_signals_are_learnt_and_what_says_nothing_is_at_chance() -> None:
    states, entropy, is_right = _planted()
    is_test, held_back = np.arange(400) >= 300, np.arange(300) >= 260

    def learnt(right):
        model = train_predictor(states[:300], entropy[:300], right[:300], held_back, SMALL, SILENT)
        return predict_probabilities(model, states[300:], entropy[300:], batch_size=32)

    def accuracy(chance, right):
        return ((chance > 0.5) == right[300:]).mean()

    before = torch.random.get_rng_state()
    chance = learnt(is_right)
    assert torch.equal(before, torch.random.get_rng_state())
    assert accuracy(chance, is_right) > 0.93
    blind = predict_by_entropy(entropy, is_right, is_test)
    assert abs(accuracy(blind, is_right) - 0.5) < 0.08  # 600 tokens: 4 errors
    np.testing.assert_array_equal(chance, learnt(is_right))
    by_entropy = entropy < 0.4
    assert accuracy(predict_by_entropy(entropy, by_entropy, is_test), by_entropy) > 0.95
    # the entropy is one of 513 inputs of the last layer; the commoner answer gives .6
    assert accuracy(learnt(by_entropy), by_entropy) > 0.7


def test_what_is_held_back_is_not_learnt_from() -> None:
    """After one epoch the weights are the same whatever is so of the rows held back."""
    states, entropy, is_right = _planted(80)
    held_back = np.arange(80) >= 60
    other = np.where(held_back[:, None], ~is_right, is_right)
    once = replace(SMALL, n_epochs=1)
    far = states + 100 * held_back[:, None, None].astype(np.float32)
    first, *others = (
        train_predictor(given, entropy, right, held_back, once, SILENT).state_dict()
        for given, right in ((states, is_right), (states, other), (far, is_right))
    )
    for weights in others:
        assert all(torch.equal(first[name], weights[name]) for name in first)


def test_a_prediction_depends_on_its_own_sequence_alone() -> None:
    states, entropy, _ = _planted(n=8)
    other = states.copy()
    other[4:] = 9.0  # the same first four sequences among others
    moved = states.copy()
    moved[0, 5] += 3.0  # a later token of the first
    torch.manual_seed(0)
    model = Predictor(8, Training(n_layers=1, n_heads=2)).eval()
    own, among, later = (
        predict_probabilities(model, one, entropy, batch_size=8) for one in (states, other, moved)
    )
    assert own[:4] == pytest.approx(among[:4], abs=1e-5)
    assert own[0, :5] != pytest.approx(later[0, :5], abs=1e-5)  # it attends from token to token


def test_states_are_those_the_tokens_are_chosen_from(taught) -> None:
    """The head on each state gives the generated token as its best one."""
    generated = generate_by_level(taught, Settings(n_sequences=40, per_level=9), where="test")
    states = states_of(taught, generated)
    head = taught.model().model.get_output_embeddings()
    with torch.no_grad():
        best = head(torch.from_numpy(states)).argmax(dim=-1).numpy()
    np.testing.assert_array_equal(best, generated.tokens[:, 32:])
    wanted = np.stack(generated.rows["tokens"].to_numpy())[:, 32:48]
    np.testing.assert_array_equal(generated.is_right, generated.tokens[:, 32:] == wanted)
    assert (generated.level == 16).sum() == 9  # right throughout, which the original left out
    assert set(generated.level[generated.level < 16]) >= {0}


def test_the_analysis_runs_whole_and_refuses_too_few(taught) -> None:
    result = analyse(taught, Settings(n_sequences=None, n_epochs=2))
    scores = apart(result.frames["scores"])
    assert scores.height == 6
    assert scores["accuracy"].is_between(0, 1).all()
    commoner = scores.filter(predictor="always the commoner", of="tokens")["accuracy"].item()
    assert 0.5 < commoner < 0.85
    with pytest.raises(UserError, match="50 are needed") as error:
        analyse(taught, Settings(n_sequences=20))
    assert "\n" not in str(error.value)


def test_groups_stay_on_one_side_and_sizes_are_kept() -> None:
    groups = np.repeat(np.arange(200), 3)
    sides = split_rows(groups, 0)
    for rows in sides:
        assert set(groups[rows]).isdisjoint(groups[~rows])
    assert not (sides.is_test & sides.held_back).any()
    assert sides.is_test.sum() == pytest.approx(120, abs=3)
    assert sides.held_back.sum() == pytest.approx(60, abs=3)


def test_accuracies_of_a_table_made_by_hand_and_their_intervals_draw_groups() -> None:
    right = np.array([[True, True], [False, True], [False, False], [True, False]] * 5)
    guess = np.array([[True, True], [True, True], [False, False], [False, True]] * 5)

    def measure(rows, groups):
        return [one["accuracy"] for one in score(guess[rows], right[rows], "x", groups)]

    assert [one.value for one in measure(np.arange(20), np.arange(20))] == [0.625, 0.5]
    assert_copies_tell_nothing_new(measure, 20, rel=0.1)
