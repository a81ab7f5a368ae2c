"""Passages that one text has from others: verbatim or nearly.

Source: Zeng et al. 2023, "Exploring Memorization in Fine-tuned Language Models", arXiv 2310.06714;
section 5 of the related work. Verbatim is exact over all texts; near copies are looked for among
the texts that are nearest by character 3-grams.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Passage", "PassageIndex", "near_scores", "nearest_texts"]

_ROWS_AT_ONCE = 256


class Passage(NamedTuple):
    """A passage that two texts share; empty where there is none.

    Attributes:
        text: the passage.
        source: number of the text it stands in, -1 for none.
    """

    text: str
    source: int


class PassageIndex:
    """All passages of a given least length in some texts, to be looked up exactly."""

    def __init__(self, texts: Sequence[str], n_characters: int) -> None:
        """Index the texts.

        Args:
            texts: where to look.
            n_characters: how long a passage must be at least.
        """
        self._texts, self._n = texts, n_characters
        self._places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, text in enumerate(texts):
            for start in range(len(text) - n_characters + 1):
                self._places[text[start : start + n_characters]].append((number, start))

    def longest(self, text: str, besides: str = "") -> Passage:
        """Give the longest passage of a text that stands in the index.

        Args:
            text: what is looked at.
            besides: passages that stand in here do not count (a prompt that is taken up again).
        """
        found = Passage("", -1)
        for passage in self._passages(text):
            if len(passage.text) > len(found.text) and passage.text not in besides:
                found = passage
        return found

    def _passages(self, text: str) -> Iterator[Passage]:
        """Every passage that can be made no longer, each at its beginning."""
        for start in range(len(text) - self._n + 1):
            for number, place in self._places.get(text[start : start + self._n], ()):
                other = self._texts[number]
                if start and place and text[start - 1] == other[place - 1]:
                    continue  # it began earlier
                length = self._n
                most = min(len(text) - start, len(other) - place)
                while length < most and text[start + length] == other[place + length]:
                    length += 1
                yield Passage(text[start : start + length], number)


def nearest_texts(
    texts: Sequence[str], others: Sequence[str], n_nearest: int
) -> npt.NDArray[np.int64]:
    """Find for each text the others nearest to it, by TF-IDF cosine of character 3-grams.

    Args:
        texts: shape (n,).
        others: where to look.
        n_nearest: how many.

    Returns:
        Numbers of others, shape (n, at most n_nearest), nearest first.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    n_nearest = min(n_nearest, len(others))
    found = TfidfVectorizer(analyzer="char", ngram_range=(3, 3), dtype=np.float32)
    try:
        vectors = found.fit_transform(others)
    except ValueError:  # no text of three characters
        return np.tile(np.arange(n_nearest), (len(texts), 1))
    asked = found.transform(texts)
    parts = []
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        block = (asked[start : start + _ROWS_AT_ONCE] @ vectors.T).toarray()
        parts.append(np.argsort(-block, axis=1, kind="stable")[:, :n_nearest])
    return np.concatenate(parts).astype(np.int64)


def near_scores(
    texts: Sequence[str], others: Sequence[str], nearest: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Give the best likeness of each text to a passage of one of its nearest others.

    Likeness is RapidFuzz's partial ratio: insertions and deletions against the passage of equal
    length that fits best, from 0 to 1.

    Args:
        texts: shape (n,).
        others: texts that `nearest` counts.
        nearest: from `nearest_texts`.

    Returns:
        Shape (n,).
    """
    from rapidfuzz.fuzz import partial_ratio

    return np.array(
        [
            max((partial_ratio(text, others[one]) for one in row), default=0.0) / 100
            for text, row in zip(texts, nearest.tolist(), strict=True)
        ]
    )
