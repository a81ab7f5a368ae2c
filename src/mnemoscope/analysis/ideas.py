"""Copies in idea: cosines of sentence embeddings, and the same against texts drawn at random.

Source: Zeng et al. 2023, "Exploring Memorization in Fine-tuned Language Models", arXiv 2310.06714;
the embeddings are Reimers and Gurevych's, arXiv 1908.10084. The two comparisons beside the nearest
texts (own prompt, texts drawn at random) are ours: see `docs/analyses/copying.md`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.errors import UserError

__all__ = ["Ideas", "SentenceModel", "best_cosines", "find_ideas"]

_MODULES_FILE = "modules.json"


class SentenceModel:
    """A sentence-transformers model that encodes each text once.

    Args:
        name: folder or hub name.

    Raises:
        UserError: the library is not installed, or the model is not to be had.
    """

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(
                "analyze copying: idea copies need sentence-transformers. Install the extra: "
                "pip install 'mnemoscope[sentences]', or leave sentence_model out."
            ) from None
        # The library takes any other folder too, a causal model's say, and pools it by the mean.
        if Path(name).is_dir() and not (Path(name) / _MODULES_FILE).is_file():
            raise UserError(
                f"analyze copying: sentence_model {name}: no {_MODULES_FILE}, so it is no "
                "sentence-transformers model. Give a folder that holds one."
            )
        try:
            self._model = SentenceTransformer(name)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"analyze copying: sentence_model {name}: {reason}. Give a folder that holds one."
            ) from None
        self._vectors: dict[str, npt.NDArray[np.float32]] = {}

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Give the embedding of each text, of length 1; shape (n, size)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            found = np.asarray(self._model.encode(new, normalize_embeddings=True), np.float32)
            self._vectors |= dict(zip(new, found, strict=True))
        return np.stack([self._vectors[text] for text in texts])


class Ideas(NamedTuple):
    """Best cosines of each continuation, shape (n,) each.

    Attributes:
        nearest: with the texts nearest to it.
        random: with as many of the others, drawn at random; NaN where there are no others.
        prompt: with its own prompt.
    """

    nearest: npt.NDArray[np.float64]
    random: npt.NDArray[np.float64]
    prompt: npt.NDArray[np.float64]


def find_ideas(
    model: SentenceModel,
    continuations: Sequence[str],
    prompts: Sequence[str],
    texts: Sequence[str],
    nearest: npt.NDArray[np.int64],
    *,
    seed: int,
) -> Ideas:
    """Compare continuations with their nearest texts, with others at random and with their prompts.

    Args:
        model: that embeds.
        continuations: shape (n,).
        prompts: shape (n,).
        texts: that `nearest` counts.
        nearest: from `copied_text.nearest_texts`.
        seed: of the draw.
    """
    drawn = _draw_others(nearest, len(texts), seed)
    own = np.arange(len(prompts))[:, None]
    return Ideas(
        nearest=best_cosines(model, continuations, texts, nearest),
        random=best_cosines(model, continuations, texts, drawn),
        prompt=best_cosines(model, continuations, prompts, own),
    )


def best_cosines(
    model: SentenceModel, texts: Sequence[str], others: Sequence[str], places: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Give the best cosine of each text's sentence embedding with those of some others.

    Args:
        model: that embeds.
        texts: shape (n,).
        others: texts that `places` counts.
        places: which others to compare with, shape (n, k).

    Returns:
        Shape (n,); NaN where k is 0.
    """
    if not places.size:
        return np.full(len(texts), np.nan)
    first, second = model.encode(texts), model.encode(others)
    found: npt.NDArray[np.float64] = np.array(
        [(second[row] @ one).max() for one, row in zip(first, places, strict=True)], dtype=float
    )
    return found


def _draw_others(nearest: npt.NDArray[np.int64], n_texts: int, seed: int) -> npt.NDArray[np.int64]:
    """As many texts as are nearest, or all that are left, at random and none of the nearest."""
    generator = np.random.default_rng(seed)
    everything = np.arange(n_texts)
    n = min(nearest.shape[1], n_texts - nearest.shape[1])
    return np.array(
        [generator.choice(np.delete(everything, row), n, replace=False) for row in nearest],
        dtype=np.int64,
    ).reshape(len(nearest), n)
