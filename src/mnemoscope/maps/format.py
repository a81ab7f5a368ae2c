"""The files of a map folder: shards with their records, and what all maps have in common."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from typing_extensions import TypedDict

from mnemoscope.errors import DamagedDataError, MnemoscopeError, UserError
from mnemoscope.files import digest, write_json
from mnemoscope.maps.shape import POOLED
from mnemoscope.parse import MOST_BYTES, flatten, parse_json, read_json
from mnemoscope.store import Store

META_NAME = "meta.json"
FORMAT = "mnemoscope maps"
FORMAT_VERSION = 1
SUFFIXES = ("own", "true")

INDEX_SCHEMA = pl.Schema(
    {
        "sequence_id": pl.Int64,
        "suffix": pl.String,
        "shard": pl.String,
        "row": pl.Int64,
    }
)
_KEY = ["sequence_id", "suffix"]


@dataclass(frozen=True)
class StoreMeta:
    """What every map of one folder has in common; `n_layers` is layers · heads where all are kept.

    `model` is its fingerprint and the settings of the capture, JSON values only.
    """

    n_layers: int
    length: int
    model: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float16"
    format: str = FORMAT
    version: int = FORMAT_VERSION
    tensors: tuple[str, ...] = POOLED

    def __post_init__(self) -> None:
        """Let the model be what its JSON gives back (tuples become lists), names a tuple."""
        object.__setattr__(self, "model", json.loads(json.dumps(self.model)))
        object.__setattr__(self, "tensors", tuple(self.tensors))

    @property
    def key(self) -> str:
        """What binds shards to it."""
        return digest(asdict(self))

    def require(self, wanted: "StoreMeta", folder: Path) -> None:
        """Raise `UserError` if another model or other settings made the folder; names them."""
        here, there = dict(flatten(asdict(self))), dict(flatten(asdict(wanted)))
        different = [
            f"{key} is {here.get(key, 'absent')!r} there, {there.get(key, 'absent')!r} here"
            for key in sorted(here.keys() | there.keys())
            if here.get(key, ...) != there.get(key, ...)
        ]
        if different:
            raise UserError(
                f"{folder}: these maps were made otherwise ({'; '.join(different)}). "
                "Use the same model and settings, or another folder."
            )


def read_meta(folder: Path) -> StoreMeta:
    """Read `meta.json`; UserError: no maps or a newer format, DamagedDataError: not as we write."""
    path = folder / META_NAME
    try:
        values = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder}: no maps here ({META_NAME} is missing). Run 'mnemoscope capture' first."
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise _damaged(path)
    if values.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: maps of format version {values.get('version')}, this release reads "
            f"{FORMAT_VERSION}. Use the release that wrote them, or capture again elsewhere."
        )
    try:
        meta = StoreMeta(**values)
    except TypeError as error:
        raise _damaged(path) from error
    if (
        not all(type(n) is int and n > 0 for n in (meta.n_layers, meta.length))
        or not (meta.dtype == "float16" and isinstance(meta.model, dict))
        or not all(isinstance(name, str) for name in meta.tensors)
    ):
        raise _damaged(path)
    return meta


def write_meta(folder: Path, meta: StoreMeta) -> None:
    """Write `meta.json` atomically; errors as `files.write_json`."""
    values = asdict(meta)
    if meta.tensors == POOLED:
        del values["tensors"]
    write_json(folder / META_NAME, values)


def _damaged(path: Path) -> DamagedDataError:
    why = "not a description of maps as mnemoscope writes it"
    return shard_store(path.parent).damaged(path, path.stem, why)


def tensor_start(path: Path, name: str) -> int:
    """The byte of a shard at which a tensor begins; its rows follow each other without a gap."""
    try:
        begin, header = _header(path)
        return begin + int(header[name]["data_offsets"][0])
    except _NO_HEADER as error:
        raise shard_vanished(path) from error


def is_torn(path: Path) -> bool:
    """Whether a shard is not there, or not as long as its header says; its maps are not read."""
    try:
        begin, header = _header(path)
        ends = [one["data_offsets"][1] for key, one in header.items() if key != "__metadata__"]
        return bool(path.stat().st_size != begin + max(ends))
    except _NO_HEADER:
        return True


_NO_HEADER = OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError


def _header(path: Path) -> tuple[int, Any]:
    """The byte of a shard at which its tensors begin, and its header."""
    if not path.is_file():  # a pipe has no end
        raise OSError("no regular file")
    with open(path, "rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        return 8 + n_header, parse_json(file.read(min(n_header, MOST_BYTES)))


def shard_store(folder: Path) -> Store:
    """The shards of a folder: an artefact each, whose record says whose maps it holds."""
    study = folder.parent.parent  # if it is the folder of a role
    again = "capture into this folder again: its sequences are captured again, no others"
    if (study / "study.yaml").is_file():
        again = f"run 'mnemoscope capture {study}': its sequences are captured again, no others"
    return Store(folder, remedy=lambda _: again)


def shard_vanished(path: Path) -> DamagedDataError:
    """The error for a shard that was whole when its store was opened."""
    return shard_store(path.parent).damaged(path, path.stem, "missing, or no whole shard")


class _Shard(TypedDict):
    sequence_ids: list[int]
    suffixes: list[str]
    files: dict[str, str]


def read_index(folder: Path, meta: StoreMeta) -> tuple[pl.DataFrame, dict[str, MnemoscopeError]]:
    """Every map that the records of the shards name, by shard and row, and what is wrong by shard.

    Of a map that two shards hold, as where folders were copied together, the first counts.
    """
    store, frames = shard_store(folder), [pl.DataFrame(schema=INDEX_SCHEMA)]
    damaged: dict[str, MnemoscopeError] = {}
    for path in sorted(folder.glob("shard-*.json")):
        try:
            found = store.record(path.stem, key=meta.key, shape=_Shard)
        except (UserError, DamagedDataError) as error:
            damaged[path.stem] = error
            continue
        keys = key_frame(found["sequence_ids"], found["suffixes"])
        frames.append(
            keys.with_columns(
                pl.lit(shard_file(path.stem)).alias("shard"),
                pl.int_range(keys.height, dtype=pl.Int64).alias("row"),
            )
        )
    return pl.concat(frames).unique(_KEY, keep="first", maintain_order=True), damaged


def shard_file(name: str) -> str:
    """The file of a shard."""
    return f"{name}.safetensors"


def key_frame(
    sequence_ids: Sequence[int] | np.ndarray, suffixes: Sequence[str] | str
) -> pl.DataFrame:
    """Columns sequence_id and suffix ("own" or "true"), one row a map, else ValueError."""
    ids = np.asarray(sequence_ids, dtype=np.int64)
    each = [suffixes] * len(ids) if isinstance(suffixes, str) else [str(s) for s in suffixes]
    if len(each) != len(ids):
        raise ValueError(f"{len(ids)} sequence ids, {len(each)} suffixes")
    if unknown := set(each) - set(SUFFIXES):
        raise ValueError(f"suffix {sorted(unknown)}: must be one of {SUFFIXES}")
    return pl.DataFrame(
        {"sequence_id": ids, "suffix": each}, schema={k: INDEX_SCHEMA[k] for k in _KEY}
    )


def find_rows(index: pl.DataFrame, keys: pl.DataFrame) -> pl.Series:
    """Position of each key in the index, null where it is not there; int64, in the keys' order."""
    positions = index.select(_KEY).with_row_index("position")
    found = keys.join(positions, on=_KEY, how="left", maintain_order="left")
    return found["position"].cast(pl.Int64)


def free_shard_name(index: pl.DataFrame) -> str:
    """The first shard name the index does not use, so that a damaged one is written anew."""
    used = set(index["shard"])
    return next(name for n in count() if shard_file(name := f"shard-{n:05d}") not in used)
