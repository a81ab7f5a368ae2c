"""The store of pooled attention maps: written once, read row by row ever after.

`MapWriter` appends, `MapStore` opens, `StoredMaps` and `TensorMaps` hand maps to the CNNs.
"""

from importlib import import_module
from typing import Any

_HOMES = {  # resolved on first use: importing the room loads no torch
    "MapSource": "dataset",
    "MapStore": "reader",
    "MapWriter": "writer",
    "StoreMeta": "meta",
    "StoredMaps": "dataset",
    "TensorMaps": "dataset",
    "pack_triangle": "triangle",
    "triangle_size": "triangle",
    "unpack_triangle": "triangle",
}

__all__ = [
    "MapSource",
    "MapStore",
    "MapWriter",
    "StoreMeta",
    "StoredMaps",
    "TensorMaps",
    "pack_triangle",
    "triangle_size",
    "unpack_triangle",
]


def __getattr__(name: str) -> Any:
    """Load a name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
