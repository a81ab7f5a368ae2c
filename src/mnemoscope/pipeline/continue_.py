"""Stage `continue`: which sequences does the model reproduce, and what does it write instead.

Works in parts, each written whole; a killed run goes on with the next part.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.data.table import token_matrix
from mnemoscope.errors import DamagedDataError
from mnemoscope.files import read_parquet, write_parquet
from mnemoscope.lm.continue_ import Scan, continue_sequences, scan_memorized
from mnemoscope.lm.model import LanguageModel
from mnemoscope.pipeline.halving import halved_on_record
from mnemoscope.pipeline.padding import refuse_padding
from mnemoscope.progress import Progress, say, track
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import StudySettings

# Do scan and decoding agree? Both verdicts, on a seeded draw of the sequences of a study.

_SEED = 0


def check_scan(
    model: LanguageModel,
    tokens: np.ndarray,
    found: pl.DataFrame,
    *,
    n_rows: int,
    scanned: bool,
    batch_size: int,
) -> dict[str, int | float]:
    """Ask the way that the labels did not come from, and count where it says otherwise.

    A scan and greedy decoding give one verdict but for near ties of the two best logits, which
    rounding decides. Half of the draw is memorized where there are enough such sequences.

    Args:
        model: the study's model.
        tokens: int32, shape (sequences, length).
        found: `is_memorized` and `smallest_gap` of the same rows, in order.
        n_rows: sequences to draw; 0 checks none.
        scanned: whether `found` comes from the scan (then these are decoded) or from decoding.
        batch_size: sequences a forward pass.

    Returns:
        `checked`, `disagree`, and where some do, `largest_gap_of_these`; all in plain numbers.
    """
    rows = draw_rows(found["is_memorized"].to_numpy(), n_rows)
    if not len(rows):
        return {"checked": 0, "disagree": 0}
    with track("Checking scan against decoding", total=len(rows)) as progress:
        verdicts = []
        for verdict in _other_way(model, tokens[rows], scanned=scanned, batch_size=batch_size):
            verdicts.append(verdict)
            progress.advance(len(verdict))
    drawn = found[rows]
    differs = np.concatenate(verdicts) != drawn["is_memorized"].to_numpy()
    counts: dict[str, int | float] = {"checked": len(rows), "disagree": int(differs.sum())}
    if differs.any():
        counts["largest_gap_of_these"] = float(
            found["smallest_gap"].to_numpy()[rows][differs].max()
        )
    return counts


def draw_rows(is_memorized: np.ndarray, n_rows: int) -> np.ndarray:
    """Row numbers, in rising order: up to half memorized, the rest not, filled from either.

    Of the rows that were drawn, as many drawn again are all of them.
    """
    order = np.random.default_rng(_SEED).permutation(len(is_memorized))
    memorized, others = order[is_memorized[order]], order[~is_memorized[order]]
    n_memorized = min(len(memorized), max(n_rows // 2, n_rows - len(others)))
    n_others = min(len(others), n_rows - n_memorized)
    return np.sort(np.concatenate([memorized[:n_memorized], others[:n_others]]))


def _other_way(
    model: LanguageModel, tokens: np.ndarray, *, scanned: bool, batch_size: int
) -> Iterator[np.ndarray]:
    """Verdicts batch by batch, decoded after a scan and scanned after decoding."""
    prefix = tokens.shape[1] // 2
    if scanned:
        for batch in continue_sequences(model, tokens, batch_size=batch_size, prefix=prefix):
            yield batch.score == 1.0
    else:
        for scan in scan_memorized(model, tokens, batch_size=batch_size, prefix=prefix):
            yield scan.is_memorized


# Stage `continue`: which sequences does the model reproduce, and what does it write instead.


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


# Decode the Non-Memo sequences that a scan left open and that were sampled, block by block.

DECODED = ("continuation", "memorization_score")
"""What decoding finds of a sequence that a scan had left open."""


def lacking_blocks(study: Study, wanted: pl.DataFrame) -> list[tuple[int, pl.DataFrame]]:
    """Non-Memo sequences that a scan left without a continuation, a block of `wanted` at a time.

    Blocks are as long as a shard and do not depend on what is stored: decoding them in one
    process or in several makes the same batches.

    Args:
        study: with its table.
        wanted: as `wanted_maps` gives it.

    Returns:
        Number of the block, and its rows of the study's table in the order of `wanted`.
    """
    shard_rows = study.settings.capture.shard_rows
    rows = (
        wanted.with_row_index("_row")
        .filter(pl.col("suffix") == "own")
        .select((pl.col("_row") // shard_rows).alias("_block"), "sequence_id")
    )
    if rows.is_empty():
        return []
    lacking = rows.join(
        study.sequences.filter(pl.col("continuation").is_null()),
        on="sequence_id",
        how="inner",
        maintain_order="left",
    )
    return [
        (int(block[0]), frame.drop("_block"))
        for block, frame in lacking.group_by("_block", maintain_order=True)
    ]


def decode_block(
    settings: StudySettings, model: LanguageModel, lacking: pl.DataFrame, progress: Progress
) -> pl.DataFrame:
    """Decode one of `lacking_blocks`: columns `sequence_id` and `DECODED`."""
    batch_size = settings.model.batch_size
    found = decode(model, token_matrix(lacking), batch_size=batch_size, progress=progress)
    return lacking.select("sequence_id").with_columns(found.select(DECODED).get_columns())


def keep_decoded(study: Study, decoded: pl.DataFrame) -> None:
    """Write what was decoded into the study's table; `decoded` as `decode_block` gives it."""
    merged = study.sequences.join(
        decoded, on="sequence_id", how="left", suffix="_new", maintain_order="left"
    )
    study.add_columns(
        merged.select(pl.coalesce(f"{name}_new", name).alias(name) for name in DECODED)
    )


def decode_missing(study: Study, model: LanguageModel, wanted: pl.DataFrame) -> None:
    """After a scan, decode the Non-Memo sequences that were sampled, and only those."""
    blocks = lacking_blocks(study, wanted)
    if not blocks:
        return
    total = sum(rows.height for _, rows in blocks)
    with track("Continuing the sampled Non-Memo", total=total) as progress:
        found = [decode_block(study.settings, model, rows, progress) for _, rows in blocks]
    keep_decoded(study, pl.concat(found))


# Verdicts that a capture finds in its own forward, kept for the stage `continue` to take over.

_SCHEMA = pl.Schema(
    {"sequence_id": pl.Int64(), "is_memorized": pl.Boolean(), "smallest_gap": pl.Float32()}
)


def verdict_folder(study: Study) -> Path | None:
    """Where a capture is to note its verdicts; None where nobody wants them.

    They are wanted with the setting `continue.scan`, before labels and verdicts are there. The
    folder stands beside the parts of `continue` and goes with them.
    """
    settled = study.is_done("continue") or study.is_done("label")
    if settled or not study.settings.continue_.scan:
        return None
    return study.folder / "continuation" / f"verdicts-{study.key('continue')[:12]}"


def note_verdicts(folder: Path, ids: np.ndarray, scans: Sequence[Scan]) -> None:
    """Write the verdicts of one shard's sequences, before the shard itself.

    Args:
        folder: of `verdict_folder`.
        ids: `sequence_id` of the shard's rows, in order.
        scans: of the same rows, batch by batch.
    """
    frame = pl.DataFrame(
        {
            "sequence_id": ids,
            "is_memorized": np.concatenate([scan.is_memorized for scan in scans]),
            "smallest_gap": np.concatenate([scan.smallest_gap for scan in scans]),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(folder / f"from-{ids[0]}.parquet", frame)


def hand_over(study: Study, folder: Path) -> None:
    """Turn the noted verdicts into the parts that `continue` finds done when it runs.

    A part of which a verdict is missing (its maps stood in the store before, or the file of its
    verdicts is torn) is left to the scan.
    """
    frames = [pl.DataFrame(schema=_SCHEMA)]
    for path in sorted(folder.glob("from-*.parquet")):
        try:
            frames.append(read_parquet(path).select(*_SCHEMA))
        except (OSError, DamagedDataError, pl.exceptions.PolarsError):
            say(f"{path}: torn. 'mnemoscope continue' finds these verdicts anew.")
    noted = pl.concat(frames)
    known = study.sequences.select("sequence_id").join(
        noted.unique("sequence_id"), on="sequence_id", how="left", maintain_order="left"
    )
    part_rows, parts = study.settings.continue_.part_rows, chunk_folder(study)
    parts.mkdir(parents=True, exist_ok=True)
    n_known = 0
    for start in range(0, known.height, part_rows):
        part = known[start : start + part_rows]
        if not part["is_memorized"].null_count():
            write_parquet(parts / chunk_name(start), as_found(part))
            n_known += part.height
    say(
        f"Verdicts of {n_known:,} sequences found in the same forward: "
        f"'mnemoscope continue {study.folder}' takes them over."
    )
