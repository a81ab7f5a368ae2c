"""Two hundred simulated studies of each kind: how often intervals and verdicts are right."""

import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from verdicts import LEAD, Design, designs, judge, simulate

from mnemoscope.benchmark.excess import smallest_excess

N_STUDIES = 200
LEADS = ("model leads three equal controls", "model leads one strong control")
LEAN = 0.2  # trainings of one source differ by 2 points


@cache
def kinds() -> dict[str, tuple[Design, float]]:
    return designs(LEAN, n_studies=6)


@cache
def studied(
    kind: str, n_trainings: int = 3, n_studies: int = N_STUDIES
) -> tuple[np.ndarray, Counter[str]]:
    """Value and ends of each study, and the verdicts counted."""
    design = replace(kinds()[kind][0], n_trainings=n_trainings)
    rng = np.random.default_rng(7)
    rows, said = [], Counter[str]()
    for _ in range(n_studies):
        votes = simulate(design, rng)
        found, verdict = judge(votes, n_resamples=50)
        rows.append((found.value, found.low, found.high))
        said[verdict] += 1
    return np.array(rows), said


@pytest.mark.parametrize("kind", ["all sources equal", *LEADS])
def test_intervals_hold_the_true_excess(kind: str) -> None:
    excess = kinds()[kind][1]
    _, low, high = studied(kind)[0].T
    assert np.mean((low <= excess) & (excess <= high)) >= 0.93
    assert np.mean(low > excess) <= 0.05
    assert np.mean(high < excess) <= 0.05


def test_where_all_are_equal_neither_side_is_taken_falsely() -> None:
    found, said = studied("all sources equal")
    value, low, high = found.T
    assert np.mean(low > 0) <= 0.05
    assert np.mean(high < 0) <= 0.05
    assert said["adds"] <= 0.05 * N_STUDIES
    # What the largest of three controls gains by chance shows in the excess.
    assert -0.03 < value.mean() < -0.01


def test_nothing_is_never_said_of_a_lead_beyond_the_nominal_rate_and_some_are_seen() -> None:
    assert LEAD == 0.07
    for kind in LEADS:
        assert studied(kind)[1]["nothing"] <= 0.025 * N_STUDIES
    assert studied(LEADS[1])[1]["adds"] > 0.3 * N_STUDIES


def test_one_training_takes_no_side() -> None:
    _, said = studied("all sources equal", 1, 100)
    assert said["adds"] == said["nothing"] == 0


@pytest.mark.parametrize("n", [20, 200, 2000])
def test_of_equals_one_in_twenty_differs_by_the_smallest_excess_that_shows(n: int) -> None:
    """Two readers that are right on one half of a class's sequences, each by itself."""
    right = np.random.default_rng(1).binomial(n, 0.5, (2, 200_000)) / n
    differs = np.abs(right[0] - right[1])
    share = float((differs > smallest_excess(n)).mean())
    assert share == pytest.approx(0.05, abs=0.02 if n == 20 else 0.005)  # 20 have coarse steps
