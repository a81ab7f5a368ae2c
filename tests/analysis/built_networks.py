"""Networks whose weights are set by hand: each token is copied from one position, by a rule."""

from collections.abc import Mapping

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mnemoscope.lm.model import LanguageModel, wrap_model

COPYING_LAYER = 1
N_LAYERS = 3


def copying_network(
    sources: Mapping[int, int | tuple[int, ...]], *, vocabulary: int, length: int, tokenizer=None
) -> LanguageModel:
    """A GPT-2 of three layers that copies: after position q comes the token at `sources[q]`.

    The state is [token, position, copied token], each one-hot. Layer 1 looks from q to
    `sources[q]` and writes that token into the third part, which the head reads; the other layers
    and all MLPs write nothing. So token q + 1 depends on the states of `sources[q]` that enter
    layers 0 and 1, and on what its own position q holds after layer 1, and on no other. Of several
    sources each gives an equal part.
    """
    width = 2 * vocabulary + length
    first, copied = vocabulary, vocabulary + length  # where positions and copied tokens stand
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=length, n_embd=width, n_layer=N_LAYERS, n_head=1,
        n_inner=4, tie_word_embeddings=False, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
        inner = model.transformer
        for token in range(vocabulary):
            inner.wte.weight[token, token] = 1.0
            model.lm_head.weight[token, copied + token] = 1.0
        for position in range(length):
            inner.wpe.weight[position, first + position] = 1.0
        attention = inner.h[COPYING_LAYER].attn
        query, key, value = attention.c_attn.weight.view(width, 3, width).unbind(1)
        for position in range(length):
            key[first + position, first + position] = 1.0
        for asked, of in sources.items():
            for source in of if isinstance(of, tuple) else (of,):
                query[first + asked, first + source] = 100.0
        for token in range(vocabulary):
            value[token, copied + token] = 1.0
            attention.c_proj.weight[copied + token, copied + token] = 1.0
    return wrap_model(model, tokenizer, name="built by hand")
