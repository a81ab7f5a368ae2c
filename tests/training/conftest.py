"""A small network of the embedded architecture and texts that it can learn within seconds."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from mnemoscope.embedded import model_path
from mnemoscope.training.watch import make_canaries
from mnemoscope.training.windows import WatchedWindows

N_TEXTS = 6


@pytest.fixture(autouse=True)
def little_garbage() -> None:
    """Each end of a Trainer looks for garbage: not in what earlier tests of this process made."""
    gc.freeze()


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(model_path())


@pytest.fixture(scope="session")
def texts(tokenizer) -> SimpleNamespace:
    return SimpleNamespace(
        trained=make_canaries(tokenizer, N_TEXTS, seed=0),
        held_out=make_canaries(tokenizer, N_TEXTS, seed=1),
        guessable=["\n".join(f"{i}. item number {i}" for i in range(10, 60))],
    )


@pytest.fixture(scope="session")
def windows(texts, tokenizer) -> WatchedWindows:
    return (
        WatchedWindows.from_texts(texts.trained, tokenizer, source="canary", stride=4096)
        + WatchedWindows.from_texts(texts.held_out, tokenizer, source="control", stride=4096)
        + WatchedWindows.from_texts(texts.guessable, tokenizer, most=3)
    )


def make_network(tokenizer, dropout: float = 0.0) -> GPTNeoXForCausalLM:
    """The embedded architecture, smaller."""
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=128,
            hidden_dropout=dropout,
            attention_dropout=dropout,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


@pytest.fixture
def network(tokenizer) -> GPTNeoXForCausalLM:
    """With dropout, so that random draws matter."""
    return make_network(tokenizer, dropout=0.05)


@pytest.fixture(scope="session")
def rows(texts, tokenizer) -> list[dict[str, list[int]]]:
    ids = [tokenizer(text)["input_ids"][:64] for text in texts.trained]
    assert np.shape(ids) == (N_TEXTS, 64)
    return [{"input_ids": one, "labels": one} for one in ids]
