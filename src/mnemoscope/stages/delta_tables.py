"""Δ as tables: a row a class, layer and edge, and the layer profile, for `localize`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.localize.regions import layer_profile
from mnemoscope.parquet import write_parquet
from mnemoscope.stages.localize import StoredDelta

__all__ = ["write_delta_tables"]


def write_delta_tables(deltas: Sequence[StoredDelta], folder: Path) -> Iterator[Path]:
    """Write `delta.parquet` and `profile.parquet`, layers and tokens counted from 1."""
    for name, rows in (("delta", _delta_rows), ("profile", _profile_rows)):
        path = folder / f"{name}.parquet"
        write_parquet(path, pl.concat([rows(one) for one in deltas]))
        yield path


def _delta_rows(one: StoredDelta) -> pl.DataFrame:
    """A row a class, layer and causal edge."""
    query, key = np.tril_indices(one.delta.shape[-1])
    n_classes, n_layers = one.delta.shape[:2]
    shape = (n_classes, n_layers, len(query))
    index, layer = np.indices(shape)[:2].reshape(2, -1)
    return pl.DataFrame(
        {
            **_names(one),
            "class": np.array(one.classes)[index],
            "layer": (layer + 1).astype(np.int32),
            "query": np.broadcast_to(query + 1, shape).ravel().astype(np.int32),
            "key": np.broadcast_to(key + 1, shape).ravel().astype(np.int32),
            "delta": one.delta[:, :, query, key].ravel(),
        }
    )


def _profile_rows(one: StoredDelta) -> pl.DataFrame:
    """A row a class and layer: ΣΔ over the largest ΣΔ of all classes and layers."""
    profile = layer_profile(one.delta)
    index, layer = np.indices(profile.shape).reshape(2, -1)
    return pl.DataFrame(
        {
            **_names(one),
            "class": np.array(one.classes)[index],
            "layer": (layer + 1).astype(np.int32),
            "profile": profile.ravel(),
        }
    )


def _names(one: StoredDelta) -> dict[str, Any]:
    return {"sample": one.sample, "source": one.source, "attribution": one.attribution}
