"""Our figures beside the published ones, taxonomy by taxonomy, and how far the orders agree.

A published taxonomy is found by its partition, so one of ours serves every name that divides the
sequences alike (Recite[5] alone and Recollect[5] alone). All figures here are fractions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from polars.datatypes import DataType, DataTypeClass

from mnemoscope.benchmark.conclusions import Conclusion, Measured, draw_conclusions, rho_name
from mnemoscope.benchmark.correlation import RankCorrelation, correlate_ranks
from mnemoscope.benchmark.published import (
    PUBLISHED_MODELS,
    published_confusions,
    published_rho,
    published_table,
)
from mnemoscope.cnn.metrics import Floats
from mnemoscope.errors import UserError
from mnemoscope.taxonomy.names import Taxonomy, parse_taxonomy
from mnemoscope.taxonomy.partition import match_classes

__all__ = [
    "COMPARISON_SCHEMA",
    "Comparison",
    "OurFigures",
    "State",
    "compare_with_published",
    "ours_of_row",
    "published_conclusions",
]

_Share = pl.Float64
_COLUMNS: dict[str, DataType | DataTypeClass] = {
    "kind": pl.String,  # "catalogue": one of the 54; "rho": one of the 27 settings of ρ
    "published_name": pl.String,
    "n_classes": pl.Int64,
    # Of a setting of ρ: which measures it uses, and ρ.
    "rouge_l": pl.Boolean,
    "rouge_3": pl.Boolean,
    "threshold": _Share,
    # The sample of the study that the figures are of, null where it has none; one of `State`;
    # why there is no figure, or the name that the partition was trained under.
    "taxonomy": pl.String,
    "state": pl.String,
    "note": pl.String,
    "n_eval": pl.Int64,
    "min_f1": _Share,
    "low": _Share,
    "high": _Share,
    "mean_f1": _Share,
    "mean_f1_low": _Share,
    "mean_f1_high": _Share,
    # What ours is held against: "all" (three Pythia models summed), for ρ "12b".
    "published_model": pl.String,
    "published_min_f1": _Share,
    "published_mean_f1": _Share,
    **{
        f"published_{figure}_{model}": _Share
        for model in PUBLISHED_MODELS[1:]
        for figure in ("min_f1", "mean_f1")
    },
    # Ours minus published; the interval is ours alone, the published figure is taken as it is.
    "difference": _Share,
    "difference_low": _Share,
    "difference_high": _Share,
    "mean_f1_difference": _Share,
    "mean_f1_difference_low": _Share,
    "mean_f1_difference_high": _Share,
}

COMPARISON_SCHEMA = pl.Schema(_COLUMNS)

State = Literal["measured", "alias", "impossible", "untrained", "dropped", "absent"]
"""`alias`: measured under another name of the partition; `untrained`: its CNNs stayed at chance;
`dropped`: trained without one of its classes, which is another taxonomy; `absent`: not asked for.
"""

_FIGURES = ("n_eval", "min_f1", "low", "high", "mean_f1", "mean_f1_low", "mean_f1_high")


@dataclass(frozen=True)
class OurFigures:
    """What a study found for one taxonomy.

    Attributes:
        taxonomy: its name in the study.
        published_name: spelt as the published tables spell it.
        state: `measured`, `impossible`, `untrained` or `dropped`.
        note: why there is no figure.
        figures: n_eval, min_f1, low, high, mean_f1, mean_f1_low, mean_f1_high where measured.
        confusion: (classes, classes) where measured.
        draws: the same of every resample, drawn together with the other taxonomies'.
        same_as: the taxonomy whose figures these are, where both label these sequences alike
            though their rules differ; empty for its own.
    """

    taxonomy: str
    published_name: str
    state: State
    note: str = ""
    figures: Mapping[str, Any] | None = None
    confusion: Floats | None = None
    draws: Floats | None = None
    same_as: str = ""


class Comparison(NamedTuple):
    """Our figures beside the published ones.

    Attributes:
        frame: columns as in `COMPARISON_SCHEMA`; the 54 in the published order, then ρ.
        correlations: of the 54 (`catalogue`) and of the ρ settings (`rho`).
        conclusions: the paper's, put to our figures.
    """

    frame: pl.DataFrame
    correlations: dict[str, RankCorrelation]
    conclusions: tuple[Conclusion, ...]

    def as_json(self) -> dict[str, Any]:
        """Correlations and conclusions as plain values, the published ones beside ours."""
        return {
            "correlations": {kind: asdict(one) for kind, one in self.correlations.items()},
            "conclusions": [asdict(one) for one in self.conclusions],
            "published_conclusions": [asdict(one) for one in published_conclusions()],
        }


def ours_of_row(
    taxonomy: str, published_name: str, row: Mapping[str, Any], draws: Floats | None
) -> OurFigures:
    """A row of the benchmark table (source `model`) as figures to compare.

    Args:
        taxonomy: its name in the study.
        published_name: spelt as published.
        row: columns as in `BENCHMARK_SCHEMA`.
        draws: confusions of the resamples.
    """
    if row["min_f1"] is None:
        own = "its CNN did not leave" if row["n_runs"] == 1 else "none of its CNNs left"
        note = f"{own} chance on its own training set"
        return OurFigures(taxonomy, published_name, "untrained", note)
    figures = {name: row[name] for name in _FIGURES}
    confusion = np.array(row["confusion"], dtype=np.float64)
    return OurFigures(taxonomy, published_name, "measured", "", figures, confusion, draws)


def compare_with_published(ours: Sequence[OurFigures]) -> Comparison:
    """Put our figures beside the published ones.

    Args:
        ours: what was asked for, trained or not; other taxonomies than the published are passed
            over.

    Returns:
        The table, rank correlations over the partitions that were measured, and conclusions.
    """
    by_key: dict[str, OurFigures] = {}
    for one in ours:
        taxonomy = _parse(one.published_name)
        if taxonomy is not None:
            by_key.setdefault(taxonomy.partition_key, one)
    rows = [
        published | _our_columns(published, by_key.get(_key(published["published_name"])))
        for published in _published_rows()
    ]
    frame = pl.DataFrame(rows, schema=COMPARISON_SCHEMA)
    kinds = ("catalogue", "rho")
    measured = {kind: _measured(frame, kind, by_key) for kind in kinds}
    return Comparison(
        frame,
        {kind: _correlate(frame, kind, by_key) for kind in kinds},
        draw_conclusions(measured["catalogue"], measured["rho"]),
    )


@cache
def published_conclusions() -> tuple[Conclusion, ...]:
    """Put the paper's conclusions to its own figures, by the same code."""
    catalogue = {
        one.taxonomy: Measured(one.taxonomy, one.min_f1 / 100, one.confusion.astype(np.float64))
        for one in published_confusions()
    }
    sweep = {
        row["published_name"]: Measured(row["published_name"], row["published_min_f1"])
        for row in _published_rows()
        if row["kind"] == "rho"
    }
    return draw_conclusions(catalogue, sweep)


@cache
def _published_rows() -> tuple[dict[str, Any], ...]:
    """The published side of every row, fractions."""
    tables = {
        model: {row["tax_name"]: row for row in published_table(model).iter_rows(named=True)}
        for model in PUBLISHED_MODELS
    }
    rows = []
    for name, printed in tables["all"].items():
        row = {"kind": "catalogue", "published_name": name, "n_classes": printed["num_classes"]}
        row |= {"published_model": "all"} | _published_figures("", printed)
        for model in PUBLISHED_MODELS[1:]:
            row |= _published_figures(f"_{model}", tables[model][name])
        rows.append(row)
    for printed in published_rho().iter_rows(named=True):
        setting = (printed["Rouge-L"], printed["Rouge-3"], printed["Threshold"])
        row = {"kind": "rho", "published_name": rho_name(*setting), "n_classes": 3}
        row |= dict(zip(("rouge_l", "rouge_3", "threshold"), setting, strict=True))
        row |= {"published_model": "12b"} | _published_figures("", printed)
        rows.append(row | _published_figures("_12b", printed))
    return tuple(rows)


def _published_figures(suffix: str, printed: Mapping[str, Any]) -> dict[str, float]:
    """Min-F1 and mean F1 of one printed row, fractions of one decimal of a per cent."""
    return {
        f"published_{figure}{suffix}": round(printed[figure] / 100, 3)
        for figure in ("min_f1", "mean_f1")
    }


def _our_columns(published: Mapping[str, Any], one: OurFigures | None) -> dict[str, Any]:
    """Our side of a row."""
    if one is None:
        return {"state": "absent"}
    same = ""
    if one.published_name != published["published_name"]:
        same = f"the same partition as {one.published_name}"
    elif one.same_as:
        same = f"the same labels here as {one.same_as}"
    note = ": ".join(part for part in (same, one.note) if part)
    row = {"taxonomy": one.same_as or one.taxonomy, "state": one.state, "note": note or None}
    if one.figures is None:
        return row
    row |= {"state": "alias" if same else "measured", **one.figures}
    for figure, ends, stem in (
        ("min_f1", ("low", "high"), "difference"),
        ("mean_f1", ("mean_f1_low", "mean_f1_high"), "mean_f1_difference"),
    ):
        printed = published[f"published_{figure}"]
        row[stem] = one.figures[figure] - printed
        for end, name in zip(ends, ("low", "high"), strict=True):
            value = one.figures[end]
            row[f"{stem}_{name}"] = None if value is None else value - printed
    return row


def _measured(
    frame: pl.DataFrame, kind: str, by_key: Mapping[str, OurFigures]
) -> dict[str, Measured]:
    """Our figures by published name, each partition once, classes in the published order."""
    rows = frame.filter((pl.col("kind") == kind) & pl.col("min_f1").is_not_null())
    own_first = rows.sort(pl.col("state") == "alias", maintain_order=True)
    measured: dict[str, Measured] = {}
    seen = set()
    for name, value in own_first.select("published_name", "min_f1").iter_rows():
        key = _key(name)
        if key in seen:
            continue
        seen.add(key)
        one = by_key[key]
        order = match_classes(parse_taxonomy(one.published_name), parse_taxonomy(name))
        confusion, draws = (_reorder(each, order) for each in (one.confusion, one.draws))
        measured[name] = Measured(name, value, confusion, draws, one.same_as or one.taxonomy)
    return measured


def _reorder(confusions: Floats | None, order: Sequence[int]) -> Floats | None:
    """Rows and columns in another order of the classes."""
    if confusions is None:
        return None
    places = list(order)
    reordered: Floats = confusions[..., places, :][..., places]
    return reordered


def _correlate(frame: pl.DataFrame, kind: str, by_key: Mapping[str, OurFigures]) -> RankCorrelation:
    """Our min-F1 against the published; names that share figures count once, by their mean."""
    rows = frame.filter((pl.col("kind") == kind) & pl.col("min_f1").is_not_null())
    pairs = rows.group_by("taxonomy", maintain_order=True).agg(
        pl.col("min_f1", "published_name").first(), pl.col("published_min_f1").mean()
    )
    drawn = [
        Measured(name, 0.0, None, by_key[_key(name)].draws).min_f1_draws()
        for name in pairs["published_name"]
    ]
    is_drawn = bool(drawn) and all(one is not None for one in drawn)
    draws = np.stack([one for one in drawn if one is not None], axis=1) if is_drawn else None
    return correlate_ranks(
        pairs["min_f1"].to_numpy(), pairs["published_min_f1"].to_numpy(), draws=draws
    )


def _parse(published_name: str) -> Taxonomy | None:
    """A taxonomy by its published name; None for one with nodes of a user's own."""
    try:
        return parse_taxonomy(published_name)
    except UserError:
        return None


@cache
def _key(published_name: str) -> str:
    """Partition of a published name."""
    return parse_taxonomy(published_name).partition_key
