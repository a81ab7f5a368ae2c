"""Make a study's table from a split of the paper's data set, keeping only what samples can need.

The whole split is labelled under the study's taxonomies with the data set's labels, and its
classes are counted. Of every class the first `margin × (n_train + n_eval)` sequences in the shared
permutation are kept, with tokens and text.
"""

import math

import numpy as np
import polars as pl

from mnemoscope.data.published_split import FURTHER, LENGTH, read_split, take_rows
from mnemoscope.data.read import ReadResult
from mnemoscope.data.table import PUBLISHED_VERDICT
from mnemoscope.errors import UserError
from mnemoscope.progress import say
from mnemoscope.study.settings import StudySettings
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.draw import order_keys
from mnemoscope.taxonomy.labels import count_classes, label_sequences
from mnemoscope.taxonomy.names import NON_MEMO, Taxonomy

PUBLISHED_PATTERNS = ("is_incrementing", "is_repeating")
"""The data set's flags, kept in columns `published_…`."""
_FEATURES = {
    **{name: f"published_{name}" for name in FURTHER},
    "0_8_templates": "n_similar",
    "0_8_snowclones": "n_near",
}
"""Our names of what the neighbouring analyses read. The published names of the last two look
swapped: ordinary rows hold 1 template (themselves) and 0 snowclones, and what is within few edits
is a part of what is alike (related work, section 1.10)."""
VERDICT_NAME = f"{NON_MEMO}, memorized"
_VERDICT = Taxonomy(VERDICT_NAME, (NON_MEMO, "memorized"), ())
"""Not one of the study's: keeps a uniform sample of each label to check."""


def read_published(settings: StudySettings) -> ReadResult:
    """Read the split named by `sequences.split`.

    `frame` holds the kept rows, with `published_is_memorized`, `published_memorization_score` and
    the `published_…` patterns; `facts` counts rows, dropped ids and the classes of the whole split.
    Raises UserError: as `read_split`; a length other than the data set's. DamagedDataError: a file
    is torn.
    """
    wanted = settings.sequences
    assert wanted.split is not None
    if (wanted.length, wanted.n_prefix) != (LENGTH, LENGTH // 2) or wanted.stride not in (
        None,
        LENGTH,
    ):
        raise UserError(
            f"sequences.split {wanted.split}: its sequences have {LENGTH} tokens. Leave "
            "sequences.length, prefix, suffix and stride at their defaults."
        )
    taxonomies = load_taxonomies(settings.label.taxonomies)
    also = sorted({column for taxonomy in taxonomies for column in taxonomy.columns})
    split = read_split(wanted.source, wanted.split, limit=wanted.limit, seed=wanted.seed, also=also)
    keys = order_keys(split.rows["sequence_id"].to_numpy(), settings.label.seed)
    ordered = split.rows[np.argsort(keys)]
    kept = np.zeros(ordered.height, dtype=bool)
    classes = {}
    for taxonomy in (_VERDICT, *taxonomies):
        labels = label_sequences(ordered, taxonomy)
        classes[taxonomy.name] = count_classes(labels, taxonomy.classes)
        for name in taxonomy.classes:
            first = (labels == name).arg_true()[: per_class(settings)]
            kept[first.to_numpy()] = True
    parts = " + ".join(f"{name} {n:,}" for name, n in split.n_rows.items())
    limit = f", {wanted.limit:,} at most" if wanted.limit else ""
    say(
        f"{wanted.split}: {parts} rows; {split.n_duplicates:,} duplicate ids and "
        f"{split.n_overlaps:,} that stand in both parts dropped; {split.rows.height:,} sequences"
        f"{limit}, of which {int(kept.sum()):,} are kept (the first {per_class(settings):,} of "
        "each class in the shared permutation)"
    )
    facts = {
        "split_rows": sum(split.n_rows.values()),
        "split_duplicate_ids": split.n_duplicates,
        "split_overlapping_ids": split.n_overlaps,
        "split_sequences": split.rows.height,
        "split": {
            "name": wanted.split,
            "parts": split.n_rows,
            "kept_per_class": per_class(settings),
            "classes": classes,
        },
    }
    frame = take_rows(split, ordered.filter(pl.Series(kept)))
    return ReadResult(_name_columns(frame, also), n_documents=frame.height, facts=facts)


def per_class(settings: StudySettings) -> int:
    """Sequences to keep of each class, if it has as many."""
    return math.ceil(settings.sequences.margin * settings.label.per_class)


def is_plain(rows: pl.DataFrame, settings: StudySettings) -> pl.Series:
    """Mark a uniform sample of each published label; true for all rows of a table read whole."""
    if settings.sequences.split is None:
        return pl.Series("is_plain", np.ones(rows.height, dtype=bool))
    keys = order_keys(rows["sequence_id"].to_numpy(), settings.label.seed)
    place = pl.col("key").rank("ordinal").over(PUBLISHED_VERDICT)
    ranked = rows.select(PUBLISHED_VERDICT).with_columns(key=pl.Series(keys))
    return ranked.select((place <= per_class(settings)).alias("is_plain")).to_series()


def fit_labels(
    frame: pl.DataFrame, labels: pl.Series, taxonomy: Taxonomy, settings: StudySettings
) -> pl.Series:
    """Labels of the rows that may be drawn for a taxonomy's sample, null for the others.

    The kept part of a split is no random sample: rare classes are common in it, and sequences whose
    verdict differs from the published one would fill Non-Memo with near misses. Each class's first
    rows in the shared permutation are uniform if the study's class is the published one.

    `labels` are classes under the study's own verdicts; a table read whole keeps them all.
    """
    if settings.sequences.split is None:
        return labels
    published = frame.with_columns(is_memorized=pl.col("published_is_memorized"))
    given = label_sequences(published, taxonomy)
    keys = order_keys(frame["sequence_id"].to_numpy(), settings.label.seed)
    ranked = pl.DataFrame({"given": given, "key": keys, "own": labels})
    place = pl.col("key").rank("ordinal").over("given")
    is_fit = (pl.col("own") == pl.col("given")) & (place <= per_class(settings))
    fit = pl.when(is_fit).then("own").otherwise(None)
    return ranked.select(fit.alias(labels.name)).to_series()


def take_published_patterns(frame: pl.DataFrame) -> pl.DataFrame:
    """Replace the flags found by our rule with the data set's."""
    return frame.with_columns(
        pl.coalesce(f"published_{name}", name).alias(name)
        for name in PUBLISHED_PATTERNS
        if f"published_{name}" in frame.columns
    )


def _name_columns(frame: pl.DataFrame, also: list[str]) -> pl.DataFrame:
    """The data set's columns under names that no stage overwrites; `also` are the user's."""
    score = pl.col("memorization_score")
    kept = ("sequence_id", "text", "tokens", "duplicates", "is_code")
    renamed = {**{name: f"published_{name}" for name in PUBLISHED_PATTERNS}, **_FEATURES}
    known = {*kept, *PUBLISHED_PATTERNS, "row", "rouge_l", "rouge_3", "memorization_score"}
    return frame.select(
        *kept,
        (score == 1).alias("published_is_memorized"),
        score.alias("published_memorization_score"),
        *[pl.col(name).alias(ours) for name, ours in renamed.items() if name in frame.columns],
        *[name for name in also if name in frame.columns and name not in known],
    )
