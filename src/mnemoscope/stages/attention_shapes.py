"""The shape of the attention of each class and layer, in a few numbers, for `localize`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import torch

from mnemoscope.localize.edges import copy_edges
from mnemoscope.maps.dataset import rows_at_once
from mnemoscope.maps.shape import SHAPES, attention_shape
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.stages.capture import maps_folder, shown_tokens
from mnemoscope.stages.jobs import sample_rows
from mnemoscope.study import Study

__all__ = ["class_copies", "shape_rows"]


def class_copies(study: Study, rows: pl.DataFrame) -> torch.Tensor:
    """Copy edges of sequences as they were shown to the model, those of the last query too.

    Args:
        study: with its sequences and continuations.
        rows: of `samples.parquet`.

    Returns:
        bool (n, query, key).
    """
    tokens = shown_tokens(study.sequences, rows.select("sequence_id", "suffix"))
    # A token more that equals no other, since the last query is left out where edges are cut.
    longer = np.concatenate([tokens, np.full((len(tokens), 1), -1, tokens.dtype)], axis=1)
    return copy_edges(torch.from_numpy(longer.astype(np.int64)), 1)[:, 0, :-1, :-1]


def shape_rows(study: Study, sample: str) -> Iterator[dict[str, Any]]:
    """Means over the evaluation sequences of each class, a row a layer, mean over heads.

    Args:
        study: with its maps captured.
        sample: name of the sample.
    """
    rows = sample_rows(study, sample)
    store = MapStore(maps_folder(study, "model"), verify=False)
    for name in rows.classes:
        part = rows.evaluation.filter(pl.col("class") == name)
        maps = store.dataset(part["sequence_id"].to_numpy(), part["suffix"].to_list(), "mean")
        copies = class_copies(study, part)
        batches = torch.split(torch.arange(len(maps)), rows_at_once(maps))
        found = [attention_shape(unpack_triangle(maps.read(b)), copies[b]) for b in batches]
        for layer, values in enumerate(torch.cat(found).mean(dim=0).tolist(), start=1):
            yield {"sample": sample, "class": name, "layer": layer, "n": len(maps)} | dict(
                zip(SHAPES, values, strict=True)
            )
