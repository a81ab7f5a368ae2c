"""Weigh answers against what needs no memory: is a hit recalled, copied, or could it be guessed?

A hit is called recalled only where nothing else gives the answer: not the prompt or a list in it
that goes on, not the other items, not the twin, not other prompts, and not the skill that would
answer another form as well.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from mnemoscope.contamination.order import n_orders
from mnemoscope.contamination.rule import continued_by_rule
from mnemoscope.contamination.table import (
    Item,
    frame_of_items,
    guess_from_others,
    stands_in,
    words_of,
)
from mnemoscope.stats import Estimate, resampled_ratio, share_true
from mnemoscope.words import plural

if TYPE_CHECKING:  # a gate on finished items needs no torch
    from mnemoscope.contamination.ask import Answers

RECALLED = "recalled"
GUESSABLE = "guessable"
COPIED = "copied"
NOT_PRODUCED = "not produced"
UNDECIDED = "cannot be told"
VERDICTS = (RECALLED, GUESSABLE, COPIED, UNDECIDED, NOT_PRODUCED)

_HALF = 0.5  # of the variants: a model that answers as many of them has the skill
FEWEST_VARIANTS = 3  # that must fail where no twin speaks of skill
_FEWEST_WORDS = 4  # of an answer whose chance is not known, to rule out a guess


def judged(
    items: Sequence[Item], answers: "Answers", *, edits: int = 0, chance: float = 0.01
) -> pl.DataFrame:
    """One row an item: what was asked and answered, every control, the verdict and its reason.

    `edits` are the words by which an answer may differ and still count. A hit that a guess would
    make with more than `chance` cannot be told from memory.
    """
    frame = pl.concat([frame_of_items(items), answers.model], how="horizontal")
    words = [words_of(one.answer) for one in items]
    # Fewer than an answer has words: of one word none may differ.
    allowed = pl.Series([min(edits, max(len(one) - 1, 0)) for one in words], dtype=pl.Int64)
    frame = frame.with_columns(
        is_produced=pl.col("edits") <= allowed,
        n_words=pl.Series(map(len, words), dtype=pl.Int64),
        # Where a prompt offers choices, all of them stand in it, and the chance of one counts.
        is_in_prompt=pl.Series(
            [
                not one.choices and stands_in(own, words_of(one.prompt))
                for one, own in zip(items, words, strict=True)
            ]
        ),
    )
    guesses = guess_from_others(items)
    frame = frame.with_columns(
        answer_share=pl.Series([one.share for one in guesses], dtype=pl.Float64),
        ngrams_produce=pl.Series([one.is_written for one in guesses]),
        rule_produces=pl.Series(
            [
                continued_by_rule(words_of(one.prompt), len(own)) == own
                for one, own in zip(items, words, strict=True)
            ]
        ),
        choices=pl.Series([len(one.choices) or None for one in items], dtype=pl.Int64),
        orders=pl.Series([n_orders(one) for one in items], dtype=pl.Int64),
    )
    twin = answers.twin
    missing = [None] * frame.height
    frame = frame.with_columns(
        twin_written=pl.Series(missing if twin is None else twin["written"], dtype=pl.String),
        twin_produces=pl.Series(
            missing if twin is None else (twin["edits"] <= allowed), dtype=pl.Boolean
        ),
        twin_logprob=pl.Series(missing if twin is None else twin["logprob"], dtype=pl.Float64),
        twin_order_rank=pl.Series(missing if twin is None else twin["order_rank"], dtype=pl.Int64),
    )
    frame = _with_variants(frame)
    rows = [_verdict(row, chance) for row in frame.iter_rows(named=True)]
    return frame.with_columns(
        guess_chance=pl.Series([one for _, _, one in rows], dtype=pl.Float64),
        verdict=pl.Series([one for one, _, _ in rows], dtype=pl.String),
        reason=pl.Series([one for _, one, _ in rows], dtype=pl.String),
    )


def _with_variants(frame: pl.DataFrame) -> pl.DataFrame:
    """How many variants each item has, and how many of them the model answers."""
    own = frame.filter(pl.col("variant_of").is_not_null())
    counts = own.group_by("variant_of").agg(
        variants=pl.len().cast(pl.Int64),
        variants_produced=pl.col("is_produced").sum().cast(pl.Int64),
    )
    return frame.join(counts, left_on="item", right_on="variant_of", how="left").with_columns(
        pl.col("variants", "variants_produced").fill_null(0)
    )


def _verdict(row: Mapping[str, Any], limit: float) -> tuple[str, str, float]:
    """Verdict, reason, and the chance that a guess makes the hit, as far as the controls say it."""
    chances = {
        f"{plural(row['choices'] or 0, 'choice')}": 1 / row["choices"] if row["choices"] else 0.0,
        "the other items' answers": row["answer_share"],
        "other prompts": _chance(row["prior"]),
        "the twin": _chance(row["twin_logprob"]),
    }
    source, guess = max(chances.items(), key=lambda one: one[1])
    if not row["is_produced"]:
        return NOT_PRODUCED, "the model writes something else", guess
    if row["is_in_prompt"]:
        return COPIED, "the answer stands in the prompt", guess
    if row["twin_produces"]:
        return GUESSABLE, "the twin gives the same answer", guess
    n, n_produced = row["variants"], row["variants_produced"]
    if n and n_produced >= _HALF * n:
        said = f"it answers {n_produced} of {plural(n, 'variant')} as well"
        return GUESSABLE, said, guess
    if row["ngrams_produce"]:
        return GUESSABLE, "n-grams of the other items write the same", guess
    if row["rule_produces"]:
        return GUESSABLE, "a rule that the prompt shows gives the same", guess
    if row["answer_share"] > limit:
        share = f"{100 * row['answer_share']:.1f} %"
        return GUESSABLE, f"{share} of the other items have the same answer", guess
    if guess > limit:
        return UNDECIDED, f"{source}: a guess is right with {100 * guess:.1f} %", guess
    if row["twin_produces"] is None and n < FEWEST_VARIANTS:
        said = f"no twin, and fewer than {FEWEST_VARIANTS} variants that would need the same skill"
        return UNDECIDED, said, guess
    is_unknown = row["prior"] is None and row["twin_logprob"] is None
    if is_unknown and not row["choices"] and row["n_words"] < _FEWEST_WORDS:
        said = f"the chance of {plural(row['n_words'], 'word')} is not known, which a guess may hit"
        return UNDECIDED, said, guess
    by = ["the twin does not"] if row["twin_produces"] is not None else []
    by += [f"it answers {n_produced} of {plural(n, 'variant')}"] if n else []
    return RECALLED, f"the model writes the answer, {' and '.join(by)}", guess


def _chance(logprob: float | None) -> float:
    return math.exp(logprob) if logprob is not None else 0.0


def originals(frame: pl.DataFrame) -> pl.DataFrame:
    """The items themselves, their variants left out."""
    return frame.filter(pl.col("variant_of").is_null())


def shares_of(frame: pl.DataFrame) -> dict[str, Estimate]:
    """The share of items with each verdict, variants left out, with its interval by group."""
    own = originals(frame)
    return {
        one: share_true((own["verdict"] == one).to_numpy(), own["group"].to_numpy())
        for one in VERDICTS
    }


def scores_of(frame: pl.DataFrame) -> dict[str, Estimate]:
    """The share of items that the model answers: `all` of them, and `without` the recalled ones.

    Variants are left out; intervals by group.
    """
    own = originals(frame)
    groups = own["group"].to_numpy()
    is_right, is_kept = own["is_produced"], own["verdict"] != RECALLED
    return {
        "all": share_true(is_right.to_numpy(), groups),
        "without": resampled_ratio(
            (is_right & is_kept).cast(pl.Float64).to_numpy(),
            is_kept.cast(pl.Float64).to_numpy(),
            groups,
        ),
    }


def left_together(frame: pl.DataFrame) -> tuple[int, float]:
    """Hits that cannot be told one by one, and how many a guess would make of as many questions.

    The questions are those hits and what was not produced; the chance of each is the largest that a
    control gives it. Far more hits than that are memory of some of them.
    """
    own = originals(frame).filter(pl.col("verdict").is_in([UNDECIDED, NOT_PRODUCED]))
    return int((own["verdict"] == UNDECIDED).sum()), float(own["guess_chance"].sum())
