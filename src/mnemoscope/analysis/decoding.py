"""Greedy continuations of any rows under any model, decoded in kept blocks: analyses share them."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.progress import Progress, track
from mnemoscope.sequences.schema import token_matrix

if TYPE_CHECKING:
    from mnemoscope.lm.language_model import LanguageModel

__all__ = ["decode_rows", "draw_rows", "hash_ids", "model_basis"]

BLOCK = 512


def decode_rows(
    inputs: AnalysisInputs, lm: "LanguageModel", rows: pl.DataFrame, *, label: str
) -> pl.DataFrame:
    """Decode rows of the table with a model, block by block; a block once decoded is kept.

    Args:
        inputs: whose shelf keeps the blocks.
        lm: any model with the study's tokenizer.
        rows: columns `sequence_id` and `tokens`.
        label: what the progress bar says.

    Returns:
        Columns `sequence_id`, `continuation` (list of int32), `memorization_score` (float32), in
        the order of the rows.
    """
    blocks = [rows[start : start + BLOCK] for start in range(0, rows.height, BLOCK)]
    with track(label, total=rows.height) as progress:
        parts = [
            inputs.shelf(
                "decoded",
                {**model_basis(lm), "prefix": inputs.prefix, "ids": hash_ids(block)},
                lambda block=block: _decode(inputs, lm, block, progress),  # type: ignore[misc]
            )
            for block in blocks
        ]
    return pl.concat(parts)


def _decode(
    inputs: AnalysisInputs, lm: "LanguageModel", block: pl.DataFrame, progress: Progress
) -> pl.DataFrame:
    from mnemoscope.lm.continuation import continue_sequences

    tokens, scores = [], []
    for batch in continue_sequences(
        lm, token_matrix(block), batch_size=inputs.batch_size, prefix=inputs.prefix
    ):
        tokens += batch.tokens.tolist()
        scores.append(batch.score)
        progress.advance(len(batch.score))
    return block.select(
        "sequence_id",
        pl.Series("continuation", tokens, dtype=pl.List(pl.Int32)),
        pl.Series("memorization_score", np.concatenate(scores), dtype=pl.Float32),
    )


def draw_rows(table: pl.DataFrame, n: int | None, seed: int) -> pl.DataFrame:
    """Draw at most `n` rows by a seed, in the order of the table; all where `n` is None."""
    if n is None or table.height <= n:
        return table
    chosen = np.random.default_rng(seed).choice(table.height, n, replace=False)
    return table[np.sort(chosen)]


def hash_ids(rows: pl.DataFrame) -> str:
    """Hash of the rows' sequence ids, for a basis of the shelf."""
    return hashlib.sha256(rows["sequence_id"].to_numpy().tobytes()).hexdigest()


def model_basis(lm: "LanguageModel") -> dict[str, object]:
    """What of a model decides its numbers, for a basis of the shelf."""
    return {
        "fingerprint": lm.fingerprint,
        "dtype": lm.dtype,
        "device": lm.device,
        "bos_id": lm.bos_id,
    }
