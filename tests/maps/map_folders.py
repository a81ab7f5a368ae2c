"""Small folders of maps for the tests of this room."""

from pathlib import Path

import numpy as np
import torch

from mnemoscope.maps.store import MapWriter

N_LAYERS = 3
LENGTH = 8
FINGERPRINT = {"weights": "abc", "capture": {"dtype": "float32", "bos_id": None}}


def map_of(sequence_id: int, *, pooling: str = "mean") -> torch.Tensor:
    """Float32 map (layers, query, key) that depends on nothing but its arguments."""
    generator = torch.Generator().manual_seed(2 * sequence_id + (pooling == "max"))
    return torch.rand(N_LAYERS, LENGTH, LENGTH, generator=generator).tril()


def maps_of(ids, pooling: str) -> torch.Tensor:
    """Maps of several sequences, shape (n, layers, query, key)."""
    return torch.stack([map_of(int(i), pooling=pooling) for i in ids])


def writer_of(folder: Path, *, shard_rows: int = 4, fingerprint=FINGERPRINT) -> MapWriter:
    return MapWriter(
        folder, n_layers=N_LAYERS, length=LENGTH, fingerprint=fingerprint, shard_rows=shard_rows
    )


def capture(folder: Path, ids, *, suffix="own", shard_rows: int = 4, batch: int = 3) -> list[int]:
    """What a capture does: ask what is missing, append it; returns the ids it made."""
    ids = np.asarray(ids)
    with writer_of(folder, shard_rows=shard_rows) as writer:
        made = ids[writer.missing(ids, suffix)]
        for start in range(0, len(made), batch):
            part = made[start : start + batch]
            writer.append(part, suffix, maps_of(part, "mean"), maps_of(part, "max"))
    return made.tolist()


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
