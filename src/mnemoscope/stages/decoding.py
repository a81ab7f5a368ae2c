"""Decode the Non-Memo sequences that a scan left open and that were sampled, block by block."""

import polars as pl

from mnemoscope.config import StudySettings
from mnemoscope.lm.loading import LanguageModel
from mnemoscope.progress import Progress, track
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.stages.continuation import decode
from mnemoscope.study import Study

__all__ = ["DECODED", "decode_block", "decode_missing", "keep_decoded", "lacking_blocks"]

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
