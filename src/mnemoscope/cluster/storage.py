"""Storage shared by all machines of a cluster: a folder or a bucket, by its fsspec URL.

Files appear only when complete, and their SHA-256 is verified on reading.
"""

import errno
import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnemoscope.errors import DamagedDataError, NoRoomError, UserError


class Storage:
    """A folder of shared storage: `/a/folder`, `s3://bucket/folder` or any other fsspec URL.

    Raises:
        UserError: fsspec or the package for the URL's scheme is missing, the scheme is unknown, or
            other processes cannot see it.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = _open(self.url)

    def leave_mark(self) -> str:
        """Write a small file for other machines to look for; returns its name."""
        name = f"mark-{uuid.uuid4().hex}"
        self.write(name, b"mark")
        return name

    def write(self, name: str, data: bytes) -> str:
        """Write a file under a temporary name and rename it; returns its SHA-256.

        Raises:
            UserError: the storage is not writable.
            NoRoomError: it is full.
        """
        temporary = self._path(f"{name}.{uuid.uuid4().hex}.tmp")
        with self._explaining(name, is_read=False):
            if self._is_local() or self._root.startswith("/"):
                self._fs.makedirs(self._root, exist_ok=True)  # on s3 this would create the bucket
            try:
                self._fs.pipe_file(temporary, data)
                self._fs.mv(temporary, self._path(name))
            except BaseException:
                with suppress(Exception):
                    self._fs.rm_file(temporary)
                raise
        return hashlib.sha256(data).hexdigest()

    def read(self, name: str, sha256: str | None = None) -> bytes | None:
        """Read a file; None if it does not exist.

        Raises:
            DamagedDataError: it does not match `sha256`; it is removed, so that it is made again.
        """
        with self._explaining(name):
            try:
                data: bytes = self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            self.remove(name)
            raise DamagedDataError(
                f"{self.url}/{name}: its content has changed since it was written (sha256). It "
                "was removed: run the same command again and this block alone is made anew."
            )
        return data

    def path_of(self, name: str) -> Path | None:
        """Local path of a file; None in a bucket."""
        return Path(self._path(name)) if self._is_local() else None

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with self._explaining(name), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def remove_all(self) -> None:
        """Remove the folder and its content."""
        with self._explaining(""), suppress(FileNotFoundError):
            self._fs.rm(self._root, recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _is_local(self) -> bool:
        return "file" in _protocols(self._fs)

    @contextmanager
    def _explaining(self, name: str, *, is_read: bool = True) -> Iterator[None]:
        """Turn errors of the storage into UserError or NoRoomError, missing files excepted."""
        try:
            yield
        except Exception as error:
            if is_read and isinstance(error, FileNotFoundError):
                raise
            where = f"{self.url}/{name}".rstrip("/")
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(
                    f"{where}: the storage is full. Make room and run the same command again; "
                    "finished blocks are kept."
                ) from error
            reason = " ".join((getattr(error, "strerror", None) or str(error)).split())[:200]
            raise UserError(
                f"{where}: the storage refuses ({reason or type(error).__name__}). Check the URL "
                "and your permissions there, or give another --storage."
            ) from error


def _open(url: str) -> tuple[Any, str]:
    """File system of a URL, and the folder in it."""
    try:
        import fsspec
    except ImportError:
        raise UserError(
            f"{url}: shared storage needs fsspec: pip install 'mnemoscope[ray]'"
        ) from None
    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{url}: {' '.join(str(error).split())[:200]}") from None
    except Exception as error:
        raise UserError(
            f"{url}: no storage that fsspec knows ({' '.join(str(error).split())[:200]}). Give a "
            "folder, or a URL such as s3://bucket/folder."
        ) from None
    if "memory" in _protocols(system):
        raise UserError(f"{url}: other processes do not see this. Give a folder or a bucket.")
    return system, root.rstrip("/")


def _protocols(system: Any) -> tuple[str, ...]:
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
