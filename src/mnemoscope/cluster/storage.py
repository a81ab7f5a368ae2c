"""Results of units in storage that all machines of a cluster see: a folder, a bucket, any URL."""

import errno
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnemoscope.cluster.units import UnitStore
from mnemoscope.errors import NoRoomError, UserError, pip_install


class SharedStore(UnitStore):
    """A store behind an fsspec URL: `/a/folder`, `s3://bucket/folder`, ...

    Raises UserError: fsspec or the package for the URL's scheme is missing, the scheme is unknown,
    other processes cannot see it, or it refuses. NoRoomError: it is full.
    """

    def __init__(self, url: str | Path, owner: Mapping[str, str] | None = None) -> None:
        super().__init__(str(url).rstrip("/"), owner)
        self._fs, self._root = _open(self.url)

    def place(self, key: str, name: str, data: bytes) -> bytes | Path:
        """A path where the storage is a folder."""
        return Path(self._root) / f"{key}.{name}" if "file" in _protocols(self._fs) else data

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """The content of a file, or so many bytes of it; None if it is not there."""
        with self._explaining(name):
            try:
                data: bytes = self._fs.cat_file(f"{self._root}/{name}", end=most)
            except FileNotFoundError:
                return None
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        temporary = f"{self._root}/.{name}.{uuid.uuid4().hex}.tmp"
        with self._explaining(name):
            if self._root.startswith("/"):
                self._fs.makedirs(self._root, exist_ok=True)  # on s3 this would create the bucket
            try:
                self._fs.pipe_file(temporary, data)
                self._fs.mv(temporary, f"{self._root}/{name}")
            except BaseException:
                with suppress(Exception):
                    self._fs.rm_file(temporary)
                raise

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        with self._explaining(name), suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    def names(self) -> list[str]:
        """The names of all files."""
        with self._explaining(""):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        names = (str(path).rsplit("/", 1)[-1] for path in found)
        return [name for name in names if not name.startswith(".")]

    def remove_all(self) -> None:
        """Remove the folder and what is in it."""
        with self._explaining(""), suppress(FileNotFoundError):
            self._fs.rm(self._root, recursive=True)

    @contextmanager
    def _explaining(self, name: str) -> Iterator[None]:
        """Turn errors of the storage into UserError or NoRoomError."""
        try:
            yield
        except Exception as error:
            where = f"{self.url}/{name}".rstrip("/")
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(
                    f"{where}: the storage is full. Make room and run the same command again; "
                    "finished units are kept."
                ) from error
            reason = " ".join((getattr(error, "strerror", None) or str(error)).split())[:200]
            raise UserError(
                f"{where}: the storage refuses ({reason or type(error).__name__}). Check the URL "
                "and your permissions there, or give another --storage."
            ) from error


_OWN = re.compile(r"[a-z]+-[0-9a-f]{16}")  # the results of a stage, `pipeline.questions`


def check_own(store: SharedStore) -> None:
    """Refuse a folder that holds anything but results: `--storage /etc` is a slip."""
    others = [] if store.url.partition("://")[0] not in ("file", store.url) else store.names()
    others = sorted(one for one in others if not _OWN.fullmatch(one))
    if others:
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UserError(
            f"{store.url}: holds other files ({some}). Give --storage a folder of its own."
        )


def _open(url: str) -> tuple[Any, str]:
    """File system of a URL, and the folder in it."""
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{url}: shared storage needs fsspec: {pip_install('ray')}") from None
    try:
        system, root = fsspec.core.url_to_fs(url)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        hint = "Give a folder, or a URL such as s3://bucket/folder."
        raise UserError(f"{url}: no storage that fsspec knows ({said}). {hint}") from None
    if "memory" in _protocols(system):
        raise UserError(f"{url}: other processes do not see this. Give a folder or a bucket.")
    return system, root.rstrip("/")


def _protocols(system: Any) -> tuple[str, ...]:
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
