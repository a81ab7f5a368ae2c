"""Keep only the causal half of a map: (layers, 64, 64) to (layers, 2080) and back.

Exact both ways; whatever stands above the diagonal is refused, not dropped. The order is row by
row: query 0 with key 0, query 1 with keys 0 and 1, and so on.
"""

from functools import lru_cache
from math import isqrt

import torch

from mnemoscope.errors import UserError

__all__ = [
    "pack_triangle",
    "triangle_length",
    "triangle_size",
    "unpack_channels_last",
    "unpack_triangle",
]


def triangle_size(length: int) -> int:
    """Number of (query, key) pairs with key ≤ query among `length` tokens.

    >>> triangle_size(64)
    2080
    """
    return length * (length + 1) // 2


def triangle_length(size: int) -> int:
    """Sequence length whose triangle has `size` weights.

    Raises:
        ValueError: no length has a triangle of this size.

    >>> triangle_length(2080)
    64
    """
    length = (isqrt(8 * size + 1) - 1) // 2
    if size < 1 or triangle_size(length) != size:
        raise ValueError(f"{size} weights are no triangle; 64 tokens have {triangle_size(64)}")
    return length


def pack_triangle(maps: torch.Tensor) -> torch.Tensor:
    """Keep the weights on and below the diagonal.

    Args:
        maps: shape (..., query, key), query and key of equal length, any dtype and device.

    Returns:
        Shape (..., length·(length+1)/2), same dtype and device, a copy.

    Raises:
        ValueError: the last two axes differ.
        UserError: a weight above the diagonal is not zero (the model saw later tokens).
    """
    length = maps.shape[-1]
    if maps.ndim < 2 or maps.shape[-2] != length:
        raise ValueError(f"maps of shape {tuple(maps.shape)}: axes query and key must be equal")
    if torch.triu(maps, diagonal=1).any():
        raise UserError(
            "attention weights above the diagonal: this model looks at later tokens. "
            "Only causal language models can be captured."
        )
    packed = maps.new_empty(*maps.shape[:-2], triangle_size(length))
    for query in range(length):
        packed[..., triangle_size(query) : triangle_size(query + 1)] = maps[..., query, : query + 1]
    return packed


def unpack_triangle(packed: torch.Tensor) -> torch.Tensor:
    """Put packed weights back in place, zeros above the diagonal.

    A row at a time is the fastest way found: 16 maps of 36 layers take 1.7 ms on one core, where
    an index over all 2,080 places takes 4 to 30 ms.

    Args:
        packed: shape (..., length·(length+1)/2), any dtype and device.

    Returns:
        Shape (..., query, key), same dtype and device.

    Raises:
        ValueError: the last axis is no triangle.
    """
    length = triangle_length(packed.shape[-1])
    maps = packed.new_zeros(*packed.shape[:-1], length, length)
    for query in range(length):
        maps[..., query, : query + 1] = packed[..., triangle_size(query) : triangle_size(query + 1)]
    return maps


def unpack_channels_last(packed: torch.Tensor) -> torch.Tensor:
    """Put packed weights back in place in the order of memory that convolutions take.

    The triangle is turned round first, so that every place is a run of all layers: 16 maps of 36
    layers take 1 ms on one core, `unpack_triangle` and a change of order take 7 ms
    (`benchmarks/bench_training.py`).

    Args:
        packed: shape (batch, layers, length·(length+1)/2), any dtype and device.

    Returns:
        Shape (batch, layers, query, key), same dtype and device, zeros above the diagonal,
        channels last: what `unpack_triangle` gives, in another order of memory.

    Raises:
        ValueError: the last axis is no triangle.
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
