"""Write a file whole or not at all: temporary file beside it, fsync, rename.

A file that exists is complete. A full disk becomes `NoRoomError` and leaves what was there.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnemoscope.errors import NoRoomError, UserError

__all__ = [
    "atomic_path",
    "made_folder",
    "write_bytes",
    "write_json",
    "write_text",
]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_TOO_LARGE = errno.EFBIG
_NO_PERMISSION = {errno.EACCES, errno.EROFS, errno.EPERM}


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path to write to; it takes its place only when the block succeeds.

    Args:
        path: where the finished file is to stand; its folder must exist.

    Yields:
        A path in the same folder, named ``.<name>.<pid>.tmp``.

    Raises:
        NoRoomError: the disk is full, or allows no file this large.
        UserError: the folder is missing or cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def made_folder(folder: Path | str) -> Path:
    """Make a folder for what is written, with its parents, where it is not there.

    Raises:
        UserError: it cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}). Choose another.") from None
    return Path(folder)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write bytes atomically; errors as `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically; errors as `atomic_path`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON atomically, keys in the order given; errors as `atomic_path`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _sync(path: Path) -> None:
    """Force a finished file to disk before its name appears."""
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    """Force the new name to disk; not every system can open a folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explain(error: OSError, path: Path) -> Exception:
    """Turn the system's word into ours."""
    if error.errno in _NO_ROOM:
        return NoRoomError(
            f"{path}: the disk is full. Make room and run the same command again; "
            "what was complete is kept."
        )
    if error.errno == _TOO_LARGE:
        return NoRoomError(
            f"{path}: the system allows no file this large here (see 'ulimit -f'). "
            "Choose another place with -o."
        )
    if error.errno in _NO_PERMISSION:
        return UserError(f"{path}: no permission to write here. Choose another place with -o.")
    if error.errno == errno.ENOENT and not path.parent.is_dir():
        return UserError(f"{path.parent}: no such folder. Create it, or choose another with -o.")
    return error
