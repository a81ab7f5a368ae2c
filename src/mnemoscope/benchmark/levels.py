"""Memory by dose: shares, min-F1, AUC and excess at each level of duplicates, where levels are few.

Where texts were inserted at counts drawn at random, texts of all levels are alike by design, so an
excess that grows with the level is memory, and at level 0 there is none to show. What a reader is
asked of is less alike: samples hold equally many of each class, and Non-Memo may be shown with the
model's own continuation (`label.non_memo_suffix`). So only what exceeds the controls counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from mnemoscope.benchmark.excess import Votes, estimate_auc, measure_excess, pair_names
from mnemoscope.cnn.metrics import estimate_scores
from mnemoscope.columns import Column, schema_of
from mnemoscope.stats import FEWEST_GROUPS, FIGURE, FIGURES, Estimate, frame_of, share_true
from mnemoscope.taxonomy.names import NON_MEMO
from mnemoscope.taxonomy.sample import KEY_COLUMNS

MOST_LEVELS = 12
"""More different counts than this are counted, not set."""
MEMORIZED = "memorized"

LEVEL_COLUMNS = {
    **KEY_COLUMNS,
    "duplicates": Column(pl.Int64, "the level"),
    "source": Column(pl.String, "the headline reader"),
    "classes": Column(pl.List(pl.String), "those of 10 passages or more at this level"),
    "n_eval": Column(pl.Int64, "evaluation sequences of these classes at this level"),
    "n_groups": Column(pl.Int64, "their groups of near duplicates, which the intervals draw"),
    "min_f1": Column(FIGURE, "smallest F1 of one of these classes"),
    "excess": Column(FIGURE, "min-F1 minus that of the best control"),
    "dose_auc": Column(FIGURE, "how well its probability of Non-Memo tells the level from level 0"),
    "dose_excess": Column(FIGURE, "how much better than the best control does"),
    "auc_pairs": Column(pl.List(pl.String), "names of the pairs of these classes"),
    "auc": Column(FIGURES, "one a pair"),
    "auc_excess": Column(FIGURES, "one a pair: AUC minus that of its best control"),
    "note": Column(pl.String, "why there is no figure"),
}
LEVELS_SCHEMA = schema_of(LEVEL_COLUMNS)


def levels_of(table: pl.DataFrame) -> list[int]:
    """Levels of the column `duplicates`, ascending; none where it has not 0 and 2 to 11 others."""
    if "duplicates" not in table.columns:
        return []
    found = table["duplicates"].drop_nulls().unique().sort().to_list()
    return found if 3 <= len(found) <= MOST_LEVELS and found[0] == 0 else []


def owners_of(table: pl.DataFrame) -> np.ndarray | None:
    """The passage of each sequence, which intervals draw: `group`, else `document`; else None."""
    for name in ("group", "document"):
        if name in table.columns and not table[name].null_count():
            ranks: np.ndarray = table[name].rank("dense").cast(pl.Int64).to_numpy()
            return ranks
    return None


def count_levels(table: pl.DataFrame, labels: pl.DataFrame, levels: Sequence[int]) -> pl.DataFrame:
    """Shares of each level's sequences that are memorized, and of these that are of each class.

    Columns `duplicates`, `taxonomy` (null: the memorized share), `class`, `n` (sequences counted),
    `n_groups`, `share` (its interval by passage).
    """
    owners = owners_of(table)
    classes = table.select("sequence_id").join(
        labels, on="sequence_id", how="left", maintain_order="left"
    )
    level, is_memorized = table["duplicates"].to_numpy(), table["is_memorized"].fill_null(False)
    rows = []
    for one in levels:
        here = level == one
        memorized = here & is_memorized.to_numpy()
        parts: list[tuple[str | None, str, np.ndarray, np.ndarray]] = [
            (None, MEMORIZED, here, memorized)
        ]
        for name in labels.columns[1:]:
            own = classes[name]
            found = own.filter(pl.Series(is_memorized)).drop_nulls().unique().sort().to_list()
            for each in found:
                parts.append((name, each, memorized, (own == each).fill_null(False).to_numpy()))
        for taxonomy, name, of, flags in parts:
            groups = None if owners is None else owners[of]
            n, share = int(of.sum()), share_true(flags[of], groups)
            row = {"duplicates": one, "taxonomy": taxonomy, "class": name, "share": share}
            rows.append(row | {"n": n, "n_groups": n if groups is None else len(np.unique(groups))})
    return frame_of(rows)


def score_level(
    sources: Mapping[str, Votes],
    here: np.ndarray,
    classes: Sequence[str],
    *,
    source: str,
    controls: Sequence[str],
    n_resamples: int,
    seed: int,
    at_zero: np.ndarray | None = None,
) -> dict[str, object]:
    """Figures of one sample on the evaluation sequences of one level; rows of `LEVELS_SCHEMA`.

    Two questions. Of the classes that have `FEWEST_GROUPS` groups at this level, which is a
    sequence of? And, by the probability that it is not Non-Memo, whatever its class: is it of this
    level, or of level 0 (`dose_auc`)? `sources` are all of the taxonomy, `source` reads the
    attention, the excess is over the largest of the `controls`. `here` marks the level's sequences,
    (n,) bool, `at_zero` those of level 0; None at level 0 itself.
    """
    read = {name: sources[name] for name in (source, *controls) if name in sources}
    options = {"n_resamples": n_resamples, "seed": seed}
    votes = read[source]
    kept = [
        label
        for label in range(votes.n_classes)
        if len(np.unique(votes.owners[here & (votes.true == label)])) >= FEWEST_GROUPS
    ]
    row: dict[str, object] = {"source": source, "classes": [classes[one] for one in kept]}
    lacks_scores = [name for name, one in read.items() if one.scores is None]
    if lacks_scores:
        return row | {"note": f"no probabilities of {lacks_scores[0]}"}
    if at_zero is not None and NON_MEMO in classes:
        label = list(classes).index(NON_MEMO)
        told = {name: _told_from_zero(one, here, at_zero, label) for name, one in read.items()}
        row |= _dose(told, reader=source, **options)
    if len(kept) < 2:
        return row | {"note": f"fewer than two classes of {FEWEST_GROUPS} passages to tell apart"}
    asked = {name: among(one, here, kept) for name, one in read.items()}
    own = asked.pop(source)
    scores = estimate_scores(
        own.predicted, own.true, n_classes=own.n_classes, groups=own.groups, **options
    )
    row |= {
        "n_eval": len(own.true),
        "n_groups": len(np.unique(own.owners)),
        "auc_pairs": pair_names([classes[one] for one in kept]),
        "min_f1": scores.min_f1,
        "auc": estimate_auc(own, **options),
    }
    if not asked:
        return row | {"note": "no control that trained"}
    found = measure_excess(own, asked, reader=source, **options)
    excess = Estimate(found.value, found.low, found.high)
    return row | {"excess": excess, "auc_excess": found.auc}


def _dose(
    told: dict[str, Votes], *, reader: str, n_resamples: int, seed: int
) -> dict[str, Estimate]:
    """AUC of a level against level 0, and its excess; none where a side has too few passages."""
    own = told[reader]
    if min(len(np.unique(own.owners[own.true == side])) for side in range(2)) < FEWEST_GROUPS:
        return {}
    of_pairs = estimate_auc(own, n_resamples=n_resamples, seed=seed)
    row = {"dose_auc": of_pairs[0]} if of_pairs else {}
    controls = {name: one for name, one in told.items() if name != reader}
    if not controls:
        return row
    found = measure_excess(own, controls, reader=reader, n_resamples=n_resamples, seed=seed)
    return row | ({"dose_excess": found.auc[0]} if found.auc else {})


def _told_from_zero(votes: Votes, here: np.ndarray, at_zero: np.ndarray, non_memo: int) -> Votes:
    """Votes of two classes, level 0 and this one: likelier Non-Memo, or not."""
    if votes.scores is None:
        raise ValueError("an AUC needs class probabilities")
    rows = np.flatnonzero(here | at_zero)
    nothing = votes.scores[:, rows, non_memo]
    return _asked_again(
        votes, rows, here[rows].astype(np.int64), np.stack([nothing, 1 - nothing], axis=-1)
    )


def among(votes: Votes, here: np.ndarray, kept: Sequence[int]) -> Votes:
    """Ask a source which of some classes a level's sequences are; ValueError: no probabilities."""
    if votes.scores is None:
        raise ValueError("a choice among classes needs class probabilities")
    rows = np.flatnonzero(here & np.isin(votes.true, kept))
    true = np.searchsorted(kept, votes.true[rows])
    return _asked_again(votes, rows, true, votes.scores[:, rows][..., kept])


def _asked_again(votes: Votes, rows: np.ndarray, true: np.ndarray, scores: np.ndarray) -> Votes:
    """Votes of some rows whose classes are others, by scores (trainings, rows, classes)."""
    if votes.score_seeds is None:
        raise ValueError("a choice among classes needs class probabilities")
    return replace(
        votes.at(rows),
        true=true,
        predicted=scores.argmax(axis=-1),
        seeds=votes.score_seeds,
        n_classes=scores.shape[-1],
        probabilities=scores.mean(axis=0, dtype=np.float64),
        scores=scores,
    )
