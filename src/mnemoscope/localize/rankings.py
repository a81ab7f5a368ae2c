"""What ranks edges: attributions of a CNN, which give Δ, and measures of the language model.

`RANKINGS` is the one table of what the language model gives; a new one is an entry. It is read
without torch, and measured with it.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from mnemoscope.lm.model import LanguageModel

Attribution = Literal["gradient", "guided", "integrated", "occlusion"]
"""`gradient`: plain. `guided`: guided backpropagation (Springenberg et al., arXiv 1412.6806).

The paper (arXiv 2508.02573) writes guided; its published code hooks ReLU modules, of which its
network has none, and so computes the plain gradient bit for bit.
`integrated`: the gradient averaged along the straight line from an input of zeros (no attention;
with a scaled input the training maps' mean), 16 steps (Sundararajan et al., arXiv 1703.01365), not
multiplied by the input, since Δ weighs by the attention itself. `occlusion`: how much the contrast
falls when a block of one layer, 8 queries and 8 keys is set to zero (Zeiler and Fergus, 2014). The
last two are Captum's, in the extra `attribution`.
"""
ATTRIBUTIONS: tuple[str, ...] = get_args(Attribution)
OF_CAPTUM = ("integrated", "occlusion")
COSTLY = OF_CAPTUM
"""Those that run the network tens of times a sequence, where the others need one pass."""

Measure = Callable[["LanguageModel", np.ndarray, int, int], "Iterator[Tensor]"]
"""From a model, tokens (n, T), a batch size and the tokens of the prefix to batches (batch, layers,
T, T) on the CPU."""


class Ranking(NamedTuple):
    """How edges are ranked: by a measure's mean over a class, perhaps less the others'."""

    measure: Measure
    contrast: bool
    words: str


def _weights(lm: "LanguageModel", tokens: np.ndarray, size: int, _: int) -> "Iterator[Tensor]":
    from mnemoscope.lm.attention import capture_pooled

    return (batch.mean for batch in capture_pooled(lm, tokens, batch_size=size))


def _value_norms(lm: "LanguageModel", tokens: np.ndarray, size: int, _: int) -> "Iterator[Tensor]":
    from mnemoscope.lm.edges import value_norms

    return value_norms(lm, tokens, batch_size=size)


def _contributions(
    lm: "LanguageModel", tokens: np.ndarray, size: int, prefix: int
) -> "Iterator[Tensor]":
    from mnemoscope.lm.edges import contributions

    return contributions(lm, tokens, batch_size=size, prefix=prefix)


def _total_effects(
    lm: "LanguageModel", tokens: np.ndarray, size: int, prefix: int
) -> "Iterator[Tensor]":
    from mnemoscope.lm.edges import total_effects

    return total_effects(lm, tokens, batch_size=size, prefix=prefix)


_MEASURES: dict[str, tuple[Measure, str]] = {
    "weights": (_weights, "the attention weight"),
    "value_norm": (_value_norms, "the norm of the value moved"),
    "contribution": (_contributions, "the direct contribution to the next token's logit"),
    "total_effect": (_total_effects, "the total effect on the suffix's logits"),
}

RANKINGS: dict[str, Ranking] = {
    **{name: Ranking(of, False, words) for name, (of, words) in _MEASURES.items()},
    **{
        f"{name}_contrast": Ranking(of, True, f"{words}, less its mean in the other classes")
        for name, (of, words) in _MEASURES.items()
    },
}
