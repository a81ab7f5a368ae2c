"""Stage `continue`: find which sequences the model reproduces, and what it writes instead.

Also takes over verdicts that a capture found in its own forward passes. Each chunk of the table is
written when done, so a killed run resumes with the next one.
"""

import numpy as np
import polars as pl

from mnemoscope.cluster.units import ALL, Result, Share, UnitStore
from mnemoscope.columns import Column
from mnemoscope.data.table import (
    COLUMNS,
    OWN_VERDICT,
    PUBLISHED_VERDICT,
    has_values,
    look_up,
    token_matrix,
    whole_mask,
)
from mnemoscope.errors import UserError
from mnemoscope.lm.model import HALVED, recording_batch_size
from mnemoscope.pipeline.questions import (
    Check,
    StudyModel,
    Verdicts,
    as_found,
    clear_units,
    unit_store,
)
from mnemoscope.progress import say
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import StudySettings
from mnemoscope.words import plural

VERDICTS_FILE = "verdicts.parquet"
_RESULTS = ("is_memorized", "memorization_score", "continuation", "smallest_gap")
VERDICT_COLUMNS = {
    name: Column(COLUMNS[name].dtype, COLUMNS[name].meaning) for name in ("sequence_id", *_RESULTS)
}
OWN_COLUMN = {OWN_VERDICT: Column(COLUMNS[OWN_VERDICT].dtype, COLUMNS[OWN_VERDICT].meaning)}
_FEWEST_CHUNKS = 32
_CHECK_SEED = 0
_CHECKING = "Checking scan against decoding"


def continue_stage(study: Study, models: Models) -> None:
    """Write `verdicts.parquet`: which sequences the model reproduces, and what it writes.

    With `continue.scan` only `is_memorized` and `smallest_gap` are found here; score and
    continuation stay null until a stage needs them. A draw is asked the other way too.
    """
    study.require("sequences")
    settings = study.settings.continue_
    published = _published(study) if settings.labels == "published" else None
    with study.finishing("continue") as counts, recording_batch_size(counts):
        model, tables = ask_verdicts(study, models)
        found = pl.concat(tables)
        labelled, columns = found, VERDICT_COLUMNS
        if published is not None:
            own = found["is_memorized"].alias(OWN_VERDICT)
            labelled = found.with_columns(own, is_memorized=published.fill_null(own))
            columns = VERDICT_COLUMNS | OWN_COLUMN
            counts["confirmed"] = int((own == published).sum())
            counts["unlabelled"] = published.null_count()
        ids = study.sequences["sequence_id"]
        study.write(VERDICTS_FILE, labelled.select(ids, pl.all()), columns)
        counts |= {
            "sequences": found.height,
            "memorized": int(labelled["is_memorized"].sum()),
            "batch_size": study.settings.rows_at_once,
            "scan_check": {"checked": 0, "disagree": 0},
        }
        rows = draw_rows(found["is_memorized"].to_numpy(), settings.check_rows)
        if len(rows):
            drawn = found[rows].select("is_memorized", "smallest_gap")
            tokens, mask = token_matrix(study.sequences), whole_mask(study.sequences)
            mask = None if mask is None else mask[rows]
            question = model.question(Check, tokens[rows], drawn, mask)
            (checked,) = model.answers([question], _CHECKING)
            counts["scan_check"] = {k: v for k, v in checked.values.items() if k != HALVED}
    clear_units(study, "continue")


def _published(study: Study) -> pl.Series:
    """What the source says of each sequence; UserError where it says nothing."""
    if not has_values(study.sequences, PUBLISHED_VERDICT):
        raise UserError(
            f"{study.folder}: continue.labels is published, but the source has no labels: it must "
            "be a table of tokens with is_memorized or memorization_score, or a split of the "
            "paper's data set. Set continue.labels: own."
        )
    return study.sequences[PUBLISHED_VERDICT]


def ask_verdicts(
    study: Study, models: Models, share: Share = ALL
) -> tuple[StudyModel, list[pl.DataFrame]]:
    """Ask the model about chunks of the table, all or a share; gives it and the answers."""
    store, kept = unit_store(study, "continue"), chunk_store(study)
    model = StudyModel(study, models, "model", store, share)
    chunks = share.of(_chunks(study, model))
    if kept.url != store.url:
        for one in chunks:  # of a capture
            if not store.has(one.key) and (known := kept.get(one.key)) is not None:
                store.put(one.key, {**known.files, **known.values})
    label = "Scanning" if study.settings.continue_.scan else "Continuing"
    return model, model.tables(chunks, label)


def _chunks(study: Study, model: StudyModel) -> list[Verdicts]:
    """The table in chunks."""
    tokens, mask = token_matrix(study.sequences), whole_mask(study.sequences)
    n = chunk_rows(study.settings, len(tokens))
    return [
        model.question(
            Verdicts,
            tokens[at : at + n],
            pl.DataFrame(),
            None if mask is None else mask[at : at + n],
        )
        for at in range(0, len(tokens), n)
    ]


def chunk_rows(settings: StudySettings, n_sequences: int) -> int:
    """Sequences of a chunk: `continue.part_rows` at most, whole batches, of a small table fewer.

    A stop then costs at most 1/32 of the table, or four batches.

    >>> [chunk_rows(StudySettings(), n) for n in (1_000, 10_000, 20_000, 1_000_000)]
    [256, 320, 640, 1024]
    """
    wanted, batch = settings.continue_.part_rows, settings.planned_rows
    return min(wanted, batch * max(4, -(-n_sequences // (_FEWEST_CHUNKS * batch))))


def chunk_store(study: Study) -> UnitStore:
    """Where a capture leaves verdicts for `continue`: in the study, wherever its units run."""
    return UnitStore(study.folder / "units" / "continue", study.owner)


def draw_rows(is_memorized: np.ndarray, n_rows: int) -> np.ndarray:
    """Draw row numbers, sorted: half memorized and half not, as far as there are enough of both."""
    order = np.random.default_rng(_CHECK_SEED).permutation(len(is_memorized))
    memorized, others = order[is_memorized[order]], order[~is_memorized[order]]
    n_memorized = min(len(memorized), max(n_rows // 2, n_rows - len(others)))
    n_others = min(len(others), n_rows - n_memorized)
    return np.sort(np.concatenate([memorized[:n_memorized], others[:n_others]]))


# -- verdicts that a capture finds in its own forward -------------------------------------------

_NOTED = "noted"


def wants_verdicts(study: Study) -> bool:
    """Whether a capture is to note verdicts: with `continue.scan`, before labels and verdicts."""
    settled = study.is_done("continue") or study.is_done("label")
    return not settled and study.settings.continue_.scan


def note_verdicts(study: Study, maps: Result) -> None:
    """Keep the verdicts of a shard's forward passes until all are there."""
    if "parquet" in maps.files:
        halved = {name: maps.values[name] for name in (HALVED,) if name in maps.values}
        noted = {"parquet": maps.files["parquet"]} | halved
        chunk_store(study).put(f"{_NOTED}-{maps.key}", noted)


def store_scan_verdicts(study: Study, model: StudyModel) -> None:
    """Turn noted verdicts into answers that `continue` asks for.

    Chunks that lack a verdict (maps stored before, or a damaged file) are left to the scan.
    """
    store = chunk_store(study)
    keys = [one for one in store.all_keys() if one.startswith(_NOTED)]
    noted = [one for key in keys if (one := store.get(key)) is not None]
    if not noted:
        return
    halved = [one.values[HALVED] for one in noted if HALVED in one.values]
    found = pl.concat([one.table for one in noted]).unique("sequence_id")
    known = look_up(study.sequences.select("sequence_id"), found)
    start = n_known = 0
    for question in _chunks(study, model):
        chunk = known[start : start + question.size]
        start += question.size
        if not chunk["is_memorized"].null_count():
            made = {"parquet": as_found(chunk)}
            store.put(question.key, made | ({HALVED: min(halved)} if halved else {}))
            n_known += chunk.height
    say(
        f"Verdicts of {plural(n_known, 'sequence')} found in the same forward: "
        f"'mnemoscope continue {study.folder}' takes them over."
    )
