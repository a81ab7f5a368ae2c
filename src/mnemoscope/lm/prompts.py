"""Changed prompts of a text: the window moved, or a word swapped, misspelt or in capitals.

Source: Huang, Yang, Potts 2024, arXiv 2407.17817, section 3.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.lm.continue_ import right_tokens, run_lengths
from mnemoscope.lm.model import LanguageModel

AS_IT_IS = "as it is"
"""The kind of the prompt that is not changed."""
WORD_KINDS = ("near-synonym", "random word", "case", "typo")
"""What is done to a word of a prompt."""
_SHORTEST_WORD = 3


class ChangedPrompt(NamedTuple):
    """One prompt and what should follow it."""

    kind: str  # what was done to it
    ids: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.int64]
    n_before: int  # tokens wanted before the suffix, of a window shifted to the left


@dataclass(frozen=True)
class Vocabulary:
    """The words among a model's tokens."""

    tokenizer: Any
    embeddings: npt.NDArray[np.float32]  # the model's input embeddings, (vocabulary, width)

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
        found = [
            index
            for index, piece in enumerate(self.pieces)
            if piece[:1] == " "
            and piece[1:].isascii()
            and piece[1:].isalpha()
            and len(piece) > _SHORTEST_WORD
        ]
        return np.array(found, dtype=np.int64)

    def places(self, ids: npt.NDArray[np.int64]) -> list[int]:
        """Where in a prompt a whole word is one token; its last token may go on, so not there."""
        is_word = set(self.words.tolist())
        follows = [self.pieces[index][:1] for index in ids[1:].tolist()]
        return [
            place
            for place, (index, letter) in enumerate(zip(ids[:-1].tolist(), follows, strict=True))
            if index in is_word and not (letter.isalnum() or letter in {"'", "_", "\ufffd"})
        ]

    def change(self, index: int, kind: str, rng: np.random.Generator) -> list[int] | None:
        """Tokens of a word changed as its kind says, None where it cannot be."""
        piece = self.pieces[index]
        if kind == "near-synonym":
            return self.near(index)
        if kind == "random word":
            others = self._others(index)
            return [int(rng.choice(others))] if len(others) else None
        if kind == "case":
            return self._read(piece.lower() if piece.isupper() else piece.upper())
        letters = list(piece)  # a typo: two unlike neighbours swapped, the first letter stays
        swaps = [k for k in range(2, len(letters) - 1) if letters[k] != letters[k + 1]]
        if not swaps:
            return None
        k = int(rng.choice(swaps))
        letters[k], letters[k + 1] = letters[k + 1], letters[k]
        return self._read("".join(letters))

    def near(self, index: int) -> list[int] | None:
        """The nearest other word of the same case, by the cosine of input embeddings."""
        others = self._others(index)
        near = self._unit[others] @ self._unit[index]
        return [int(others[np.argmax(near)])] if len(others) else None

    @cached_property
    def _unit(self) -> npt.NDArray[np.float32]:
        """Embeddings without what all words share, scaled to length 1."""
        centred = self.embeddings - self.embeddings[self.words].mean(axis=0)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        return np.asarray(centred / np.maximum(length, 1e-12), dtype=np.float32)

    def _others(self, index: int) -> npt.NDArray[np.int64]:
        """Words of the same case that are neither this one nor begin as it does to their end."""
        word = self.pieces[index].strip()
        low = word.lower()
        found = []
        for other in self.words.tolist():
            text = self.pieces[other].strip()
            begins = text.lower().startswith(low) or low.startswith(text.lower())
            if _case(text) == _case(word) and not begins:
                found.append(other)
        return np.array(found, dtype=np.int64)

    def _read(self, text: str) -> list[int] | None:
        """Tokens of a piece of text, None where they would not stand alone."""
        ids = list(self.tokenizer.encode("a" + text, add_special_tokens=False))
        n = len(self._anchor)
        return ids[n:] if ids[:n] == self._anchor and len(ids) > n else None


def _case(word: str) -> str:
    return "upper" if word.isupper() else "title" if word[:1].isupper() else "lower"


def make_prompts(
    row: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    *,
    prefix: int,
    shifts: tuple[int, ...],
    n_words: int,
    rng: np.random.Generator,
) -> list[ChangedPrompt]:
    """Give every prompt of one sequence, its tokens of shape (length,); the prefix itself first.

    The window is moved by each of the shifts, both ways. The same `n_words` words, chosen by `rng`,
    are changed in every kind; a prefix with fewer has no such prompts.
    """
    prompts = [ChangedPrompt(AS_IT_IS, row[:prefix], row[prefix:], 0)]
    for shift in shifts:
        later, earlier = prefix + shift, prefix - shift
        prompts.append(ChangedPrompt(f"{shift} later", row[shift:later], row[later:], 0))
        prompts.append(ChangedPrompt(f"{shift} earlier", row[:earlier], row[earlier:], shift))
    places = vocabulary.places(row[:prefix])
    if len(places) < n_words:
        return prompts
    chosen = set(rng.choice(places, n_words, replace=False).tolist())
    for kind in WORD_KINDS:
        made: list[int] = []
        for place, index in enumerate(row[:prefix].tolist()):
            new = vocabulary.change(index, kind, rng) if place in chosen else [index]
            if new is None:
                break
            made += new
        else:
            prompts.append(ChangedPrompt(kind, np.array(made, dtype=np.int64), row[prefix:], 0))
    return prompts


def suffix_runs(
    lm: LanguageModel, prompts: Sequence[ChangedPrompt], *, batch_size: int
) -> npt.NDArray[np.int64]:
    """Count the tokens of the suffix that follow each prompt verbatim, shape (prompts,).

    Prompts of one length are asked together. A window shifted to the left must reproduce the end
    of the prefix first, which does not count.
    """
    found = np.zeros(len(prompts), dtype=np.int64)
    groups: dict[tuple[int, int], list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault((len(prompt.ids), len(prompt.wanted)), []).append(number)
    for (n_shown, _), members in groups.items():
        rows = np.stack(
            [np.concatenate([prompts[one].ids, prompts[one].wanted]) for one in members]
        )
        right = right_tokens(lm, rows, batch_size=batch_size, prefix=n_shown)
        before = np.array([prompts[one].n_before for one in members])
        found[members] = np.maximum(0, run_lengths(right) - before)
    return found
