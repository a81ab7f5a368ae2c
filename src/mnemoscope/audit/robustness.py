"""Does a passage still come out with one part of the reference model in the model?

Where the two have one shape and differ by a training, that training's memories break once a part
that holds them comes from the reference, and what anyone could guess stands (`lm.graft`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mnemoscope.lm.graft import Pair
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import decoder_layers

_TAKEN = ("qk", "mlp")  # where memories break beyond any change of equal size (docs/graft.md)
MOST_BLOCKS = 6
"""Of a deeper model neighbouring layers are taken together, so that it costs no more."""


class Grafts:
    """Parts of a reference, to be put into a model one by one.

    `parts` are queries and keys, and the MLP, of each layer or block of layers.

    Raises:
        UserError: models of different shapes, quantized weights, a family whose parts are unknown.
    """

    def __init__(self, lm: LanguageModel, reference: LanguageModel) -> None:
        self.pair = Pair(lm.model, reference.model)
        self.parts = standard_parts(len(decoder_layers(lm)))
        for part in self.parts:
            self.pair.anatomy.find(part)

    def survivals(
        self, reproduces: Callable[[], npt.NDArray[np.bool_]], **control: Any
    ) -> npt.NDArray[np.bool_]:
        """What `reproduces`, (n,) bool, says with each part in place; (n, parts), bool.

        `control` and `seed` as in `lm.graft.grafted`.
        """
        found: list[npt.NDArray[np.bool_]] = []
        for part in self.parts:
            with self.pair.grafted(part, **control):
                found.append(reproduces())
        return np.stack(found, axis=1)


def standard_parts(n_layers: int) -> list[str]:
    """Names of the parts that are tried in a model of so many layers.

    >>> standard_parts(2)
    ['layers.0.qk', 'layers.0.mlp', 'layers.1.qk', 'layers.1.mlp']
    >>> standard_parts(30)[-1]
    'layers.25-29.mlp'
    """
    blocks = np.array_split(np.arange(n_layers), min(n_layers, MOST_BLOCKS))
    names = [f"layers.{one[0]}" + (f"-{one[-1]}" if len(one) > 1 else "") for one in blocks]
    return [f"{name}.{kind}" for name in names for kind in _TAKEN]
