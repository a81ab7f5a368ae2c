"""Guess or Recall by the rule of the paper's taxonomy, with the reason in words.

Guess: the prefix shows how the suffix goes on (ROUGE-L or ROUGE-3 of the two at least 0.5), or
the text counts or repeats. Anything else that the model reproduces is Recall.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.data.patterns import PatternMode, find_pattern, is_number, split_counters
from mnemoscope.data.rouge import rouge_scores

GUESS = "guess"
RECALL = "recall"
MOST_COPIED = 0.1
"""Share of what a suffix needs that it may read off the text itself and still be recall."""
_ENOUGH = 0.5  # Guess[0.5-0.5], the paper's taxonomy
_LONGEST_PERIOD = 12


class Ruling(NamedTuple):
    """What the rule says of one window, and what it looked at."""

    verdict: str
    reason: str
    rouge_l: float
    rouge_3: float
    is_incrementing: bool
    is_repeating: bool


def rule_windows(
    tokenizer: Any, windows: npt.NDArray[np.int32], *, prefix: int, patterns: PatternMode
) -> list[Ruling]:
    """Judge windows that the model reproduces, token ids of shape (n, length)."""
    if not len(windows):
        return []
    texts = tokenizer.batch_decode(
        windows.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    scores = rouge_scores(windows[:, :prefix], windows[:, prefix:])
    return [
        _rule(text, float(in_order), float(runs), patterns)
        for text, in_order, runs in zip(texts, *scores, strict=True)
    ]


def _rule(text: str, rouge_l: float, rouge_3: float, patterns: PatternMode) -> Ruling:
    pattern = find_pattern(text, patterns)
    reasons = []
    if pattern.is_incrementing:
        step = find_step(text)
        reasons.append("incrementing numbers" + (f", step {step}" if step is not None else ""))
    if pattern.is_repeating:
        reasons.append("the text repeats one unit again and again")
    if rouge_l >= _ENOUGH:
        reasons.append(f"the suffix repeats {100 * rouge_l:.0f} % of the prefix's tokens in order")
    if rouge_3 >= _ENOUGH:
        reasons.append(
            f"{100 * rouge_3:.0f} % of its runs of three tokens stand in the prefix already"
        )
    if reasons:
        return Ruling(GUESS, "; ".join(reasons), rouge_l, rouge_3, *pattern)
    reason = (
        f"nothing in the prefix shows it: {100 * rouge_l:.0f} % of its tokens repeat the prefix in "
        f"order (below {100 * _ENOUGH:.0f} %), and it neither counts nor repeats"
    )
    return Ruling(RECALL, reason, rouge_l, rouge_3, *pattern)


def decide(rule: str, reference: str | None, *others: str | None) -> str:
    """The verdict of most of three grounds: rule, reference and the first of others that was asked.

    Those are grafts, CNN, and what the passage needs: in the order in which they find most of what
    was trained on, on either half of docs/audit-evidence.md, where none accuses wrongly. It is the
    rule's where reference or all others were not asked.
    """
    third = next((one for one in others if one is not None), None)
    return third if third is not None and third == reference else rule


def find_step(text: str) -> int | None:
    """The step by which a counting text counts; None where no column of numbers shows one.

    >>> find_step("item 3, item 5, item 7, item 9, item 11")
    2
    """
    numbers = [int(piece) for piece in split_counters(text) if is_number(piece)][1:-1]
    for period in range(1, min(_LONGEST_PERIOD, len(numbers) // 3) + 1):
        for column in range(period):
            series = numbers[column::period]
            steps = {after - before for before, after in pairwise(series)}
            if len(steps) == 1 and steps != {0}:
                return steps.pop()
    return None
