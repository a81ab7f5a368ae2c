"""Exact token memorization in numbers: shares of right tokens, mean runs, kinds of token."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnemoscope.analysis.means import Estimate, resampled_ratio

__all__ = [
    "KINDS",
    "RightTokens",
    "kind_of",
    "kinds_of",
    "mean_run",
]

KINDS = ("letters", "digits", "signs", "white space", "mixed")
"""What a token is written with, white space around it aside."""


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
                kind = resampled_ratio((here & (said == number)).sum(axis=1), here.sum(axis=1))
                token = resampled_ratio((here & self.is_right).sum(axis=1), here.sum(axis=1))
                rows.append(
                    {"kind": name, "n": int(here.sum())}
                    | kind.columns("right_kind")
                    | token.columns("right_token")
                )
        return rows


def mean_run(is_right: npt.ArrayLike) -> Estimate:
    """Memory-unit length: the mean run of right tokens; a run ends with its sequence.

    Args:
        is_right: shape (n, T), bool.

    >>> mean_run([[True, True, False, True], [False] * 4]).value
    1.5
    """
    right = np.asarray(is_right, dtype=bool)
    before = np.pad(right[:, :-1], ((0, 0), (1, 0)))
    return resampled_ratio(right.sum(axis=1), (right & ~before).sum(axis=1))


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
