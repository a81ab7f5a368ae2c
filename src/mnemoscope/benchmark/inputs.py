"""Which input carries memory: the benchmark table once more for each kind of input.

An input is what a CNN sees of the attention, the last part of a setting's name (``k6-f10-mean``):
weights pooled by mean or max, both, every head's, or the model's minus the reference's. The
published way sums the confusions of all settings; here each input stands alone, beside the same
controls.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from mnemoscope.benchmark.columns import BENCHMARK_SCHEMA
from mnemoscope.benchmark.table import score_benchmark

__all__ = ["INPUTS_SCHEMA", "input_of", "score_inputs"]

INPUTS_SCHEMA = pl.Schema(
    {"taxonomy": pl.String, "input": pl.String}
    | {name: kind for name, kind in BENCHMARK_SCHEMA.items() if name != "taxonomy"}
)
"""The columns of the benchmark table, and `input` after the taxonomy."""

_SHARED = ("blind", "ngram")
"""They read tokens and not attention, so they stand beside every input alike."""

_CNNS = ("model", "control", "reference")

_REFERENCE_INPUT = {"difference": "mean"}
"""The reference has no difference from itself; its own maps stand beside the model's."""


def input_of(setting: str) -> str:
    """Name the input of a setting.

    >>> input_of("k6-f10-mean")
    'mean'
    """
    return setting.rpartition("-")[2]


def score_inputs(
    predictions: pl.DataFrame,
    runs: pl.DataFrame,
    classes: Mapping[str, Sequence[str]],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    control_settings: Sequence[str] | None = None,
    whole: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Judge every taxonomy on every input.

    Args:
        predictions: as for `score_benchmark`.
        runs: likewise.
        classes: likewise.
        n_resamples: bootstrap resamples.
        seed: of every bootstrap.
        control_settings: names of the model's settings that have controls; None: all.
        whole: the benchmark table of the same, taken over where there is a single input.

    Returns:
        Columns as in `INPUTS_SCHEMA`, one row a taxonomy, input and source (model, blind, ngram,
        reference, control), taxonomies in the order of `classes`, inputs in that of the runs.
    """
    own = runs.filter(pl.col("source") == "model")
    inputs = list(dict.fromkeys(map(input_of, own["setting"])))
    tables = []
    if whole is not None and len(inputs) == 1:
        same = whole.filter(pl.col("source").is_in([*_SHARED, *_CNNS]))
        return same.with_columns(pl.lit(inputs[0]).alias("input")).select(INPUTS_SCHEMA.names())
    for name in inputs:
        table = score_benchmark(
            predictions.filter(_belongs_to(name)),
            runs.filter(_belongs_to(name)),
            classes,
            n_resamples=n_resamples,
            seed=seed,
            control_settings=control_settings,
        )
        tables.append(table.with_columns(pl.lit(name).alias("input")))
    if not tables:
        return pl.DataFrame(schema=INPUTS_SCHEMA)
    order = {name: position for position, name in enumerate(classes)}
    position = pl.col("taxonomy").replace_strict(order, return_dtype=pl.Int64)
    whole = pl.concat(tables).select(INPUTS_SCHEMA.names())
    return whole.sort(position, maintain_order=True)


def _belongs_to(name: str) -> pl.Expr:
    """Rows of one input: its CNNs, those of its controls, and what reads tokens."""
    source, ending = pl.col("source"), pl.col("setting").str.split("-").list.last()
    reference = _REFERENCE_INPUT.get(name, name)
    return (
        (source.is_in(["model", "control"]) & (ending == name))
        | ((source == "reference") & (ending == reference))
        | source.is_in(list(_SHARED))
    )
