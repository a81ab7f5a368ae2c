"""What all samples need together is counted once each, whoever asks."""

import polars as pl

from mnemoscope.taxonomy.sample import (
    SharedNeed,
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
