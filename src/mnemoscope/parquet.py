"""Parquet files that carry their own sha256, so that a flipped bit is found on reading.

The checksum stands in the file's metadata, where any reader of Parquet finds it and none trips over
it. It is that of the whole file with 64 zeros in its own place. Only for files that nobody edits:
programs that rewrite a table may take its metadata over.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mnemoscope.atomic_write import write_bytes
from mnemoscope.errors import DamagedDataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["read_parquet", "write_parquet"]

_KEY = "mnemoscope.sha256"
# Beside the key, so that one flipped bit cannot hide that there is a checksum.
_MARK = "mnemoscope:"
_BLANK = b"0" * 64
# As Thrift's compact protocol writes it: the key, then a string of 75 bytes as the next field.
_BEFORE = _KEY.encode() + bytes([0x18, len(_MARK) + len(_BLANK)]) + _MARK.encode()
_FOOTER_END = 8  # the footer's length (uint32, little endian) and "PAR1"
_BLOCK = 1 << 20


def write_parquet(
    path: Path | str,
    frame: "pl.DataFrame",
    *,
    metadata: Mapping[str, str] | None = None,
    seal: bool = True,
) -> None:
    """Write a table as zstd Parquet, whole or not at all.

    Args:
        path: the file; its folder must exist.
        frame: any table.
        metadata: further entries of the file's metadata.
        seal: put in the checksum; not for a file whose sha256 is kept elsewhere.

    Raises:
        NoRoomError: the disk is full; what was there stays.
        UserError: the folder is missing or cannot be written to.
    """
    buffer = io.BytesIO()  # a full disk then fails in our own write, with the system's own error
    entries = dict(metadata or {}) | ({_KEY: _MARK + _BLANK.decode()} if seal else {})
    frame.write_parquet(buffer, compression="zstd", metadata=entries or None)
    if seal:
        place = _place(buffer)
        assert place is not None
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        buffer.seek(place)
        buffer.write(digest.encode())
    write_bytes(path, buffer.getvalue())


def read_parquet(path: Path | str, *, remedy: str = "delete it and run again") -> "pl.DataFrame":
    """Read a table, and compare the file with its checksum where it carries one.

    Files without one (an earlier version's, another program's) are read as they are.

    Args:
        path: the file.
        remedy: what to do where it is damaged and there is no copy, for the message.

    Raises:
        OSError: the file is missing or may not be read.
        DamagedDataError: it is torn, no Parquet, or its bytes are not those that were written.
    """
    import polars as pl

    with open(path, "rb") as file:
        is_whole = _is_whole(file)
    if not is_whole:
        raise _damaged(path, "its content has changed since it was written: sha256", remedy)
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise _damaged(path, reason, remedy) from None


def _damaged(path: Path | str, reason: str, remedy: str) -> DamagedDataError:
    return DamagedDataError(f"{path}: damaged ({reason}). Restore it from a copy, or {remedy}.")


def _is_whole(file: BinaryIO) -> bool:
    """False when a file carries a checksum that is not its own."""
    place = _place(file)
    if place is None:
        return True
    file.seek(0)
    digest = hashlib.sha256()
    left = place
    while left and (block := file.read(min(left, _BLOCK))):
        digest.update(block)
        left -= len(block)
    written = file.read(len(_BLANK))
    digest.update(_BLANK)
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest().encode() == written


def _place(file: BinaryIO) -> int | None:
    """Where the checksum begins; 0, where none can stand, if its mark is torn; None without one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _FOOTER_END))
    start = size - _FOOTER_END - int.from_bytes(file.read(4), "little")
    if start < 0:
        return None  # no whole Parquet file: whoever reads it says so
    file.seek(start)
    footer = file.read()
    found = footer.rfind(_BEFORE)
    if found >= 0:
        return start + found + len(_BEFORE)
    return 0 if _KEY.encode() in footer or _MARK.encode() in footer else None
