"""Finding near duplicates, and drawing all published taxonomies: CPU seconds and peak memory.

Run: .venv/bin/python benchmarks/bench_splitting.py [SEQUENCES]

The sequences are made up: Zipf tokens, a fifth copied (half of these with one token changed), a
tenth overlapping windows, 3 % short periods, 2 % one form with two tokens changed.
"""

from functools import partial

import numpy as np
import polars as pl

from benchmarks.given import given
from benchmarks.measured import spent
from mnemoscope.taxonomy.catalogue import catalogue
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.sample import Sample, draw_sample, order_table, shared_need

LENGTH = 64


def make_tokens(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    text = (rng.zipf(1.1, size=n * 70) % 50_000).astype(np.int32)
    tokens = text[: n * LENGTH].reshape(n, LENGTH).copy()
    copies = rng.integers(0, n, n // 5)
    tokens[copies] = tokens[rng.integers(0, n, n // 5)]
    changed = copies[: n // 10]
    tokens[changed, rng.integers(0, LENGTH, len(changed))] = rng.integers(0, 50_000, len(changed))
    starts = rng.integers(0, n * 6, n // 10)
    tokens[rng.integers(0, n, n // 10)] = text[starts[:, None] + np.arange(LENGTH)]
    periods = [
        np.resize(rng.integers(0, 50_000, rng.integers(1, 6)), LENGTH) for _ in range(n // 33)
    ]
    tokens[rng.integers(0, n, n // 33)] = periods
    form = np.tile(rng.integers(0, 50_000, LENGTH), (n // 50, 1))
    places = rng.integers(0, LENGTH, (n // 50, 2))
    form[np.arange(n // 50)[:, None], places] = rng.integers(0, 50_000, places.shape)
    tokens[rng.integers(0, n, n // 50)] = form
    return tokens


def make_table(n: int) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    columns = {
        "sequence_id": np.arange(n),
        "is_memorized": rng.random(n) < 0.6,
        "duplicates": np.exp(rng.normal(3, 2.5, n)).astype(int),
        "is_incrementing": rng.random(n) < 0.08,
        "is_repeating": rng.random(n) < 0.08,
        "rouge_l": rng.beta(2, 4, n),
        "rouge_3": rng.beta(1, 6, n),
        "is_code": rng.random(n) < 0.35,
    }
    return pl.DataFrame(columns | {"tokens": make_tokens(n)}).with_columns(
        pl.col("tokens").cast(pl.List(pl.Int32))
    )


def drawn(table: pl.DataFrame, split: str) -> list[pl.DataFrame]:
    """The samples of the published taxonomies, those that can be drawn."""
    ordered, samples = order_table(table, seed=0, split=split), []
    for taxonomy in catalogue():
        labels = label_sequences(table, taxonomy)
        sample = draw_sample(ordered, labels, taxonomy)
        if isinstance(sample, Sample):
            name = pl.lit(taxonomy.name).alias("taxonomy")
            samples.append(sample.frame.select(name, "sequence_id"))
    return samples


def main() -> None:
    (n,) = given(__doc__, sequences=100_000)
    table = make_table(n)
    taken, groups = spent(lambda: find_groups(table).alias("group"))
    largest = groups.value_counts()["count"].to_numpy().max()
    print(
        f"{n:,} sequences: {groups.n_unique():,} groups in {taken.seconds:.1f} CPU s, "
        f"{taken.megabytes:.0f} MB more, largest {largest:,}"
    )
    table = table.with_columns(groups)
    for split in ("group", "row"):
        taken, samples = spent(partial(drawn, table, split))
        times = f"{taken.seconds:.1f} CPU s, {taken.megabytes:.0f} MB more"
        print(f"by {split}: {len(samples)} samples in {times}")
        print(f"  {shared_need(pl.concat(samples))}")


if __name__ == "__main__":
    main()
