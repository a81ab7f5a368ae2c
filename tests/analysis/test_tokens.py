"""The token predictor on planted signals: learnt, beside what entropy tells, with level 1."""

import numpy as np
import pytest
import torch

from figure_columns import apart
from mnemoscope.analysis.rows import generate_by_level, states_of
from mnemoscope.analysis.tokens import (
    Settings,
    Sides,
    analyse,
    course_of,
    predict,
    score,
    split_rows,
)
from mnemoscope.errors import UserError
from tests.analysis.conftest import assert_copies_tell_nothing_new


def _planted(n: int = 400, steps: int = 6, width: int = 8):
    """A token is right where its state lies on one side of a plane; entropy says nothing."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(n, steps, width)).astype(np.float32)
    is_right = states @ rng.normal(size=width) > 0
    return states, rng.random((n, steps)).astype(np.float32), is_right


SIDES = Sides(np.arange(400) >= 300, (np.arange(400) >= 260) & (np.arange(400) < 300))


def accuracy(inputs, right):
    return ((predict(inputs, right, SIDES) > 0.5) == right[300:]).mean()


def test_planted_signals_are_learnt_and_what_says_nothing_is_at_chance() -> None:
    states, entropy, is_right = _planted()
    both = np.concatenate([states, course_of(entropy)], axis=-1)
    assert accuracy(both, is_right) > 0.93
    assert abs(accuracy(course_of(entropy), is_right) - 0.5) < 0.08  # 600 tokens: 4 errors
    # Wrong from the first high entropy on: its course tells that, the token's own does not.
    by_course = np.maximum.accumulate(entropy, axis=1) < 0.8
    assert accuracy(course_of(entropy), by_course) > 0.95
    assert accuracy(course_of(entropy)[..., :1], by_course) < 0.85
    assert accuracy(both, by_course) > 0.93  # the states, which say nothing, cost little


def test_the_course_of_entropy_is_that_up_to_each_token() -> None:
    found = course_of(np.array([[1.0, 3.0, 2.0]]))
    wanted = [[1, 1, 1, 0], [3, 3, 4, 1], [2, 3, 6, 2]]
    assert found[0].tolist() == wanted


def test_neither_test_rows_nor_later_tokens_change_a_prediction() -> None:
    states, _, is_right = _planted()
    other = is_right.copy()
    other[300:] = ~other[300:]
    found = predict(states, is_right, SIDES)
    np.testing.assert_array_equal(found, predict(states, other, SIDES))
    moved = states.copy()
    moved[300, 5] += 3.0  # the last token of the first test row
    later = predict(moved, is_right, SIDES)
    np.testing.assert_array_equal(found[0, :5], later[0, :5])
    assert found[0, 5] != later[0, 5]


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
    result = analyse(taught, Settings(n_sequences=None))
    scores = apart(result.frames["scores"])
    assert scores.height == 8
    assert "hidden states add" in result.sentence
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
