"""Measure what a vocabulary of 262,144 tokens costs an audit: tokenizer and logits.

Run: .venv/bin/python benchmarks/bench_vocabulary.py
A random Llama (two layers, width 64) and a byte-pair tokenizer of random merges, 64 windows of 64
tokens. Prints processor seconds, and the peak of memory above what was there before.
"""

import random
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mnemoscope.audit.documents import tokenize
from mnemoscope.audit.local import continue_windows, judge_tokens
from mnemoscope.audit.settings import AuditSettings
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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    ask()
    seconds = time.process_time() - started
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{what}: {seconds:.3f} s, peak {more / 1024:,.0f} MB above what was there")


def main() -> None:
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
        "64 windows judged": lambda: judge_tokens(lm, windows, settings),
        "total effects in 8": lambda: list(
            total_effects(lm, windows[:8], prefix=32, batch_size=WINDOWS)
        ),
    }.items():
        measure(what, ask)


if __name__ == "__main__":
    main()
