"""Count a table's suffixes in a corpus larger than memory; a killed count goes on when run again.

`mnemoscope duplicates --sequences S.parquet --corpus C -o out.parquet`
"""

import hashlib
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.progress import say, track
from mnemoscope.sequences.columns import COLUMNS, is_kind
from mnemoscope.sequences.corpus import Corpus
from mnemoscope.sequences.count_progress import CountProgress
from mnemoscope.sequences.schema import check_columns, check_lengths, read_table, token_matrix
from mnemoscope.sequences.suffix_index import SuffixIndex

__all__ = ["CorpusCount", "add_counts", "count_in_corpus", "read_suffixes"]

_BATCH_ROWS = 1 << 16


class CorpusCount(NamedTuple):
    """What was counted.

    Attributes:
        counts: occurrences of each suffix, shape (sequences,), int64.
        n_tokens: tokens of the corpus.
        tokens_per_second: speed of this run, which may have begun in the middle.
    """

    counts: npt.NDArray[np.int64]
    n_tokens: int
    tokens_per_second: float


def read_suffixes(path: Path | str, *, length: int = 64) -> npt.NDArray[np.int32]:
    """The second half of each sequence's tokens, without the rest of the table in memory.

    Args:
        path: a `.parquet` or `.jsonl` table with `tokens`.
        length: tokens a sequence must have.

    Returns:
        Token ids, shape (sequences, length - length // 2), int32.

    Raises:
        UserError: no such column, no rows, or a sequence of another length or with a null.
        DamagedDataError: a torn Parquet file.
    """
    path = Path(path)
    if length < 1:
        raise UserError(f"--length {length}: must be at least 1.")
    suffixes = _read_in_batches(path, length) if path.suffix == ".parquet" else None
    if suffixes is None:  # JSONL, or something to refuse by its row
        frame = read_table(path)
        check_columns(frame, "tokens", where=str(path))
        check_lengths(frame["tokens"], str(path), length)
        suffixes = token_matrix(frame)[:, length // 2 :]
    return np.ascontiguousarray(suffixes)


def _read_in_batches(path: Path, length: int) -> npt.NDArray[np.int32] | None:
    """Suffixes of a Parquet table; None where anything about it is not as it should be."""
    try:
        rows = pl.scan_parquet(path, glob=False).select("tokens")
        if not is_kind(rows.collect_schema()["tokens"], COLUMNS["tokens"].kind):
            return None
        suffixes = np.empty(
            (rows.select(pl.len()).collect().item(), length - length // 2), np.int32
        )
        start = 0
        for batch in rows.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
            check_lengths(batch["tokens"], str(path), length)
            stop = start + batch.height
            suffixes[start:stop] = token_matrix(batch)[:, length // 2 :]
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
    """Occurrences of each suffix in the corpus, exactly, at any offset.

    Overlapping occurrences count each; none spans two documents. Memory goes with the suffixes
    (about 200 bytes for one), not with the corpus.

    Args:
        suffixes: token ids, shape (sequences, k).
        corpus: from `open_corpus`.
        progress_file: kept up to date meanwhile and gone on from where it fits; removed where
            the count is refused, else left for the caller to remove once the counts are safe.
        save_seconds: time from one saving to the next.
        separator: id that stands between the documents of a flat binary. A suffix that holds it
            anywhere but at its ends spans two documents, so it counts 0.

    Raises:
        UserError: a corpus without tokens, changed meanwhile, or with a file that cannot be used.
        DamagedDataError: a torn file.
    """
    if separator is not None and corpus.has_documents:
        raise UserError(
            f"{corpus.path}: says itself where its documents end. Leave --separator out; it is "
            "for flat binaries that do not."
        )
    identity = corpus.identity()
    key = hashlib.sha256(f"{identity} {suffixes.shape} {_hash(suffixes)}".encode()).hexdigest()
    progress = CountProgress(progress_file, key, save_seconds)
    index = SuffixIndex(suffixes)
    try:
        n_tokens, rate = _stream(index, corpus, progress)
        if not n_tokens:
            raise UserError(f"{corpus.path}: no tokens in it.")
        if corpus.identity() != identity:
            raise UserError(f"{corpus.path}: was changed while it was read. Run the command again.")
    except (UserError, DamagedDataError):
        progress.remove()
        raise
    counts = index.counts_of_rows()
    if separator is not None:
        counts[(suffixes[:, 1:-1] == separator).any(axis=1)] = 0
    return CorpusCount(counts, n_tokens, rate)


def _stream(index: SuffixIndex, corpus: Corpus, progress: CountProgress) -> tuple[int, float]:
    """Count from where an earlier run was; the corpus' tokens, and this run's a second."""
    place, before = progress.load(index.counts)
    if before:
        say(f"Going on after {before:,} tokens that an earlier run has counted.")
    n_tokens, started = before, time.monotonic()
    total = None if corpus.n_tokens is None else corpus.n_tokens - before
    with track("duplicates", total=total, unit="tokens") as shown:
        for chunk, after in corpus.chunks(place, index.k):
            index.count(chunk.tokens, chunk.ends)
            n_tokens += chunk.n_new
            shown.advance(chunk.n_new)
            if progress.is_due():
                progress.save(index.counts, after, n_tokens)
    return n_tokens, (n_tokens - before) / max(time.monotonic() - started, 1e-9)


def add_counts(path: Path | str, counts: npt.NDArray[np.int64]) -> pl.DataFrame:
    """The sequences' table with their counts as the column `duplicates`.

    Args:
        path: the table that `read_suffixes` read.
        counts: one a row.

    Raises:
        UserError: the table has another number of rows now.
    """
    frame = read_table(path)
    if frame.height != len(counts):
        raise UserError(f"{path}: was changed while it was counted. Run the command again.")
    if "duplicates" in frame.columns:
        say(f"{path}: its column 'duplicates' is replaced.")
    return frame.with_columns(pl.Series("duplicates", counts, dtype=pl.Int64))


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
