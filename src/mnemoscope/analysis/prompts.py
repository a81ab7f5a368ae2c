"""Prompts that say nearly the same: shifted windows, near-synonyms, other words, case, typos.

Words are changed in place, token by token, so that nothing else of the prompt is tokenized anew.
Near-synonyms are the nearest words in the model's own input embeddings: no table knows the words
of every tokenizer. Beside them stands a word drawn at random, at the same place.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["AS_IT_IS", "WORD_KINDS", "Prompt", "Vocabulary", "make_prompts"]

AS_IT_IS = "as it is"
WORD_KINDS = ("near-synonym", "random word", "case", "typo")
_SHORTEST_WORD = 3


class Prompt(NamedTuple):
    """One prompt and what should follow it.

    Attributes:
        kind: what was done to it.
        ids: what the model is shown.
        wanted: the tokens of the sequence after it.
        n_before: how many of these stand before the suffix (of a window shifted to the left).
    """

    kind: str
    ids: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.int64]
    n_before: int


@dataclass(frozen=True)
class Vocabulary:
    """The words among a model's tokens.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        embeddings: the model's input embeddings, shape (vocabulary, width), float32.
    """

    tokenizer: Any
    embeddings: npt.NDArray[np.float32]

    @cached_property
    def _anchor(self) -> list[int]:
        """A letter before what is written out or read: no tokenizer strips what follows it."""
        return list(self.tokenizer.encode("a", add_special_tokens=False))

    @cached_property
    def pieces(self) -> list[str]:
        """What each token adds to a text, white space included."""
        known = min(len(self.tokenizer), len(self.embeddings))
        start = len(self.tokenizer.decode(self._anchor))
        rows = [[*self._anchor, index] for index in range(known)]
        return [text[start:] for text in self.tokenizer.batch_decode(rows)]

    @cached_property
    def words(self) -> npt.NDArray[np.int64]:
        """Ids of tokens that are a space and a word of three ASCII letters or more."""
        found = [index for index, piece in enumerate(self.pieces) if _is_word(piece)]
        return np.array(found, dtype=np.int64)

    def places(self, ids: npt.NDArray[np.int64]) -> list[int]:
        """Where in a prompt a whole word is one token; its last token may go on, so not there."""
        is_word = set(self.words.tolist())
        return [
            place
            for place, index in enumerate(ids[:-1].tolist())
            if index in is_word and not _goes_on(self.pieces[int(ids[place + 1])])
        ]

    def near(self, index: int) -> list[int] | None:
        """The nearest other word of the same case, by the cosine of input embeddings."""
        candidates = self._others(index)
        if not len(candidates):
            return None
        cosines = self._unit[candidates] @ self._unit[index]
        return [int(candidates[int(np.argmax(cosines))])]

    def at_random(self, index: int, rng: np.random.Generator) -> list[int] | None:
        """Any other word of the same case."""
        candidates = self._others(index)
        return [int(rng.choice(candidates))] if len(candidates) else None

    def other_case(self, index: int) -> list[int] | None:
        """The word in capitals; one that is so already in small letters."""
        piece = self.pieces[index]
        return self._read(piece.lower() if piece.isupper() else piece.upper())

    def typo(self, index: int, rng: np.random.Generator) -> list[int] | None:
        """The word with two unlike neighbouring letters swapped, the first letter staying."""
        letters = list(self.pieces[index])
        swaps = [k for k in range(2, len(letters) - 1) if letters[k] != letters[k + 1]]
        if not swaps:
            return None
        k = int(rng.choice(swaps))
        letters[k], letters[k + 1] = letters[k + 1], letters[k]
        return self._read("".join(letters))

    @cached_property
    def _unit(self) -> npt.NDArray[np.float32]:
        """Embeddings without what all words share, scaled to length 1."""
        centred = self.embeddings - self.embeddings[self.words].mean(axis=0)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        return np.asarray(centred / np.maximum(length, 1e-12), dtype=np.float32)

    def _others(self, index: int) -> npt.NDArray[np.int64]:
        """Words of the same case that are neither this one nor begin as it does to their end."""
        word = self.pieces[index].strip()
        return np.array(
            [
                other
                for other in self.words.tolist()
                if _case(self.pieces[other].strip()) == _case(word)
                and not _one_begins_other(self.pieces[other].strip().lower(), word.lower())
            ],
            dtype=np.int64,
        )

    def _read(self, text: str) -> list[int] | None:
        """Tokens of a piece of text, None where they would not stand alone."""
        ids = list(self.tokenizer.encode("a" + text, add_special_tokens=False))
        n = len(self._anchor)
        return ids[n:] if ids[:n] == self._anchor and len(ids) > n else None


def make_prompts(
    row: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    *,
    prefix: int,
    shifts: tuple[int, ...],
    n_words: int,
    rng: np.random.Generator,
) -> list[Prompt]:
    """Give every prompt of one sequence.

    Args:
        row: its tokens, shape (length,).
        vocabulary: of the model.
        prefix: tokens of the prefix.
        shifts: by how many tokens the window is moved, both ways.
        n_words: words changed in a prompt, the same in every kind; a prefix with fewer has no such
            prompts.
        rng: chooses words, letters and which words are changed.

    Returns:
        The prefix itself first.
    """
    prompts = [Prompt(AS_IT_IS, row[:prefix], row[prefix:], 0)]
    for shift in shifts:
        later, earlier = prefix + shift, prefix - shift
        prompts.append(Prompt(f"{shift} later", row[shift:later], row[later:], 0))
        prompts.append(Prompt(f"{shift} earlier", row[:earlier], row[earlier:], shift))
    places = vocabulary.places(row[:prefix])
    if len(places) >= n_words:
        chosen = sorted(rng.choice(places, n_words, replace=False).tolist())
        for kind in WORD_KINDS:
            changed = _change(row[:prefix], chosen, kind, vocabulary, rng)
            if changed is not None:
                prompts.append(Prompt(kind, changed, row[prefix:], 0))
    return prompts


def _change(
    ids: npt.NDArray[np.int64],
    places: list[int],
    kind: str,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64] | None:
    """The prompt with other tokens at these places, None where a word cannot be so changed."""
    made: list[int] = []
    for place, index in enumerate(ids.tolist()):
        new: list[int] | None = [index]
        if place in places:
            new = {
                "near-synonym": lambda index=index: vocabulary.near(index),
                "random word": lambda index=index: vocabulary.at_random(index, rng),
                "case": lambda index=index: vocabulary.other_case(index),
                "typo": lambda index=index: vocabulary.typo(index, rng),
            }[kind]()
        if new is None:
            return None
        made += new
    return np.array(made, dtype=np.int64)


def _is_word(piece: str) -> bool:
    bare = piece[1:]
    return piece[:1] == " " and bare.isascii() and bare.isalpha() and len(bare) >= _SHORTEST_WORD


def _goes_on(piece: str) -> bool:
    """Whether a piece goes on with the word before it."""
    return piece[:1].isalnum() or piece[:1] in {"'", "_", "\ufffd"}


def _case(word: str) -> str:
    return "upper" if word.isupper() else "title" if word[:1].isupper() else "lower"


def _one_begins_other(first: str, second: str) -> bool:
    return first.startswith(second) or second.startswith(first)
