"""Stage `continue`: which sequences does the model reproduce, and what does it write instead.

Works in parts, each written whole; a killed run goes on with the next part.
"""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.config import StudySettings
from mnemoscope.errors import DamagedDataError
from mnemoscope.lm.continuation import continue_sequences
from mnemoscope.lm.loading import LanguageModel
from mnemoscope.lm.scan import scan_memorized
from mnemoscope.parquet import read_parquet, write_parquet
from mnemoscope.progress import Progress, track
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.stages.halving import halved_on_record
from mnemoscope.stages.models import Models
from mnemoscope.stages.padding import refuse_padding
from mnemoscope.stages.scan_check import check_scan
from mnemoscope.study import Study

__all__ = [
    "as_found",
    "chunk_folder",
    "chunk_name",
    "chunks_of",
    "continue_chunk",
    "continue_stage",
    "decode",
    "keep_verdicts_of",
]


def continue_stage(study: Study, models: Models) -> None:
    """Add `is_memorized`, `memorization_score`, `continuation`, `smallest_gap` to the table.

    With the setting `continue.scan` only `is_memorized` and `smallest_gap` are found here;
    score and continuation stay null until a stage needs them.
    """
    study.require("sequences")
    refuse_padding(study)
    scan = study.settings.continue_.scan
    halved = chunk_folder(study) / "halved"
    with study.finishing("continue") as counts, halved_on_record(counts, halved):
        model = models.model(study)
        tokens = token_matrix(study.sequences)
        part_rows = study.settings.continue_.part_rows
        parts = chunk_folder(study)
        parts.mkdir(parents=True, exist_ok=True)
        with track("Scanning" if scan else "Continuing", total=len(tokens)) as progress:
            frames = [
                continue_chunk(parts / chunk_name(start), model, rows, study.settings, progress)
                for start, rows in chunks_of(tokens, part_rows)
            ]
        keep_verdicts_of(study, model, tokens, pl.concat(frames), counts)
    shutil.rmtree(study.folder / "continuation")


def keep_verdicts_of(
    study: Study,
    model: LanguageModel | None,
    tokens: np.ndarray,
    found: pl.DataFrame,
    counts: dict[str, Any],
) -> None:
    """Add what was found to the table, check the scan against decoding, and count.

    Args:
        study: whose table it is.
        model: None leaves out the check.
        tokens: of the table, int32, shape (sequences, length).
        found: as `decode` gives it, in the table's order.
        counts: of the stage's manifest; filled here.
    """
    study.add_columns(found)
    settings = study.settings
    counts |= {
        "sequences": found.height,
        "memorized": int(found["is_memorized"].sum()),
        "batch_size": settings.model.batch_size,
    }
    if model is None:
        counts["scan_check"] = {"checked": 0, "disagree": 0}
        return
    counts["scan_check"] = check_scan(
        model,
        tokens,
        found,
        n_rows=settings.continue_.check_rows,
        scanned=settings.continue_.scan,
        batch_size=settings.model.batch_size,
    )


def decode(
    model: LanguageModel, tokens: np.ndarray, *, batch_size: int, progress: Progress | None = None
) -> pl.DataFrame:
    """Greedy continuations as a frame.

    Args:
        model: continues the prefixes.
        tokens: int32, shape (sequences, length).
        batch_size: sequences a step.
        progress: told how many are finished.

    Returns:
        Columns `is_memorized`, `memorization_score` f32, `continuation` list<i32>,
        `smallest_gap` f32 (between the two best logits of any step).
    """
    frames = []
    for batch in continue_sequences(
        model, tokens, batch_size=batch_size, prefix=tokens.shape[1] // 2
    ):
        frames.append(
            pl.DataFrame(
                {
                    "is_memorized": batch.score == 1.0,
                    "memorization_score": batch.score.astype(np.float32),
                    "continuation": batch.tokens.tolist(),
                    "smallest_gap": batch.smallest_gap.astype(np.float32),
                },
                schema_overrides={"continuation": pl.List(pl.Int32)},
            )
        )
        if progress is not None:
            progress.advance(len(batch.score))
    return pl.concat(frames)


def chunk_folder(study: Study) -> Path:
    """Where finished chunks of the table wait for the others.

    Named for what decides a chunk, so that a run with other settings does not take it over.
    """
    part_rows = study.settings.continue_.part_rows
    return study.folder / "continuation" / f"{study.key('continue')[:12]}-{part_rows}"


def chunks_of(tokens: np.ndarray, part_rows: int) -> list[tuple[int, np.ndarray]]:
    """Chunks of the table with the row they begin at."""
    return [
        (start, tokens[start : start + part_rows]) for start in range(0, len(tokens), part_rows)
    ]


def chunk_name(start: int) -> str:
    """What the file of a chunk is called that begins at this row of the table."""
    return f"part-{start:09d}.parquet"


def continue_chunk(
    path: Path,
    model: LanguageModel,
    tokens: np.ndarray,
    settings: StudySettings,
    progress: Progress,
) -> pl.DataFrame:
    """One chunk of the table: read back when it is there and whole, else made and written."""
    with suppress(OSError, DamagedDataError):
        frame = read_parquet(path)
        progress.advance(len(tokens))
        return frame
    batch_size = settings.model.batch_size
    if settings.continue_.scan:
        frame = _scan(model, tokens, batch_size=batch_size, progress=progress)
    else:
        frame = decode(model, tokens, batch_size=batch_size, progress=progress)
    write_parquet(path, frame)
    return frame


def _scan(
    model: LanguageModel, tokens: np.ndarray, *, batch_size: int, progress: Progress
) -> pl.DataFrame:
    """Memorized or not by teacher forcing; the score is 1 or null."""
    frames = []
    for batch in scan_memorized(model, tokens, batch_size=batch_size, prefix=tokens.shape[1] // 2):
        frames.append(
            pl.DataFrame({"is_memorized": batch.is_memorized, "smallest_gap": batch.smallest_gap})
        )
        progress.advance(len(batch.is_memorized))
    return as_found(pl.concat(frames))


def as_found(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Columns as `decode` gives them of `is_memorized` and `smallest_gap`: score 1 or null."""
    return verdicts.with_columns(
        pl.when("is_memorized").then(1.0).cast(pl.Float32).alias("memorization_score"),
        pl.lit(None, dtype=pl.List(pl.Int32)).alias("continuation"),
    ).select("is_memorized", "memorization_score", "continuation", "smallest_gap")
