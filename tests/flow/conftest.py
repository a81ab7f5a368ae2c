"""Shipped sequences with what the embedded model says, for the tasks of other harnesses."""

import polars as pl
import pytest

from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.continue_ import continue_sequences, run_lengths
from mnemoscope.lm.load import load_model


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """Six shipped sequences a genre; of each, the tokens from the suffix's first that are right.

    Columns beside those that ship: `memorization_score`, `run`.
    """
    path = tmp_path_factory.mktemp("table") / "some.parquet"
    frame = pl.read_parquet(sequences_path()).group_by("genre", maintain_order=True).head(6)
    tokens = [list(row) for row in frame["tokens"]]
    said, scores = [], []
    for batch in continue_sequences(load_model(model_path(), device="cpu"), tokens, batch_size=16):
        said += batch.tokens.tolist()
        scores += batch.score.tolist()
    runs = [
        int(run_lengths([a == b for a, b in zip(row[32:], written, strict=True)]))
        for row, written in zip(tokens, said, strict=True)
    ]
    frame.with_columns(
        memorization_score=pl.Series(scores, dtype=pl.Float32), run=pl.Series(runs)
    ).write_parquet(path)
    return path
