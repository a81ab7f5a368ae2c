"""The page on storage says what the formulas say, and the formula what a store really takes."""

from pathlib import Path

import numpy as np
import torch

from mnemoscope.maps.store import MapWriter
from mnemoscope.plan import benchmark_bytes, map_bytes, most_maps, published_bytes, storage_table

PAGE = (Path(__file__).parents[2] / "docs" / "storage.md").read_text(encoding="utf-8")


def test_the_page_holds_the_table_that_the_formulas_give():
    assert storage_table() in PAGE


def test_the_page_counts_the_whole_benchmark_as_the_formulas_do():
    for n_maps in (30_000, 44_886, most_maps(60e9), 125_403, 714_000):
        assert f"| {n_maps:,} | {benchmark_bytes(n_maps) / 1e9:.1f} GB |" in PAGE
    assert f"{published_bytes() / 1e12:.1f} TB" in PAGE
    assert f"{benchmark_bytes(1) / 1e6:.3f} MB for the three models" in PAGE
    assert round(published_bytes() / 60e9) in range(740, 760)


def test_a_store_takes_what_the_formula_says(tmp_path):
    """But for a header a shard and the index: below 2 % at 256 sequences of 4 layers."""
    maps = torch.rand(256, 4, 64, 64).tril()
    with MapWriter(tmp_path, n_layers=4, fingerprint={}) as writer:
        writer.append(np.arange(256), "true", maps, maps)
    taken = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 1 <= taken / (256 * map_bytes(4, 64)) < 1.02


def test_float16_moves_a_weight_by_half_a_step_at_most(tmp_path):
    """Weights lie in [0, 1], where float16's largest step is 2^-11, so rounding errs by 2^-12."""
    weights = torch.rand(8, 4, 64, 64).tril()
    assert (weights - weights.half().float()).abs().max() <= 2**-12
