"""Means, distances and projection against closed forms; a planted parting found, chance not."""

import numpy as np
import polars as pl
import pytest

from figure_columns import apart
from mnemoscope.analysis import embeddings as module
from mnemoscope.analysis.embeddings import (
    Settings,
    analyse,
    distances,
    from_top,
    mean_noise,
    mean_states,
    project,
)
from mnemoscope.analysis.rows import Generated
from mnemoscope.errors import UserError
from mnemoscope.stats import rows_of
from tests.analysis.conftest import assert_copies_tell_nothing_new

RNG = np.random.default_rng(0)


def test_means_distances_and_projection_are_the_closed_forms() -> None:
    states, level = RNG.normal(size=(30, 4, 6)), np.arange(30) % 3
    means = mean_states(states, level, [0, 2])
    np.testing.assert_allclose(means, [states[0::3].mean(axis=0), states[2::3].mean(axis=0)])
    assert distances(means, "cosine").shape == (4, 2, 2)
    # right angles, opposites and a 3-4-5 triangle; at the second step all are one
    points = np.array([[[3.0, 0.0]] * 2, [[0.0, 4.0], [3.0, 0.0]], [[-3.0, 0.0], [3.0, 0.0]]])
    for metric, wanted in {
        "cosine": [[0, 1, 2], [1, 0, 1], [2, 1, 0]],
        "euclidean": [[0, 5, 6], [5, 0, 5], [6, 5, 0]],
    }.items():
        np.testing.assert_allclose(distances(points, metric), [wanted, np.zeros((3, 3))], atol=1e-9)
    # Singular vectors of the centred matrix; the signs of components are free.
    means = RNG.normal(size=(3, 5, 8)) * np.arange(8, 0, -1)
    places, explained = project(means)
    flat = means.reshape(15, 8)
    centred = flat - flat.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(
        np.abs(places.reshape(15, 2)), np.abs(centred @ axes[:2].T), atol=1e-9
    )
    np.testing.assert_allclose(explained, (values**2 / (values**2).sum())[:2])


@pytest.mark.parametrize(
    ("metric", "width", "n", "n_draws", "plain", "free", "within"),
    [
        # Squared, of groups of 8 in 4 dimensions: variance .25, twice, is .25 too much.
        ("euclidean", 4, 8, 600, 0.5 + 0.25, 0.5, (0.06, 0.06)),
        # In 400 dimensions noise makes means of 40 nearly upright: 1 - 1 / (1.25 + 2.5).
        ("cosine", 400, 40, 30, 1 - 1 / 3.75, 1 - 1 / 1.25, (0.03, 0.1)),
    ],
)
def test_noise_is_taken_off_without_bias(metric, width, n, n_draws, plain, free, within) -> None:
    """Over many draws of small groups the distance or angle of their true means comes out."""
    true = np.zeros((2, width))
    true[:, :4] = [[0.5, 0, 0, 1], [0, 0.5, 0, 1]]
    level, found = np.repeat([0, 1], n), []
    for _ in range(n_draws):
        states = (true[level] + RNG.normal(size=(2 * n, width)) * 0.5)[:, None]
        means, noise = mean_states(states, level, [0, 1]), mean_noise(states, level, [0, 1])
        one, freed = (distances(means, metric, *of)[0, 0, 1] for of in ((), (noise,)))
        if metric == "euclidean":
            one, squared = one**2, one**2 - noise.sum()
            assert freed == pytest.approx(np.sqrt(max(squared, 0)))
            freed = squared
        found.append([one, freed])
    middle = (np.mean if metric == "euclidean" else np.median)(found, axis=0)
    assert middle[0] == pytest.approx(plain, abs=within[0])
    assert middle[1] == pytest.approx(free, abs=within[1])
    short = np.array([[[0.1, 0.0]], [[2.0, 0.0]]])  # the first no longer than its noise
    assert np.isnan(distances(short, "cosine", np.array([[0.5], [0.1]]))[0, 0, 1])


def test_groups_that_part_at_a_step_are_told_from_chance_there_alone() -> None:
    one, top = RNG.normal(size=(60, 3, 10)) + 1, RNG.normal(size=(80, 3, 10)) + 1
    one[:, 2] += np.linspace(-2, 2, 10)  # they part at the third step
    found = apart(from_top(one, top, n_resamples=200, seed=1))
    for metric in ("cosine", "euclidean"):
        same, _, parted = found.filter(metric=metric).to_dicts()
        assert same["plain"] < 1.3 * same["chance"]
        assert same["freed_low"] == 0.0
        assert parted["plain"] > 3 * parted["chance"]
        assert parted["chance"] < parted["freed_low"] <= parted["freed"] <= parted["freed_high"]
    wanted = np.linalg.norm(np.linspace(-2, 2, 10))  # the distance that is planted
    assert parted["freed_low"] < wanted < parted["freed_high"]
    assert apart(from_top(one, top, n_resamples=200, seed=1)).equals(found)


def test_the_analysis_orders_levels_that_are_planted_on_a_line(monkeypatch, inputs_with) -> None:
    """Levels at angles in their order, from the second step on: rank correlation 1."""

    def result_of(level, states):
        rows = pl.DataFrame({"sequence_id": np.arange(len(level))})
        is_right = np.arange(4) < level[:, None]
        generated = Generated(rows, np.zeros((len(level), 8), dtype=np.int32), is_right)
        monkeypatch.setattr(module, "generate_by_level", lambda *args, **kwargs: generated)
        monkeypatch.setattr(module, "states_of", lambda inputs, generated: states)
        return analyse(inputs_with(rows), Settings(n_steps=4, n_resamples=50))

    with pytest.raises(UserError, match="33 steps, but suffixes of 32 tokens"):
        analyse(inputs_with(pl.DataFrame()), Settings(n_steps=33))
    level = np.repeat([0, 1, 2, 3, 4], 20)
    angle = np.outer(level / 4, [0, 1, 1, 1])
    states = np.stack([np.cos(angle), np.sin(angle)], axis=-1) + RNG.normal(size=(100, 4, 2)) / 50
    result = result_of(level, states)
    pairs, order, shuffled = result.frames["order"].row(0)
    assert pairs == 10
    assert order > 0.9 > shuffled > 0
    assert "over 10 pairs of levels" in result.sentence
    blind = result_of(RNG.permutation(level), states).frames["order"]
    assert blind["correlation"].item() < 0.9
    assert blind["shuffled"].item() == pytest.approx(shuffled, abs=0.25)  # of 50 shuffles
    far = result.frames["from_top"].filter(metric="cosine", level=0)
    assert far["plain"].to_list()[0] < 0.001
    assert far["plain"].to_list()[1:] == pytest.approx([1 - np.cos(1)] * 3, rel=0.05)
    last = result.frames["pairs"].filter(step=4, level=4, other=0)
    assert last["cosine"].item() == pytest.approx(far["plain"][-1])
    assert len(result.figures) == 4
    assert result.frames["levels"]["n"].to_list() == [20] * 5
    with pytest.raises(UserError, match="0 sequences with all 4 tokens right and 40 others"):
        result_of(np.repeat([0, 1], 20), np.ones((40, 4, 2)))


def test_the_interval_of_a_distance_draws_groups() -> None:
    rng = np.random.default_rng(3)
    states, is_one = rng.normal(0, 1, (70, 2, 4)), np.arange(70) < 30
    states[is_one, :, 0] += 5
    states[~is_one, :, 1] += 5

    def measure(rows, groups):
        one = is_one[rows]
        sides, owners = (states[rows[one]], states[rows[~one]]), [*groups[one], *groups[~one]]
        found = rows_of(from_top(*sides, n_resamples=200, seed=1, groups=np.array(owners)))
        return [row["freed"] for row in found]

    assert_copies_tell_nothing_new(measure, 70, rel=0.25)
