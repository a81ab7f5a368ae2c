"""Name in numbers and words where Δ lies: layers, prefix and suffix, diagonal, copies.

Each share stands beside the one that an even spread over all causal edges would give.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mnemoscope.maps.shape import NEAR_DIAGONAL

_THIRDS = ("first third of the layers", "middle third of the layers", "last third of the layers")
_MUCH, _LITTLE = 1.5, 0.5
_MOST_NAMED = 3


class Region(NamedTuple):
    """Share of a class's ΣΔ in one region (0 where Δ is zero), beside that of an even spread."""

    name: str
    share: float
    even: float

    @property
    def ratio(self) -> float | None:
        """Share over even share; None for a region without edges."""
        return self.share / self.even if self.even > 0 else None


def layer_profile(delta: np.ndarray) -> np.ndarray:
    """Sum Δ (classes, layers, query, key) by layer, over the largest sum: float64 in [0, 1]."""
    sums = delta.astype(np.float64).sum(axis=(2, 3))
    profile: np.ndarray = sums / sums.max() if sums.max() > 0 else sums
    return profile


def find_regions(
    delta: np.ndarray,
    copies: np.ndarray,
    *,
    channels: Sequence[str] = (),
    prefix: int | None = None,
) -> list[Region]:
    """Share out one class's Δ (layers, query, key) over the regions that have a name.

    Thirds of the layers (or the named channels) add up to 1, and so do the three blocks of prefix
    and suffix, and the single layers; the others overlap with them.

    `copies` (query, key) is the share of the class's sequences with a copy edge there: the key one
    past an earlier occurrence of the query's token. Both are means over sequences, so where these
    differ much the share falls short of what single sequences have. `channels` are names in place
    of layers (the blind baseline's maps have two channels). The prefix is half of the tokens
    unless given.
    """
    causal = np.tri(delta.shape[-1], dtype=bool)
    delta = delta.astype(np.float64) * causal
    whole = delta.sum() or 1.0
    by_edge, by_layer = delta.sum(axis=0), delta.sum(axis=(1, 2))
    n_layers = len(delta)
    found = []
    named = zip(_THIRDS, np.array_split(np.arange(n_layers), len(_THIRDS)), strict=True)
    groups = [(name, [index]) for index, name in enumerate(channels)] or [
        (name, third.tolist()) for name, third in named if len(third)
    ]
    for name, layers in groups:
        found.append(Region(name, by_layer[layers].sum() / whole, len(layers) / n_layers))
    for name, cells in _cells(causal, copies, prefix):
        found.append(Region(name, (by_edge * cells).sum() / whole, cells.sum() / causal.sum()))
    if not channels:
        each = enumerate(by_layer / whole, start=1)
        found += [Region(f"layer {number}", share, 1 / n_layers) for number, share in each]
    return [Region(name, float(share), float(even)) for name, share, even in found]


def region_sentence(class_name: str, regions: Sequence[Region]) -> str:
    """Say where a class's Δ lies far above and far below an even spread, by `find_regions`."""
    named = [one for one in regions if not one.name.startswith("layer ") and one.ratio is not None]
    if not any(one.share for one in named):
        return f"{class_name}: no Δ, since no evaluation sequence speaks for it."
    ranked = sorted(named, key=lambda one: -(one.ratio or 0.0))
    much = [one for one in ranked if (one.ratio or 0.0) >= _MUCH][:_MOST_NAMED]
    little = [one for one in reversed(ranked) if (one.ratio or 0.0) <= _LITTLE][:_MOST_NAMED]
    if not much and not little:
        return f"{class_name}: Δ is spread about evenly over all the regions named here."
    parts = [f"much of Δ lies in {_listed(much)}"] if much else []
    parts += [f"little in {_listed(little)}"] if little else []
    return f"{class_name}: {'; '.join(parts)}."


def _listed(regions: Sequence[Region]) -> str:
    """Regions with their share and what an even spread would give."""
    return ", ".join(
        f"{one.name} ({one.share:.1%} where an even spread gives {one.even:.1%})" for one in regions
    )


def _cells(
    causal: np.ndarray, copies: np.ndarray, prefix: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Regions of (query, key), as weights in [0, 1]."""
    query, key = np.indices(causal.shape)
    half = len(causal) // 2 if prefix is None else prefix
    yield "prefix → prefix", causal & (query < half)
    yield "suffix → prefix", causal & (query >= half) & (key < half)
    yield "suffix → suffix", causal & (key >= half)
    yield f"near the diagonal (|q−k| ≤ {NEAR_DIAGONAL})", causal & (query - key <= NEAR_DIAGONAL)
    yield "first token", causal & (key == 0)
    yield "copy diagonals", copies * causal
