"""Which evaluation sequences an attribution reads: all, or of costly ones a seeded few a class."""

import numpy as np
import polars as pl

from mnemoscope.localize.attribution import COSTLY
from mnemoscope.stages.jobs import sample_rows
from mnemoscope.study import Study

__all__ = ["in_halves", "rows_read", "rows_shared"]


def rows_read(study: Study, sample: str, attribution: str) -> pl.DataFrame:
    """The evaluation sequences that one attribution reads, in the order of the sample.

    Args:
        study: with its samples drawn.
        sample: name of the sample.
        attribution: one of `localize.attribution.ATTRIBUTIONS`.
    """
    return _few(study, sample) if attribution in COSTLY else sample_rows(study, sample).evaluation


def rows_shared(study: Study, sample: str) -> pl.DataFrame:
    """The evaluation sequences that all attributions of a study read, to be compared on."""
    is_costly = any(name in COSTLY for name in study.settings.localize.attributions)
    return _few(study, sample) if is_costly else sample_rows(study, sample).evaluation


def in_halves(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Two halves of every class; near duplicates, which are one group, stay together."""
    turn = pl.col("group").rank("dense").over("class") % 2
    return [rows.filter(turn == 1), rows.filter(turn == 0)]


def _few(study: Study, sample: str) -> pl.DataFrame:
    """`localize.attribution_sequences` of each class, drawn without regard to anything else."""
    rows, wanted = sample_rows(study, sample).evaluation, study.settings.localize
    if wanted.attribution_sequences is None:
        return rows
    lot = pl.Series("lot", np.random.default_rng(wanted.seed).permutation(rows.height))
    place = pl.col("lot").rank("ordinal").over("class")
    return rows.with_columns(lot).filter(place <= wanted.attribution_sequences).drop("lot")
