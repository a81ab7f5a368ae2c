"""ROUGE-L and ROUGE-3 on token ids against rouge-score and RapidFuzz: time on one core, equality.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_rouge.py [PAIRS]

Sequences of the embedded model's own table, repeated, half of them with ids replaced at random so
that rows differ. rouge-score sees the ids joined by blanks, as in the tests, on a share of
the rows (it would take minutes on all); seconds are CPU seconds of this one process, and every
value that rouge-score gives must equal ours to 1e-12. RapidFuzz is asked as one would who knows
it: its longest common subsequence of two lists of ids, and a Counter of trigrams; ours takes its
turn beside it, before and after.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
from rapidfuzz.distance import LCSseq
from rouge_score.rouge_scorer import RougeScorer

from benchmarks.given import given
from mnemoscope.data.rouge import rouge_3, rouge_l, rouge_scores
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import sequences_path

EXACT = 1e-12
ORACLE_SHARE = 50


def main() -> None:
    (n,) = given(__doc__, pairs=200_000)
    prefixes, suffixes = np.split(make_pairs(n), 2, axis=1)
    rouge_l(prefixes[:100], suffixes[:100])  # imports and first allocations are not timed
    seconds = {}
    for name, score in (("rougeL", rouge_l), ("rouge3", rouge_3), ("both", rouge_scores)):
        started = time.process_time()
        values = score(prefixes, suffixes)
        seconds[name] = (time.process_time() - started) / n
    ours = dict(zip(("rougeL", "rouge3"), values, strict=True))
    n_oracle = max(n // ORACLE_SHARE, 1)
    texts = [
        tuple(" ".join(map(str, ids)) for ids in pair)
        for pair in zip(prefixes[:n_oracle].tolist(), suffixes[:n_oracle].tolist(), strict=True)
    ]
    for name, mine in seconds.items():
        names = ["rougeL", "rouge3"] if name == "both" else [name]
        scorer = RougeScorer(names, use_stemmer=False)
        started = time.process_time()
        scores = [scorer.score(*pair) for pair in texts]
        theirs = (time.process_time() - started) / n_oracle
        gap = max(
            np.abs([score[one].fmeasure for score in scores] - ours[one][:n_oracle]).max()
            for one in names
        )
        print(
            f"{name}: rouge-score {theirs * 1e6:.0f} µs a pair ({n_oracle:,} pairs), ours "
            f"{mine * 1e6:.2f} µs ({n:,} pairs): {theirs / mine:.0f} times as fast; "
            f"largest difference {gap:.1g}"
        )
        assert gap <= EXACT, "the two disagree"
    plainly(prefixes, suffixes)


def plainly(prefixes: np.ndarray, suffixes: np.ndarray) -> None:
    """RapidFuzz over lists and a Counter, pair by pair, against ours on the same rows."""
    n = max(len(prefixes) // 4, 1)
    pairs = list(zip(prefixes[:n].tolist(), suffixes[:n].tolist(), strict=True))
    ways: dict[str, tuple[Callable[..., np.ndarray], Callable[..., float]]] = {
        "rougeL": (rouge_l, lcs_f),
        "rouge3": (rouge_3, trigram_f),
    }
    for name, (ours, plain) in ways.items():
        ratios, seconds = [], []
        for _ in range(3):
            started = time.process_time()
            values = ours(prefixes[:n], suffixes[:n])
            between = time.process_time()
            theirs = [plain(*pair) for pair in pairs]
            ended = time.process_time()
            seconds.append((ended - between) / n)
            ratios.append((ended - between) / (between - started))
        assert np.abs(values - theirs).max() <= EXACT, "the two disagree"
        whose = "RapidFuzz over lists" if name == "rougeL" else "a Counter of trigrams"
        print(
            f"{name}: {whose} {median(seconds) * 1e6:.1f} µs a pair ({n:,} pairs), ours "
            f"{median(ratios):.1f} times as fast"
        )


def lcs_f(prefix: Sequence[int], suffix: Sequence[int]) -> float:
    """ROUGE-L F of two lists of ids."""
    found: int = LCSseq.similarity(prefix, suffix)
    return 2.0 * found / (len(prefix) + len(suffix))


def trigram_f(prefix: Sequence[int], suffix: Sequence[int]) -> float:
    """ROUGE-3 F of two lists of ids."""
    sides = [Counter(zip(ids, ids[1:], ids[2:], strict=False)) for ids in (prefix, suffix)]
    return 2.0 * (sides[0] & sides[1]).total() / sum(side.total() for side in sides)


def make_pairs(n: int) -> np.ndarray:
    """Token ids, shape (n, 64)."""
    rng = np.random.default_rng(0)
    tokens = token_matrix(read_table(sequences_path()))
    rows = tokens[rng.integers(0, len(tokens), n)]
    changed = rng.random(rows.shape) < rng.random((n, 1)) * (rng.random((n, 1)) < 0.5)
    return np.where(changed, rng.integers(0, tokens.max(), rows.shape), rows).astype(np.int32)


if __name__ == "__main__":
    main()
