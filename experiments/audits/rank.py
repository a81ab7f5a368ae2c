"""Does the model's certainty over a prefix alone say which windows it will reproduce?

python -m experiments.audits.rank [--sequences 200] [--documents 12] [--characters 12000]

Three tests on the embedded model, each beside its reference reading the same prefixes: trained
sequences against held-out ones at shifted prefixes; planted passages in running text; modules of
this Python's library, of which sequences were cut at places that nothing here knows.
"""

import argparse
import random
import sysconfig
import time
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from experiments.audits.finds import planted_documents, write_new
from mnemoscope.audits.local import continue_windows
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.spans import coarse_starts
from mnemoscope.audits.tokens import tokenize
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel, check_tokens, last_logits, prepend_bos, run_batches
from mnemoscope.stats import Floats, separation

SHIFTS = (-31, -24, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 24, 31)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)


def certainty(lm: LanguageModel, prefixes: npt.ArrayLike) -> Floats:
    """Mean entropy and mean log-probability of the best next token over a prefix, (2, n)."""

    def ask(batch: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            logits = last_logits(lm, prepend_bos(lm, batch), batch.shape[1])
        logprobs = logits.log_softmax(dim=-1)
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
        best = logprobs.max(dim=-1).values
        return np.stack([entropy.mean(1).numpy(), best.mean(1).numpy()], axis=1)

    return np.concatenate(list(run_batches(lm, check_tokens(lm, prefixes), 64, ask))).T


def is_hit(lm: LanguageModel, windows: np.ndarray) -> tuple[np.ndarray, float]:
    """Whether the audit counts windows as reproduced, and what deciding that takes, in seconds."""
    settings = AuditSettings()
    start = time.process_time()
    batches = continue_windows(
        lm, windows, prefix=32, n_allowed=settings.n_allowed, batch_size=settings.batch_size
    )
    scores = np.concatenate([one.score for one in batches])
    return scores >= settings.threshold, time.process_time() - start


def said(values: np.ndarray, hits: np.ndarray, group: np.ndarray) -> str:
    """AUC of large values meaning reproduced."""
    auc, low, high = separation(-values, hits, seed=0, n_resamples=1000, groups=group).auc
    return f"{auc:.3f} [{low:.3f}, {high:.3f}]"


def measure_shifts(
    lm: LanguageModel, reference: LanguageModel, sequences: pl.DataFrame, n: int
) -> None:
    """Prefixes shifted into a trained sequence, or reaching out before it into new text."""
    is_text = pl.col("form") == "plain"
    trained = sequences.filter((pl.col("duplicates") > 5) & is_text).sample(n, seed=0)
    held_out = sequences.filter(pl.col("held_out") & is_text)
    held_out = held_out.sample(min(n, held_out.height), seed=0)
    new = tokenize(write_new(random.Random(0), 40), lm.tokenizer).ids
    for shift in SHIFTS:
        rows, hits = [], []
        for frame in (trained, held_out):
            tokens = np.array(frame["tokens"].to_list(), dtype=np.int32)
            before = np.tile(new[: max(-shift, 0)], (len(tokens), 1)).astype(np.int32)
            window = np.hstack([before, tokens[:, max(shift, 0) :]])[:, :64]
            rest = window.shape[1] - 32
            batches = continue_windows(lm, window, prefix=32, n_allowed=rest, batch_size=64)
            hits.append(np.concatenate([one.score for one in batches]) == 1)
            rows.append(window[:, :32])
        kept = np.concatenate([hits[0], ~hits[1]])  # reproduced of one, not of the other
        prefixes, truth = np.concatenate(rows)[kept], np.concatenate(hits)[kept]
        group = np.arange(len(truth))
        told = [
            (said(-entropy, truth, group), said(best, truth, group))
            for entropy, best in (certainty(one, prefixes) for one in (lm, reference))
        ]
        print(
            f"shift {shift:3d}: {truth.sum()} reproduced, {(~truth).sum()} not; entropy "
            f"{told[0][0]} (reference {told[1][0]}), best {told[0][1]} (reference {told[1][1]})"
        )


def measure_documents(
    name: str, lm: LanguageModel, reference: LanguageModel, texts: list[str]
) -> None:
    """Every window that an audit asks first, in running text; documents are drawn."""
    settings = AuditSettings()
    of_text = []
    for text in texts:
        ids = tokenize(text, lm.tokenizer).ids
        of_text.append([ids[one : one + 64] for one in coarse_starts(len(ids), settings)])
    windows = np.stack(list(chain(*of_text)))
    group = np.repeat(np.arange(len(texts)), list(map(len, of_text)))
    hits, decoding = is_hit(lm, windows)
    start = time.process_time()
    entropy, best = certainty(lm, windows[:, :32])
    reading = time.process_time() - start
    others = certainty(reference, windows[:, :32])
    print(
        f"{name}: {len(texts)} documents, {len(windows):,} windows, {hits.sum()} reproduced "
        f"(in {len(np.unique(group[hits]))} documents)\n"
        f"  entropy {said(-entropy, hits, group)} (reference {said(-others[0], hits, group)}), "
        f"best {said(best, hits, group)} (reference {said(others[1], hits, group)})\n"
        f"  CPU seconds: asking all {decoding:.1f}, reading prefixes {reading:.1f}"
    )
    order = np.argsort(entropy)
    for share in SHARES:
        taken = order[: int(share * len(order))]
        print(f"  surest {100 * share:.0f} %: {100 * hits[taken].sum() / hits.sum():.1f} % found")


def modules(n: int, n_characters: int) -> list[str]:
    """The beginnings of modules of this Python's library, in the order of their names."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = (path.read_text(encoding="utf-8")[:n_characters] for path in paths)
    return [text for text in texts if len(text) == n_characters][:n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--characters", type=int, default=12000)
    wanted = parser.parse_args()
    lm = load_model(str(model_path()), device="cpu")
    reference = load_model(str(reference_path()), device="cpu")
    sequences = pl.read_parquet(sequences_path())
    measure_shifts(lm, reference, sequences, wanted.sequences)
    planted = [text for text, _ in planted_documents(sequences, wanted.documents, seed=3)]
    measure_documents("planted", lm, reference, planted)
    texts = modules(wanted.documents, wanted.characters)
    measure_documents("modules", lm, reference, texts)


if __name__ == "__main__":
    main()
