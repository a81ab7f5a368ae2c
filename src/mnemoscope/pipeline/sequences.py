"""Stage `sequences`: read texts or a table, cut them into windows, create the study.

Everything that can be rejected is checked before anything is written. Also compares a table's
labels with the model's own verdicts (`check_labels`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mnemoscope.data.features import GIVEN
from mnemoscope.data.published_split import HUB_NAME
from mnemoscope.data.read import ReadResult
from mnemoscope.data.table import (
    PUBLISHED_VERDICT,
    check_sequences,
    has_values,
    token_matrix,
    whole_mask,
)
from mnemoscope.errors import UserError
from mnemoscope.files import atomic_folder
from mnemoscope.pipeline.label import check_match
from mnemoscope.pipeline.published_split import is_plain, read_published
from mnemoscope.pipeline.sources import copies_said, passed_over, read_sources
from mnemoscope.pipeline.trainings import check_inputs
from mnemoscope.progress import say, track
from mnemoscope.stats import share_of
from mnemoscope.study.folder import Study, check_free
from mnemoscope.study.models import Models
from mnemoscope.study.settings import NO_MODEL, StudySettings, check_corpus
from mnemoscope.study.shapes import other_suite
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.words import plural

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel

CHECK_FILE = "label_check.parquet"
GAPS = (0.01, 0.1, 1.0)
"""Differences of the two best logits below which near ties are counted."""
MOST_FAR = 0.05
"""Share of a model's own labels that it may miss by more than a tie: rows that were damaged on the
way, or decoded with weights rounded otherwise. Another training remembers other texts."""
_QUANTILES = (0.05, 0.5, 0.95)


def create_study(
    folder: Path | str,
    settings: StudySettings,
    models: Models,
    *,
    needs_both_sides: bool = False,
    source: Any = None,
) -> Study:
    """Read and check the sequences, taxonomies and model, then create the study folder.

    `needs_both_sides` rejects padded rows without a token in their prefix or their suffix;
    `source` is a frame that is read in place of `sequences.source`. Raises UserError: anything in
    the settings, the sequences or the model that cannot be used; no folder is left behind.
    """
    check_free(Path(folder))
    result = check_sources(settings, models, source, needs_both_sides=needs_both_sides)
    frame = result.frame
    with atomic_folder(folder, check_free) as temporary:
        study = Study.create(temporary, settings)
        with study.finishing("sequences") as counts:
            if settings.model.name != NO_MODEL:
                models.model(study)
            study.write_sequences(frame)
            counts |= {
                "sequences": frame.height,
                "documents": result.n_documents,
                "too_short": result.n_too_short,
                "unreadable": result.n_unreadable,
                "given": [name for name in GIVEN if has_values(frame, name)],
            } | result.facts
    say(f"{plural(frame.height, 'sequence')} from {plural(result.n_documents, 'document')}")
    for line in (*passed_over(result, settings), *copies_said(result, settings)):
        say(line)
    return Study(folder)


def check_sources(
    settings: StudySettings, models: Models, source: Any = None, *, needs_both_sides: bool = False
) -> ReadResult:
    """Read the sequences and check all that `create_study` does; UserError if anything is wrong."""
    wanted = settings.sequences
    load_taxonomies(settings.label.taxonomies)
    check_corpus(settings)
    if settings.model.name == NO_MODEL:
        if wanted.split is None:
            raise UserError(
                f"model.name '{NO_MODEL}': only a split of {HUB_NAME} is read without a model, "
                "since it brings labels and tokens. Name it (--split deduped_12b), or give "
                "--model NAME."
            )
        result = read_published(settings)
        check_sequences(result.frame, where=wanted.source, length=wanted.length)
        return result
    from mnemoscope.lm.attention import capture_pooled

    check_inputs(settings, has_reference=settings.reference is not None)
    result = read_sources(settings, models.tokenizer, source)  # before minutes of loading weights
    frame = result.frame
    check_match(frame, settings.label.match, wanted.source)
    model = models.model()
    models.check_reference()
    vocab_size = model.vocab_size
    check_sequences(frame, where=wanted.source, length=wanted.length, vocab_size=vocab_size)
    prefix = wanted.n_prefix if needs_both_sides else None
    mask = _checked_mask(frame, model, wanted.source, prefix)
    # Try one forward pass, so that unsupported attention fails now and not after hours.
    first, its_mask = token_matrix(frame[:1]), None if mask is None else mask[:1]
    next(capture_pooled(model, first, attention_mask=its_mask, batch_size=1))
    # For a split, the limit was applied before labelling.
    return result if wanted.split is not None else result.limited(wanted.limit, wanted.seed)


def _checked_mask(
    frame: pl.DataFrame, model: "LanguageModel", where: str, prefix: int | None
) -> np.ndarray | None:
    """The table's `attention_mask` if rows are padded; errors as `check_padded`, with the row."""
    from mnemoscope.lm.model import check_padded

    try:
        mask = whole_mask(frame)
        if mask is not None:
            check_padded(model, token_matrix(frame), mask, prefix=prefix)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return mask


def check_labels(study: Study, models: Models) -> tuple[str, ...]:
    """Compare the table's labels with the model's own verdicts; the result in words.

    Writes `label_check.parquet`, a row for each that has `published_is_memorized`: `sequence_id`,
    the label, `is_memorized` (by scan), `smallest_gap` (smallest difference of the two best logits
    up to the first token that differs, over the whole suffix if none does), `is_plain` (in a
    uniform sample of its label; always true for a table read whole). Raises UserError: the table
    has no labels; as `scan_memorized`.
    """
    from mnemoscope.library.sequences import scan

    table = study.sequences
    if not has_values(table, PUBLISHED_VERDICT):
        raise UserError(
            f"{study.folder}: no label to check. The source must be a table of tokens with a "
            "column is_memorized or memorization_score, or a split of the paper's data set."
        )
    rows = table.filter(pl.col(PUBLISHED_VERDICT).is_not_null())
    batch_size = study.settings.rows_at_once
    with track("Checking labels", total=rows.height) as progress:
        model = models.model(study)
        found = scan(
            model,
            rows,
            batch_size=batch_size,
            prefix=study.settings.sequences.n_prefix,
            progress=progress,
        )
    frame = rows.select("sequence_id", PUBLISHED_VERDICT).with_columns(
        found["is_memorized"], found["smallest_gap"], is_plain(rows, study.settings)
    )
    study.store.put("label_check", {CHECK_FILE: frame})
    return _lines(frame, study, model)


def _lines(frame: pl.DataFrame, study: Study, model: "LanguageModel") -> tuple[str, ...]:
    settings = study.settings
    lines = [
        f"{settings.model.name}, {model.dtype} on {model.device}, batch size "
        f"{settings.rows_at_once}: labels of {frame.height:,} sequences checked by scan."
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
        if is_memorized and given.height:
            lines.append(f"  {_whose(others, given.height, settings.model.name)}")
            lines.append(f"  {_gaps(same, 'reproduced (at risk where near a tie)')}")
    return tuple(lines)


def _whose(missed: pl.DataFrame, n_given: int, name: str) -> str:
    """Whether the labels are this model's, by the share of memorized ones that it misses by far.

    Theirs are another model's where the 95 % interval lies above `MOST_FAR`, this one's where it
    lies below.
    """
    n_far = int((missed["smallest_gap"] >= GAPS[-1]).sum())
    far = share_of(n_far, n_given)
    assert far.low is not None
    assert far.high is not None
    few = f"{100 * MOST_FAR:g} %"
    said = f"{n_far:,} of {n_given:,} are missed by a gap of {GAPS[-1]:g} or more ({far})"
    if far.high <= MOST_FAR:
        return f"{said}, no more than {few}: the labels fit {name}."
    other = other_suite(name)
    at = f"{other}, the other suite of Pythia" if other else "another revision or tokenizer"
    check = f"Check them with {at}; they belong to what confirms them."
    if far.low <= MOST_FAR:
        return f"{said}: too few labels to tell whether they are of {name}. {check}"
    return (
        f"{said}, more than {few}, which no rounding explains: the labels are of another model. "
        f"{check}"
    )


def _share(part: int, whole: int) -> str:
    """`930 of 1,000 (93.00 %)`."""
    percent = f" ({100 * part / whole:.2f} %)" if whole else ""
    return f"{part:,} of {whole:,}{percent}"


def _gaps(rows: pl.DataFrame, verdict: str) -> str:
    """How close the two best logits of some rows are to a tie."""
    if rows.is_empty():
        return f"{verdict}: none."
    gaps = rows["smallest_gap"]
    below = ", ".join(f"{int((gaps < limit).sum()):,} under {limit:g}" for limit in GAPS)
    quantiles = ", ".join(f"{gaps.quantile(q, 'nearest'):.3g}" for q in _QUANTILES)
    return (
        f"{verdict}: {rows.height:,}; smallest gap of the two best logits {below}; "
        f"5 %, 50 %, 95 % quantiles {quantiles}."
    )
