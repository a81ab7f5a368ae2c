"""The optimal partition: three parts by two thresholds, out of 810, that predict best.

Source: Prashanth et al. 2024, arXiv 2406.17746, section 1.13 of the related work: ordered pairs
of two of ten features, each at a quartile of the memorized sequences.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "PARTITION_FEATURES",
    "QUANTILES",
    "Candidate",
    "assign_parts",
    "candidates",
    "count_candidates",
]

PARTITION_FEATURES = (
    "max_frequency",
    "avg_frequency",
    "min_frequency",
    "median_frequency",
    "n_similar",
    "n_near",
    "duplicates",
    "shannon_length",
    "is_templating",
    "generation_perplexity",
)
"""The ten features whose quartiles part the sequences."""

QUANTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Candidate:
    """A partition into part 0, part 1 and the rest.

    Part 0 is where the first feature reaches its threshold, part 1 where only the second does.

    Attributes:
        first: name of the first feature and its quantile.
        second: of the second.
        thresholds: of both.
    """

    first: tuple[str, float]
    second: tuple[str, float]
    thresholds: tuple[float, float]

    def __str__(self) -> str:
        """`duplicates@.25 then shannon length@.5`."""
        named = [f"{name.replace('_', ' ')}@{q:g}" for name, q in (self.first, self.second)]
        return " then ".join(named)


def candidates(
    memorized: Mapping[str, npt.NDArray[np.float64]],
    features: Sequence[str] = PARTITION_FEATURES,
) -> Iterator[Candidate]:
    """Give every ordered pair of two features at a quantile each: 810 of ten features.

    Args:
        memorized: values of each feature among the memorized training sequences; features that
            are not in it are left out.
        features: names in order.
    """
    known = [name for name in features if name in memorized]
    places = [
        (name, q, float(np.quantile(memorized[name], q))) for name in known for q in QUANTILES
    ]
    for first, first_q, first_at in places:
        for second, second_q, second_at in places:
            if first != second:
                yield Candidate((first, first_q), (second, second_q), (first_at, second_at))


def count_candidates(known: Container[str], features: Sequence[str] = PARTITION_FEATURES) -> int:
    """Give how many partitions there are of the features that are known.

    Args:
        known: names of features.
        features: those that part the sequences.

    >>> count_candidates(PARTITION_FEATURES)
    810
    """
    n = sum(name in known for name in features)
    return n * (n - 1) * len(QUANTILES) ** 2


def assign_parts(
    candidate: Candidate, values: Mapping[str, npt.NDArray[np.float64]]
) -> npt.NDArray[np.int64]:
    """Give every row its part.

    Args:
        candidate: the partition.
        values: of each feature, shape (n,).

    Returns:
        0, 1 or 2, shape (n,).
    """
    is_first = values[candidate.first[0]] >= candidate.thresholds[0]
    is_second = values[candidate.second[0]] >= candidate.thresholds[1]
    found: npt.NDArray[np.int64] = np.where(is_first, 0, np.where(is_second, 1, 2))
    return found
