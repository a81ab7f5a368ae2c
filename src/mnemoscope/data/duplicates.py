"""Count how often each suffix stands in a corpus of token ids: exactly, at any offset.

Of arrays at hand; `count_in_corpus` does it for files, resumably.
"""

import glob
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mnemoscope.data.corpus import Chunk, Corpus, Place, group_documents
from mnemoscope.data.rows import scan_rows
from mnemoscope.data.table import (
    COLUMNS,
    check_columns,
    check_lengths,
    is_kind,
    refuse_padding,
    token_matrix,
)
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import write_bytes
from mnemoscope.progress import say, track

# Keep how far a count in a corpus has come, so that a killed one goes on where it was saved.

_VERSION = 1


def progress_path(out: Path) -> Path:
    """Where the progress towards a table is kept: a hidden file beside it."""
    return out.with_name(f".{out.name}.progress")


def remove_progress(path: Path) -> None:
    """Remove a file of progress, and what a run killed while saving left of one."""
    for torn in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        torn.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@dataclass
class CountProgress:
    """One count's file of progress; `key` is the hash of what is counted in what."""

    path: Path
    key: str
    every_seconds: float
    _last: float = field(default_factory=time.monotonic, init=False)

    def load(self, counts: np.ndarray) -> tuple[Place, int]:
        """Fill in what an earlier run saved; where to go on, and how many tokens are behind."""
        if not self.path.is_file():
            return Place(), 0
        try:
            data = self.path.read_bytes()
            head = json.loads(load(data)["head"].tobytes())
            saved = load(data)["counts"]
            if head["version"] == _VERSION and head["key"] == self.key:
                counts[:] = saved
                return Place(*head["place"]), head["n_tokens"]
            reason = "is of other sequences or another corpus"
        except (SafetensorError, ValueError, KeyError, TypeError):
            reason = "is damaged"
        say(f"{self.path}: the progress kept there {reason}; counting begins anew.")
        return Place(), 0

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._last >= self.every_seconds

    def save(self, counts: np.ndarray, place: Place, n_tokens: int) -> None:
        """Write the counts and where they stand; on a full disk what was saved before stays."""
        head = {"version": _VERSION, "key": self.key, "place": place, "n_tokens": n_tokens}
        packed = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
        write_bytes(self.path, save({"head": packed, "counts": counts}))
        self._last = time.monotonic()


# Find suffixes of token ids in a stream of tokens: a rolling hash proposes, a comparison decides.

_BASE = 0x9E3779B1  # 2^32 / golden ratio: odd, its bits well mixed
_MIXER = 0x85EBCA6B  # odd; spreads the small ids over 32 bits
# Tokens hashed at a time: the arrays of a step (128 kB each) stay in the second-level cache.
_BLOCK_TOKENS = 1 << 15
# Bits of the bitmap per suffix, as a power of 2: at 2^7 under one position in a hundred passes.
_SPARSENESS = 7
_MIN_BITS, _MAX_BITS = 16, 30


class SuffixIndex:
    """The distinct suffixes in the order of their hashes, and how often each was seen.

    Hashes have 32 bits: half the memory traffic of 64, and as exact, since every hit is compared
    token by token; of two million suffixes one position in two thousand is compared in vain.

    Attributes:
        k: tokens a suffix.
        counts: occurrences so far of each distinct suffix, int64; may be set to go on from there.
    """

    def __init__(self, suffixes: np.ndarray) -> None:
        """Sort the suffixes, token ids of shape (sequences, k); kept, not copied."""
        self.k: int = suffixes.shape[1]
        self._rows = suffixes
        hashes = _hash_rows(suffixes)
        self._hashes, self._heads, self._which = _number(suffixes, hashes)
        n = len(self._hashes)
        borders = np.flatnonzero(self._hashes[1:] != self._hashes[:-1]) + 1
        self._most_equal = int(np.diff([0, *borders, n]).max())  # nearly always 1 or 2
        self._n_bits = min(max(n.bit_length() + _SPARSENESS, _MIN_BITS), _MAX_BITS)
        self._bitmap = _fill_bitmap(self._hashes, self._n_bits)
        self.counts: npt.NDArray[np.int64] = np.zeros(len(self._hashes), dtype=np.int64)

    def counts_of_rows(self) -> npt.NDArray[np.int64]:
        """Occurrences so far, one a row of the suffixes given; equal rows have equal counts."""
        counts: npt.NDArray[np.int64] = self.counts[self._which]
        return counts

    def count(self, tokens: np.ndarray, ends: np.ndarray | None = None) -> None:
        """Add the occurrences in a piece of the corpus, overlapping ones each.

        `ends` are the positions after the last token of each document, the last is ``len(tokens)``;
        no occurrence spans two documents. None for a single document.
        """
        if not len(self._hashes):
            return
        for first in range(0, len(tokens) - self.k + 1, _BLOCK_TOKENS):
            block = np.asarray(tokens[first : first + _BLOCK_TOKENS + self.k - 1])
            hashes = _rolling_hashes(block, self.k)
            positions = self._candidates(hashes)
            if ends is not None:  # those that lie in one document
                starts = positions + first
                positions = positions[
                    starts + self.k <= ends[np.searchsorted(ends, starts, side="right")]
                ]
            if len(positions):
                self._compare(block, hashes[positions], positions)

    def _candidates(self, hashes: np.ndarray) -> np.ndarray:
        """Positions whose hash may be one of ours, by the bitmap."""
        bits = hashes >> np.uint32(32 - self._n_bits)
        is_set = self._bitmap.take(bits >> np.uint32(3))
        is_set >>= (bits & np.uint32(7)).astype(np.uint8)
        is_set &= np.uint8(1)
        return np.flatnonzero(is_set)

    def _compare(self, block: np.ndarray, hashes: np.ndarray, positions: np.ndarray) -> None:
        windows = np.lib.stride_tricks.sliding_window_view(block, self.k)
        places = np.searchsorted(self._hashes, hashes)
        for _ in range(self._most_equal):  # suffixes of one hash stand side by side
            alive = places < len(self._hashes)
            alive[alive] = self._hashes[places[alive]] == hashes[alive]
            places, hashes, positions = places[alive], hashes[alive], positions[alive]
            if not len(places):
                return
            is_equal = (windows[positions] == self._rows[self._heads[places]]).all(axis=1)
            np.add.at(self.counts, places[is_equal], 1)
            places = places + 1


def _number(rows: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number distinct rows in the order of their hashes: hashes, first rows, each row's number."""
    left = np.argsort(hashes, kind="stable")
    which = np.empty(len(rows), dtype=np.int64)
    heads: list[np.ndarray] = []
    n_heads = 0
    while len(left):
        is_head = np.ones(len(left), dtype=bool)
        is_head[1:] = hashes[left[1:]] != hashes[left[:-1]]
        number = np.cumsum(is_head) - 1
        found = left[is_head]
        is_equal = _are_equal(rows, left, found[number])
        which[left[is_equal]] = number[is_equal] + n_heads
        heads.append(found)
        n_heads += len(found)
        left = left[~is_equal]
    head = np.concatenate(heads) if heads else np.empty(0, dtype=np.int64)
    order = np.argsort(hashes[head], kind="stable")
    place = np.empty(n_heads, dtype=np.int64)
    place[order] = np.arange(n_heads)
    return hashes[head[order]], head[order], place[which]


def _are_equal(rows: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether the rows numbered on the left equal those on the right, one column at a time."""
    is_equal = np.ones(len(left), dtype=bool)
    others = np.flatnonzero(left != right)
    left, right = left[others], right[others]
    for column in rows.T:
        is_equal[others] &= column[left] == column[right]
    return is_equal


def _fill_bitmap(hashes: np.ndarray, n_bits: int) -> np.ndarray:
    """A bit for every beginning of a hash, eight to a byte; the leading bits are the best mixed."""
    bits = hashes >> np.uint32(32 - n_bits)
    bitmap = np.zeros(1 << (n_bits - 3), dtype=np.uint8)
    np.bitwise_or.at(bitmap, bits >> np.uint32(3), np.uint8(1) << (bits & 7).astype(np.uint8))
    return bitmap


def _hash_rows(rows: np.ndarray) -> np.ndarray:
    """Hash of every row, in parts that need little memory."""
    n, k = rows.shape
    hashes = np.empty(n, dtype=np.uint32)
    step = max(1, _BLOCK_TOKENS // k)
    for first in range(0, n, step):
        part = rows[first : first + step]
        hashes[first : first + step] = _rolling_hashes(part.reshape(-1), k)[::k]
    return hashes


def _rolling_hashes(tokens: np.ndarray, k: int) -> np.ndarray:
    """Hash of the k tokens from each position on, modulo 2^32; at least k tokens are needed.

    The hash of 2m tokens is that of the first m times base^m plus that of the second.
    """
    piece, length = _mix(tokens), 1
    power = np.array([_BASE], dtype=np.uint32)  # arrays wrap around silently, scalars warn
    result, covered = None, 0
    while True:
        if k & length:
            n = len(tokens) - covered - length + 1
            newest = piece[covered : covered + n]
            result = newest if result is None else result[:n] * power + newest
            covered += length
        if 2 * length > k:
            assert result is not None
            return result
        doubled = piece[:-length] * power
        doubled += piece[length:]
        piece = doubled
        power = power * power
        length *= 2


def _mix(tokens: np.ndarray) -> np.ndarray:
    """Spread token ids over 32 bits, so that neighbours and zeros leave traces."""
    mixed = tokens.astype(np.uint32)
    mixed += np.uint32(1)
    mixed *= np.uint32(_MIXER)
    mixed ^= mixed >> np.uint32(15)
    return mixed


def count_duplicates(
    suffixes: npt.ArrayLike, corpus: Corpus | Iterable[npt.ArrayLike]
) -> npt.NDArray[np.int64]:
    """Occurrences of each suffix (sequences, k) in a corpus or arrays of ids, int64 (sequences,).

    Overlapping occurrences count each; none spans two arrays (memory-mapped ones are read a piece
    at a time). A suffix that the corpus does not hold gets 0; the published counts include the
    training row itself, so there every suffix has at least 1 (semantic-memorization's
    `sequence_duplicates`). Raises ValueError: other axes or types than integers.

    >>> count_duplicates([[1, 1]], [[1, 1, 1, 2], [1, 1]])
    array([3])
    """
    suffixes = _integers(suffixes, n_axes=2)
    if not suffixes.size:
        return np.zeros(len(suffixes), dtype=np.int64)
    index = SuffixIndex(suffixes)
    chunks: Iterator[Chunk]
    if isinstance(corpus, Corpus):
        chunks = (chunk for chunk, _ in corpus.chunks(Place(), index.k))
    else:
        chunks = group_documents((_integers(tokens, n_axes=1), 0) for tokens in corpus)
    with track("duplicates", unit="corpus tokens") as progress:
        for chunk in chunks:
            index.count(chunk.tokens, chunk.ends)
            progress.advance(chunk.n_new)
    return index.counts_of_rows()


def _integers(values: npt.ArrayLike, *, n_axes: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != n_axes or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(
            f"integer token ids with {n_axes} axes wanted, got {array.dtype} {array.shape}"
        )
    return array


# Count a table's suffixes in a corpus larger than memory; a killed count goes on when run again.

_BATCH_ROWS = 1 << 16


class CorpusCount(NamedTuple):
    """Occurrences of each suffix, int64, and tokens of the corpus."""

    counts: npt.NDArray[np.int64]
    n_tokens: int


def read_suffixes(
    path: Path | str,
    *,
    length: int = 64,
    prefix: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> npt.NDArray[np.int32]:
    """Each sequence's tokens after the prefix (int32), without the rest of the table in memory.

    The prefix is half of the tokens unless given. With `columns`, which are taken from their paths
    first (`take_columns`), the whole table is read. Raises UserError: no such column, no rows, or a
    sequence of another length or with a null.
    """
    path = Path(path)
    if length < 1:
        raise UserError(f"--length {length}: must be at least 1.")
    prefix = length // 2 if prefix is None else prefix
    if not 0 <= prefix < length:
        raise UserError(f"--prefix {prefix}: of {length} tokens no suffix is left.")
    is_plain = path.suffix == ".parquet" and path.is_file() and not columns
    suffixes = _read_in_batches(path, length, prefix) if is_plain else None
    if suffixes is None:  # JSONL, or something to refuse by its row
        frame = scan_rows(path, columns, prefix=prefix, says=False).collect()
        check_columns(frame, "tokens", where=str(path))
        check_lengths(frame["tokens"], str(path), length)
        refuse_padding(frame, where=str(path))
        suffixes = token_matrix(frame)[:, prefix:]
    return np.ascontiguousarray(suffixes)


def _read_in_batches(path: Path, length: int, prefix: int) -> npt.NDArray[np.int32] | None:
    """Suffixes of a Parquet table; None where anything about it is not as it should be."""
    try:
        rows = pl.scan_parquet(path, glob=False)
        if "attention_mask" in rows.collect_schema():
            return None
        rows = rows.select("tokens")
        if not is_kind(rows.collect_schema()["tokens"], COLUMNS["tokens"].kind):
            return None
        suffixes = np.empty((rows.select(pl.len()).collect().item(), length - prefix), np.int32)
        start = 0
        for batch in rows.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
            check_lengths(batch["tokens"], str(path), length)
            stop = start + batch.height
            suffixes[start:stop] = token_matrix(batch)[:, prefix:]
            start = stop
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UserError, OSError):
        return None
    return suffixes if len(suffixes) else None


def count_in_corpus(
    suffixes: npt.NDArray[np.int32],
    corpus: Corpus,
    *,
    progress_file: Path,
    save_seconds: float = 10.0,
    separator: int | None = None,
) -> CorpusCount:
    """Occurrences of each suffix in the corpus, exactly, at any offset, as `count_duplicates`.

    Memory goes with the suffixes (about 200 bytes for one), not with the corpus. A killed count
    goes on from `progress_file`, which is removed where the corpus is rejected and else left for
    the caller. `separator` stands between the documents of a flat binary: a suffix that holds it
    anywhere but at its ends counts 0. Raises UserError: a corpus without tokens, changed meanwhile,
    or with a file that cannot be used. DamagedDataError: a torn file.
    """
    if separator is not None and corpus.has_documents:
        raise UserError(
            f"{corpus.path}: says itself where its documents end. Leave --separator out; it is "
            "for flat binaries that do not."
        )
    identity = corpus.identity()
    digest = hashlib.sha256(np.ascontiguousarray(suffixes).data).hexdigest()
    key = hashlib.sha256(f"{identity} {suffixes.shape} {digest}".encode()).hexdigest()
    progress = CountProgress(progress_file, key, save_seconds)
    index = SuffixIndex(suffixes)
    try:
        n_tokens = _stream(index, corpus, progress)
        if not n_tokens:
            raise UserError(f"{corpus.path}: no tokens in it.")
        if corpus.identity() != identity:
            raise UserError(f"{corpus.path}: was changed while it was read. Run the command again.")
    except (UserError, DamagedDataError):
        remove_progress(progress_file)
        raise
    counts = index.counts_of_rows()
    if separator is not None:
        counts[(suffixes[:, 1:-1] == separator).any(axis=1)] = 0
    return CorpusCount(counts, n_tokens)


def _stream(index: SuffixIndex, corpus: Corpus, progress: CountProgress) -> int:
    """Count from where an earlier run was; the corpus' tokens."""
    place, n_tokens = progress.load(index.counts)
    if n_tokens:
        say(f"Going on after {n_tokens:,} tokens that an earlier run has counted.")
    total = None if corpus.n_tokens is None else corpus.n_tokens - n_tokens
    with track("duplicates", total=total, unit="tokens") as shown:
        for chunk, after in corpus.chunks(place, index.k):
            index.count(chunk.tokens, chunk.ends)
            n_tokens += chunk.n_new
            shown.advance(chunk.n_new)
            if progress.is_due():
                progress.save(index.counts, after, n_tokens)
    return n_tokens


def add_counts(
    path: Path | str, counts: npt.NDArray[np.int64], columns: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """The sequences' table with their counts as the column `duplicates`."""
    frame = scan_rows(path, columns, says=False).collect()
    if frame.height != len(counts):
        raise UserError(f"{path}: was changed while it was counted. Run the command again.")
    if "duplicates" in frame.columns:
        say(f"{path}: its column 'duplicates' is replaced.")
    return frame.with_columns(pl.Series("duplicates", counts, dtype=pl.Int64))


NGRAM = 24  # two windows that share so many tokens in a row count as the same text
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash_ngrams(windows: np.ndarray, *, n: int = NGRAM) -> np.ndarray:
    """Hash every stretch of `n` tokens within windows (windows, length): uint64, length - n + 1.

    Equal stretches give equal hashes; unequal ones do with probability about 2^-64.
    """
    values = windows.astype(np.uint64) + np.uint64(1)
    width = windows.shape[1] - n + 1
    hashes = np.zeros((windows.shape[0], width), np.uint64)
    for offset in range(n):
        hashes = hashes * _GOLDEN + _mixed(values[:, offset : offset + width])
    return _mixed(hashes)


def share_ngram(windows: np.ndarray, used: np.ndarray, *, n: int = NGRAM) -> np.ndarray:
    """Say which windows have a stretch whose hash is in `used`: bool, shape (windows,)."""
    return np.asarray(np.isin(hash_ngrams(windows, n=n), used).any(axis=1))


def _mixed(values: np.ndarray) -> np.ndarray:
    once = (values ^ (values >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    final: np.ndarray = once ^ (once >> np.uint64(29))
    return final
