"""Measure what a vocabulary of 262,144 tokens costs an audit: tokenizer and logits.

Run: .venv/bin/python benchmarks/bench_vocabulary.py [--write FOLDER]
A random Llama (two layers, width 64) and a byte-pair tokenizer of random merges, 64 windows of 64
tokens. Prints processor seconds, and the peak of memory above what was there before. `--write`
writes a random model of the shape of Gemma 3 270M with this tokenizer, for bench_audit_speed.py.
"""

import argparse
import random
from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from benchmarks.measured import spent
from mnemoscope.audits.local import continue_windows
from mnemoscope.audits.sampling import score_rows
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.tokens import tokenize
from mnemoscope.data.read import WindowCutter
from mnemoscope.lm.edges import total_effects
from mnemoscope.lm.model import wrap_model

VOCABULARY, WINDOWS = 262_144, 64


def large_tokenizer() -> PreTrainedTokenizerFast:
    draw = random.Random(0)
    known = [chr(code) for code in range(33, 127)]
    vocabulary, merges = {letter: number for number, letter in enumerate(known)}, []
    while len(vocabulary) < VOCABULARY:
        first, second = draw.choice(known), draw.choice(known[:2000])
        joined = first + second
        if joined not in vocabulary and len(joined) < 12:
            vocabulary[joined] = len(vocabulary)
            merges.append((first, second))
            known.append(joined)
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def measure(what: str, ask: Callable[[], object]) -> None:
    taken, _ = spent(ask)
    print(f"{what}: {taken.seconds:.3f} s, peak {taken.megabytes:,.0f} MB above what was there")


def write_model(folder: str) -> None:
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = Gemma3ForCausalLM(config)
    model.save_pretrained(folder)
    large_tokenizer().save_pretrained(folder)
    print(f"Wrote {folder}: {sum(one.numel() for one in model.parameters()):,} weights.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", help="only write the model there")
    wanted = parser.parse_args()
    if wanted.write:
        torch.manual_seed(0)
        write_model(wanted.write)
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer, document = large_tokenizer(), "some words of a short document " * 20
    measure(
        "a document, with a copy of the tokenizer of its own", lambda: tokenize(document, tokenizer)
    )
    cutter = WindowCutter(tokenizer)
    measure("a document, with one copy for all", lambda: tokenize(document, cutter))
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    lm = wrap_model(LlamaForCausalLM(config).eval())
    drawn = np.random.default_rng(0).integers(0, VOCABULARY, (WINDOWS, 64))
    windows, settings = drawn.astype(np.int32), AuditSettings()
    for what, ask in {
        "64 windows continued": lambda: list(
            continue_windows(lm, windows, prefix=32, n_allowed=3, batch_size=WINDOWS)
        ),
        "64 windows judged": lambda: score_rows(lm, windows, settings),
        "total effects in 8": lambda: list(
            total_effects(lm, windows[:8], prefix=32, batch_size=WINDOWS)
        ),
    }.items():
        measure(what, ask)


if __name__ == "__main__":
    main()
