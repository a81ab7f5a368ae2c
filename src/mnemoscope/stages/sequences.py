"""Stage `sequences`: read texts or a table, cut them into windows, found the study.

Nothing is written before everything that can be refused has been checked.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.config import EMBEDDED, NO_MODEL, SequenceSettings, StudySettings
from mnemoscope.errors import UserError
from mnemoscope.flow import TABLE_FILE
from mnemoscope.lm.capture import capture_pooled
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.padding import check_padded
from mnemoscope.progress import say
from mnemoscope.sequences.readers import ReadResult, read_sequences
from mnemoscope.sequences.schema import check_sequences, read_table, token_matrix
from mnemoscope.sequences.split_files import HUB_NAME, is_split_folder
from mnemoscope.sequences.table_rows import has_values
from mnemoscope.stages.models import Models, reference_name
from mnemoscope.stages.padding import refuse_padded_rows, whole_mask
from mnemoscope.stages.published_split import read_published
from mnemoscope.stages.training_count import check_inputs
from mnemoscope.study import Study, check_free
from mnemoscope.taxonomy.catalogue import load_taxonomies

__all__ = ["GIVEN", "check_sources", "found_study"]

GIVEN = ("duplicates", "is_code")
"""Features that a user's table may know better than we do."""


def found_study(
    folder: Path | str, settings: StudySettings, models: Models, *, only_whole: bool = False
) -> Study:
    """Read and check the sequences, then make the study folder with them.

    Args:
        folder: new or empty folder.
        settings: of the whole study; taxonomies and model are checked here too, so that a
            refusal leaves no folder behind.
        models: the study's models.
        only_whole: refuse padded rows: what comes next needs prefix and suffix of each.

    Raises:
        UserError: anything in the settings, the sequences or the model that cannot be used.
    """
    check_free(Path(folder))
    result = check_sources(settings, models)
    frame = result.frame
    if only_whole:
        refuse_padded_rows(frame, where=settings.sequences.source)
    with _new_folder(Path(folder)) as temporary:
        study = Study.create(temporary, settings)
        with study.finishing("sequences") as counts:
            if settings.model.name != NO_MODEL:
                models.model(study)
            study.write(TABLE_FILE, frame)
            counts |= {
                "sequences": frame.height,
                "documents": result.n_documents,
                "too_short": result.n_too_short,
                "unreadable": result.n_unreadable,
                "given": [name for name in GIVEN if has_values(frame, name)],
            } | result.facts
    say(_summary(result, frame.height))
    return Study(folder)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes its name only when it is complete, and is removed otherwise."""
    folder = folder.absolute()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        check_free(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_sources(settings: StudySettings, models: Models) -> ReadResult:
    """Read the sequences and check them, the taxonomies and the model against each other.

    Raises:
        UserError: anything that cannot be used.
    """
    load_taxonomies(settings.label.taxonomies)
    if settings.model.name == NO_MODEL:
        return _check_without_model(settings)
    check_inputs(settings, has_reference=reference_name(settings) is not None)
    model = models.model()
    models.check_reference()
    result = _read(settings, models)
    where, length = settings.sequences.source, settings.sequences.length
    check_sequences(result.frame, where=where, length=length, vocab_size=model.vocab_size)
    mask = _checked_mask(result.frame, model, where)
    # One forward, so that attention that cannot be captured is refused before hours of work.
    first, its_mask = token_matrix(result.frame[:1]), None if mask is None else mask[:1]
    next(capture_pooled(model, first, attention_mask=its_mask, batch_size=1))
    if settings.sequences.split is None:  # of a split the limit was drawn before it was labelled
        result = replace(result, frame=_limit(result.frame, settings.sequences))
    return result


def _check_without_model(settings: StudySettings) -> ReadResult:
    """The same of a split that is read for its own labels and features, with no model at all.

    Raises:
        UserError: another source than a split; as `read_published`.
    """
    wanted = settings.sequences
    if wanted.split is None:
        raise UserError(
            f"model.name '{NO_MODEL}': only a split of {HUB_NAME} is read without a model, since "
            "it brings labels and tokens. Name it (--split deduped_12b), or give --model NAME."
        )
    result = read_published(settings)
    check_sequences(result.frame, where=wanted.source, length=wanted.length)
    return result


def _checked_mask(frame: pl.DataFrame, model: LanguageModel, where: str) -> np.ndarray | None:
    """The table's `attention_mask` where it says that rows are padded: these can be captured.

    Raises:
        UserError: as `check_padded`, with the row.
    """
    try:
        mask = whole_mask(frame)
        if mask is not None:
            check_padded(model, token_matrix(frame), mask)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return mask


def _read(settings: StudySettings, models: Models) -> ReadResult:
    """The shipped sequences, a split of the paper's data set, or those of the user's source."""
    wanted = settings.sequences
    if wanted.split is not None:
        return read_published(settings)
    if wanted.source == HUB_NAME or is_split_folder(wanted.source):
        raise UserError(
            f"{wanted.source}: the paper's data set; which split? Name it, for example "
            "'--split deduped_12b' or 'sequences.split: deduped_12b' in the settings."
        )
    if wanted.source == EMBEDDED:
        from mnemoscope.embedded import sequences_path

        frame = read_table(sequences_path())
        return ReadResult(frame=frame, n_documents=frame["document"].n_unique())
    return read_sequences(
        wanted.source,
        models.model().tokenizer,
        length=wanted.length,
        stride=wanted.stride or wanted.length,
        pad=wanted.pad,
    )


def _limit(frame: pl.DataFrame, settings: SequenceSettings) -> pl.DataFrame:
    """A seeded draw of `limit` rows, in the table's order."""
    if settings.limit is None or settings.limit >= frame.height:
        return frame
    return (
        frame.with_row_index("_row")
        .sample(settings.limit, seed=settings.seed, shuffle=False)
        .sort("_row")
        .drop("_row")
    )


def _summary(result: ReadResult, n_rows: int) -> str:
    """One line on what was read and what was passed over."""
    parts = [f"{n_rows:,} sequences from {result.n_documents:,} documents"]
    if result.n_too_short:
        parts.append(f"{result.n_too_short:,} texts shorter than one sequence were skipped")
    if result.n_unreadable:
        parts.append(f"{result.n_unreadable:,} files were not text")
    return "; ".join(parts)
