"""Read the documents of an audit: files, folders, tables of texts and standard input.

What cannot be read is said with its reason, and the others go on.
"""

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mnemoscope.audit.extracted import EXTRACTORS
from mnemoscope.errors import MnemoscopeError, UserError
from mnemoscope.sequences.documents import list_files
from mnemoscope.sequences.schema import read_table

__all__ = ["Document", "Reading", "Skipped", "read_documents"]

STANDARD_INPUT = "-"
_TABLES = (".jsonl", ".parquet")
_SNIFFED_BYTES = 8192
_MARKS = {  # the longer ones first: UTF-32's begins as UTF-16's does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        name: the path as given; of a table's row `path#row`, rows counted from 1; `-`.
        text: its characters; offsets count these.
        sha256: of the text in UTF-8.
        is_extracted: the text is not the file's own characters (HTML, PDF, DOCX, standard input).
    """

    name: str
    text: str
    sha256: str
    is_extracted: bool = False


@dataclass(frozen=True)
class Skipped:
    """A document that was passed over, and why, in words."""

    name: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """What was read, in order, what was not, and the encoding that text files were read in."""

    documents: list[Document]
    skipped: list[Skipped]
    encoding: str = "utf-8"


def read_documents(
    sources: Sequence[str],
    *,
    stdin: BinaryIO | None = None,
    encoding: str = "utf-8",
    leave_out: Path | None = None,
) -> Reading:
    """Read all documents; the same name twice is read once.

    Args:
        sources: files, folders (read recursively, hidden files left out), `.jsonl` or `.parquet`
            tables with a column `text`, or `-`.
        stdin: what `-` reads.
        encoding: of text files, as Python spells it.
        leave_out: a folder whose files are not documents: where the audit itself goes.

    Raises:
        UserError: a source that does not exist, an encoding nobody knows, or nothing readable.
    """
    _check(sources, encoding)
    documents: dict[str, Document] = {}
    skipped: dict[str, Skipped] = {}
    for name, path in _files(sources, leave_out):
        shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
        if shown != name:  # nothing that we write could name it
            skipped[shown] = Skipped(shown, "a name that is not UTF-8. Rename it.")
            continue
        try:
            for document in _read(name, path, stdin, encoding):
                if document.text.strip():
                    documents.setdefault(document.name, document)
                else:
                    skipped[document.name] = Skipped(document.name, "empty.")
        except MnemoscopeError as error:
            skipped[name] = Skipped(name, str(error).removeprefix(name).lstrip(":, "))
    if not documents:
        raise UserError(_nothing(sources, list(skipped.values())))
    return Reading(list(documents.values()), list(skipped.values()), encoding)


def _check(sources: Sequence[str], encoding: str) -> None:
    try:
        " ".encode(encoding)  # codecs.lookup also knows rot13 and zip, which give no characters
    except (LookupError, ValueError):
        raise UserError(f"--encoding {encoding}: no such encoding. Try latin-1.") from None
    for source in sources:
        if source != STANDARD_INPUT and not Path(source).exists():
            raise UserError(f"{source}: no such file or folder.")


def _nothing(sources: Sequence[str], skipped: list[Skipped]) -> str:
    if not skipped:
        return f"{', '.join(sources)}: no document in it."
    more = f" ({len(skipped) - 1} more could not be read either.)" if len(skipped) > 1 else ""
    return f"{skipped[0].name}: {skipped[0].reason}{more}"


def _files(sources: Sequence[str], leave_out: Path | None) -> Iterator[tuple[str, Path | None]]:
    """Every file with its name; standard input has no path."""
    for source in sources:
        path = Path(source)
        if source == STANDARD_INPUT:
            yield source, None
        elif path.is_dir():
            for file in list_files(path):
                if leave_out is None or not file.resolve().is_relative_to(leave_out.resolve()):
                    yield file.as_posix(), file
        else:
            yield source, path


def _read(
    name: str, path: Path | None, stdin: BinaryIO | None, encoding: str
) -> Iterator[Document]:
    if path is None:
        data = stdin.read() if stdin is not None else b""
        yield _document(name, _decode(data, encoding), is_extracted=True)
        return
    ending = path.suffix.lower()
    if ending in _TABLES:
        yield from _rows(name, path)
        return
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}).") from error
    if ending in EXTRACTORS:
        yield _document(name, EXTRACTORS[ending](data) if data else "", is_extracted=True)
    else:
        yield _document(name, _decode(data, encoding))


def _rows(name: str, path: Path) -> Iterator[Document]:
    frame = read_table(path)
    if "text" not in frame.columns:
        raise UserError("a table without a column 'text'.")
    for row, text in enumerate(frame["text"], start=1):
        yield _document(f"{name}#{row}", text if isinstance(text, str) else "")


def _decode(data: bytes, encoding: str) -> str:
    """Characters of a text file, line ends as they are, a byte order mark left out."""
    encoding = next((own for mark, own in _MARKS.items() if data.startswith(mark)), encoding)
    if "16" not in encoding and "32" not in encoding and b"\0" in data[:_SNIFFED_BYTES]:
        raise UserError("a binary file, not a text.")
    try:
        name = codecs.lookup(encoding).name
        return data.decode("utf-8-sig" if name == "utf-8" else name)
    except UnicodeError:
        raise UserError(
            f"unknown encoding: not {encoding}. Convert it to UTF-8, or name its encoding with "
            "--encoding."
        ) from None


def _document(name: str, text: str, *, is_extracted: bool = False) -> Document:
    # A lone surrogate (JSON can hold one) is no character that a tokenizer takes.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return Document(name, text, hashlib.sha256(text.encode("utf-8")).hexdigest(), is_extracted)
