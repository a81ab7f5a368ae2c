"""The index of a folder of maps: which sequence stands in which row of which shard.

`index.parquet` with sequence_id, suffix ("own": the model's continuation, "true": the text's own
suffix), shard (file name), row, sha256 (of the shard). Written after the shard it names.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.errors import DamagedDataError
from mnemoscope.parquet import read_parquet, write_parquet

__all__ = [
    "INDEX_NAME",
    "SUFFIXES",
    "count_rows",
    "empty_index",
    "find_rows",
    "free_shard_name",
    "key_frame",
    "read_index",
    "write_index",
]

INDEX_NAME = "index.parquet"
SUFFIXES = ("own", "true")
_SCHEMA = pl.Schema(
    {
        "sequence_id": pl.Int64,
        "suffix": pl.String,
        "shard": pl.String,
        "row": pl.Int64,
        "sha256": pl.String,
    }
)
_KEY = ["sequence_id", "suffix"]
_SHARD_NAME = re.compile(r"shard-\d{5,}\.safetensors")


def empty_index() -> pl.DataFrame:
    """An index of nothing."""
    return pl.DataFrame(schema=_SCHEMA)


def read_index(folder: Path) -> pl.DataFrame:
    """Read `index.parquet`, ordered by shard and row.

    Raises:
        FileNotFoundError: there is none.
        DamagedDataError: unreadable, or its rows contradict each other.
    """
    path = folder / INDEX_NAME
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        frame = read_parquet(path)
    except (OSError, DamagedDataError) as error:
        raise _damaged(path, "cannot be read, or has changed since it was written") from error
    if frame.schema != _SCHEMA:
        raise _damaged(path, "has other columns than an index of maps")
    _check(frame, path)
    return frame.sort("shard", "row")


def write_index(folder: Path, index: pl.DataFrame) -> None:
    """Write `index.parquet` atomically.

    Raises:
        NoRoomError: the disk is full; the former index stays.
    """
    write_parquet(folder / INDEX_NAME, index.sort("shard", "row"))


def key_frame(
    sequence_ids: Sequence[int] | np.ndarray, suffixes: Sequence[str] | str
) -> pl.DataFrame:
    """Columns sequence_id and suffix, one row a map asked for.

    Args:
        sequence_ids: integer, shape (n,).
        suffixes: "own" or "true" for each, or one for all.

    Raises:
        ValueError: unequal lengths, or another suffix.
    """
    ids = np.asarray(sequence_ids, dtype=np.int64)
    each = [suffixes] * len(ids) if isinstance(suffixes, str) else [str(s) for s in suffixes]
    if len(each) != len(ids):
        raise ValueError(f"{len(ids)} sequence ids, {len(each)} suffixes")
    if unknown := set(each) - set(SUFFIXES):
        raise ValueError(f"suffix {sorted(unknown)}: must be one of {SUFFIXES}")
    return pl.DataFrame({"sequence_id": ids, "suffix": each}, schema={k: _SCHEMA[k] for k in _KEY})


def find_rows(index: pl.DataFrame, keys: pl.DataFrame) -> pl.Series:
    """Position of each key in the index, null where it is not there; int64, in the keys' order."""
    positions = index.select(_KEY).with_row_index("position")
    found = keys.join(positions, on=_KEY, how="left", maintain_order="left")
    return found["position"].cast(pl.Int64)


def count_rows(index: pl.DataFrame) -> list[tuple[str, int, str]]:
    """Shard name, number of rows and sha256 of each shard, by name."""
    counted = index.group_by("shard").agg(pl.len(), pl.first("sha256")).sort("shard")
    return counted.rows()


def free_shard_name(index: pl.DataFrame) -> str:
    """The first shard name the index does not use, so that a damaged one is written anew."""
    used = set(index["shard"].unique())
    number = 0
    while (name := f"shard-{number:05d}.safetensors") in used:
        number += 1
    return name


def _check(frame: pl.DataFrame, path: Path) -> None:
    """Refuse an index that no writer can have left."""
    if frame.null_count().sum_horizontal().item() if len(frame) else 0:
        raise _damaged(path, "has empty cells")
    if not frame["suffix"].is_in(list(SUFFIXES)).all():
        raise _damaged(path, f"names suffixes other than {SUFFIXES}")
    if frame.select(_KEY).is_duplicated().any():
        raise _damaged(path, "names a sequence twice")
    if not all(_SHARD_NAME.fullmatch(name) for name in frame["shard"].unique()):
        raise _damaged(path, "names files that are no shards")
    for rows, hashes in (
        frame.group_by("shard")
        .agg("row", pl.n_unique("sha256"))
        .select("row", "sha256")
        .iter_rows()
    ):
        if sorted(rows) != list(range(len(rows))) or hashes != 1:
            raise _damaged(path, "leaves out rows of a shard")


def _damaged(path: Path, what: str) -> DamagedDataError:
    return DamagedDataError(
        f"{path}: {what}. Delete it and run 'mnemoscope capture STUDY': every sequence of the "
        "folder is captured again."
    )
