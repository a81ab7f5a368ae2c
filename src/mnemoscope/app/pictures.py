"""The attention maps of one sequence as pictures, layer by layer, with Δ laid over them.

Weights are ink of one colour and Δ of another, both readable on light and dark ground; each layer
is scaled by its own maximum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from mnemoscope.app.result import render
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.report.delta import png_ink, png_uri, scale_by_layer

__all__ = [
    "DELTA_INK",
    "MAP_INK",
    "ClassDelta",
    "Edge",
    "SequenceMaps",
    "render_delta",
    "render_maps",
    "stored_maps",
    "strongest_edges",
]

MAP_INK = (59, 125, 216)
DELTA_INK = (214, 90, 12)
_MOST_EDGES = 6


@dataclass(frozen=True)
class SequenceMaps:
    """Attention of one sequence, pooled over heads.

    Attributes:
        mean: (layers, query, key), weights.
        max: the same shape.
        pieces: text of each token.
    """

    mean: np.ndarray
    max: np.ndarray
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class ClassDelta:
    """Δ of one class.

    Attributes:
        name: of the class.
        scaled: (layers, query, key), each layer divided by its maximum over all classes.
        attribution: how it was computed.
    """

    name: str
    scaled: np.ndarray
    attribution: str = ""

    @classmethod
    def all_of(
        cls, delta: np.ndarray, names: Sequence[str], attribution: str
    ) -> list["ClassDelta"]:
        """One for each class of a Δ of shape (classes, layers, query, key)."""
        scaled = scale_by_layer(delta)
        return [cls(name, one, attribution) for name, one in zip(names, scaled, strict=True)]


class Edge(NamedTuple):
    """One weight: which token looks at which, layers and tokens counted from 1."""

    layer: int
    query: int
    key: int
    weight: float


def stored_maps(store: MapStore, sequence_id: int, pieces: Sequence[str]) -> SequenceMaps | None:
    """The maps of a study's sequence with its own suffix, or as stored; None: never captured.

    Args:
        store: of the study's model.
        sequence_id: the sequence.
        pieces: text of each token.
    """
    suffixes = [
        suffix
        for number, suffix in store.index.select("sequence_id", "suffix").rows()
        if number == sequence_id
    ]
    if not suffixes:
        return None
    suffix = "true" if "true" in suffixes else suffixes[0]
    mean, largest = (
        unpack_triangle(store.dataset([sequence_id], suffix, pooling).read(torch.tensor([0])))[0]
        .float()
        .numpy()
        for pooling in ("mean", "max")
    )
    return SequenceMaps(mean, largest, tuple(pieces))


def strongest_edges(maps: SequenceMaps, delta: ClassDelta) -> list[Edge]:
    """Where the sequence has attention that Δ of the class counts on, the strongest first.

    A layer's Δ is scaled to 1, so layers compare by their attention weights.
    """
    product = maps.mean * delta.scaled
    order = np.argsort(product, axis=None)[::-1][:_MOST_EDGES]
    layers, queries, keys = np.unravel_index(order, product.shape)
    found = zip(layers.tolist(), queries.tolist(), keys.tolist(), strict=True)
    return [
        Edge(layer + 1, query + 1, key + 1, float(maps.mean[layer, query, key]))
        for layer, query, key in found
        if product[layer, query, key] > 0
    ]


def render_maps(maps: SequenceMaps, delta: ClassDelta | None = None, note: str = "") -> str:
    """Render the maps of a sequence, Δ over them where there is one.

    Args:
        maps: of the sequence.
        delta: of the class to compare with; its shape must be that of the maps.
        note: why there is no Δ, empty for nothing to say.
    """
    if delta is not None and delta.scaled.shape != maps.mean.shape:
        delta, note = None, "Δ of the study is of another shape than these maps."
    edges = [] if delta is None else strongest_edges(maps, delta)
    return render(
        "maps.html.j2",
        layers=[
            {
                "mean": _ink(mean, MAP_INK),
                "max": _ink(largest, MAP_INK),
                "delta": None if delta is None else _ink(delta.scaled[number], DELTA_INK),
            }
            for number, (mean, largest) in enumerate(
                zip(_scaled(maps.mean), _scaled(maps.max), strict=True)
            )
        ],
        delta=delta,
        note=note,
        length=maps.mean.shape[-1],
        edges=[
            edge._asdict()
            | {"query_text": maps.pieces[edge.query - 1], "key_text": maps.pieces[edge.key - 1]}
            for edge in edges
        ],
    )


def render_delta(deltas: Sequence[ClassDelta]) -> list[dict[str, Any]]:
    """Pictures of Δ, one row a class: `name` and an address for each layer."""
    return [
        {"name": one.name, "layers": [_ink(layer, DELTA_INK) for layer in one.scaled]}
        for one in deltas
    ]


def _scaled(maps: np.ndarray) -> np.ndarray:
    """Each layer divided by its maximum."""
    scaled: np.ndarray = scale_by_layer(maps[None])[0]
    return scaled


def _ink(scaled: np.ndarray, colour: tuple[int, int, int]) -> str:
    return png_uri(png_ink(scaled, colour))
