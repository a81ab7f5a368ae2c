"""How far copies of the embedded model are from it, beside its reference: `audits.reference.apart`.

python -m experiments.audits.copies

The documents are held-out prose and code. Beside it the difference of the weights, which a dry run
reads.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from experiments.pages import publish, results_of
from mnemoscope.audits.documents import Document
from mnemoscope.audits.local import local_audit
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.reference import apart
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.forgetting.stress import round_rows
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel

Change = Callable[[Any], Any]
STEPS = 20


def changed(lm: LanguageModel, change: Change) -> LanguageModel:
    """The model with each of its weights changed."""
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(change(weights))
    return replace(lm, model=model)


def noisy(share: float) -> Change:
    """Normal noise of so large a share of each tensor's spread."""
    draw = torch.Generator().manual_seed(0)
    return lambda w: w + share * w.std() * torch.randn(w.shape, generator=draw)


def rounded(bits: int) -> Change:
    """Each row of a matrix at so many bits."""

    def change(weights: Any) -> Any:
        return weights if weights.ndim < 2 else round_rows(weights, bits)

    return change


def trained_on(lm: LanguageModel, rows: np.ndarray, rate: float) -> LanguageModel:
    """The model after `STEPS` steps of AdamW on batches of four rows of tokens."""
    model = copy.deepcopy(lm.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(STEPS):
        ids = torch.tensor(rows[4 * step : 4 * step + 4].astype(np.int64))
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return replace(lm, model=model.eval())


def weights_apart(lm: LanguageModel, other: LanguageModel) -> float:
    """Norm of the difference of the weights, by the norm of the model's."""
    pairs = zip(lm.model.parameters(), other.model.parameters(), strict=True)
    sums = [(float(((a - b) ** 2).sum()), float((a**2).sum())) for a, b in pairs]
    return float((sum(a for a, _ in sums) / sum(b for _, b in sums)) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    keep = parser.parse_args().keep
    lm = load_model(str(model_path()), device="cpu")
    sequences = pl.read_parquet(sequences_path())
    held = sequences.filter(pl.col("held_out") & (pl.col("form") == "plain"))
    document = Document("held out", "\n".join(held["text"].head(60)), "")
    rows = np.array(held["tokens"].to_list()[60 : 60 + 4 * STEPS], dtype=np.int32)
    others = {
        "its reference": load_model(str(reference_path()), device="cpu"),
        "itself in bfloat16": changed(lm, lambda w: w.bfloat16().float()),
        **{f"itself at {n} bits": changed(lm, rounded(n)) for n in (8, 4)},
        **{f"itself with {n} % noise": changed(lm, noisy(n / 100)) for n in (1, 3)},
        **{
            f"itself after {STEPS} steps of training at {rate:f}".rstrip("0"): trained_on(
                lm, rows, rate
            )
            for rate in (1e-5, 1e-4, 5e-4)
        },
    }
    found = {}
    for name, other in others.items():
        audit = local_audit(lm, [document], audit_settings(), reference=other)
        far, weights = apart(audit), weights_apart(lm, other)
        assert far is not None
        found[name] = {"apart": round(far, 3), "weights": round(100 * weights, 2)}
        print(name, found[name], flush=True)
    publish("audits", results_of("audits") | {"copies": found}, keep=keep)


if __name__ == "__main__":
    main()
