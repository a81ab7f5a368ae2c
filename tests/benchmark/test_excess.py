"""The excess and its interval equal a bootstrap written out as loops."""

import numpy as np
import pytest
from benchmark_cases import noisy, votes_of

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


def slow_excess(
    model: Votes, controls: dict[str, Votes], n_resamples: int, seed: int
) -> np.ndarray:
    """Resample sequences within their class, and seeds, one at a time."""
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(n_resamples):
        rows = np.concatenate(
            [
                generator.choice(np.flatnonzero(model.true == c), (model.true == c).sum())
                for c in range(3)
            ]
        )
        chosen: dict[tuple[int, ...], list[int]] = {}
        figures = {}
        for name, votes in {"model": model, **controls}.items():
            seeds = tuple(sorted(set(votes.seeds.tolist())))
            if seeds not in chosen:
                chosen[seeds] = generator.choice(seeds, len(seeds)).tolist()
            runs = [
                run for one in chosen[seeds] for run in np.flatnonzero(votes.seeds == one).tolist()
            ]
            figures[name] = slow_min_f1(votes, rows, runs)
        values.append(figures["model"] - max(figures[name] for name in controls))
    return np.array(values)


@pytest.fixture
def sources() -> tuple[Votes, dict[str, Votes]]:
    seeds = [0, 1, 2]
    controls = {
        "blind": source(0.45, seeds, 1),
        "ngram": source(0.4, [0], 2),
        "reference": source(0.5, seeds, 3),
    }
    return source(0.7, seeds, 4), controls


def test_excess_is_min_f1_minus_the_largest_control(sources) -> None:
    model, controls = sources
    found = measure_excess(model, controls, n_resamples=100, seed=0)
    rows = np.arange(90)
    figures = {
        name: slow_min_f1(votes, rows, list(range(len(votes.predicted))))
        for name, votes in {"model": model, **controls}.items()
    }
    best = max(controls, key=lambda name: figures[name])
    assert found.strongest == best
    assert found.value == pytest.approx(figures["model"] - figures[best], abs=1e-12)


def test_interval_equals_a_bootstrap_in_loops(sources) -> None:
    model, controls = sources
    found = measure_excess(model, controls, n_resamples=4000, seed=0)
    slow = slow_excess(model, controls, 500, seed=1)
    low, high = np.quantile(slow, [0.025, 0.975])
    # Other draws: the end of an interval from 500 resamples has a standard error of about
    # 2.7 / sqrt(500) standard deviations of the excess (.06): .007; 4 of these.
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)
    assert found.high - found.low > 0.1


def test_a_source_against_itself_has_no_excess_and_no_interval(sources) -> None:
    model, _ = sources
    found = measure_excess(model, {"blind": model}, n_resamples=200, seed=0)
    assert (found.value, found.low, found.high) == (0, 0, 0)  # paired: every draw cancels


def test_the_interval_spans_zero_between_equals_and_not_between_unequals() -> None:
    true = np.arange(600) % 3
    strong, equal, weak = (
        source(share, [0, 1], salt, true) for salt, share in enumerate((0.8, 0.8, 0.3))
    )
    even = measure_excess(strong, {"blind": equal}, n_resamples=300, seed=0)
    uneven = measure_excess(strong, {"blind": weak}, n_resamples=300, seed=0)
    assert even.low < 0 < even.high
    assert 0.2 < uneven.low < uneven.value < uneven.high


def test_another_control_can_only_lower_the_excess(sources) -> None:
    model, controls = sources
    fewer = measure_excess(model, {"ngram": controls["ngram"]}, n_resamples=300, seed=0)
    more = measure_excess(model, controls, n_resamples=300, seed=0)
    assert more.value <= fewer.value
    assert more.low <= fewer.low


def test_the_same_seed_gives_the_same_interval(sources) -> None:
    model, controls = sources
    first, second = (measure_excess(model, controls, n_resamples=50, seed=7) for _ in range(2))
    assert first == second


def test_controls_on_other_sequences_or_none_are_refused(sources) -> None:
    model, _ = sources
    with pytest.raises(ValueError, match="other sequences or classes"):
        measure_excess(model, {"blind": model.at(np.arange(9))}, n_resamples=10, seed=0)
    with pytest.raises(ValueError, match="no control"):
        measure_excess(model, {}, n_resamples=10, seed=0)
