"""What watching memorization costs a training run: 256 windows every 100 steps.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_watch.py [BLOCKS]

The embedded architecture, trained on its own sequences with the recipe's batch size and optimizer,
one thread. Blocks of 100 optimizer steps and single checks of 256 windows take turns, so that both
meet the same machine; the share is the median check over the median block and check together.
CPU seconds of this one process.
"""

import tempfile
from functools import partial

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.given import given
from benchmarks.measured import middle, spent
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.training.watch import MemorizationWatch
from mnemoscope.training.windows import WatchedWindows
from tools.embedded.pretrain import new_model
from tools.embedded.settings import SETTINGS

STEPS = 100
N_WINDOWS = 256


def main() -> None:
    (n_blocks,) = given(__doc__, blocks=3)
    torch.set_num_threads(1)
    setting = SETTINGS["full"]
    torch.manual_seed(0)
    model = new_model(setting).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    table = read_table(sequences_path())
    rows = torch.from_numpy(token_matrix(table).astype(np.int64))
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    windows = WatchedWindows.from_table(table, tokenizer, most=N_WINDOWS)
    blocks, checks = [], []

    def train() -> None:
        for _ in range(STEPS):
            batch = rows[torch.randint(len(rows), (setting.batch_size,))]
            model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        watch = MemorizationWatch(windows, folder)
        watch.check(model, 0)
        for block in range(1, n_blocks + 1):
            blocks.append(spent(train)[0])
            checks.append(spent(partial(watch.check, model, block * STEPS))[0])
            seconds = blocks[-1].seconds, checks[-1].seconds
            print(f"{STEPS} steps {seconds[0]:.2f} s, check {seconds[1]:.3f} s", flush=True)
    steps, check = middle(blocks), middle(checks)
    share = check.seconds / (steps.seconds + check.seconds)
    print(
        f"batch {setting.batch_size} of 64: {STEPS} steps {steps.seconds:.2f} s, "
        f"{steps.megabytes:.0f} MB more; a check of {len(windows)} windows {check.seconds:.3f} s, "
        f"{check.megabytes:.0f} MB more: {100 * share:.2f} % of the time"
    )


if __name__ == "__main__":
    main()
