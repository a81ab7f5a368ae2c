"""Means, distances and projection against closed forms; a planted parting found, chance not."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.analysis.embeddings import (
    Settings,
    analyse,
    distances,
    from_top,
    mean_noise,
    mean_states,
    project,
)
from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.analysis.rows import Generated, choose_levels
from mnemoscope.errors import UserError

RNG = np.random.default_rng(0)


def test_means_and_distances_are_the_closed_forms() -> None:
    states, level = RNG.normal(size=(30, 4, 6)), np.arange(30) % 3
    means = mean_states(states, level, [0, 2])
    assert means.shape == (2, 4, 6)
    np.testing.assert_allclose(means[1], states[2::3].mean(axis=0))
    cosine, euclidean = (distances(means, metric) for metric in ("cosine", "euclidean"))
    assert cosine.shape == euclidean.shape == (4, 2, 2)
    for step in range(4):
        one, other = means[:, step]
        angle = one @ other / np.sqrt((one @ one) * (other @ other))
        assert cosine[step, 0, 1] == pytest.approx(1 - angle)
        assert euclidean[step, 1, 0] == pytest.approx(np.sqrt(((one - other) ** 2).sum()))
        assert cosine[step, 0, 0] == pytest.approx(0, abs=1e-12)
    # right angles, opposites and a 3-4-5 triangle
    by_hand = np.array([[[3.0, 0.0]], [[0.0, 4.0]], [[-3.0, 0.0]]])
    np.testing.assert_allclose(
        distances(by_hand, "cosine")[0], [[0, 1, 2], [1, 0, 1], [2, 1, 0]], atol=1e-12
    )
    np.testing.assert_allclose(
        distances(by_hand, "euclidean")[0], [[0, 5, 6], [5, 0, 5], [6, 5, 0]], atol=1e-12
    )


def test_the_projection_is_the_closed_form() -> None:
    """Singular vectors of the centred matrix; the signs of components are free."""
    means = RNG.normal(size=(3, 5, 8)) * np.arange(8, 0, -1)
    places, explained = project(means)
    flat = means.reshape(15, 8)
    centred = flat - flat.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(
        np.abs(places.reshape(15, 2)), np.abs(centred @ axes[:2].T), atol=1e-9
    )
    np.testing.assert_allclose(explained, (values**2 / (values**2).sum())[:2])


def test_noise_is_taken_off_without_bias() -> None:
    """Over many draws of small groups the squared distance of their true means comes out."""
    true = np.array([[0.5, 0, 0, 1], [0, 0.5, 0, 1.0]])
    plain, freed = [], []
    level = np.repeat([0, 1], 8)
    for _ in range(600):
        states = (true[level] + RNG.normal(size=(16, 4)) * 0.5)[:, None]
        means, noise = mean_states(states, level, [0, 1]), mean_noise(states, level, [0, 1])
        one = distances(means, "euclidean")[0, 0, 1]
        plain.append(one**2)
        freed.append(one**2 - noise.sum())
        assert distances(means, "euclidean", noise)[0, 0, 1] == pytest.approx(
            np.sqrt(max(freed[-1], 0))
        )
    # variance .25 in 4 dimensions over 8 sequences, twice: .25 too much
    assert np.mean(plain) == pytest.approx(0.5 + 0.25, abs=0.06)
    assert np.mean(freed) == pytest.approx(0.5, abs=0.06)
    short = np.array([[[0.1, 0.0]], [[2.0, 0.0]]])  # the first no longer than its noise
    assert np.isnan(distances(short, "cosine", np.array([[0.5], [0.1]]))[0, 0, 1])


def test_the_angle_of_noisy_means_is_that_of_the_true_ones() -> None:
    """In 400 dimensions noise makes means of 40 nearly upright: 1 - 1 / (1.25 + 2.5)."""
    true = np.zeros((2, 400))
    true[:, :4] = [[0.5, 0, 0, 1], [0, 0.5, 0, 1]]
    level, plain, freed = np.repeat([0, 1], 40), [], []
    for _ in range(40):
        states = (true[level] + RNG.normal(size=(80, 400)) * 0.5)[:, None]
        means, noise = mean_states(states, level, [0, 1]), mean_noise(states, level, [0, 1])
        plain.append(distances(means, "cosine")[0, 0, 1])
        freed.append(distances(means, "cosine", noise)[0, 0, 1])
    assert np.median(plain) == pytest.approx(1 - 1 / 3.75, abs=0.03)
    assert np.median(freed) == pytest.approx(1 - 1 / 1.25, abs=0.1)


def test_groups_that_part_at_a_step_are_told_from_chance_there_alone() -> None:
    one, top = RNG.normal(size=(60, 3, 10)) + 1, RNG.normal(size=(80, 3, 10)) + 1
    one[:, 2] += np.linspace(-2, 2, 10)  # they part at the third step
    found = from_top(one, top, n_resamples=300, seed=1)
    for metric in ("cosine", "euclidean"):
        same, _, parted = found.filter(metric=metric).to_dicts()
        assert same["plain"] < 1.3 * same["chance"]
        assert same["low"] == 0.0
        assert parted["plain"] > 3 * parted["chance"]
        assert parted["chance"] < parted["low"] <= parted["freed"] <= parted["high"]
    wanted = np.linalg.norm(np.linspace(-2, 2, 10))  # the distance that is planted
    assert parted["low"] < wanted < parted["high"]
    assert from_top(one, top, n_resamples=300, seed=1).equals(found)


def test_levels_are_drawn_evenly_by_the_seed() -> None:
    level = np.array([0] * 50 + [3] * 4 + [16] * 30)
    chosen = choose_levels(level, per_level=10, seed=5)
    assert np.bincount(level[chosen])[[0, 3, 16]].tolist() == [10, 4, 10]
    assert (np.diff(chosen) > 0).all()
    assert choose_levels(level, per_level=10, seed=6).tolist() != chosen.tolist()


def _study(monkeypatch: pytest.MonkeyPatch, level: np.ndarray, states: np.ndarray) -> None:
    import mnemoscope.analysis.embeddings as module

    rows = pl.DataFrame(
        {"sequence_id": np.arange(len(level)), "genre": np.where(level > 1, "prose", "code")}
    )
    is_right = np.arange(4) < level[:, None]
    generated = Generated(rows, np.zeros((len(level), 8), dtype=np.int32), is_right)
    monkeypatch.setattr(module, "generate_by_level", lambda *args, **kwargs: generated)
    monkeypatch.setattr(module, "states_of", lambda inputs, generated: states)


def _inputs() -> AnalysisInputs:
    return AnalysisInputs(where="", table=pl.DataFrame(), load_model=lambda: None)


def test_the_analysis_orders_levels_that_are_planted_on_a_line(monkeypatch) -> None:
    """Levels at angles in their order, from the second step on: rank correlation 1."""
    level = np.repeat([0, 1, 2, 3, 4], 20)
    angle = np.outer(level / 4, [0, 1, 1, 1])
    states = np.stack([np.cos(angle), np.sin(angle)], axis=-1) + RNG.normal(size=(100, 4, 2)) / 50
    _study(monkeypatch, level, states)
    result = analyse(_inputs(), Settings(n_steps=4, n_resamples=50))
    order = float(result.sentence.rstrip(".").split("rank correlation of ")[1])
    assert order > 0.9
    assert "over 10 pairs of levels" in result.sentence
    far = result.frames["from_top"].filter(metric="cosine", level=0)
    assert far["plain"].to_list()[0] < 0.001
    assert far["plain"].to_list()[1:] == pytest.approx([1 - np.cos(1)] * 3, rel=0.05)
    last = result.frames["pairs"].filter(step=4, level=4, other=0)
    assert last["cosine"].item() == pytest.approx(far["plain"][-1])
    assert len(result.figures) == 4
    counts = result.frames["levels"]
    assert counts["n"].to_list() == [20] * 5
    assert counts["genre_code"].to_list() == [1, 1, 0, 0, 0]


def test_no_sequence_all_right_is_refused_in_one_line(monkeypatch) -> None:
    with pytest.raises(UserError, match="33 steps, but suffixes of 32 tokens"):
        analyse(_inputs(), Settings(n_steps=33))
    _study(monkeypatch, np.repeat([0, 1], 20), np.ones((40, 4, 2)))
    with pytest.raises(UserError, match="0 sequences with all 4 tokens right and 40 others"):
        analyse(_inputs(), Settings(n_steps=4))


def test_the_interval_of_a_distance_draws_groups() -> None:
    """Every sequence five times: the interval stays where groups are drawn; none of nine groups."""
    rng = np.random.default_rng(3)
    one, top = rng.normal(0, 1, (30, 2, 4)), rng.normal(0, 1, (40, 2, 4))
    one[..., 0] += 5
    top[..., 1] += 5
    once = from_top(one, top, n_resamples=300, seed=1)
    many = [np.tile(part, (5, 1, 1)) for part in (one, top)]
    owners = np.concatenate([np.tile(np.arange(30), 5), np.tile(30 + np.arange(40), 5)])
    grouped = from_top(*many, n_resamples=300, seed=1, groups=owners)
    assert grouped["plain"].to_list() == pytest.approx(once["plain"].to_list())
    loose = from_top(*many, n_resamples=300, seed=1)
    reach = [(frame["high"] - frame["low"]).to_numpy() for frame in (once, grouped, loose)]
    assert reach[1] == pytest.approx(reach[0], rel=0.25)  # freed of less noise, it lies elsewhere
    assert (reach[1] > 1.7 * reach[2]).all()
    few = from_top(*many, n_resamples=300, seed=1, groups=owners % 9)
    assert few["low"].null_count() == few["high"].null_count() == few.height
