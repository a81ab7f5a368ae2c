"""Was a text read, though it does not come out? Scores of passages, beside what needs no memory.

Scores: mean log-probability; that over the bytes that zlib needs (Carlini et al. 2021, arXiv
2012.07805); Min-K% (Shi et al. 2023, 2310.16789); Min-K%++ (Zhang et al. 2024, 2404.02936, equation
4); the ratio to a twin. Beside them what the text alone tells (Das et al. 2024, 2406.16201): most
published sets of read and unread texts differ in their text, and a score that does no better than
the text says nothing of memory. Bits: code length under a twin less that under the model.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mnemoscope.stats import (
    FEWEST_GROUPS,
    Estimate,
    Floats,
    draw_within,
    estimate_of,
    fewest_groups,
    resampled_auc,
    resampled_mean,
)

SCORES = {
    "logprob": "mean log-probability",
    "zlib": "log-probability over zlib bytes",
    "min_k": "Min-K%",
    "min_k_plus": "Min-K%++",
    "ratio": "ratio to the twin",
}
"""The scores of a passage, high for read, and what they are called; `ratio` needs a twin."""
WITHOUT_TWIN, WITH_TWIN = "min_k_plus", "ratio"
"""The score that a verdict is drawn from: fixed beforehand, not picked for its result."""

LOWEST = 0.2
"""Share of the tokens that Min-K% and Min-K%++ look at, the least likely ones."""
FPR = 0.01
"""Share of unread rows that may be taken for read."""
TEXT_CONTROLS = ("1- and 2-grams", "length, dates and signs")
TOLD, UNTOLD = "told apart", "cannot be told"

FITTED = 1.6
"""By how much an interval is widened where a control was fitted.

What a regression learns varies with the documents that it sees, and resamples of its predictions do
not show that: over random halves of unread documents the AUC of n-grams scattered 1.6 times as far
as their resamples say (`experiments/membership`).
"""

_YEAR = re.compile(r"\b1\d{3}\b|\b20\d{2}\b")
_WORD = re.compile(r"\w+")


class PassageChances(NamedTuple):
    """What a model says of the tokens of one passage, (n,) each; as `lm.probe.TokenChances`."""

    logprobs: Floats
    mean: Floats
    deviation: Floats

    def standardized(self) -> Floats:
        """How far each log-probability lies from what was to be expected there, in deviations.

        0 where the model would draw every token, or one alone, with equal probability.
        """
        off = self.logprobs - self.mean
        return np.divide(off, self.deviation, out=np.zeros_like(off), where=self.deviation > 0)


def lowest_mean(values: ArrayLike) -> float:
    """Mean of the lowest fifth of values (n,), of one at least: Min-K% of log-probabilities.

    >>> lowest_mean([-5, -1, -2, -3, -4, -1, -2, -3, -2, -1])
    -4.5
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float(ordered[: max(1, int(LOWEST * len(ordered)))].mean())


def score_passages(
    passages: Sequence[PassageChances],
    texts: Sequence[str],
    beside: Sequence[Floats] | None = None,
) -> dict[str, Floats]:
    """`SCORES` of passages with their texts, (n,) each.

    `beside` are the twin's log-probabilities of the same tokens; without them there is no `ratio`.
    """
    logprob = np.array([one.logprobs.mean() for one in passages])
    n_bytes = np.array(
        [len(zlib.compress(text.encode("utf-8", "replace"))) for text in texts], dtype=np.float64
    )
    found = {
        "logprob": logprob,
        "zlib": logprob / n_bytes,
        "min_k": np.array([lowest_mean(one.logprobs) for one in passages]),
        "min_k_plus": np.array([lowest_mean(one.standardized()) for one in passages]),
    }
    if beside is not None:
        found["ratio"] = logprob - np.array([one.mean() for one in beside])
    return found


def bits_beyond(logprobs: ArrayLike, beside: ArrayLike) -> float:
    """Code length of tokens under the twin less that under the model, from their logarithms (n,).

    >>> round(bits_beyond([math.log(1 / 2)], [math.log(1 / 8)]), 9)
    2.0
    """
    return float(np.asarray(logprobs).sum() - np.asarray(beside).sum()) / math.log(2)


def sum_of(values: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Sum of values (n,), its interval by the bootstrap over groups; none with few of them."""
    found, n = resampled_mean(values, groups), len(np.asarray(values))
    if groups is None and n < FEWEST_GROUPS:
        found = Estimate(found.value)
    return Estimate(*(None if one is None else n * one for one in found))


def rank_p(value: float, unread: ArrayLike) -> float:
    """Chance that a text, drawn as the unread ones were, scores as high or higher.

    Exact where the text is exchangeable with them: (1 + unread ones as high) / (1 + unread ones).

    >>> rank_p(3.0, [1.0, 2.0, 5.0])
    0.5
    """
    others = np.asarray(unread, dtype=np.float64)
    return float((1 + (others >= value).sum()) / (1 + len(others)))


def all_above_p(n: int, n_texts: int, n_unread: int) -> float:
    """Chance that n or more of some texts score above every unread one, or n or more below them.

    Exact where all are exchangeable: the n highest of all are then n of the texts. The texts are
    compared with the same unread ones, so a binomial of `rank_p` would be too small.

    >>> all_above_p(1, 1, 19), round(all_above_p(5, 8, 12), 5)
    (0.05, 0.00361)
    """
    return math.comb(n_texts, n) / math.comb(n_texts + n_unread, n)


def text_columns(texts: Sequence[str]) -> Floats:
    """What is to be seen of texts without reading them, (n, 11), float64.

    Characters, zlib bytes a character, shares of digits, capitals, blanks, line ends and signs,
    mean length of a word, share of different words, years that are named, and the latest of them.
    """
    rows = []
    for text in texts:
        n, words = max(len(text), 1), _WORD.findall(text.casefold())
        years = [int(one) for one in _YEAR.findall(text)]
        kinds = (str.isdigit, str.isupper, str.isspace, "\n".__eq__)
        shares = [sum(map(kind, text)) / n for kind in kinds]
        signs = sum(not (one.isalnum() or one.isspace()) for one in text) / n
        rows.append(
            [
                len(text),
                len(zlib.compress(text.encode("utf-8", "replace"))) / n,
                *shares,
                signs,
                sum(map(len, words)) / max(len(words), 1),
                len({*words}) / max(len(words), 1),
                len(years),
                max(years, default=0),
            ]
        )
    return np.array(rows, dtype=np.float64)


def text_controls(
    tokens: np.ndarray, texts: Sequence[str], read: ArrayLike, groups: ArrayLike, *, seed: int = 0
) -> dict[str, Floats]:
    """Chance that a row was read by its text alone, of `TEXT_CONTROLS`, (n,) each.

    Two logistic regressions, on tokens (n, T) and on `text_columns`, each asked of groups that it
    was not fitted on. Read and unread rows are of two groups or more.
    """
    from mnemoscope.benchmark.baselines import classify_statistics, ngram_logits
    from mnemoscope.benchmark.gain import pool_folds

    labels, seen = np.asarray(read, dtype=np.int64), text_columns(texts)
    found = {name: np.empty(len(labels)) for name in TEXT_CONTROLS}
    for kept, asked in pool_folds(labels, np.asarray(groups), seed=seed):
        fits = (
            ngram_logits(tokens[kept], labels[kept], tokens[asked], seed),
            classify_statistics(seen[kept], labels[kept], seen[asked], seed),
        )
        for name, fit in zip(TEXT_CONTROLS, fits, strict=True):
            found[name][asked] = fit.probabilities[:, 1]
    return found


class Told(NamedTuple):
    """How well a score, or a control, tells read rows from unread ones.

    Attributes:
        name: of the score or control.
        is_control: it needs no memory of these texts.
        auc: how often a read row is above an unread one; .5 is chance.
        tpr: share of read rows above all but 1 % of the unread ones (`FPR`).
        beyond: its AUC less the best control's, paired; nothing of a control.
        verdict: `TOLD`, or `UNTOLD`; of a control whether it is above chance.
        reason: in words.
    """

    name: str
    is_control: bool
    auc: Estimate
    tpr: Estimate
    beyond: Estimate
    verdict: str
    reason: str


def told_apart(
    scores: Mapping[str, ArrayLike],
    controls: Mapping[str, ArrayLike],
    read: ArrayLike,
    groups: ArrayLike,
    *,
    seed: int = 0,
    n_resamples: int = 1000,
) -> list[Told]:
    """Judge scores and controls, (n,) each, high for read; bool `read` has both sides.

    Resamples draw groups within read and unread, all figures on the same draws. With fewer than
    `FEWEST_GROUPS` groups on a side there is no interval, and nothing can be told.
    """
    own = np.asarray(read, dtype=bool)
    drawn = draw_within(own, np.random.default_rng(seed), n_resamples, groups=groups)
    n_least = fewest_groups(own, groups)
    every = {**controls, **scores}
    auc = {name: resampled_auc(values, own, drawn) for name, values in every.items()}
    tpr = {name: resampled_tpr(values, own, drawn) for name, values in every.items()}
    best = max(controls, key=lambda name: auc[name][0], default=None)
    found = []
    for name in (*scores, *controls):
        one, beyond = estimate_of(auc[name][0], auc[name][1:]), Estimate(None)
        if name in TEXT_CONTROLS:
            one = _widened(one, 0.0)
        if name in scores and best is not None:
            beyond = estimate_of(auc[name][0] - auc[best][0], auc[name][1:] - auc[best][1:])
            beyond = _widened(beyond, -1.0) if best in TEXT_CONTROLS else beyond
        verdict, reason = UNTOLD, "no better than chance"
        if one.low is None:
            reason = f"{n_least} documents on a side, and {FEWEST_GROUPS} are needed"
        elif one.low > 1 / 2 and name in controls:
            verdict, reason = TOLD, "the texts differ, whether they were read or not"
        elif one.low > 1 / 2 and (beyond.low is None or beyond.low > 0):
            verdict, reason = TOLD, "better than chance and than every control"
        elif one.low > 1 / 2:
            reason = f"no better than {best}, which needs no memory"
        shares = estimate_of(tpr[name][0], tpr[name][1:])
        found.append(Told(name, name in controls, one, shares, beyond, verdict, reason))
    return found


def _widened(one: Estimate, least: float) -> Estimate:
    """The same figure with an interval `FITTED` times as wide, within `least` and 1."""
    if one.value is None or one.low is None or one.high is None:
        return one
    low, high = (one.value + FITTED * (end - one.value) for end in (one.low, one.high))
    return Estimate(one.value, max(low, least), min(high, 1.0))


def resampled_tpr(
    values: ArrayLike, own: ArrayLike, drawn: ArrayLike, *, fpr: float = FPR
) -> Floats:
    """Share of `own` above a limit that at most a share `fpr` of the others is above.

    Of the sample and of resamples, arguments as `stats.resampled_auc`: (1 + resamples,).
    """
    every, sides = np.asarray(values, dtype=np.float64), np.asarray(own, dtype=bool)
    order = np.argsort(-every, kind="stable")
    ordered, is_own = every[order], sides[order]
    counts = np.concatenate([np.ones((1, len(every))), np.asarray(drawn)])[:, order]
    passed = np.where(is_own, 0.0, counts).cumsum(axis=1)
    reached = np.where(is_own, counts, 0.0).cumsum(axis=1)
    is_limit = np.append(ordered[1:] < ordered[:-1], True)  # equal values pass together
    is_allowed = is_limit & (passed <= fpr * passed[:, -1:] + 1e-9)
    found: Floats = np.where(is_allowed, reached, 0.0).max(axis=1) / reached[:, -1]
    return found
