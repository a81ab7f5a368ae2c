"""Sequences asked under a changed layer: from that layer on, beside the whole model.

Run: OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.bench_graft [SEQUENCES] [REPETITIONS]

Both do what a graft asks: a scan of memorized sequences, and the log-probabilities of as many.
Printed are CPU seconds, the median of repetitions in turn, for each layer of the shipped model,
where its attention alone is changed or all of it; that both say the same is checked.
"""

from itertools import product

import numpy as np
import torch

from benchmarks.given import given
from benchmarks.measured import middle, spent
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

    for layer, name in product(range(lm.n_layers), PARTS):
        part = attention_modules(decoder_layers(lm)[layer])[0] if name == "attention" else None
        changed = list((part or decoder_layers(lm)[layer]).parameters())
        kept = keep_states(lm, tokens, layer, batch_size=32)
        assert kept is not None
        whole, resumed = [], []
        for _ in range(repetitions):
            whole.append(spent(lambda: ask(None))[0])
            with kept.resuming(changed):
                resumed.append(spent(lambda: ask(kept))[0])  # noqa: B023 - called in this turn
        with kept.resuming(changed):
            found = ask(kept)
        assert all(map(np.array_equal, found, ask(None)))
        before, after = middle(whole), middle(resumed)
        ratio = f"{before.seconds / after.seconds:.2f} times as fast"
        memory = f"{after.megabytes:.0f} and {before.megabytes:.0f} MB more"
        times = f"{after.seconds:.2f} s, whole {before.seconds:.2f} s, {ratio}"
        print(f"{name} of layer {layer}: {times}; {memory}")


if __name__ == "__main__":
    main()
