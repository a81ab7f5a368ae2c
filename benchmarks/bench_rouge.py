"""ROUGE-L and ROUGE-3 on token ids against rouge-score and RapidFuzz: time on one core, equality.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_rouge.py [PAIRS]

Sequences of the embedded model's own table, repeated, half of them with ids replaced at random so
that rows differ. rouge-score sees the ids joined by blanks, as in the tests, on a share of
the rows (it would take minutes on all); seconds are CPU seconds of this one process, and every
value that rouge-score gives must equal ours to 1e-12. RapidFuzz is asked as one would who knows
it: its longest common subsequence of two lists of ids, and a Counter of trigrams; ours takes its
turn beside it, before and after.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq
from rouge_score.rouge_scorer import RougeScorer

from benchmarks.given import given
from benchmarks.measured import Spent, middle, spent
from mnemoscope.data.rouge import rouge_3, rouge_l, rouge_scores
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import sequences_path

EXACT = 1e-12
ORACLE_SHARE = 50


def main() -> None:
    (n,) = given(__doc__, pairs=200_000)
    prefixes, suffixes = np.split(make_pairs(n), 2, axis=1)
    rouge_l(prefixes[:100], suffixes[:100])  # imports and first allocations are not timed
    ways: dict[str, Callable[..., Any]] = {
        "rougeL": rouge_l,
        "rouge3": rouge_3,
        "both": rouge_scores,
    }
    seconds = {}
    for name, score in ways.items():
        seconds[name], values = spent(partial(score, prefixes, suffixes))
    ours = dict(zip(("rougeL", "rouge3"), values, strict=True))
    n_oracle = max(n // ORACLE_SHARE, 1)
    texts = [
        tuple(" ".join(map(str, ids)) for ids in pair)
        for pair in zip(prefixes[:n_oracle].tolist(), suffixes[:n_oracle].tolist(), strict=True)
    ]
    for name, mine in seconds.items():
        names = ["rougeL", "rouge3"] if name == "both" else [name]
        scorer = RougeScorer(names, use_stemmer=False)
        theirs, scores = spent(partial(scored, scorer, texts))
        gap = max(
            np.abs([score[one].fmeasure for score in scores] - ours[one][:n_oracle]).max()
            for one in names
        )
        print(
            f"{name}: rouge-score {rate(theirs, n_oracle)}, ours {rate(mine, n)}: "
            f"{theirs.seconds / n_oracle / (mine.seconds / n):.0f} times as fast; "
            f"largest difference {gap:.1g}"
        )
        assert gap <= EXACT, "the two disagree"
    plainly(prefixes, suffixes)


def asked(plain: Callable[..., float], pairs: list[tuple[list[int], list[int]]]) -> list[float]:
    return [plain(*pair) for pair in pairs]


def scored(scorer: RougeScorer, texts: list[tuple[str, ...]]) -> list[Any]:
    return [scorer.score(*pair) for pair in texts]


def rate(one: Spent, n: int) -> str:
    return f"{one.seconds / n * 1e6:.2f} µs a pair ({n:,} pairs, {one.megabytes:.0f} MB more)"


def plainly(prefixes: np.ndarray, suffixes: np.ndarray) -> None:
    """RapidFuzz over lists and a Counter, pair by pair, against ours on the same rows."""
    n = max(len(prefixes) // 4, 1)
    pairs = list(zip(prefixes[:n].tolist(), suffixes[:n].tolist(), strict=True))
    ways: dict[str, tuple[Callable[..., np.ndarray], Callable[..., float]]] = {
        "rougeL": (rouge_l, lcs_f),
        "rouge3": (rouge_3, trigram_f),
    }
    for name, (ours, plain) in ways.items():
        own, other = [], []
        for _ in range(3):
            one, values = spent(partial(ours, prefixes[:n], suffixes[:n]))
            two, theirs = spent(partial(asked, plain, pairs))
            own.append(one)
            other.append(two)
        ratio = median(two.seconds / one.seconds for one, two in zip(own, other, strict=True))
        assert np.abs(values - theirs).max() <= EXACT, "the two disagree"
        whose = "RapidFuzz over lists" if name == "rougeL" else "a Counter of trigrams"
        print(
            f"{name}: {whose} {rate(middle(other), n)}, ours {rate(middle(own), n)}: "
            f"{ratio:.1f} times as fast"
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
