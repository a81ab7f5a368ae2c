"""Which labels of the table does this model give too, and how near a tie are the others?

Run: `mnemoscope run … --check-labels`. Needs a model and a table with labels, no further stage.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from mnemoscope.errors import UserError
from mnemoscope.lm.scan import scan_memorized
from mnemoscope.progress import track
from mnemoscope.sequences.columns import PUBLISHED_VERDICT
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.sequences.table_rows import has_values
from mnemoscope.stages.models import Models
from mnemoscope.stages.published_split import is_plain
from mnemoscope.study import Study

__all__ = ["CHECK_FILE", "GAPS", "LabelCheck", "check_labels"]

CHECK_FILE = "label_check.parquet"
GAPS = (0.01, 0.1, 1.0)
"""Below these a difference of the two best logits is counted as near a tie."""
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class LabelCheck:
    """The table's labels beside the model's own verdicts.

    Attributes:
        frame: `sequence_id`, `published_is_memorized`, `is_memorized` (by scan), `smallest_gap`
            (smallest difference of the two best logits up to the first token that differs, over
            the whole suffix where none does), `is_plain` (belongs to a uniform sample of its label;
            true of all rows of a table that was read whole).
        lines: what it comes to, in words.
    """

    frame: pl.DataFrame
    lines: tuple[str, ...]


def check_labels(study: Study, models: Models) -> LabelCheck:
    """Scan all rows that have a label, and write `label_check.parquet` into the study.

    Args:
        study: its table needs `published_is_memorized`.
        models: the study's models.

    Raises:
        UserError: a table without labels; as `scan_memorized`.
    """
    table = study.sequences
    if not has_values(table, PUBLISHED_VERDICT):
        raise UserError(
            f"{study.folder}: no label to check. The source must be a table of tokens with a "
            "column is_memorized or memorization_score, or a split of the paper's data set."
        )
    rows = table.filter(pl.col(PUBLISHED_VERDICT).is_not_null())
    frame = _scan(rows, study, models).with_columns(is_plain(rows, study.settings))
    check = LabelCheck(frame, _lines(frame, study, models))
    study.write(CHECK_FILE, frame)
    return check


def _scan(rows: pl.DataFrame, study: Study, models: Models) -> pl.DataFrame:
    """The model's verdict and its smallest gap for every row."""
    tokens = token_matrix(rows)
    batch_size = study.settings.model.batch_size
    found, gaps = [], []
    with track("Checking labels", total=len(tokens)) as progress:
        for batch in scan_memorized(
            models.model(study), tokens, batch_size=batch_size, prefix=tokens.shape[1] // 2
        ):
            found.append(batch.is_memorized)
            gaps.append(batch.smallest_gap)
            progress.advance(len(batch.is_memorized))
    return rows.select("sequence_id", PUBLISHED_VERDICT).with_columns(
        is_memorized=pl.Series(np.concatenate(found)),
        smallest_gap=pl.Series(np.concatenate(gaps)),
    )


def _lines(frame: pl.DataFrame, study: Study, models: Models) -> tuple[str, ...]:
    """The check in words."""
    model, settings = models.model(study), study.settings
    lines = [
        f"{settings.model.name}, {model.dtype} on {model.device}, batch size "
        f"{settings.model.batch_size}: labels of {frame.height:,} sequences checked by scan."
    ]
    for is_memorized, name in ((True, "memorized"), (False, "Non-Memo")):
        given = frame.filter(pl.col(PUBLISHED_VERDICT) == is_memorized)
        same = given.filter(pl.col("is_memorized") == is_memorized)
        others = given.filter(pl.col("is_memorized") != is_memorized)
        lines.append(f"Labelled {name}: {_share(same.height, given.height)} reproduced.")
        if not frame["is_plain"].all():
            plain = given.filter("is_plain")
            n_same = plain.filter(pl.col("is_memorized") == is_memorized).height
            lines.append(
                f"  In a uniform sample of that label: {_share(n_same, plain.height)} (rare "
                "classes are over-represented among all that the study keeps)."
            )
        verdict = "not reproduced" if is_memorized else "called memorized by the scan"
        lines.append(f"  {_gaps(others, verdict)}")
        if is_memorized:
            lines.append(f"  {_gaps(same, 'reproduced (at risk where near a tie)')}")
    return tuple(lines)


def _share(part: int, whole: int) -> str:
    """`930 of 1,000 (93.00 %)`."""
    percent = f" ({100 * part / whole:.2f} %)" if whole else ""
    return f"{part:,} of {whole:,}{percent}"


def _gaps(rows: pl.DataFrame, verdict: str) -> str:
    """How near a tie the two best logits of some rows come."""
    if rows.is_empty():
        return f"{verdict}: none."
    gaps = rows["smallest_gap"]
    below = ", ".join(f"{int((gaps < limit).sum()):,} under {limit:g}" for limit in GAPS)
    quantiles = ", ".join(f"{gaps.quantile(q, 'nearest'):.3g}" for q in _QUANTILES)
    return (
        f"{verdict}: {rows.height:,}; smallest gap of the two best logits {below}; "
        f"5 %, 50 %, 95 % quantiles {quantiles}."
    )
