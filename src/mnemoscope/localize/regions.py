"""What maps Δ say: their mean over models, how alike they are, where they are large.

Regions are named in numbers and words: layers, prefix and suffix, diagonal, copies, each share
beside the one that an even spread over all causal edges would give. Reads arrays, without torch.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mnemoscope.maps.shape import NEAR_DIAGONAL

TOP_SHARE = 0.01
"""Part of all causal edges whose overlap is counted."""

_THIRDS = ("first third of the layers", "middle third of the layers", "last third of the layers")
_MUCH, _LITTLE = 1.5, 0.5
_MOST_NAMED = 3


def average_models(
    deltas: Sequence[np.ndarray], n_says: Sequence[Sequence[int]]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Combine models' means (classes, layers, query, key) into the mean over all their CNNs.

    A model with twice the CNNs counts twice, and one with none for a class is left out there:
    the same as `average` over all CNNs. `n_says` gives the CNNs of each model and class; returned
    are the mean, float32, and the CNNs of each class. `ValueError` for no model or unequal shapes.
    """
    shapes = {one.shape for one in deltas}
    if len(shapes) != 1:
        raise ValueError(f"maps of shapes {sorted(shapes)} cannot be averaged")
    weights = np.array(n_says, dtype=np.float64)
    total = weights.sum(axis=0)
    summed = sum(
        one.astype(np.float64) * own[:, None, None, None]
        for one, own in zip(deltas, weights, strict=True)
    )
    mean: np.ndarray = summed / np.maximum(total, 1)[:, None, None, None]
    return mean.astype(np.float32), tuple(int(n) for n in total)


class Agreement(NamedTuple):
    """How alike two maps are over all causal edges; None where one is the same everywhere.

    Correlation, that of ranks (ties at their mean), and the share of the top hundredth of the edges
    that both have in common; .01 by chance.
    """

    pearson: float | None
    spearman: float | None
    overlap: float | None


def agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """Compare two maps of one class, both (layers, query, key)."""
    from scipy.stats import rankdata

    if first.shape != second.shape:
        raise ValueError(f"maps of shape {first.shape} and {second.shape}")
    causal = np.tri(first.shape[-1], dtype=bool)
    left, right = (each.astype(np.float64)[:, causal].ravel() for each in (first, second))
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return Agreement(None, None, None)
    n_top = max(1, round(TOP_SHARE * len(left)))
    tops = [set(np.argsort(-each, kind="stable")[:n_top].tolist()) for each in (left, right)]
    return Agreement(
        pearson=float(np.corrcoef(left, right)[0, 1]),
        spearman=float(np.corrcoef(rankdata(left), rankdata(right))[0, 1]),
        overlap=len(tops[0] & tops[1]) / n_top,
    )


def mean_agreement(maps: list[np.ndarray]) -> Agreement:
    """Average the agreement over all pairs of maps; None where no pair can be compared."""
    pairs = [agreement(maps[i], maps[j]) for i in range(len(maps)) for j in range(i + 1, len(maps))]
    known = [pair for pair in pairs if pair.pearson is not None]
    if not known:
        return Agreement(None, None, None)
    return Agreement(*(float(np.mean(values)) for values in zip(*known, strict=True)))


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
        each = enumerate(by_layer / whole)
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
        f"“{one.name}” ({one.share:.1%} where an even spread gives {one.even:.1%})"
        for one in regions
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
