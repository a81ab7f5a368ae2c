"""Which attention edges to cut: the most decisive ones of a class, and what they are held against.

An edge is (layer, query, key) with key ≤ query. The last query is left out everywhere: what it
reads decides the token after the sequence. Edges are bool tensors (layers, T, T), True is cut.
"""

from bisect import bisect_left
from operator import neg

import torch
from torch import Tensor

from mnemoscope.errors import UserError

__all__ = [
    "copy_edges",
    "count_edges",
    "equal_mass_edges",
    "largest_edges",
    "random_edges",
    "random_keys",
    "same_layer_edges",
]

_NEAREST = 32  # an edge's stand-in is drawn among so many of about the same mass


def count_edges(percent: float, n_layers: int, length: int) -> int:
    """How many edges a strength means: `percent` of all edges of the causal half, at least one.

    Raises:
        UserError: a strength outside (0, 100].
    """
    if not 0 < percent <= 100:
        raise UserError(f"strength {percent:g}: must be above 0 and at most 100 per cent of edges.")
    return max(1, round(percent / 100 * (n_layers * length * (length - 1) // 2)))


def largest_edges(values: Tensor, n: int) -> Tensor:
    """The n edges with the largest values: Δ of a class, or mean attention.

    Args:
        values: float, shape (layers, T, T); what lies above the diagonal is passed over.
        n: how many; of equal values the first in the order (layer, query, key) are taken.
    """
    ranked = values.masked_fill(~_possible(values), -torch.inf).flatten()
    return _chosen(ranked.argsort(descending=True, stable=True)[:n], values)


def random_edges(like: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """N edges drawn evenly; `like` gives the shape (layers, T, T)."""
    possible = _possible(like).flatten().nonzero()[:, 0]
    order = torch.randperm(len(possible), generator=generator)
    return _chosen(possible[order[:n]], like)


def same_layer_edges(edges: Tensor, generator: torch.Generator) -> Tensor:
    """Random edges, as many in each layer as `edges` has there: the layers alone are kept."""
    return torch.stack(
        [random_edges(layer[None], int(layer.sum()), generator)[0] for layer in edges]
    )


def equal_mass_edges(edges: Tensor, mass: Tensor, generator: torch.Generator) -> Tensor:
    """Other edges that hold about as much attention: for each a random one of nearly its mass.

    Args:
        edges: those to be matched.
        mass: mean attention of each edge, float, shape (layers, T, T).
        generator: draws among the nearest free edges.

    Returns:
        As many edges as `edges` where that many others exist, none of them among `edges`. Their
        mass is the nearest reachable: where `edges` holds all the attention there is, it is less.
    """
    free = (_possible(edges) & ~edges).flatten().nonzero()[:, 0]
    wanted = mass.flatten()[edges.flatten()].sort(descending=True).values
    order = free[mass.flatten()[free].argsort(descending=True, stable=True)].tolist()
    values = mass.flatten()[order].tolist()
    chosen = []
    for target in wanted.tolist()[: len(order)]:
        place = _draw_near(values, target, generator)
        chosen.append(order.pop(place))
        values.pop(place)
    return _chosen(torch.tensor(chosen, dtype=torch.int64), edges)


def copy_edges(tokens: Tensor, n_layers: int) -> Tensor:
    """Each sequence's induction edges: the key one past an earlier occurrence of the query's token.

    Args:
        tokens: shape (b, T), integers.
        n_layers: the edges are the same in every layer.

    Returns:
        Shape (b, layers, T, T).
    """
    same = tokens[:, :, None] == tokens[:, None, :]  # query, earlier token
    after = torch.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1]
    earlier = torch.ones(same.shape[1:], dtype=torch.bool).tril()
    after &= earlier & _possible(after[0][None])[0]
    return after[:, None].repeat(1, n_layers, 1, 1)


def random_keys(edges: Tensor, generator: torch.Generator) -> Tensor:
    """For every query as many other keys, drawn evenly; fewer where there are not so many.

    Args:
        edges: bool, shape (..., T, T).
        generator: of the draw.
    """
    causal = torch.ones(edges.shape[-2:], dtype=torch.bool).tril()
    score = torch.rand(edges.shape, generator=generator).masked_fill(~causal | edges, -1.0)
    rank = score.argsort(dim=-1, descending=True).argsort(dim=-1)
    return (rank < edges.sum(dim=-1, keepdim=True)) & (score >= 0)


def _draw_near(values: list[float], target: float, generator: torch.Generator) -> int:
    """A random one of the places whose values (falling) lie nearest to the target."""
    place = bisect_left(values, -target, key=neg)
    first = max(0, min(place - _NEAREST // 2, len(values) - _NEAREST))
    last = min(len(values), first + _NEAREST)
    return first + int(torch.randint(last - first, (), generator=generator))


def _possible(like: Tensor) -> Tensor:
    """Edges that can matter, for the shape of `like` (layers, T, T)."""
    possible = torch.ones(like.shape, dtype=torch.bool).tril()
    possible[:, -1] = False
    return possible


def _chosen(places: Tensor, like: Tensor) -> Tensor:
    """Flat places as a mask."""
    edges = torch.zeros(like.numel(), dtype=torch.bool)
    edges[places] = True
    return edges.reshape(like.shape)
