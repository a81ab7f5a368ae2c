"""Sequences asked under a changed layer: from that layer on, beside the whole model.

Run: OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.bench_graft [SEQUENCES] [REPETITIONS]

Both do what a graft asks: a scan of memorized sequences, and the log-probabilities of as many.
Printed are CPU seconds, the median of repetitions in turn, for each layer of the shipped model,
where its attention alone is changed or all of it; that both say the same is checked.
"""

import statistics
import time
from collections.abc import Callable
from itertools import product

import numpy as np
import torch

from benchmarks.given import given
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import attention_modules
from mnemoscope.lm.probe import decoder_layers, suffix_logprobs
from mnemoscope.lm.resume import KeptStates, keep_states

PARTS = ("attention", "all")


def main() -> None:
    n, repetitions = given(__doc__, sequences=200, repetitions=3)
    torch.set_num_threads(1)
    lm = load_model(model_path())
    tokens = token_matrix(read_table(sequences_path()).head(n))

    def ask(states: KeptStates | None) -> tuple[np.ndarray, np.ndarray]:
        scans = scan_memorized(lm, tokens, batch_size=32, states=states)
        survives = np.concatenate([one.is_memorized for one in scans])
        return survives, suffix_logprobs(lm, tokens, batch_size=32)

    def seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    for layer, name in product(range(lm.n_layers), PARTS):
        part = attention_modules(decoder_layers(lm)[layer])[0] if name == "attention" else None
        changed = list((part or decoder_layers(lm)[layer]).parameters())
        kept = keep_states(lm, tokens, layer, batch_size=32)
        assert kept is not None
        whole, resumed = [], []
        for _ in range(repetitions):
            whole.append(seconds(lambda: ask(None)))
            with kept.resuming(changed):
                resumed.append(seconds(lambda: ask(kept)))  # noqa: B023 - called in this turn
        with kept.resuming(changed):
            found = ask(kept)
        assert all(map(np.array_equal, found, ask(None)))
        before, after = statistics.median(whole), statistics.median(resumed)
        ratio = f"{before / after:.2f} times as fast"
        print(f"{name} of layer {layer}: {after:.2f} s, whole {before:.2f} s, {ratio}")


if __name__ == "__main__":
    main()
