"""Exact token memorization in numbers: shares of right tokens, mean runs, kinds of token."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "KINDS",
    "Estimate",
    "RightTokens",
    "difference_of_means",
    "kind_of",
    "kinds_of",
    "mean_of",
    "mean_run",
]

KINDS = ("letters", "digits", "signs", "white space", "mixed")
"""What a token is written with, white space around it aside."""

_RESAMPLES = 1000


class Estimate(NamedTuple):
    """A figure and its 95 % interval; NaN where there is nothing to count."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """As three columns of a table: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class RightTokens:
    """True tokens and the model's own, at every place.

    Attributes:
        wanted: shape (n, T), int64.
        best: the argmax after the true tokens before it, the same shape.
    """

    wanted: npt.NDArray[np.int64]
    best: npt.NDArray[np.int64]

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """Where both are one."""
        found: npt.NDArray[np.bool_] = self.wanted == self.best
        return found

    def __getitem__(self, rows: npt.NDArray[Any]) -> "RightTokens":
        """The same of some rows."""
        return RightTokens(self.wanted[rows], self.best[rows])

    def by_kind(self, kinds: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """R and R_mem of each kind of token.

        Args:
            kinds: number of the kind of each token id.

        Returns:
            A row a kind that occurs: `kind`, `n`, `right_kind` (R: share of its tokens for which
            the model says a token of that kind) and `right_token` (R_mem: for which it says the
            token), with intervals over sequences.
        """
        truth, said = kinds[self.wanted], kinds[self.best]
        rows = []
        for number, name in enumerate(KINDS):
            here = truth == number
            if here.any():
                kind = _ratio((here & (said == number)).sum(axis=1), here.sum(axis=1))
                token = _ratio((here & self.is_right).sum(axis=1), here.sum(axis=1))
                rows.append(
                    {"kind": name, "n": int(here.sum())}
                    | kind.columns("right_kind")
                    | token.columns("right_token")
                )
        return rows


def mean_of(values: npt.ArrayLike) -> Estimate:
    """Mean of one value a sequence, its interval by the bootstrap over sequences.

    Args:
        values: shape (n,).
    """
    numbers = np.asarray(values, dtype=np.float64)
    return _ratio(numbers, np.ones_like(numbers))


def difference_of_means(first: npt.ArrayLike, second: npt.ArrayLike) -> Estimate:
    """Mean of first minus second, paired: both are of the same sequences in the same order."""
    return mean_of(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))


def mean_run(is_right: npt.ArrayLike) -> Estimate:
    """Memory-unit length: the mean run of right tokens; a run ends with its sequence.

    Args:
        is_right: shape (n, T), bool.

    >>> mean_run([[True, True, False, True], [False] * 4]).value
    1.5
    """
    right = np.asarray(is_right, dtype=bool)
    before = np.pad(right[:, :-1], ((0, 0), (1, 0)))
    return _ratio(right.sum(axis=1), (right & ~before).sum(axis=1))


def kind_of(text: str) -> str:
    """Kind of a token by what it is written with.

    >>> [kind_of(one) for one in (" the", "12", "();", "  ", "x1")]
    ['letters', 'digits', 'signs', 'white space', 'mixed']
    """
    bare = text.strip()
    if not bare:
        return "white space"
    if bare.isalpha():
        return "letters"
    if bare.isdecimal():
        return "digits"
    return "mixed" if any(one.isalnum() for one in bare) else "signs"


def kinds_of(tokenizer: Any, vocab_size: int) -> npt.NDArray[np.int64]:
    """Number of the kind of every token id; what the tokenizer does not know is mixed.

    Args:
        tokenizer: a Hugging Face tokenizer.
        vocab_size: ids that the model knows.
    """
    known = min(len(tokenizer), vocab_size)
    texts = tokenizer.batch_decode([[index] for index in range(known)])
    found = np.full(vocab_size, KINDS.index("mixed"), dtype=np.int64)
    found[:known] = [KINDS.index(kind_of(text)) for text in texts]
    return found


def _ratio(parts: npt.ArrayLike, wholes: npt.ArrayLike) -> Estimate:
    """Sum of parts over sum of wholes, resampled by sequence with a seed of its own."""
    part, whole = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    if not whole.sum():
        return Estimate(float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(0).multinomial(
        len(part), np.full(len(part), 1 / len(part)), size=_RESAMPLES
    )
    below = drawn @ whole
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (drawn @ part) / np.where(below > 0, below, np.nan)
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return Estimate(float(part.sum() / whole.sum()), float(low), float(high))
