"""Build a tiny random model of any causal-LM family and compare its captured maps with its own.

The oracle is transformers' `output_attentions` from the family's eager code, pooled here.
"""

import warnings
from typing import NamedTuple

import torch
from tiny_families import COMMON, FAMILIES, GROUPED, own_attention, random_tokens
from transformers import AutoConfig, AutoModelForCausalLM

from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.intervene import cut_attention
from mnemoscope.lm.model import LanguageModel, last_logits, wrap_model

MOST_PARAMETERS = 15_000_000

# What the families call the same few things.
_ANY = {
    **GROUPED, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 80, "d_model": 32,
    "num_layers": 3, "num_heads": 4, "rotary_dim": 8, "ffn_dim": 48, "word_embed_proj_dim": 32,
    "decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
    "attention_heads": 4, "is_decoder": True,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_SPECIAL = {
    "gemma3_text": {**GROUPED, "sliding_window": 24, "query_pre_attn_scalar": 8,
                    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gpt_oss": {**_ANY, "sliding_window": 24},
    "mixtral": {**GROUPED, "num_local_experts": 4, "sliding_window": 24},
}  # fmt: skip


class Finding(NamedTuple):
    """What capture does with one family.

    Attributes:
        family: transformers' `model_type`.
        route: `interface`, `hooks`, or `-` where none was tried.
        verdict: `exact`, `differs`, `refused` or `not built`.
        knockout: `exact` where cutting no edge changes no logit and cutting some does, else
            `differs`, `refused`, or `-` where capture is not exact.
        note: the refusal, the difference, or why no tiny model of it can be built.
    """

    family: str
    route: str
    verdict: str
    knockout: str = "-"
    note: str = ""


def settings_to_try(family: str) -> list[dict]:
    """Our own choice where there is one, else ever plainer ones."""
    if family in FAMILIES or family in _SPECIAL:
        return [FAMILIES.get(family) or _SPECIAL[family]]
    ungrouped = {**_ANY, "num_key_value_heads": 4}
    latent = {**ungrouped, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
              "qk_nope_head_dim": 8, "v_head_dim": 8, "qk_head_dim": 16}  # fmt: skip
    del latent["head_dim"]
    return [_ANY, latent, ungrouped, COMMON]


def build_family(family: str, *, dtype=torch.float32, **changes) -> LanguageModel:
    """A random model of three layers, with the first settings of which the family makes a model."""
    errors = []
    for settings in settings_to_try(family):
        try:
            model = _build(family, settings | changes).to(dtype)
            with torch.no_grad():
                model(input_ids=torch.from_numpy(random_tokens(2)).long(), use_cache=False)
        except Exception as error:
            errors.append(error)
        else:
            return wrap_model(model, name=family)
    raise errors[0]


def _build(family: str, settings: dict):
    config = AutoConfig.for_model(family, **settings)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:,.0f} million parameters with these settings")
    torch.manual_seed(7)
    backend = {"attn_implementation": "eager"} if family == "falcon" else {}
    return AutoModelForCausalLM.from_config(config, **backend).eval()


def largest_difference(lm: LanguageModel, n: int = 3) -> float:
    """Between captured maps and the pooled oracle, over mean and max; nan where shapes differ.

    Captured twice: the first forward is whole, the second ends with the last layer's attention.
    """
    tokens = random_tokens(n)
    batches = [next(capture_pooled(lm, tokens, batch_size=n)) for _ in range(2)]
    weights = own_attention(lm, tokens).float()
    mean, largest = weights.mean(dim=2), weights.amax(dim=2)
    if any(batch.mean.shape != largest.shape for batch in batches):
        return float("nan")
    found = [(batch.mean - mean).abs().max() for batch in batches]
    found += [(batch.max - largest).abs().max() for batch in batches]
    return float(max(found))


def knockout_verdict(lm: LanguageModel) -> tuple[str, str]:
    """Cut nothing, then a third of the edges: `exact`, `differs` or `refused`, and the refusal."""
    length = 64
    ids = torch.from_numpy(random_tokens(3, length)).long()
    edges = torch.rand(lm.n_layers, length, length, generator=torch.Generator().manual_seed(0))
    some = (edges > 2 / 3).tril(diagonal=-1)
    if lm.model._can_set_attn_implementation():
        lm.model.set_attn_implementation("eager")
    logits = []
    with torch.no_grad():
        logits.append(last_logits(lm, ids, length))
        try:
            for cut in (torch.zeros_like(some), some):
                with cut_attention(lm, cut):
                    logits.append(last_logits(lm, ids, length))
        except UserError as error:
            return "refused", _first_words(error, lm.name)
    plain, with_nothing, without_some = logits
    is_exact = torch.equal(plain, with_nothing) and not torch.equal(plain, without_some)
    return "exact" if is_exact else "differs", ""


def examine(family: str) -> Finding:
    """Build, capture, compare; with other settings where these do not fit the family."""
    finding = Finding(family, "-", "not built")
    for settings in settings_to_try(family):
        tried = _examine(family, settings)
        if tried.verdict != "not built":
            return tried
        finding = finding if finding.note else tried
    return finding


def _examine(family: str, settings: dict) -> Finding:
    route, knockout, why = "-", "-", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lm = wrap_model(_build(family, settings), name=family)
            route = lm.attention_route
            difference = largest_difference(lm)
            if difference == 0.0:
                knockout, why = knockout_verdict(lm)
    except UserError as error:
        return Finding(family, route, "refused", note=_first_words(error, family))
    except Exception as error:
        return Finding(family, "-", "not built", note=_first_words(error))
    if difference != 0.0:
        return Finding(family, route, "differs", note=str(difference))
    return Finding(family, route, "exact", knockout, why)


def _first_words(error: Exception, name: str = "") -> str:
    """The first sentence of an error, on one line of a Markdown table."""
    text = " ".join(str(error).split()).removeprefix(f"{name}: ").replace("|", "/")
    return (text.split(". ")[0] or type(error).__name__)[:140]
