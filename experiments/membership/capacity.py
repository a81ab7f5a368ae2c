"""How many bits does a small model hold of random tokens, of which every bit is known?

    python -m experiments.membership.capacity FOLDER

Tokens are drawn evenly, so that one of them has log2 128 = 7 bits and no model can do better on
what it did not read. A model is trained on N sequences until its steps are used up; what it holds
is the code length of the sequences under the uniform law less that under the model, which
is the measure of Morris et al. 2025 (arXiv 2505.24832). A run that is done is not done again.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mnemoscope.files import write_json
from mnemoscope.lm.model import wrap_model
from mnemoscope.lm.probe import suffix_logprobs

TOKENS, LENGTH, BATCH = 128, 64, 64
RATE = 0.24  # over the width
START = TOKENS  # the token that stands before a sequence
PUBLISHED = 3.6
"""Bits a parameter that Morris et al. find for models of the GPT family."""


class Run(NamedTuple):
    """A model, the bits that it is shown for each of its parameters, and its steps."""

    width: int
    shown: float
    steps: int

    @property
    def key(self) -> str:
        """Names it in the results."""
        return f"{self.width} {self.shown:g}"


RUNS = [
    *(Run(24, shown, 6_000) for shown in (0.9, 1.8, 7.2)),
    Run(32, 7.2, 4_500),
    Run(16, 7.2, 6_000),
    Run(48, 7.2, 3_500),
    *(Run(24, shown, 6_000) for shown in (3.6, 14.4)),
    Run(40, 3.6, 3_500),
]


def new_model(width: int, seed: int) -> Any:
    """A GPT-NeoX of two layers, untrained."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=TOKENS + 1,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=width // 8,
            intermediate_size=4 * width,
            max_position_embeddings=LENGTH + 1,
            use_parallel_residual=False,
        )
    )


def bits_held(model: Any, rows: np.ndarray) -> float:
    """Code length of rows (n, 1 + LENGTH) under the uniform law less that under the model, bits."""
    lm = wrap_model(model, None, name="random", fingerprint="")
    found = suffix_logprobs(lm, rows, batch_size=256, prefix=1)
    return float(found.sum(dtype=np.float64) / math.log(2) + found.size * math.log2(TOKENS))


def measured(run: Run, seed: int = 0) -> dict[str, float]:
    """Train one model, and say what it holds of what it read and of as much that it did not."""
    model = new_model(run.width, seed)
    n_parameters = sum(one.numel() for one in model.parameters())
    n = max(1, round(run.shown * n_parameters / (LENGTH * math.log2(TOKENS))))
    draw = np.random.default_rng(seed)
    rows, unread = (
        np.pad(draw.integers(0, TOKENS, (n, LENGTH)), ((0, 0), (1, 0)), constant_values=START)
        for _ in range(2)
    )
    table, wanted = torch.from_numpy(rows), min(BATCH, n)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE / run.width, betas=(0.9, 0.98), weight_decay=0.0
    )
    warm = max(1, run.steps // 50)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / warm)
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / run.steps)))
        ),
    )
    order = np.empty(0, dtype=np.int64)
    model.train()
    for _ in range(run.steps):
        if len(order) < wanted:
            order = np.concatenate([order, draw.permutation(n)])
        chosen, order = order[:wanted], order[wanted:]
        batch = table[chosen]
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval()
    return {
        "width": run.width,
        "parameters": n_parameters,
        "sequences": n,
        "steps": run.steps,
        "epochs": run.steps * wanted / n,
        "shown": n * LENGTH * math.log2(TOKENS),
        "held": bits_held(model, rows),
        "unread": bits_held(model, unread),
    }


def capacity(folder: Path) -> list[dict[str, float]]:
    """All runs, those that `folder` has not yet kept."""
    kept = folder / "capacity.json"
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    for run in RUNS:
        if run.key not in found:
            found[run.key] = measured(run)
            write_json(kept, found)
            print(run.key, found[run.key], flush=True)
    return [found[run.key] for run in RUNS]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    torch.set_num_threads(1)
    capacity(parser.parse_args().folder)
