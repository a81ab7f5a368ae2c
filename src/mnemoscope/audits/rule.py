"""Guess or Recall by the rule of the paper's taxonomy and one test more, with the reason in words.

Guess: the prefix shows how the suffix goes on (ROUGE-L or ROUGE-3 of the two at least 0.5), the
text counts or repeats, or the suffix gives itself away: it counts or repeats without its prefix, or
more than half of its runs of three tokens stand earlier in the window. The paper's windows begin
where a sequence begins, an audit's anywhere, so what counts may begin only where the prefix ends.
Anything else that the model reproduces is Recall. Where a reference model, which is the control,
speaks against the rule, it cannot be told.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.data.patterns import PatternMode, find_pattern, is_number, split_counters
from mnemoscope.data.rouge import rouge_scores

GUESS = "guess"
RECALL = "recall"
UNDECIDED = "cannot be told"
VERDICTS = (RECALL, UNDECIDED, GUESS)
"""Of a passage, the stronger evidence of memory first."""
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
    whole, after = (
        tokenizer.batch_decode(
            ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        for ids in (windows, windows[:, prefix:])
    )
    scores = rouge_scores(windows[:, :prefix], windows[:, prefix:])
    again = (shown_earlier(window, prefix) for window in windows.tolist())
    return [
        _rule(text, suffix, float(in_order), float(runs), earlier, patterns)
        for text, suffix, in_order, runs, earlier in zip(whole, after, *scores, again, strict=True)
    ]


def shown_earlier(window: Sequence[int], prefix: int) -> float:
    """Share of the suffix's runs of three tokens that stand earlier in the window; 0 of none.

    >>> shown_earlier([9, 9, 1, 2, 3, 1, 2, 3], prefix=2)
    0.25
    """
    runs = list(zip(window, window[1:], window[2:], strict=False))
    seen, n_again = set(runs[:prefix]), 0
    for run in runs[prefix:]:
        n_again += run in seen
        seen.add(run)
    return n_again / max(len(runs) - prefix, 1)


def _rule(
    text: str, suffix: str, rouge_l: float, rouge_3: float, earlier: float, patterns: PatternMode
) -> Ruling:
    pattern = find_pattern(text, patterns)
    reasons = []
    if pattern.is_incrementing:
        reasons.append(f"incrementing numbers{_by_step(text)}")
    if pattern.is_repeating:
        reasons.append("the text repeats one unit again and again")
    if rouge_l >= _ENOUGH:
        reasons.append(f"it repeats {100 * rouge_l:.0f} % of the tokens before it in order")
    if rouge_3 >= _ENOUGH:
        reasons.append(
            f"{100 * rouge_3:.0f} % of its runs of three tokens stand in the text before it"
        )
    reasons = reasons or _given_away(suffix, earlier, patterns)
    if reasons:
        return Ruling(GUESS, "; ".join(reasons), rouge_l, rouge_3, *pattern)
    reason = (
        f"nothing before it gives it away: {100 * rouge_l:.0f} % of its tokens repeat those before "
        f"it in order (below {100 * _ENOUGH:.0f} %), and it neither counts nor repeats"
    )
    return Ruling(RECALL, reason, rouge_l, rouge_3, *pattern)


def _given_away(suffix: str, earlier: float, patterns: PatternMode) -> list[str]:
    """Why a suffix gives itself away, whatever its prefix is; nothing where it does not."""
    own, reasons = find_pattern(suffix, patterns), []
    if own.is_incrementing:
        reasons.append(f"incrementing numbers, in what was asked for alone{_by_step(suffix)}")
    if own.is_repeating:
        reasons.append("what was asked for repeats one unit again and again by itself")
    if earlier > _ENOUGH:
        reasons.append(
            f"{100 * earlier:.0f} % of its runs of three tokens stand earlier, before it or in "
            "itself"
        )
    return reasons


def _by_step(text: str) -> str:
    """The step of numbers that count, for a reason; nothing where none is found."""
    step = find_step(text)
    return "" if step is None else f", step {step}"


class Decision(NamedTuple):
    """A verdict, and what is to be said of it beside the rule's reason; empty: nothing."""

    verdict: str
    because: str = ""


def decide(rule: str, reference: str | None, *others: str | None) -> Decision:
    """The verdict on a passage from what rule and reference say: where they differ, none.

    What the text gives away, but the reference does not write, may be learned, or the model is
    merely more able than its reference. What nothing gives away, but the reference writes too, is
    easy to produce, or the reference read it; there the first of others that was asked (grafts,
    CNN, what the passage needs) may speak for recall, and then it is.
    """
    if reference in (None, rule):
        return Decision(rule)
    if rule == GUESS:
        return Decision(UNDECIDED, "its form can be guessed, but the reference does not write it")
    if next((one for one in others if one is not None), None) == RECALL:
        return Decision(RECALL, "the reference writes it too, but the third test says recall")
    return Decision(
        UNDECIDED,
        "it cannot be guessed from its form, but the reference writes it too; if the reference "
        "read it, it counts as recalled",
    )


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
