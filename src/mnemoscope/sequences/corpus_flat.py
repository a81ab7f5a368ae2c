"""Read flat binaries of token ids a piece at a time: .bin (nanoGPT's, Megatron's), .npy.

A plain .bin is token ids and nothing else. Beside a Megatron .idx the type and the documents come
from it. Of a .npy array of two axes each row is a document.
"""

import io
import struct
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnemoscope.errors import DamagedDataError, UserError, nearest
from mnemoscope.sequences.corpus_chunks import Chunk

__all__ = ["DTYPES", "FLAT_ENDINGS", "FlatFile", "check_dtype", "open_flat"]

DTYPES = ("uint16", "uint32", "int32")
FLAT_ENDINGS = (".bin", ".npy")

_CHUNK_TOKENS = 1 << 22
# Megatron-LM's megatron/core/datasets/indexed_dataset.py: magic, version, type, two counts, then
# the sequences' lengths (int32), their first bytes (int64), the documents' first sequences (int64).
_MAGIC = b"MMIDIDX\0\0"
_HEADER = struct.Struct("<QBQQ")
_MEGATRON_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


class _Documents(NamedTuple):
    """Where documents end: in a Megatron index (memory-mapped) or after every `width` tokens."""

    first_bytes: np.ndarray | None = None
    first_sequences: np.ndarray | None = None
    item_bytes: int = 1
    width: int = 0

    def ends(self, start: int, stop: int) -> np.ndarray:
        """Ends of the documents that have tokens in [start, stop), counted from `start`."""
        if self.first_bytes is None or self.first_sequences is None:
            inner = np.arange(start - start % self.width + self.width, stop, self.width)
        else:
            # Few pages of the index are touched: it may be larger than memory too. (NumPy's own
            # search would copy it whole, since a Megatron index is not aligned.)
            low = bisect_left(self.first_bytes, (start + 1) * self.item_bytes)
            high = bisect_left(self.first_bytes, stop * self.item_bytes)
            first = bisect_left(self.first_sequences, low)
            sequences = self.first_sequences[first : bisect_left(self.first_sequences, high)]
            inner = np.unique(self.first_bytes[sequences] // self.item_bytes)
        return np.append(inner, stop).astype(np.int64) - start


class FlatFile(NamedTuple):
    """Token ids on disk, one after the other.

    Attributes:
        path: the file that holds them.
        dtype: their type on disk.
        offset: bytes before the first.
        n_tokens: how many there are.
        documents: where documents end; None where the file does not say.
        files: all files that were asked.
    """

    path: Path
    dtype: np.dtype
    offset: int
    n_tokens: int
    documents: _Documents | None
    files: tuple[Path, ...]

    def chunks(self, position: int, k: int) -> Iterator[Chunk]:
        """Pieces from the token `position` on; each repeats k - 1 tokens of the next.

        Args:
            position: number of a token, as in `Chunk.position`.
            k: tokens a suffix.

        Raises:
            DamagedDataError: the file has become shorter.
        """
        with open(self.path, "rb") as handle:
            for start in range(position, self.n_tokens, _CHUNK_TOKENS):
                stop = min(start + _CHUNK_TOKENS, self.n_tokens)
                overlap = min(stop + k - 1, self.n_tokens)
                tokens = self._read(handle, start, overlap)
                ends = self.documents and self.documents.ends(start, overlap)
                yield Chunk(tokens, ends, stop - start, stop)

    def _read(self, handle: io.BufferedReader, start: int, stop: int) -> np.ndarray:
        """Tokens of a range; not memory-mapped, so that memory stays small and is seen to."""
        handle.seek(self.offset + start * self.dtype.itemsize)
        tokens = np.fromfile(handle, dtype=self.dtype, count=stop - start)
        if len(tokens) < stop - start:
            raise DamagedDataError(f"{self.path}: has become shorter. Copy it again.")
        return tokens


def check_dtype(name: str) -> None:
    """Refuse a type that flat binaries are not kept in.

    Raises:
        UserError: not one of `DTYPES`.
    """
    if name not in DTYPES:
        raise UserError(
            f"--dtype {name}: must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}."
            f"{nearest(name, DTYPES)}"
        )


def open_flat(path: Path, dtype: str | None) -> FlatFile:
    """Look at a flat binary without reading its tokens.

    Args:
        path: a `.bin` or `.npy` file.
        dtype: type of the ids of a plain `.bin`; None for uint16, or what the `.idx` says.

    Raises:
        UserError: a size that is no whole number of ids, another type than the file's own, an
            array of other axes, or no permission.
        DamagedDataError: an index or a header that does not fit its file.
    """
    try:
        open(path, "rb").close()
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it.") from error
    if path.suffix == ".npy":
        return _check_type(_open_npy(path), dtype)
    if path.with_suffix(".idx").is_file():
        return _check_type(_open_megatron(path), dtype)
    kind = np.dtype(dtype or "uint16").newbyteorder("<")
    n_tokens, rest = divmod(path.stat().st_size, kind.itemsize)
    if rest:
        raise UserError(
            f"{path}: {path.stat().st_size:,} bytes are no whole number of {kind.name} token ids. "
            "Name the right --dtype, or copy the file again."
        )
    return FlatFile(path, kind, 0, n_tokens, None, (path,))


def _check_type(file: FlatFile, dtype: str | None) -> FlatFile:
    if dtype is not None and file.dtype != np.dtype(dtype):
        raise UserError(
            f"{file.path}: holds {file.dtype.name} where --dtype says {dtype}. "
            "Leave --dtype out: the file says it itself."
        )
    return file


def _open_npy(path: Path) -> FlatFile:
    """A NumPy array of integers with one axis, or with a document a row."""
    try:
        array = np.lib.format.open_memmap(path, mode="r") if path.stat().st_size else None
    except (ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedDataError(f"{path}: not a whole .npy array ({reason}).") from error
    if array is None:
        raise DamagedDataError(f"{path}: empty, not a .npy array. Copy it again.")
    is_in_order = array.flags.c_contiguous
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or not is_in_order:
        raise UserError(
            f"{path}: {array.dtype} with shape {array.shape} where integers with one axis, or one "
            "document a row, are needed."
        )
    width = array.shape[1] if array.ndim == 2 else 0
    documents = _Documents(width=width) if width else None
    return FlatFile(path, array.dtype, array.offset, array.size, documents, (path,))


def _open_megatron(path: Path) -> FlatFile:
    """A .bin with its .idx."""
    index = path.with_suffix(".idx")
    with open(index, "rb") as handle:
        head = handle.read(len(_MAGIC) + _HEADER.size)
    if len(head) < len(_MAGIC) + _HEADER.size or not head.startswith(_MAGIC):
        raise DamagedDataError(
            f"{index}: not a Megatron index, which would say where the documents of {path.name} "
            "end. Copy it again, or move it away to read the .bin as one document."
        )
    version, code, n_sequences, n_documents = _HEADER.unpack(head[len(_MAGIC) :])
    if version != 1 or code not in _MEGATRON_TYPES:
        raise UserError(f"{index}: version {version}, type {code}: not one that can be read.")
    needed = len(head) + 12 * n_sequences + 8 * n_documents
    if index.stat().st_size < needed:
        raise DamagedDataError(f"{index}: cut short. Copy it again.")
    lengths = _map(index, "<i4", len(head), n_sequences)
    first_bytes = _map(index, "<i8", len(head) + 4 * n_sequences, n_sequences)
    first_sequences = _map(index, "<i8", len(head) + 12 * n_sequences, n_documents)
    kind = np.dtype(_MEGATRON_TYPES[code])
    _check_index(path, lengths, first_bytes, kind.itemsize)
    documents = _Documents(first_bytes, first_sequences, kind.itemsize)
    n_tokens = path.stat().st_size // kind.itemsize
    return FlatFile(path, kind, 0, n_tokens, documents, (path, index))


def _map(path: Path, dtype: str, offset: int, count: int) -> np.ndarray:
    """Part of a file as an array; an empty one cannot be mapped."""
    if not count:
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,)))


def _check_index(path: Path, lengths: np.ndarray, first_bytes: np.ndarray, item_bytes: int) -> None:
    """The sequences stand one after the other and fill the file."""
    step, expected = 1 << 20, 0
    for start in range(0, len(lengths), step):
        sizes = lengths[start : start + step].astype(np.int64) * item_bytes
        ends = expected + np.cumsum(sizes)
        if (sizes < 0).any() or (first_bytes[start : start + step] != ends - sizes).any():
            raise DamagedDataError(
                f"{path.with_suffix('.idx')}: its sequences do not stand one after the other in "
                f"{path.name}. Copy both again."
            )
        expected = int(ends[-1])
    if expected != path.stat().st_size:
        raise DamagedDataError(
            f"{path}: {path.stat().st_size:,} bytes where its .idx says {expected:,}. Copy both "
            "again, or move the .idx away to read the .bin as one document."
        )
