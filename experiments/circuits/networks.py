"""Networks whose weights are set by hand, so that it is known which of them hold what.

`copying_network` copies each token from given positions; `remembering_network` knows passages by
heart, each in neurons of its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mnemoscope.lm.model import LanguageModel, wrap_model

COPYING_LAYER = 1
N_LAYERS = 3
NAME = "built by hand"
_CERTAIN = 0.5  # of the answer's normalised value: each token of a passage has .99


def _network(width: int, vocabulary: int, length: int, layers: int, inner: int) -> Any:
    """A GPT-2 of one head whose weights are 0, and 1 where states are normalised."""
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=length, n_embd=width, n_layer=layers, n_head=1,
        n_inner=inner, tie_word_embeddings=False, bos_token_id=None, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
        for token in range(vocabulary):
            model.transformer.wte.weight[token, token] = 1.0
        for position in range(length):
            model.transformer.wpe.weight[position, vocabulary + position] = 1.0
    return model


def _copy(
    attention: Any, sources: Mapping[int, tuple[int, ...]], first: int, to: int, size: float = 1.0
) -> None:
    """Look from each position at its sources, and write their tokens from the place `to` on.

    Positions stand in a state from the place `first` on, tokens at its beginning. What is written
    is `size` times the normalised state.
    """
    width = attention.c_proj.weight.shape[0]
    query, key, value = attention.c_attn.weight.view(width, 3, width).unbind(1)
    for position in {one for several in sources.values() for one in several}:
        key[first + position, first + position] = 1.0
    for asked, several in sources.items():
        for source in several:
            query[first + asked, first + source] = 100.0
    for token in range(first):
        value[token, to + token] = 1.0
        attention.c_proj.weight[to + token, to + token] = size


def copying_network(
    sources: Mapping[int, int | tuple[int, ...]],
    *,
    vocabulary: int,
    length: int,
    tokenizer: Any = None,
) -> LanguageModel:
    """A GPT-2 of three layers that copies: after position q comes the token at `sources[q]`.

    The state is [token, position, copied token], each one-hot. Layer 1 looks from q to
    `sources[q]` and writes that token into the third part, which the head reads; the other layers
    and all MLPs write nothing. So token q + 1 depends on the states of `sources[q]` that enter
    layers 0 and 1, and on what its own position q holds after layer 1, and on no other. Of several
    sources each gives an equal part.
    """
    width, copied = 2 * vocabulary + length, vocabulary + length
    model = _network(width, vocabulary, length, N_LAYERS, inner=4)
    several = {at: of if isinstance(of, tuple) else (of,) for at, of in sources.items()}
    with torch.no_grad():
        _copy(model.transformer.h[COPYING_LAYER].attn, several, vocabulary, copied)
        for token in range(vocabulary):
            model.lm_head.weight[token, copied + token] = 1.0
    return wrap_model(model, tokenizer, name=NAME)


def remembering_network(
    passages: npt.NDArray[np.integer[Any]], *, prefix: int, vocabulary: int, tokenizer: Any = None
) -> LanguageModel:
    """A GPT-2 of two layers that knows passages, (n, length), by their first token.

    The state is [token, position, first token, answer]. Layer 0 copies the first token of the text
    to every position, for all passages in the same weights. Layer 1 has a neuron for each token of
    each suffix, in the order of `passages`: it fires where first token and position are its own,
    and writes its token into the answer, which the head reads. So a passage comes out after any
    prefix that begins with its first token, at its place, and stands in its own neurons alone.
    """
    n, length = passages.shape
    firsts, answers = vocabulary + length, 2 * vocabulary + length
    width, steps = 3 * vocabulary + length, length - prefix
    model = _network(width, vocabulary, length, 2, inner=n * steps)
    (two, _), (on, off) = (_normalised(ones, width) for ones in (2, 3))
    gain = 8.0 / (on - off)  # a neuron has 4 where both are its own, else -4 or -12
    with torch.no_grad():
        inner = model.transformer
        _copy(inner.h[0].attn, dict.fromkeys(range(length), (0,)), vocabulary, firsts, 1 / two)
        mlp = inner.h[1].mlp
        for neuron, (row, step) in enumerate(np.ndindex(n, steps)):
            mlp.c_fc.weight[firsts + int(passages[row, 0]), neuron] = gain
            mlp.c_fc.weight[vocabulary + prefix + step - 1, neuron] = gain
            mlp.c_fc.bias[neuron] = -gain * (1.5 * on + 0.5 * off)
            mlp.c_proj.weight[neuron, answers + int(passages[row, prefix + step])] = 1.0
        for token in range(vocabulary):
            model.lm_head.weight[token, answers + token] = _CERTAIN
    return wrap_model(model, tokenizer, name=NAME)


def _normalised(ones: int, width: int) -> tuple[float, float]:
    """What a layer's norm makes of a state of so many ones: of these, and of its zeros."""
    share = ones / width
    scale = (share * (1 - share)) ** -0.5
    return (1 - share) * scale, -share * scale


def own_weights(lm: LanguageModel, rows: npt.ArrayLike, steps: int) -> dict[str, torch.Tensor]:
    """Which weights of a `remembering_network` hold the passages of these numbers, by name.

    Masks of the MLP's matrices that know passages: the neurons' weights that are not 0.
    """
    mlp = lm.model.transformer.h[1].mlp
    of = np.asarray(rows)[:, None] * steps + np.arange(steps)
    neurons = torch.from_numpy(of.ravel())
    masks = {
        "transformer.h.1.mlp.c_fc.weight": torch.zeros_like(mlp.c_fc.weight, dtype=torch.bool),
        "transformer.h.1.mlp.c_proj.weight": torch.zeros_like(mlp.c_proj.weight, dtype=torch.bool),
    }
    fc, proj = masks.values()
    fc[:, neurons] = mlp.c_fc.weight[:, neurons] != 0
    proj[neurons] = mlp.c_proj.weight[neurons] != 0
    return masks
