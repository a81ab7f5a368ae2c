"""A short training run that is watched: the figures and the picture of docs/training.md.

Run: OMP_NUM_THREADS=1 .venv/bin/python -m experiments.training.run OUT [STEPS]

The embedded model's reference, which read none of the study's sequences, goes on
training with transformers' Trainer on sequences of the study, each step a batch of 16, among them
12 canaries that come back every 25 steps; 12 twins and as many sequences of the study are kept out.
A `MemorizationCallback` looks every 25 steps; half way the canaries are left out, so that
forgetting is seen too. OUT gets `memorization/` (history and page) and checkpoints every 50 steps.
"""

from pathlib import Path

import numpy as np
import polars as pl
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from benchmarks.given import given
from mnemoscope.data.table import token_matrix
from mnemoscope.embedded import reference_path, sequences_path
from mnemoscope.flow.watch import write_watch_page
from mnemoscope.training.callback import MemorizationCallback
from mnemoscope.training.watch import make_canaries
from mnemoscope.training.windows import WatchedWindows

BATCH, EVERY, N = 16, 25, 12


def main() -> None:
    folder, n_steps = given(__doc__, "out", steps=300)
    out = Path(folder)
    tokenizer = AutoTokenizer.from_pretrained(reference_path())
    trained, kept_out = (make_canaries(tokenizer, N, seed=seed) for seed in (0, 1))
    table = pl.read_parquet(sequences_path())
    order = np.random.default_rng(0).permutation(table.height)
    seen, unseen = table[order[: n_steps * BATCH].tolist()], table[order[-200:].tolist()]
    rows = token_matrix(seen)[: n_steps * BATCH].copy()
    canaries = np.array([tokenizer(text)["input_ids"][:64] for text in trained])
    for step in range(0, n_steps // 2, EVERY):
        for copy in range(8):  # eight batches in a row hold all canaries
            first = (step + copy) * BATCH
            rows[first : first + N] = canaries
    watched = (
        WatchedWindows.from_texts(trained, tokenizer, source="canary", stride=4096)
        + WatchedWindows.from_texts(kept_out, tokenizer, source="control", stride=4096)
        + WatchedWindows.from_table(seen, tokenizer, most=200)
        + WatchedWindows.from_table(unseen, tokenizer, source="control")
    )
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(reference_path(), dtype="float32"),
        TrainingArguments(
            output_dir=str(out),
            per_device_train_batch_size=BATCH,
            max_steps=n_steps,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            save_steps=50,
            logging_steps=EVERY,
            report_to=[],
            use_cpu=True,
            seed=0,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows.tolist()],
    )
    # The rows are in their order already.
    trainer._get_train_sampler = lambda *_: None
    trainer.add_callback(MemorizationCallback(trainer, watched, every=EVERY))
    trainer.train()
    results = write_watch_page(out / "memorization")
    print(results.sentence, *results.further, sep="\n")
    with pl.Config(tbl_rows=-1):
        print(results.frames["shares"].sort("source", "class", "step"))


if __name__ == "__main__":
    main()
