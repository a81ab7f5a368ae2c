"""What all samples need together is counted once each, whoever asks."""

import numpy as np
import polars as pl

from mnemoscope.taxonomy.catalogue import catalogue
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.sample import (
    Sample,
    SharedNeed,
    draw_first,
    draw_sample,
    order_table,
    shared_need,
)


def test_sequences_maps_and_rows_without_sharing_are_counted() -> None:
    samples = pl.DataFrame(
        {
            "sample": ["a", "a", "b", "b", "b"],
            "sequence_id": [1, 2, 2, 3, 1],
            "suffix": ["true", "own", "true", "true", "true"],
        }
    )
    # 1 true, 2 own, 2 true, 3 true are maps; a serves two names
    assert shared_need(samples, {"a": 2}) == SharedNeed(3, 4, 7)
    assert shared_need(samples.drop("suffix")) == SharedNeed(3, 3, 5)
    assert shared_need(samples.clear()) == SharedNeed(0, 0, 0)
    assert "1.8 times" in str(shared_need(samples, {"a": 2}))


def make_features(n: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    flags = {
        name: rng.random(n) < share
        for name, share in [("is_incrementing", 0.1), ("is_repeating", 0.1), ("is_code", 0.4)]
    }
    return pl.DataFrame(
        {
            "sequence_id": rng.permutation(n),
            "is_memorized": rng.random(n) < 0.6,
            "duplicates": np.exp(rng.normal(3, 2.5, n)).astype(int),
            "rouge_l": rng.beta(2, 4, n),
            "rouge_3": rng.beta(1, 6, n),
            **flags,
        }
    )


def test_need_drawn_from_labels_alone_is_what_the_samples_of_a_split_by_row_need() -> None:
    frame = make_features(4000)
    taxonomies = [one for one in catalogue() if "1k" not in one.name][::4]
    labels = {one.name: label_sequences(frame, one) for one in taxonomies}
    ordered = order_table(frame, seed=3, split="row")
    drawn = []
    for taxonomy in taxonomies:
        sample = draw_sample(
            ordered, labels[taxonomy.name], taxonomy, n_train=60, n_eval=30, minimum=6
        )
        assert isinstance(sample, Sample)
        drawn.append(sample.frame.select(pl.lit(taxonomy.name).alias("sample"), "sequence_id"))
    first = draw_first(frame["sequence_id"], labels, n=90, seed=3)
    assert shared_need(first) == shared_need(pl.concat(drawn))
    assert shared_need(first).n_unshared > 4 * shared_need(first).n_sequences
    both = pl.concat(drawn).unique().sort("sample", "sequence_id")
    assert first.select("sample", "sequence_id").sort("sample", "sequence_id").equals(both)


def test_a_class_of_all_taxonomies_is_needed_once() -> None:
    frame = make_features(2000)
    labels = pl.Series("class", np.where(frame["is_memorized"], "yes", "no"))
    first = draw_first(frame["sequence_id"], {"a": labels, "b": labels, "c": labels}, n=100, seed=0)
    assert shared_need(first) == SharedNeed(200, 200, 600)
