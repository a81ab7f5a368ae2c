"""What a passage needs: earlier tokens, and parts of the model that a reference does not share.

Total effects name the tokens and the edges. Those edges are cut in the running model, and beside
them as many others of the same window that hold about as much attention. Guesses and memories break
alike under that cut. What tells them apart is where the needed edges look: a guess reads the next
token off the text, a memory does not.

Where model and reference have one shape and differ by a training, that training's memories break
once a part that holds them comes from the reference, and what anyone could guess stands
(`lm.graft`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.audits.documents import token_texts
from mnemoscope.audits.settings import NEEDED_EDGES
from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import run_lengths
from mnemoscope.lm.edges import total_effects
from mnemoscope.lm.graft import Pair
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import decoder_layers
from mnemoscope.localize.cut import cut_and_judge, equal_mass_edges, largest_edges
from mnemoscope.progress import say

_N_TOKENS = 5  # that are named
_DRAWS = 3  # of edges of equal mass


def find_needs(
    lm: LanguageModel, windows: npt.NDArray[np.int32], *, prefix: int, batch_size: int, seed: int
) -> list[dict[str, Any]]:
    """Ask of each window (n, T) what the tokens from `prefix` on need.

    Returns:
        For each window `needed`: the tokens to which these owe most by being looked at from later
        ones, with `token` (place in the window, from 0), `text` and `effect` (total effect, in
        logits); `needed_copied`, as `copied_shares`; `run_without_needed` and
        `run_without_equal_mass`: how many of them, from the first on, the model still writes with
        the window's `NEEDED_EDGES` edges of largest effect cut, and with others of equal mass (mean
        of 3 draws). Empty where the family's edges cannot be cut, which is said.

    Raises NoRoomError: not even one window fits into memory.
    """
    try:
        return list(_ask(lm, windows, prefix=prefix, batch_size=batch_size, seed=seed))
    except UserError as error:
        say(f"What passages need is left out: {error}")
        return [{} for _ in windows]


def _ask(
    lm: LanguageModel, windows: npt.NDArray[np.int32], *, prefix: int, batch_size: int, seed: int
) -> Sequence[dict[str, Any]]:
    effects = torch.cat(list(total_effects(lm, windows, batch_size=batch_size, prefix=prefix)))
    maps = capture_pooled(lm, windows, batch_size=batch_size)
    attention = torch.cat([batch.mean for batch in maps])
    needed = torch.stack([largest_edges(one, NEEDED_EDGES) for one in effects])
    generator = torch.Generator().manual_seed(seed)

    def run(edges: torch.Tensor) -> npt.NDArray[np.int64]:
        judged = cut_and_judge(
            lm, windows, edges, renormalize=False, batch_size=batch_size, prefix=prefix
        )
        return run_lengths(judged.is_right)

    def as_heavy() -> torch.Tensor:
        pairs = zip(needed, attention, strict=True)
        return torch.stack([equal_mass_edges(own, mass, generator) for own, mass in pairs])

    without = run(needed)
    beside = np.mean([run(as_heavy()) for _ in range(_DRAWS)], axis=0)
    shares = copied_shares(windows, effects, prefix=prefix)
    by_token = effects.tril(diagonal=-1).sum(dim=(1, 2))  # of each key, looked at by later tokens
    return [
        {
            "needed": _named(lm, window, owed),
            "needed_copied": float(copied),
            "run_without_needed": int(own),
            "run_without_equal_mass": float(other),
        }
        for window, owed, copied, own, other in zip(
            windows, by_token, shares, without, beside, strict=True
        )
    ]


def copied_shares(
    windows: npt.NDArray[np.int32], effects: torch.Tensor, *, prefix: int
) -> npt.NDArray[np.float64]:
    """Share of what windows (n, T) need that they read off themselves: (n,), 0 to 1.

    `effects` are total effects (n, layers, T, T). Counted are positive ones of looking from the
    tokens that write the suffix back at earlier ones; read off the text is a token that comes next
    and followed this one before, which is where an induction head looks (Olsson et al. 2022, arXiv
    2209.11895). 0 where nothing is needed. It takes no pass beyond that of the effects.
    """
    tokens = torch.from_numpy(windows).long()
    looks = effects.tril(diagonal=-1).clamp(min=0).sum(dim=1)[:, prefix - 1 : -1].double()
    here, then = tokens[:, prefix - 1 : -1, None], tokens[:, prefix:, None]
    copies = torch.zeros(looks.shape, dtype=torch.bool)
    copies[..., 1:] = (tokens[:, None, 1:] == then) & (tokens[:, None, :-1] == here)
    found: npt.NDArray[np.float64] = (
        (looks * copies).sum(dim=(1, 2)) / looks.sum(dim=(1, 2)).clamp(min=1e-30)
    ).numpy()
    return found


def _named(
    lm: LanguageModel, window: npt.NDArray[np.int32], owed: torch.Tensor
) -> list[dict[str, Any]]:
    """The tokens with the largest positive effects."""
    texts = token_texts(lm.tokenizer, window)
    order = owed.argsort(descending=True, stable=True)[:_N_TOKENS].tolist()
    return [
        {"token": place, "text": texts[place], "effect": float(owed[place])}
        for place in order
        if owed[place] > 0
    ]


_TAKEN = ("qk", "mlp")  # where a layer looks, and most of its weights
MOST_BLOCKS = 6
"""A deeper model has its neighbouring layers taken together, so that it costs no more."""


class Grafts:
    """Parts of a reference, to be put into a model one by one.

    `parts` are queries and keys, and the MLP, of each layer or block of layers. Raises UserError:
    models of different shapes, quantized weights, a family whose parts are unknown.
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
