"""Rank the attention edges of each class: which to cut first, largest values first.

`RANKINGS` is the one table of rankings that the language model gives; a new one is an entry. Δ, the
ranking of a CNN, is made in `localize.delta`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.edges import contributions, total_effects, value_norms
from mnemoscope.lm.model import LanguageModel

Measure = Callable[..., Iterator[Tensor]]
"""From a model, tokens (n, T), a batch size and the tokens of the prefix to batches (batch, layers,
T, T) on the CPU."""


class Ranking(NamedTuple):
    """How edges are ranked.

    Attributes:
        measure: what is measured of every edge in every sequence, and averaged over a class.
        contrast: whether the mean of the other classes is taken off.
        words: what is largest, for a page.
    """

    measure: Measure
    contrast: bool
    words: str


def _weights(
    lm: LanguageModel, tokens: np.ndarray, batch_size: int, prefix: int = 32
) -> Iterator[Tensor]:
    del prefix
    return (batch.mean for batch in capture_pooled(lm, tokens, batch_size=batch_size))


def _value_norms(
    lm: LanguageModel, tokens: np.ndarray, batch_size: int, prefix: int = 32
) -> Iterator[Tensor]:
    del prefix
    return value_norms(lm, tokens, batch_size=batch_size)


def _contributions(
    lm: LanguageModel, tokens: np.ndarray, batch_size: int, prefix: int = 32
) -> Iterator[Tensor]:
    return contributions(lm, tokens, batch_size=batch_size, prefix=prefix)


def measure_effects(
    lm: LanguageModel, tokens: np.ndarray, batch_size: int, prefix: int = 32
) -> Iterator[Tensor]:
    """Total effects on the logits of the tokens after the prefix."""
    return total_effects(lm, tokens, batch_size=batch_size, prefix=prefix)


_MEASURES = {
    "weights": (_weights, "the attention weight"),
    "value_norm": (_value_norms, "the norm of the value moved"),
    "contribution": (_contributions, "the direct contribution to the next token's logit"),
    "total_effect": (measure_effects, "the total effect on the suffix's logits"),
}

RANKINGS: dict[str, Ranking] = {
    **{name: Ranking(of, False, words) for name, (of, words) in _MEASURES.items()},
    **{
        f"{name}_contrast": Ranking(of, True, f"{words}, less its mean in the other classes")
        for name, (of, words) in _MEASURES.items()
    },
}


def class_mean(
    lm: LanguageModel, tokens: np.ndarray, measure: Measure, batch_size: int, prefix: int = 32
) -> Tensor:
    """Average a measure over the sequences (n, T) of one class: float32 (layers, T, T)."""
    total: Tensor | float = 0.0
    for batch in measure(lm, tokens, batch_size, prefix):
        total = total + batch.double().sum(dim=0)
    assert isinstance(total, Tensor)
    return (total / len(tokens)).float()


def contrasted(means: Sequence[Tensor]) -> list[Tensor]:
    """Each class's mean less the mean of the others' means.

    The first class is Non-Memo: it counts among the others only of a single memorized class.
    """
    memorized = list(means[1:])
    found = [means[0] - torch.stack(memorized).mean(dim=0)]
    for place, own in enumerate(memorized):
        others = memorized[:place] + memorized[place + 1 :]
        found.append(own - (torch.stack(others).mean(dim=0) if others else means[0]))
    return found
