"""What a folder of maps holds and which model made it: `meta.json`.

Maps of two models or of two settings are never mixed: a folder belongs to one fingerprint.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mnemoscope.atomic_write import write_json
from mnemoscope.errors import DamagedDataError, UserError

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "META_NAME",
    "POOLED",
    "StoreMeta",
    "read_meta",
    "write_meta",
]

META_NAME = "meta.json"
FORMAT = "mnemoscope maps"
FORMAT_VERSION = 1
POOLED = ("mean", "max")
"""The tensors of a shard, unless a folder says otherwise."""


@dataclass(frozen=True)
class StoreMeta:
    """What every map of one folder has in common.

    Attributes:
        n_layers: layers of the model; where every head is kept, layers · heads.
        length: tokens of each sequence.
        model: fingerprint of the model and the settings of the capture, JSON values only.
        dtype: of the stored weights.
        format: the constant "mnemoscope maps".
        version: of the format.
        tensors: names of the tensors in every shard.
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

    def require(self, wanted: "StoreMeta", folder: Path) -> None:
        """Refuse to go on in a folder that another model or other settings made.

        Raises:
            UserError: naming each value that differs, as stored and as wanted.
        """
        here, there = dict(_flatten(asdict(self))), dict(_flatten(asdict(wanted)))
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
    """Read `meta.json`.

    Raises:
        UserError: no such folder, no maps in it, or a newer format.
        DamagedDataError: the file is not what we write.
    """
    path = folder / META_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
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
    return _parse(values, path)


def write_meta(folder: Path, meta: StoreMeta) -> None:
    """Write `meta.json` atomically; errors as `atomic_write.write_json`."""
    values = asdict(meta)
    if meta.tensors == POOLED:
        del values["tensors"]
    write_json(folder / META_NAME, values)


def _parse(values: dict[str, Any], path: Path) -> StoreMeta:
    """A `StoreMeta` of values whose types are right."""
    try:
        meta = StoreMeta(**values)
    except TypeError as error:
        raise _damaged(path) from error
    counts = (meta.n_layers, meta.length)
    if not all(type(count) is int and count > 0 for count in counts) or meta.dtype != "float16":
        raise _damaged(path)
    if not isinstance(meta.model, dict) or not all(isinstance(n, str) for n in meta.tensors):
        raise _damaged(path)
    return meta


def _damaged(path: Path) -> DamagedDataError:
    return DamagedDataError(
        f"{path}: not a description of maps as mnemoscope writes it. Delete the folder "
        f"{path.parent} and run 'mnemoscope capture' again."
    )


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
