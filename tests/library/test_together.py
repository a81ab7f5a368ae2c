"""A reader's seeds, trained as one on a GPU: what each says alone."""

import numpy as np
import polars as pl
import torch

import mnemoscope as ms
from mnemoscope.library import reader
from mnemoscope.maps.triangle import pack_triangle
from mnemoscope.maps.views import TensorMaps


def test_seeds_trained_together_are_the_reader_of_each_trained_alone(monkeypatch) -> None:
    n, length = 60, 20
    weights = torch.rand(n, 2, length, length, generator=torch.Generator().manual_seed(0)).tril()
    weights[::2, :, 10:, 3] += 2.0  # of one class
    tokens = np.random.default_rng(0).integers(0, 99, (n, length)).tolist()
    windows = pl.DataFrame({"sequence_id": range(n), "tokens": tokens, "n_prefix": length // 2})
    windows = windows.with_columns(pl.col("tokens").cast(pl.List(pl.Int32)))
    packed = TensorMaps(pack_triangle(weights / weights.sum(-1, keepdim=True)))
    maps = ms.Maps(windows, "mean", {"mean": packed, "max": packed})
    labels = ["seen", "new"] * (n // 2)
    given = {"preset": "as_run", "kernel": 3, "filters": 2, "seed": [0, 1, 2], "n_train": 20}
    given |= {"n_eval": 10, "minimum": 10}
    alone = ms.fit(maps, labels, **given)
    monkeypatch.setattr(reader, "trains_together", lambda _: True)
    together = ms.fit(maps, labels, **given)
    assert together.did_train == alone.did_train
    assert together.votes.predicted.shape == alone.votes.predicted.shape
    np.testing.assert_allclose(together.votes.scores, alone.votes.scores, rtol=0, atol=1e-5)
    for one, other in zip(together.cnns, alone.cnns, strict=True):
        assert (one.seed, one.setting) == (other.seed, other.setting)
