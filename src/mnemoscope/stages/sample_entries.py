"""What the label stage writes of one sample: its rows, and its entry in the manifest."""

from typing import Any

import polars as pl

from mnemoscope.stages.variants import Variant
from mnemoscope.taxonomy.labels import count_classes
from mnemoscope.taxonomy.names import Taxonomy
from mnemoscope.taxonomy.sampling import Impossible, Sample

__all__ = ["make_entry", "no_rows", "sample_rows_of"]

_SCHEMA = {
    "sample": pl.String,
    "sequence_id": pl.Int64,
    "class": pl.String,
    "class_index": pl.Int64,
    "split": pl.String,
    "group": pl.Int64,
    "suffix": pl.String,
}


def make_entry(
    taxonomy: Taxonomy, variant: Variant, labels: pl.Series, outcome: Sample | Impossible
) -> dict[str, Any]:
    """What the manifest keeps of one sample."""
    entry: dict[str, Any] = {
        "taxonomy": taxonomy.name,
        "published_name": taxonomy.published_name,
        "title": variant.title,
        "note": variant.note,
        "split_by": variant.split,
        "classes": list(taxonomy.classes),
        "meanings": _meanings(taxonomy),
        "counts": count_classes(labels, taxonomy.classes),
        "unlabelled": labels.null_count(),
    }
    if isinstance(outcome, Impossible):
        return entry | {"impossible": str(outcome)}
    return entry | {
        "trained_classes": list(outcome.classes),
        "dropped": list(outcome.dropped),
        "warnings": list(outcome.warnings),
        "n_train": outcome.n_train,
        "n_eval": outcome.n_eval,
        "n_groups_crossing": outcome.n_groups_crossing,
    }


def sample_rows_of(name: str, sample: Sample, non_memo_suffix: str) -> pl.DataFrame:
    """The sample's rows with what each sequence shows after its prefix."""
    shown = pl.when(pl.col("class") == "Non-Memo").then(pl.lit(non_memo_suffix))
    return sample.frame.select(
        pl.lit(name).alias("sample"),
        "sequence_id",
        "class",
        pl.col("class_index").cast(pl.Int64),
        "split",
        pl.col("group").cast(pl.Int64),
        shown.otherwise(pl.lit("true")).alias("suffix"),
    )


def no_rows() -> pl.DataFrame:
    """An empty samples table."""
    return pl.DataFrame(schema=_SCHEMA)


def _meanings(taxonomy: Taxonomy) -> list[str]:
    """Each class in words."""
    return [
        "the model's continuation differs from the text's suffix",
        *[f"memorized, and {node.meaning}" for node in taxonomy.nodes],
        "memorized, and none of the rules before holds",
    ]
