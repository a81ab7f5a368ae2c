"""Tiny random models of many families, a tiny tokenizer, random tokens."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 96
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 80,
    # Wide enough that attention is far from uniform.
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**COMMON, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "gpt_neox": COMMON,
    "llama": GROUPED,
    "gpt2": {**COMMON, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 80},
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "gemma2": {**GROUPED, "sliding_window": 24, "query_pre_attn_scalar": 8},
    "mistral": {**GROUPED, "sliding_window": 24},
    "phi": COMMON,
    "opt": {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {**COMMON, "n_layer": 3, "n_head": 4},
    "falcon": {**COMMON, "new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 3,
            "max_seq_len": 80, "initializer_range": 0.3},
    "gpt_neo": {**COMMON, "num_layers": 3, "num_heads": 4, "window_size": 24,
                "attention_types": [[["global", "local", "global"], 1]]},
}  # fmt: skip
# Further ones for tests that name them: not every test of every family goes through these.
MORE_FAMILIES = (
    "codegen", "cohere", "gemma", "gemma3_text", "gpt_bigcode", "gpt_oss", "gptj", "granite",
    "mixtral", "olmo", "olmo2", "phi3", "starcoder2",
)  # fmt: skip
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
    "gpt_oss": {**GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 24},
    "mixtral": {**GROUPED, "num_local_experts": 4, "sliding_window": 24},
}  # fmt: skip
# Layers, or parts of layers, that keep a state in place of keys and values.
HYBRIDS = {
    "falcon_h1": {**GROUPED, "num_hidden_layers": 2, "mamba_d_ssm": 32, "mamba_n_heads": 4,
                  "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8,
                  "mamba_chunk_size": 8},
    "lfm2": {**GROUPED, "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"],
             "block_auto_adjust_ff_dim": False},
    "qwen3_next": {**GROUPED, "num_hidden_layers": 2, "num_experts": 0, "mlp_only_layers": [0, 1],
                   "layer_types": ["linear_attention", "full_attention"],
                   "linear_num_key_heads": 2, "linear_num_value_heads": 2,
                   "linear_key_head_dim": 8, "linear_value_head_dim": 8},
}  # fmt: skip
# One of each way to attend: grouped, shared or latent keys, windows, soft caps, sinks, ALiBi,
# experts, code older than the interface.
OF_EACH_KIND = {
    "gpt_neox", "gpt2", "gptj", "opt", "llama", "mixtral", "gemma2", "gemma3_text", "phi3",
    "gpt_oss", "bloom", "falcon", "mpt", "gpt_neo", "gpt_bigcode", "codegen", "deepseek_v3",
}  # fmt: skip


def named(names, fast=OF_EACH_KIND):
    """Families as parameters of a test; those that are not of the few wait for `make test-all`."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def settings_to_try(family: str) -> list[dict]:
    """Our own choice where there is one, else ever plainer ones."""
    if family in (own := FAMILIES | _SPECIAL):
        return [own[family]]
    ungrouped = {**_ANY, "num_key_value_heads": 4}
    latent = {**ungrouped, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
              "qk_nope_head_dim": 8, "v_head_dim": 8, "qk_head_dim": 16}  # fmt: skip
    del latent["head_dim"]
    return [_ANY, latent, ungrouped, COMMON]


def make_model(family: str, *, dtype=torch.float32, **changes):
    """A random model of three layers, with the first settings of which the family makes a model."""
    errors, ids = [], torch.ones(2, 24, dtype=torch.long)
    for settings in [HYBRIDS[family]] if family in HYBRIDS else settings_to_try(family):
        try:
            model = build_with(family, settings | changes).to(dtype)
            with torch.no_grad():
                model(input_ids=ids, use_cache=False)
        except Exception as error:
            errors.append(error)
        else:
            return model
    raise errors[0]


def build_with(family: str, settings: dict):
    config = AutoConfig.for_model(family, **settings)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:,.0f} million parameters with these settings")
    torch.manual_seed(7)
    # Falcon chooses its attention when built; `load_model` builds it eager, so does this.
    backend = {"attn_implementation": "eager"} if family == "falcon" else {}
    return AutoModelForCausalLM.from_config(config, **backend).eval()


def make_tokenizer(adds_bos=False):
    """One token a printable character; id 1 is the beginning of a sequence."""
    letters = ["<pad>", "<s>", "</s>"] + [chr(code) for code in range(32, 125)]
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def random_tokens(n, length=64, seed=0):
    return np.random.default_rng(seed).integers(3, VOCABULARY, (n, length)).astype(np.int32)


def edit_json(path, **changes):
    """Change what a JSON file says: `edit_json(folder / "config.json", model_type="t5")`."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def own_attention(lm, tokens, batch_size=4, **arguments):
    """The oracle: transformers' `output_attentions` of its eager code, (n, layers, heads, T, T)."""
    model, found = lm.model, []
    before = model.config._attn_implementation
    if model._can_set_attn_implementation():
        model.set_attn_implementation("eager")
    with torch.no_grad():
        for start in range(0, len(tokens), batch_size):
            ids = torch.as_tensor(tokens[start : start + batch_size]).long()
            output = model(input_ids=ids, output_attentions=True, use_cache=False, **arguments)
            weights = [one for one in output.attentions if one is not None]
            found.append(torch.stack(weights, dim=1))
    model.config._attn_implementation = before
    return torch.cat(found)


def joined(batches):
    """What several batches hold, field by field."""
    parts = (part for part in zip(*batches, strict=True) if part[0] is not None)
    return [torch.cat(one) if torch.is_tensor(one[0]) else np.concatenate(one) for one in parts]


def n_hooks(lm):
    """Hooks before the forwards of a model's modules; transformers has its own behind them."""
    return sum(len(module._forward_pre_hooks) for module in lm.model.modules())
