"""Maps packed: the causal half alone, (layers, 64, 64) as (layers, 2080), row by row.

Query 0 with key 0, query 1 with keys 0 and 1, and so on. Exact both ways.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save

from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.shape import triangle_length, triangle_size


def pack_triangle(maps: torch.Tensor) -> torch.Tensor:
    """Copy the weights on and below the diagonal: (..., T, T) to (..., T·(T+1)/2).

    Raises ValueError: the last two axes differ. UserError: a weight above the diagonal is not zero
    (the model saw later tokens).
    """
    length = maps.shape[-1]
    if maps.ndim < 2 or maps.shape[-2] != length:
        raise ValueError(f"maps of shape {tuple(maps.shape)}: axes query and key must be equal")
    if torch.triu(maps, diagonal=1).any():
        raise UserError(
            "attention weights above the diagonal: this model looks at later tokens. "
            "Only causal language models can be captured."
        )
    return _packed(maps, maps.dtype)


def pack_layer(maps: torch.Tensor) -> torch.Tensor:
    """Causal maps (batch, query, key) as a shard holds them, float16 (batch, T·(T+1)/2).

    Where they are: nothing above the diagonal is looked at, so nothing waits for a device.
    """
    if maps.device.type == "cpu":
        return _packed(maps, torch.float16)
    # One step on an accelerator, where a copy a query would be bound by its launch.
    edges = _edges(maps.shape[-1], maps.device)
    return maps.flatten(-2).index_select(-1, edges).to(torch.float16)


def _packed(maps: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    length = maps.shape[-1]
    shape = (*maps.shape[:-2], triangle_size(length))
    packed: torch.Tensor = maps.new_empty(shape, dtype=dtype)
    for query in range(length):
        packed[..., triangle_size(query) : triangle_size(query + 1)] = maps[..., query, : query + 1]
    return packed


@lru_cache(maxsize=8)
def _edges(length: int, device: torch.device) -> torch.Tensor:
    """Where each edge of the triangle lies in the flattened square; (T·(T+1)/2,) int64."""
    edges: torch.Tensor = torch.ones(length, length).tril().flatten().nonzero().squeeze(1)
    return edges.to(device)


def unpack_triangle(packed: torch.Tensor) -> torch.Tensor:
    """Put packed weights back in place, zeros above the diagonal: (..., T·(T+1)/2) to (..., T, T).

    Row by row is fastest: 16 maps of 36 layers take 1.7 ms on one core, an index over all 2,080
    places 4 to 30 ms. `ValueError` where the last axis is no triangle.
    """
    length = triangle_length(packed.shape[-1])
    maps = packed.new_zeros(*packed.shape[:-1], length, length)
    for query in range(length):
        maps[..., query, : query + 1] = packed[..., triangle_size(query) : triangle_size(query + 1)]
    return maps


def unpack_channels_last(packed: torch.Tensor) -> torch.Tensor:
    """`unpack_triangle` of (batch, layers, triangle) in channels-last memory.

    Turning the triangle round first makes every place a run of all layers: 16 maps of 36 layers
    take 1 ms on one core, `unpack_triangle` and reordering 7 ms (`benchmarks/bench_training.py`).
    """
    n_maps, n_layers, size = packed.shape
    length = triangle_length(size)
    turned = packed.new_empty(n_maps, size + 1, n_layers)
    turned[:, :size] = packed.transpose(1, 2)
    turned[:, size] = 0
    maps = turned.index_select(1, _places(length, packed.device))
    return maps.view(n_maps, length, length, n_layers).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _places(length: int, device: torch.device) -> torch.Tensor:
    """For each (query, key) its place in the triangle, or one past its end; (length²,) int64."""
    query, key = torch.arange(length)[:, None], torch.arange(length)
    inside = query * (query + 1) // 2 + key
    return torch.where(key <= query, inside, triangle_size(length)).flatten().to(device)


def check_weights(weights: torch.Tensor) -> None:
    """Refuse weights (batch, layers, triangle) that cannot be attention.

    Raises DamagedDataError: one is negative or not finite; it names the first such layer.
    """
    lowest, highest = weights.aminmax()
    if lowest >= 0 and highest < math.inf:  # false for NaN
        return
    is_bad = ~(torch.isfinite(weights) & (weights >= 0))
    layer = int(torch.nonzero(is_bad.any(dim=0).any(dim=1))[0, 0])
    raise DamagedDataError(
        f"maps, layer {layer}: weights that are negative or not finite. "
        "Delete the maps and capture them again."
    )


def pack_shard(
    sequence_ids: npt.NDArray[np.int64], maps: Mapping[str, torch.Tensor], meta: StoreMeta
) -> bytes:
    """The bytes of a shard: maps (rows, layers, query, key) as float16 triangles.

    They may be packed already, each layer by `pack_layer`: (rows, layers, triangle).

    Raises UserError: a weight that is not finite (says which layer) or above the diagonal.
    ValueError: other tensors than the folder's, or a wrong shape.
    """
    if set(maps) != set(meta.tensors):
        raise ValueError(f"maps {sorted(maps)}, the folder holds {sorted(meta.tensors)}")
    shape = (len(sequence_ids), meta.n_layers, meta.length, meta.length)
    as_packed = (*shape[:2], triangle_size(meta.length))
    packed = {}
    for name, each in sorted(maps.items()):  # equal maps give equal bytes
        if tuple(each.shape) not in (shape, as_packed):
            raise ValueError(f"maps of shape {tuple(each.shape)}, wanted {shape}")
        triangles = pack_triangle(each.detach()) if each.ndim == 4 else each.detach()
        packed[name] = triangles.to("cpu", torch.float16).contiguous()
        if not torch.isfinite(packed[name]).all():
            row, layer, _ = torch.nonzero(~torch.isfinite(packed[name]))[0].tolist()
            raise UserError(
                f"sequence {sequence_ids[row]}, layer {layer}: attention is not finite. "
                "Capture with --dtype float32, or look at the model's weights."
            )
    return cast(bytes, save(packed))
