"""Count what all taxonomies need together: sequences and maps, shared and each for itself.

A map is captured once whatever the number of taxonomies that show it, and all taxonomies draw
from one order of the sequences: together they need far fewer than the sum of their samples.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from mnemoscope.taxonomy.draw import order_keys

__all__ = ["SharedNeed", "draw_first", "shared_need"]


class SharedNeed(NamedTuple):
    """What the samples of all taxonomies need together."""

    n_sequences: int
    """Distinct sequences."""
    n_maps: int
    """Distinct pairs of sequence and shown suffix: what is captured."""
    n_unshared: int
    """Maps if every name were sampled and captured for itself: the sum of names × classes ×
    (training + evaluation sequences)."""

    def __str__(self) -> str:
        times = f", {self.n_unshared / self.n_maps:.1f} times as many" if self.n_maps else ""
        return (
            f"{self.n_sequences:,} distinct sequences ({self.n_maps:,} maps) serve all; each for "
            f"itself would need {self.n_unshared:,}{times}"
        )


def shared_need(samples: pl.DataFrame, n_names: Mapping[str, int] | None = None) -> SharedNeed:
    """Count what samples need together and apart.

    Before anything has been sampled, as for a dry run, `draw_first` makes a table of samples out
    of the labels of a whole table: ``shared_need(draw_first(ids, labels, n=6000, seed=0))``.
    That is what a split by row needs exactly, and by group up to a few per cent.

    Args:
        samples: one row a sample and sequence: columns sample, sequence_id, and suffix where
            one sequence may be shown with either suffix.
        n_names: how many names each sample serves, 1 where it is not named: a partition with
            two names is trained once, and apart would be sampled twice.

    Returns:
        The counts.
    """
    names = n_names or {}
    sizes = samples.group_by("sample").len().rows()
    shown = [name for name in ("sequence_id", "suffix") if name in samples.columns]
    return SharedNeed(
        n_sequences=samples["sequence_id"].n_unique(),
        n_maps=samples.select(shown).n_unique() if samples.height else 0,
        n_unshared=sum(size * names.get(name, 1) for name, size in sizes),
    )


def draw_first(
    sequence_ids: pl.Series, labels: Mapping[str, pl.Series], *, n: int, seed: int
) -> pl.DataFrame:
    """Draw each class's first sequences in the order of the seed, without groups and sides.

    Args:
        sequence_ids: of the whole table, int64.
        labels: class of every row by the taxonomy's name, in the order of `sequence_ids`; null
            is left out. Leave out names of one partition, and taxonomies with an empty class.
        n: sequences wanted of every class; all classes shrink to the smallest, as in a sample.
        seed: as in `sampling.sample_classes`.

    Returns:
        Columns sample, sequence_id, class.
    """
    order = np.argsort(order_keys(sequence_ids.to_numpy(), seed), kind="stable")
    ids = sequence_ids.gather(order)
    frames = []
    for name, classes in labels.items():
        rows = pl.DataFrame({"sequence_id": ids, "class": classes.gather(order)}).drop_nulls()
        fewest = min(rows["class"].value_counts()["count"].to_list(), default=0)
        drawn = rows.group_by("class", maintain_order=True).head(min(n, fewest))
        frames.append(drawn.select(pl.lit(name).alias("sample"), "sequence_id", "class"))
    empty = pl.DataFrame(schema={"sample": pl.String, "sequence_id": pl.Int64, "class": pl.String})
    return pl.concat([empty, *frames])
