"""The excess and its interval equal ones written out as loops."""

import numpy as np
import pytest
from benchmark_cases import noisy, votes_of
from scipy.stats import t

from mnemoscope.benchmark.excess import Votes, measure_excess

TRUE = np.arange(90) % 3


def source(share_right: float, seeds: list[int], salt: int, true: np.ndarray = TRUE) -> Votes:
    """Two settings for each seed."""
    runs = [seed for seed in seeds for _ in range(2)]
    predicted = np.stack([noisy(true, share_right, 1000 * salt + i) for i in range(len(runs))])
    return votes_of(true, predicted, runs, 3)


def slow_min_f1(votes: Votes, rows: np.ndarray, runs: list[int]) -> float:
    """Min-F1 of the predictions of these runs for these sequences, laid end to end."""
    true, predicted = votes.true[rows], votes.predicted[np.ix_(runs, rows)]
    f1 = []
    for c in range(3):
        hits = sum(((true == c) & (run == c)).sum() for run in predicted)
        said, there = (predicted == c).sum(), len(runs) * (true == c).sum()
        f1.append(2 * hits / (said + there))
    return float(min(f1))


def slow_interval(
    model: Votes, controls: dict[str, Votes], n_resamples: int, seed: int
) -> tuple[float, float]:
    """Resample sequences within their class one at a time; leave each seed out in turn.

    Each control has its own difference; its variance is that of the resamples and the jackknife's
    over seeds, its ends are Student's t. The lower end is the smallest, the upper the smallest of
    those that hold together.
    """
    generator = np.random.default_rng(seed)
    rows = np.arange(len(model.true))
    ends = []
    for control in controls.values():
        pair = (model, control)
        every = [list(range(len(one.predicted))) for one in pair]
        value = slow_min_f1(model, rows, every[0]) - slow_min_f1(control, rows, every[1])
        drawn = []
        for _ in range(n_resamples):
            chosen = [generator.choice(np.flatnonzero(model.true == c), 30) for c in range(3)]
            figures = [
                slow_min_f1(one, np.concatenate(chosen), runs)
                for one, runs in zip(pair, every, strict=True)
            ]
            drawn.append(figures[0] - figures[1])
        without = []
        for left_out in (0, 1, 2):
            kept = [
                [run for run in runs if len(set(one.seeds)) == 1 or one.seeds[run] != left_out]
                for one, runs in zip(pair, every, strict=True)
            ]
            figures = [slow_min_f1(*both) for both in zip(pair, (rows, rows), kept, strict=True)]
            without.append(figures[0] - figures[1])
        of_rows, of_seeds = np.var(drawn, ddof=1), 2 / 3 * np.sum((without - np.mean(without)) ** 2)
        freedom = (of_rows + of_seeds) ** 2 / (of_rows**2 / 29 + of_seeds**2 / 2)
        one_side, of_all = t.ppf([0.975, 1 - 0.025 / len(controls)], freedom)
        deviation = np.sqrt(of_rows + of_seeds)
        ends.append((value - one_side * deviation, value + of_all * deviation))
    low, high = np.min(ends, axis=0)
    return low, high


@pytest.fixture
def sources() -> tuple[Votes, dict[str, Votes]]:
    seeds = [0, 1, 2]
    controls = {
        "blind": source(0.45, seeds, 1),
        "ngram": source(0.4, [0], 2),
        "reference": source(0.5, seeds, 3),
    }
    return source(0.7, seeds, 4), controls


def test_excess_is_min_f1_minus_the_largest_control_and_its_interval_one_written_out(
    sources,
) -> None:
    model, controls = sources
    found = measure_excess(model, controls, n_resamples=4000, seed=0)
    rows = np.arange(90)
    figures = {
        name: slow_min_f1(votes, rows, list(range(len(votes.predicted))))
        for name, votes in {"model": model, **controls}.items()
    }
    best = max(controls, key=lambda name: figures[name])
    assert found.strongest == best
    assert found.value == pytest.approx(figures["model"] - figures[best], abs=1e-12)
    low, high = slow_interval(model, controls, 400, seed=1)
    # Other draws: a standard deviation from 400 has a standard error of 1 / sqrt(800), 3.5 %, of
    # itself (about .06), times a quantile of up to 2.6; 4 of these.
    assert found.low == pytest.approx(low, abs=0.025)
    assert found.high == pytest.approx(high, abs=0.025)
    assert found.high - found.low > 0.1
    assert found.n_trainings == 3


def test_fewer_trainings_of_one_source_are_counted(sources) -> None:
    model, controls = sources
    one = source(0.5, [0], 3)
    fewer = measure_excess(model, controls | {"reference": one}, n_resamples=50, seed=0)
    assert fewer.n_trainings == 1
    # The n-grams, no CNN, have one run by design.
    only = measure_excess(model, {"ngram": controls["ngram"]}, n_resamples=50, seed=0)
    assert only.n_trainings == 3


def test_another_control_can_only_lower_the_excess_and_one_of_its_own_leaves_none(sources) -> None:
    model, controls = sources
    fewer = measure_excess(model, {"ngram": controls["ngram"]}, n_resamples=300, seed=0)
    more = measure_excess(model, controls, n_resamples=300, seed=0)
    assert more.value <= fewer.value
    assert more.low <= fewer.low
    itself = measure_excess(model, {"blind": model}, n_resamples=200, seed=0)
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)  # paired: every draw cancels
    with pytest.raises(ValueError, match="other sequences or classes"):
        measure_excess(model, {"blind": model.at(np.arange(9))}, n_resamples=10, seed=0)
    with pytest.raises(ValueError, match="no control"):
        measure_excess(model, {}, n_resamples=10, seed=0)
