"""Read sequences, or a corpus, from a folder of texts, one text file, or a table."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.errors import UserError
from mnemoscope.progress import track
from mnemoscope.sequences.collector import WindowCollector
from mnemoscope.sequences.documents import guess_genre, list_files, read_text
from mnemoscope.sequences.schema import check_columns, check_ids, read_table
from mnemoscope.sequences.table_rows import (
    cut_rows,
    drop_results,
    has_values,
    keep_verdicts,
    take_tokens,
)
from mnemoscope.sequences.windows import WindowCutter

__all__ = ["ReadResult", "read_corpus", "read_sequences"]

_TABLE_ENDINGS = (".jsonl", ".parquet")


@dataclass(frozen=True)
class ReadResult:
    """The sequences, and what was passed over.

    Attributes:
        frame: the table; columns of `sequences.columns`.
        n_documents: texts (rows of a table of texts, documents of a table of tokens) that gave
            at least one sequence.
        n_too_short: texts shorter than one sequence.
        n_unreadable: files that are binary, not UTF-8, or may not be read.
        facts: what else a study's manifest is to say of the source.
    """

    frame: pl.DataFrame
    n_documents: int
    n_too_short: int = 0
    n_unreadable: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


def read_sequences(
    path: Path | str,
    tokenizer: Any | None,
    *,
    length: int = 64,
    stride: int = 64,
    limit: int | None = None,
    pad: bool = False,
) -> ReadResult:
    """Read sequences; the text of a document is cut into windows of equally many tokens.

    A folder is read recursively in the order of names, hidden files left out; `genre` is guessed
    from a file's name. Of a table, `tokens` are taken as they are, else each `text` is cut
    (`cut_rows`). A table's other columns stay, except what a model or `add_features` said of it.

    Args:
        path: a folder, a text file, or a `.jsonl` or `.parquet` table.
        tokenizer: a Hugging Face tokenizer; None will do for a table of tokens.
        length: tokens a sequence.
        stride: tokens from one window of a document to the next.
        limit: stop after this many sequences; None reads all.
        pad: take a table's shorter `tokens` too, padded on the right (`attention_mask`).

    Raises:
        UserError: nothing there, nothing that is text, no text as long as a sequence, or a table
            that `schema` refuses.
        DamagedDataError: a torn Parquet file.
    """
    path = _existing(path)
    if _is_table(path):
        return _read_rows(path, tokenizer, length, stride, limit, pad=pad)
    cutter = WindowCutter(_needed(tokenizer, path), length=length, stride=stride)
    return _read_documents(path, WindowCollector(cutter, limit=limit))


def read_corpus(path: Path | str, tokenizer: Any | None) -> Iterator[np.ndarray]:
    """Token ids of every text, whole, for `count_duplicates`.

    Args:
        path: as for `read_sequences`; of a table the `tokens`, else the `text`, of any length.
        tokenizer: a Hugging Face tokenizer; None will do for a table of tokens.

    Returns:
        One array a document or row, int32, read as they are asked for.

    Raises:
        UserError: nothing there (at once), or as `read_sequences` (on the way).
    """
    return _corpus_arrays(_existing(path), tokenizer)


def _corpus_arrays(path: Path, tokenizer: Any | None) -> Iterator[np.ndarray]:
    """The arrays of `read_corpus`."""
    if _is_table(path):
        frame = read_table(path)
        if has_values(frame, "tokens"):
            yield from (tokens.to_numpy() for tokens in frame["tokens"].drop_nulls())
            return
        check_columns(frame, "text", where=str(path))
        texts = iter(frame["text"].drop_nulls())
    else:
        texts = (text for _, text in _texts(path, []))
    cutter = WindowCutter(_needed(tokenizer, path))
    yield from (np.array(cutter.encode(text), dtype=np.int32) for text in texts)


def _read_rows(
    path: Path,
    tokenizer: Any | None,
    length: int,
    stride: int,
    limit: int | None,
    *,
    pad: bool,
) -> ReadResult:
    """Sequences of a table, from its tokens or from its texts."""
    frame = read_table(path)
    # Of a table of texts the labels go: they were given to rows, not to windows.
    frame = drop_results(keep_verdicts(frame) if has_values(frame, "tokens") else frame)
    check_columns(frame, where=str(path))
    if "sequence_id" in frame.columns:
        check_ids(frame["sequence_id"], str(path))
    if has_values(frame, "tokens"):
        frame = take_tokens(frame, tokenizer, length=length, where=str(path), pad=pad)
        frame = frame if limit is None else frame.head(limit)
        document = "document" if has_values(frame, "document") else "sequence_id"
        return ReadResult(frame, frame[document].n_unique())
    check_columns(frame, "text", where=str(path))
    cutter = WindowCutter(_needed(tokenizer, path), length=length, stride=stride)
    collector = WindowCollector(cutter, limit=limit)
    frame = cut_rows(frame, collector, where=str(path))
    return ReadResult(frame, collector.n_texts - collector.n_too_short, collector.n_too_short)


def _read_documents(path: Path, collector: WindowCollector) -> ReadResult:
    """Windows of a folder's texts or of one text file."""
    unreadable: list[Path] = []
    documents: list[Path] = []
    with track("reading", unit="texts") as progress:
        for document, text in _texts(path, unreadable):
            documents.append(document)
            collector.add(text)
            progress.advance()
            if collector.is_full:
                break
    if not documents:
        raise UserError(
            f"{path}: no text in it ({len(unreadable)} files are binary, not UTF-8 or not "
            "readable; hidden ones are left out). Give a folder of UTF-8 texts or code."
        )
    frame = _name_documents(collector.to_frame(where=str(path)), path, documents)
    n_documents = collector.n_texts - collector.n_too_short
    return ReadResult(frame, n_documents, collector.n_too_short, len(unreadable))


def _texts(path: Path, unreadable: list[Path]) -> Iterator[tuple[Path, str]]:
    """Every readable text with its path; the others are put on the list."""
    if path.is_file():
        text = read_text(path)
        if text is None:
            raise UserError(f"{path}: not a text in UTF-8. Convert it, or give a table.")
        yield path, text
        return
    for file in list_files(path):
        try:
            text = read_text(file)
        except UserError:
            text = None
        if text is None:
            unreadable.append(file)
        else:
            yield file, text


def _name_documents(windows: pl.DataFrame, path: Path, documents: list[Path]) -> pl.DataFrame:
    """Columns sequence_id, document (path below the folder) and genre for each window."""
    root = path if path.is_dir() else path.parent
    sources = windows["source"].to_list()
    names = [file.relative_to(root).as_posix() for file in documents]
    genres = [guess_genre(file) for file in documents]
    return windows.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("sequence_id"),
        "text",
        "tokens",
        pl.Series("document", [names[source] for source in sources], dtype=pl.String),
        "start",
        "end",
        pl.Series("genre", [genres[source] for source in sources], dtype=pl.String),
    )


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder.")
    return path


def _is_table(path: Path) -> bool:
    return path.is_file() and path.suffix in _TABLE_ENDINGS


def _needed(tokenizer: Any | None, path: Path) -> Any:
    """Texts need a tokenizer."""
    if tokenizer is None:
        raise UserError(f"{path}: texts need a tokenizer to become sequences. Name a model.")
    return tokenizer
