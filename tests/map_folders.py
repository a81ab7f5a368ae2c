"""Small folders of maps."""

import os
import signal
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from mnemoscope import store
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.store import MapWriter
from mnemoscope.maps.triangle import pack_shard

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


def writer_of(folder: Path, *, fingerprint=FINGERPRINT) -> MapWriter:
    return MapWriter(folder, StoreMeta(N_LAYERS, LENGTH, fingerprint))


def add_shard(writer: MapWriter, ids, suffix, **maps: torch.Tensor) -> None:
    """Add maps (n, layers, query, key) by the names of their tensors, as one shard."""
    shard = pack_shard(np.asarray(ids), maps, writer.meta)
    writer.take(shard, ids, suffix, sha256=sha256(shard).hexdigest())


def capture(folder: Path, ids, *, suffix="own", shard_rows: int = 4) -> list[int]:
    """What a capture does: ask what is missing, add it; returns the ids it made."""
    ids, writer = np.asarray(ids), writer_of(folder)
    made = ids[writer.missing(ids, suffix)]
    for start in range(0, len(made), shard_rows):
        part = made[start : start + shard_rows]
        add_shard(writer, part, suffix, mean=maps_of(part, "mean"), max=maps_of(part, "max"))
    return made.tolist()


def capture_and_die(folder: Path, name: str, before: bool, call: int) -> None:
    """Capture, and kill this process before or after one call of a function of the store."""
    real, calls = getattr(store, name), []

    def dying(path, *arguments):
        calls.append(path)
        if len(calls) == call and before:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, *arguments)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(store, name, dying)
    capture(folder, range(11))
