"""Which rows of a study an analysis looks at, and whose verdict says what is memorized.

A study whose model is `none` has the labels of its source alone. Of a split more of the rare
classes was kept than is their due, so that shares are taken from a uniform sample of each label.
"""

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from mnemoscope.analysis.registry import Entry
from mnemoscope.config import NO_MODEL
from mnemoscope.sequences.columns import PUBLISHED_VERDICT
from mnemoscope.stages.published_split import VERDICT_NAME, is_plain
from mnemoscope.study import Study

__all__ = ["Rows", "has_model", "rows_for"]

_LABELS = (
    "No model was asked (model.name none): memorized or not is the data set's own label, and "
    "perplexities are its own, each half by its own number of tokens."
)


@dataclass(frozen=True)
class Rows:
    """What an analysis is given.

    Attributes:
        table: its rows, with `is_memorized` and `memorization_score`.
        lines: what is to be said of the choice; empty where all rows are given as they are.
        facts: the same as plain values, for the key of the result.
    """

    table: pl.DataFrame
    lines: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def has_model(study: Study) -> bool:
    """Whether the study has a language model at all."""
    return study.settings.model.name != NO_MODEL


def rows_for(study: Study, entry: Entry) -> Rows:
    """Choose the rows for an analysis.

    Args:
        study: with its table.
        entry: one that needs classes compares them and gets all that was kept of each.
    """
    table, lines, facts = study.sequences, [], {}
    if not has_model(study):
        table = table.with_columns(
            pl.col(PUBLISHED_VERDICT).alias("is_memorized"),
            pl.col("published_memorization_score").alias("memorization_score"),
        )
        lines.append(_LABELS)
        facts["labels"] = "published"
    if study.settings.sequences.split is not None and "classes" not in entry.needs:
        plain = table.filter(is_plain(table, study.settings))
        lines.append(_of_split(study, plain, table.height))
        table, facts["rows"] = plain, "uniform by label"
    return Rows(table, tuple(lines), facts)


def _of_split(study: Study, plain: pl.DataFrame, n_kept: int) -> str:
    """What a sample by label is, and what it is not."""
    manifest = study.manifest("sequences")
    assert manifest is not None
    counts = manifest["counts"]["split"]["classes"][VERDICT_NAME]
    n_memorized = counts["memorized"]
    share = n_memorized / max(n_memorized + counts["Non-Memo"], 1)
    here = plain["is_memorized"].mean() or 0.0
    return (
        f"Of the split, a uniform sample of each label: {plain.height:,} of the {n_kept:,} "
        f"sequences that the study keeps. Memorized are {100 * float(here):.1f} % of them and "  # type: ignore[arg-type]
        f"{100 * share:.1f} % of the whole split; what depends on that share (precision, F1, PR "
        "AUC, calibration) holds for the former."
    )
