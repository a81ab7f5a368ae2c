"""One shard: a safetensors file with the tensors `mean` and `max` of some hundred sequences.

Each is (rows, layers, length·(length+1)/2) float16. A folder of every head's maps has the one
tensor `heads`, (rows, layers · heads, ...), in their place. Any safetensors reader opens it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mnemoscope.errors import DamagedDataError
from mnemoscope.maps.meta import StoreMeta
from mnemoscope.maps.triangle import triangle_size

__all__ = ["check_checksum", "check_shape", "gone", "shard_bytes", "tensor_start"]

_READ_BYTES = 1 << 20


def shard_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A shard's content; the same maps always give the same bytes.

    Args:
        tensors: by name, each float16, shape (rows, layers, length·(length+1)/2).
    """
    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    return cast(bytes, save(ordered))


def tensor_start(path: Path, name: str) -> int:
    """Say at which byte of a shard a tensor begins; its rows follow each other without a gap.

    Raises:
        DamagedDataError: the file is gone, cut short or no shard.
    """
    try:
        with open(path, "rb") as file:
            n_header = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(n_header))
        return 8 + n_header + int(header[name]["data_offsets"][0])
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise gone(path) from error


def gone(path: Path) -> DamagedDataError:
    """The error for a shard that was whole when its store was opened."""
    return _damaged(path, "is missing or is no whole shard", None)


def check_shape(path: Path, *, rows: int, meta: StoreMeta) -> None:
    """Look at a shard's length and header, not at its weights (some 0.1 ms).

    Args:
        path: the shard.
        rows: how many sequences the index says it holds.
        meta: of its folder.

    Raises:
        DamagedDataError: missing, cut short, no safetensors, other tensors, shapes or dtype.
    """
    shape = [rows, meta.n_layers, triangle_size(meta.length)]
    if not path.is_file():
        raise _damaged(path, "the file is missing", rows)
    try:
        with safe_open(path, framework="pt") as shard:
            found = {name: _describe(shard.get_slice(name)) for name in shard.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        n_weights = len(meta.tensors) * shape[0] * shape[1] * shape[2]
        size, wanted = path.stat().st_size, 2 * n_weights
        raise _damaged(path, f"torn ({size:,} bytes, {wanted:,} of weights)", rows) from error
    if found != dict.fromkeys(meta.tensors, ("F16", shape)):
        names = " and ".join(f"'{name}'" for name in meta.tensors)
        raise _damaged(path, f"other content than {names} of shape {shape}", rows)


def check_checksum(path: Path, *, rows: int, sha256: str) -> None:
    """Read a whole shard and compare it with what was written (about 1 GB/s).

    Raises:
        DamagedDataError: a byte differs, or the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})", rows) from error
    if digest.hexdigest() != sha256:
        raise _damaged(path, "its content has changed since it was written (sha256)", rows)


def _describe(tensor: Any) -> tuple[str, list[int]]:
    return tensor.get_dtype(), list(tensor.get_shape())


def _damaged(path: Path, what: str, rows: int | None) -> DamagedDataError:
    its = "its" if rows is None else f"its {rows}"
    return DamagedDataError(
        f"{path}: {what}. Run 'mnemoscope capture STUDY': {its} sequences are captured again, "
        "the rest is kept."
    )
