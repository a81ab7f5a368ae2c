"""Estimators against closed forms and the authors' toy; planted kinds; a model beside itself."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

import mnemoscope.analysis.dimension as module
from experiments.dimension.run import normal_bundle
from experiments.spread.run import measure
from figure_columns import apart
from mnemoscope.analysis.dimension import (
    KINDS,
    Settings,
    analyse,
    is_flat,
    kinds_of_memory,
    participation_ratio,
    two_nn,
)
from mnemoscope.analysis.inputs import OtherModel
from mnemoscope.diffusion.measures import flipd
from mnemoscope.errors import UserError
from mnemoscope.lm.load import load_model
from tests.tiny_models import save_model

SIGMA = 0.03


def _mixture(centres, *, weights=None, spread=0.0):
    """Exact score of points with these weights, each a Gaussian, after noise of `SIGMA`.

    `spread` is the standard deviation of each before the noise: 0 is the empirical distribution.
    """
    centres = np.atleast_2d(np.asarray(centres, dtype=float))
    variance = np.broadcast_to(spread, len(centres)) ** 2 + SIGMA**2
    weights = np.ones(len(centres)) if weights is None else np.asarray(weights, dtype=float)
    logs = np.log(weights) - centres.shape[1] / 2 * np.log(variance)

    def score(points):
        apart = centres - points[:, None]
        log = logs - 0.5 * (apart**2).sum(-1) / variance
        share = np.exp(log - log.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        return ((share / variance)[..., None] * apart).sum(axis=1)

    return score


def _on_circle(rng, n):
    angle = rng.vonmises(0, 1, n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.mark.parametrize(("rank", "width", "scale"), [(0, 3, 1.0), (2, 5, 0.8), (4, 4, 1.0)])
def test_flipd_of_a_flat_gaussian_is_the_closed_form(rank, width, scale) -> None:
    """Variance 1 in `rank` directions: rank · ψ² / (ψ² + σ²) at its centre, whatever the width."""
    variance = np.where(np.arange(width) < rank, scale**2, 0) + SIGMA**2
    wanted = rank * scale**2 / (scale**2 + SIGMA**2)
    found = flipd(lambda x: -x / variance, np.zeros((2, width)), SIGMA, scale=scale)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    bundle = normal_bundle(lambda x: -x / variance, np.zeros((2, width)), SIGMA, scale=scale)
    assert bundle.tolist() == [rank] * 2


def test_the_toy_of_the_paper_has_its_dimensions() -> None:
    """A circle, a point of great mass and a blob in the plane; and the same circle of few points.

    The score of an endless sample is what a well fitted model learns, that of few points what an
    overfitted one does: 1 on the circle, 0 at the point (DD-Mem) and at few points (OD-Mem), 2 in
    the blob. Spread over seeds: FLIPD differs by 0.05 (a standard deviation) on the circle.
    """
    seed = 0
    rng = np.random.default_rng(seed)
    point, blob = np.array([[3.0, 0.0]]), np.array([[0.0, 4.0]])
    n = 2000
    fitted = _mixture(
        np.concatenate([_on_circle(rng, n), point, blob]),
        weights=np.concatenate([np.ones(n), [n / 2, n / 2]]),
        spread=np.concatenate([np.zeros(n + 1), [1.0]]),
    )
    angle = np.pi / 4 * np.arange(8) + rng.uniform(-0.2, 0.2, 8)
    few = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    overfitted = _mixture(few)
    there = blob + rng.normal(0, 0.5, (20, 2))
    for wanted, points in {1: _on_circle(rng, 20), 0: point, 2: there}.items():
        found = normal_bundle(fitted, points, SIGMA, n_scores=64, seed=seed)
        assert np.median(flipd(fitted, points, SIGMA)) == pytest.approx(wanted, abs=0.15)
        assert (found == wanted).mean() >= 0.9
    # Few points: 0 under the model where the data's manifold has 1.
    assert flipd(overfitted, few, SIGMA) == pytest.approx(np.zeros(len(few)), abs=0.05)
    assert not normal_bundle(overfitted, few, SIGMA, n_scores=64, seed=seed).any()
    assert np.median(flipd(fitted, few, SIGMA)) == pytest.approx(1, abs=0.25)


def test_the_participation_ratio_is_the_closed_form() -> None:
    for width in (1, 3, 7):
        cross = np.concatenate([np.eye(width), -np.eye(width)])
        assert participation_ratio(cross) == pytest.approx(width)
    # variances 4, 1: (4 + 1)² / (16 + 1), and neither place, scale nor rotation matters
    cloud = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0][:2]
    assert participation_ratio(cloud) == pytest.approx(25 / 17)
    assert participation_ratio(7 + 30 * cloud @ turn) == pytest.approx(25 / 17)
    assert participation_ratio(np.full((9, 4), 1 / 3)) == 0.0
    line = np.outer(np.arange(5.0), [1, 2, 3])
    assert participation_ratio(line) == pytest.approx(1)


def _flat(rng, n, dimension, width=10):
    """A uniform ball of a dimension in a wider space."""
    ball = rng.normal(size=(n, dimension))
    ball *= rng.random((n, 1)) ** (1 / dimension) / np.linalg.norm(ball, axis=1, keepdims=True)
    return ball @ np.linalg.qr(rng.normal(size=(width, width)))[0][:dimension]


def test_the_spread_of_few_draws_is_as_far_from_a_dimension_as_the_page_says() -> None:
    """23 D / (D + 24) of 24 normal draws; a circle has an eigenvalue for each side of its plane."""
    for row in measure(24, repeats=40):
        space = row["dimension"] + (row["shape"] in ("circle", "sphere"))
        value, low, high = row["participation_ratio"]
        if row["shape"].startswith("normal"):
            assert value == pytest.approx(23 * space / (space + 24), rel=0.02)
            assert high < min(space, 23)
        else:
            assert row["dimension"] < low < high < space
    (circle, *_) = measure(1000, repeats=2)
    assert circle["participation_ratio"].value == pytest.approx(2, rel=0.01)


def test_neighbours_find_the_dimension_of_balls_circles_and_points() -> None:
    """Mean over seeds; a ball's border makes it look thinner, by up to 10 % in 5 dimensions."""
    for dimension in (1, 2, 5):
        found = [two_nn(_flat(np.random.default_rng(seed), 600, dimension)) for seed in range(6)]
        assert np.mean(found) == pytest.approx(dimension, rel=0.1)
        assert np.std(found) < 0.1 * dimension
    circle = _on_circle(np.random.default_rng(1), 600)
    assert two_nn(circle) == pytest.approx(1, rel=0.15)
    assert two_nn(5 + 3 * circle) == pytest.approx(two_nn(circle))
    assert two_nn(np.ones((30, 4))) == 0.0
    assert np.isnan(two_nn(np.ones((2, 4))))


def test_kinds_are_told_by_what_is_small_beside_the_control() -> None:
    rng = np.random.default_rng(0)
    control = rng.uniform(15, 22, (2, 60))
    own = np.concatenate([[1, 1, 20, 20], control[0]])
    data = np.concatenate([[20, 1, 20, 1], control[1]])
    found = kinds_of_memory(own, data, np.arange(64) >= 4)
    assert found[:4].to_list() == ["OD-Mem", "DD-Mem", "neither", "neither"]
    # A tenth of the control is below its own tenth, and none of it is small besides.
    assert (found[4:] == KINDS[2]).all()


def test_a_reference_without_knowledge_is_refused_and_makes_nothing_small() -> None:
    """Spreads around 18 of 24 draws, as a network with random weights gives them."""
    rng = np.random.default_rng(1)
    own = np.concatenate([rng.uniform(0, 2, 30), rng.uniform(10, 20, 60)])
    data = rng.normal(18, 0.5, 90)
    assert is_flat(data)
    assert "DD-Mem" not in kinds_of_memory(own, data, np.arange(90) >= 30).to_list()
    assert not is_flat(np.concatenate([rng.uniform(0, 5, 30), data[30:]]))


@pytest.mark.parametrize(("true", "wanted"), [(10, 6.8), (23, 11.3), (256, 21.0)])
def test_the_spread_of_few_draws_is_below_the_dimension_as_the_page_says(true, wanted) -> None:
    """Of n independent normal draws in D dimensions about D (n - 1) / (D + n)."""
    clouds = (np.random.default_rng(seed).normal(size=(24, true)) for seed in range(200))
    assert np.mean([participation_ratio(one) for one in clouds]) == pytest.approx(wanted, rel=0.03)
    assert true * 23 / (true + 24) == pytest.approx(wanted, abs=0.05)


@pytest.fixture
def any_reference(monkeypatch) -> None:
    """The tiny models have random weights, which would be refused for a reference."""
    monkeypatch.setattr(module, "is_flat", lambda data: False)


SMALL = Settings(n_draws=6, n_tokens=4, per_class=12, n_resamples=20)


@pytest.mark.usefixtures("any_reference")
def test_a_model_beside_itself_has_no_gap(guessable) -> None:
    """Both draw from one distribution by the same numbers: nothing is left to tell classes by."""
    inputs = replace(guessable, others=(OtherModel("itself", guessable.load_model),))
    result = analyse(inputs, SMALL)
    found = result.frames["sequences"]
    assert found["class"].value_counts().height == 3
    gaps = ["dimension_gap", "two_nn_gap", "entropy_gap", "log_ratio"]
    assert all((found[gap] == 0).all() for gap in gaps)
    told = apart(result.frames["aucs"])
    assert (told.filter(pl.col("value").is_in(gaps))["auc"] == 0.5).all()
    # The rule is what draws the line between these two; nothing else knows it.
    assert told.filter(against="Guess", value="guessable")["auc"].item() == 1
    assert not (found["kind"] == "OD-Mem").any()
    shares = apart(result.frames["kinds"]).group_by("class").agg(pl.col("share").sum())
    assert shares["share"].to_list() == pytest.approx([1.0] * 3)
    assert analyse(inputs, SMALL).frames["sequences"].equals(found)


@pytest.mark.usefixtures("any_reference")
def test_each_value_stands_beside_geometry_with_the_auc_of_scikit_learn(guessable, tmp_path):
    """Some of what is reproduced was never seen: a truth that owes nothing to the rule."""
    other = load_model(save_model(tmp_path / "other", seed=5))
    row = pl.int_range(pl.len())
    unseen = pl.when((row % 3 == 0) & (row < 45)).then(0).otherwise("duplicates")
    inputs = replace(
        guessable,
        table=guessable.table.with_columns(duplicates=unseen),
        others=(OtherModel("other", lambda: other),),
    )
    result = analyse(inputs, SMALL)
    found, told = result.frames["sequences"], apart(result.frames["aucs"])
    pairs = told.select("of", "against").unique(maintain_order=True).rows()
    assert pairs[-1] == ("seen, reproduced", "unseen, reproduced")
    assert len(pairs) == 4
    falling = ("log_reference", "reference_right", "guessable")
    for name, against in pairs:
        own = ["Recall", "Guess"] if name != "Recall" else [name]
        part = found.filter(pl.col("class").is_in([*own, against]))
        truth = part["class"] != against
        ranks = rankdata(part["dimension_gap"])
        for row in told.filter(of=name, against=against).iter_rows(named=True):
            values = part[row["value"]].to_numpy() * (-1 if row["value"] in falling else 1)
            wanted = roc_auc_score(truth, values)
            assert row["auc"] == pytest.approx(wanted)
            if row["value"] in ("dimension_gap", "two_nn_gap"):
                assert row["added"] is None
            else:
                both = roc_auc_score(truth, ranks + rankdata(values))
                assert row["added"] == pytest.approx(both - wanted)
    # The text's own tokens, of which the reference gets right what chance gives.
    ratio = found["log_model"] - found["log_reference"]
    assert found["log_ratio"].to_list() == pytest.approx(ratio.to_list())
    assert (found["reference_right"] <= 0.25).all()
    assert set(found["guessable"]) <= {0.0, 1.0}
    assert (found["dimension_model"] <= SMALL.n_draws - 1).all()
    assert (found["entropy_model"] <= SMALL.n_tokens * np.log(320) + 1e-6).all()
    # What the model writes greedily it finds likelier than a stranger does.
    assert found.filter(pl.col("class") != "not reproduced")["log_ratio"].median() > 0
    assert "Drawn at temperature 1, where 0.0 % of Recall's draws" in result.sentence
    cold = SMALL.model_copy(update={"temperature": 1e-4})
    assert "where 100.0 % of Recall's draws are its text" in analyse(inputs, cold).sentence
    assert len(result.figures) == 3


def test_bad_input_is_refused_in_one_line(guessable) -> None:
    itself = replace(guessable, others=(OtherModel("itself", guessable.load_model),))
    for inputs, settings, said in (
        (guessable, SMALL, "0 models to compare with; one that never saw"),
        (itself, Settings(n_tokens=33), "33 tokens, but suffixes of 32"),
        (itself, SMALL, "the continuations of itself spread alike after every prefix"),
        (itself, Settings(minimum=50), r"30 sequences of class 'Recall'; 50 are needed"),
    ):
        with pytest.raises(UserError, match=said):
            analyse(inputs, settings)
