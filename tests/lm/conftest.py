"""Tiny random models of many families, a tiny tokenizer, and one model that has memorized."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from mnemoscope.lm import wrap_model

VOCABULARY = 96
_COMMON = {
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
_GROUPED = {**_COMMON, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "gpt_neox": _COMMON,
    "llama": _GROUPED,
    "gpt2": {**_COMMON, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 80},
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
    "gemma2": {**_GROUPED, "sliding_window": 24, "query_pre_attn_scalar": 8},
    "mistral": {**_GROUPED, "sliding_window": 24},
    "phi": _COMMON,
    "opt": {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {**_COMMON, "n_layer": 3, "n_head": 4},
    "falcon": {**_COMMON, "new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 3,
            "max_seq_len": 80, "initializer_range": 0.3},
    "gpt_neo": {**_COMMON, "num_layers": 3, "num_heads": 4, "window_size": 24,
                "attention_types": [[["global", "local", "global"], 1]]},
}  # fmt: skip


def make_model(family, **changes):
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **{**FAMILIES[family], **changes})
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


@pytest.fixture(scope="session")
def build():
    """Build a wrapped tiny model: `build("llama", adds_bos=True, hidden_size=16)`."""

    def build(family, *, adds_bos=False, **changes):
        return wrap_model(make_model(family, **changes), make_tokenizer(adds_bos), name=family)

    return build


@pytest.fixture(scope="session")
def tokens():
    return random_tokens


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny Llama with its tokenizer, saved as a user would."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def memorizer():
    """A model overfitted on 24 random sequences for about a second and a half."""
    model = make_model("gpt_neox", initializer_range=0.02, num_hidden_layers=2)
    seen = torch.from_numpy(random_tokens(24, seed=5)).long()
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(70):
        optimizer.zero_grad()
        model(input_ids=seen, labels=seen).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return wrap_model(model, make_tokenizer(), name="memorizer")


def pytest_generate_tests(metafunc):
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", list(FAMILIES))
