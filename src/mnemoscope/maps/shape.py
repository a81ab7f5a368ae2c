"""What attention looks like in a few numbers: how concentrated it is, and on what.

Nothing is learned here, unlike Δ. The benchmark's baseline `statistics` reads the shape of a layer
among others, CNNs of the preset `rows` read how each query looks back.
"""

from math import isqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


POOLED = ("mean", "max")
"""The tensors that every store holds and every audit computes, unless a folder says otherwise."""
NEAR_DIAGONAL = 4
"""Keys so many tokens back or fewer are near the diagonal (the query itself among them)."""

SHAPES = (
    "entropy of a row, nats",
    "Gini coefficient of a row",
    "mass on the first token",
    f"mass near the diagonal (|q−k| ≤ {NEAR_DIAGONAL})",
    "mass on copy edges",
    "mass prefix → prefix",
    "mass suffix → prefix",
    "mass suffix → suffix",
)
"""What `attention_shape` gives of each layer, in order. Masses are shares of a map's weight."""
ROW_STATISTICS = (
    "entropy, nats",
    "largest weight",
    "on the first token",
    "on itself",
    "on the token before",
    "share on the prefix",
)
"""What `row_statistics` gives of each query, in order; entropy and share of the row scaled to 1."""

_SMALLEST_WEIGHT = 1e-12


def triangle_size(length: int) -> int:
    """Number of (query, key) pairs with key ≤ query among `length` tokens.

    >>> triangle_size(64)
    2080
    """
    return length * (length + 1) // 2


def triangle_length(size: int) -> int:
    """Sequence length whose triangle has `size` weights; `ValueError` where there is none.

    >>> triangle_length(2080)
    64
    """
    length = (isqrt(8 * size + 1) - 1) // 2
    if size < 1 or triangle_size(length) != size:
        raise ValueError(f"{size} weights are no triangle; 64 tokens have {triangle_size(64)}")
    return length


def map_bytes(n_layers: int, length: int, *, n_tensors: int = 2) -> int:
    """Bytes stored per sequence: a triangle of float16 for each layer and tensor."""
    return n_tensors * n_layers * triangle_size(length) * 2


def copy_edges(tokens: "Tensor", n_layers: int) -> "Tensor":
    """Each sequence's induction edges: the key one past an earlier occurrence of the query's token.

    From tokens (b, T) to bool (b, layers, T, T), the same in every layer; none in the last query,
    whose next token is not among the T.
    """
    import torch

    same = tokens[:, :, None] == tokens[:, None, :]  # query, earlier token
    after = torch.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1]
    after = after.tril()
    after[:, -1] = False
    return after[:, None].repeat(1, n_layers, 1, 1)


def attention_shape(maps: "Tensor", copies: "Tensor", prefix: int | None = None) -> "Tensor":
    """Sum up each layer of each map: float64 (n, layers, 8), in the order of `SHAPES`.

    That is: entropy of a row (nats), its Gini coefficient, and the shares of a map's weight on the
    first token, near the diagonal, on copy edges, prefix to prefix, suffix to prefix, suffix to
    suffix.
    Maps are (n, layers, query, key), not negative, zero above the diagonal; `copies`, bool (n,
    query, key), their copy edges. Entropy and Gini are means over queries 1 and later, each row
    scaled to sum 1. Gini is over the keys a query may look at: 0 where all draw alike, near 1 where
    one key draws all (the concentration of Zeng et al. and the single key of Bright Ending are its
    upper end). The prefix is half of the map unless given.
    """
    import torch

    maps = maps.double()
    length = maps.shape[-1]
    half = length // 2 if prefix is None else prefix
    query, key = torch.arange(length)[:, None], torch.arange(length)
    whole = maps.sum((-1, -2)).clamp_min(_SMALLEST_WEIGHT)
    rows = maps / maps.sum(-1, keepdim=True).clamp_min(_SMALLEST_WEIGHT)
    cells = [
        (key == 0).expand(length, length),
        (query - key <= NEAR_DIAGONAL).expand(length, length),
        copies[:, None],
        (query < half) & (key < half),
        (query >= half) & (key < half),
        (query >= half) & (key >= half),
    ]
    masses = [(maps * each).sum((-1, -2)) / whole for each in cells]
    entropy = torch.special.entr(rows)[..., 1:, :].sum(-1).mean(-1)
    return torch.stack([entropy, _gini(rows), *masses], dim=-1)


def row_statistics(maps: "Tensor", prefix: int | None = None) -> "Tensor":
    """How each query looks back: (n, layers, query, key) to (n, layers, 6, query).

    In the order of `ROW_STATISTICS`; `prefix` as in `attention_shape`. Of a row without weight, as
    a mask may leave it, all are 0, and the first query has no token before it. Differentiable:
    whatever stands above the diagonal is left out, and an edge of weight 0 has no slope by the
    entropy, where its own would be infinite.
    """
    import torch

    maps = maps.tril()
    shares = maps / maps.sum(-1, keepdim=True).clamp_min(_SMALLEST_WEIGHT)
    logs = torch.where(shares > 0, shares, 1.0).log()
    figures = [
        -(shares * logs).sum(-1),
        maps.amax(-1),
        maps[..., 0],
        maps.diagonal(0, -2, -1),
        torch.nn.functional.pad(maps.diagonal(-1, -2, -1), (1, 0)),
        shares[..., : maps.shape[-1] // 2 if prefix is None else prefix].sum(-1),
    ]
    return torch.stack(figures, dim=-2)


def _gini(rows: "Tensor") -> "Tensor":
    """Mean Gini coefficient of the rows of queries 1 and later, over the keys each may look at."""
    import numpy as np
    import torch

    length = rows.shape[-1]
    # Zeros above the diagonal sort first, so a row of q + 1 keys ends the sorted row.
    place = torch.arange(1, length + 1, dtype=rows.dtype)
    n_keys = place[:, None]
    rank = (place - (length - n_keys)).clamp(min=0)
    ordered = torch.from_numpy(np.sort(rows.cpu().numpy()))  # ten times as fast as torch's sort
    weighted = (rank * ordered.to(rows.device)).sum(-1)
    total = rows.sum(-1).clamp_min(_SMALLEST_WEIGHT)
    gini = 2 * weighted / (n_keys[:, 0] * total) - (n_keys[:, 0] + 1) / n_keys[:, 0]
    mean: Tensor = gini[..., 1:].mean(-1)
    return mean
