"""Read the documents of an audit: files, folders, tables of texts and standard input.

What cannot be read is said with its reason, and the others go on.
"""

import codecs
import hashlib
import importlib
import io
import logging
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mnemoscope.data.read import WindowCutter, list_files
from mnemoscope.data.table import read_table
from mnemoscope.errors import MnemoscopeError, UserError

# Take the text out of HTML, PDF and DOCX, each through a kept library of the extra `[audit]`.

_CHARSET = re.compile(rb"charset=[\"']?([\w-]+)", re.IGNORECASE)
_HEAD_BYTES = 4096


def _html(data: bytes) -> str:
    """Text of a page as a reader would see it, markup and scripts left out."""
    get_text: Callable[[str], str] = _library("inscriptis", "inscriptis").get_text
    return get_text(_decode_html(data))


def _decode_html(data: bytes) -> str:
    """UTF-8, else what the page says of itself."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        named = _CHARSET.search(data[:_HEAD_BYTES])
    try:
        return data.decode(named.group(1).decode("ascii") if named else "utf-8")
    except (UnicodeDecodeError, LookupError):
        raise UserError("unknown encoding: not UTF-8, and the page names none that fits.") from None


def _pdf(data: bytes) -> str:
    """Text of all pages, a form feed between two."""
    pypdf = _library("pypdf", "pypdf")
    if b"%PDF-" not in data[:_HEAD_BYTES]:
        raise UserError("no PDF, whatever its name says. If it is a text, let it end in .txt.")
    with _quiet("pypdf"):
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not _opens(reader):
            raise UserError("an encrypted PDF. Save it without its password.")
        text = "\f".join(page.extract_text() for page in reader.pages)
    if not text.strip("\f \n"):
        raise UserError("a PDF without text, perhaps a scan. Recognize its text first (OCR).")
    return text


def _opens(reader: Any) -> bool:
    """True where an encrypted PDF needs no password."""
    try:
        return bool(reader.decrypt(""))
    except Exception:  # a cipher that needs one more library, or a torn dictionary
        return False


def _docx(data: bytes) -> str:
    """Paragraphs and table rows in their order, a line each."""
    document = _library("docx", "python-docx").Document(io.BytesIO(data))
    return "\n".join(_docx_lines(document))


def _docx_lines(document: Any) -> Iterator[str]:
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            yield from ("\t".join(cell.text for cell in row.cells) for row in block.rows)
        else:
            yield block.text


def _guarded(kind: str, extract: Callable[[bytes], str]) -> Callable[[bytes], str]:
    """Any failure of a library on a hostile or torn file becomes one line."""

    def guarded(data: bytes) -> str:
        try:
            return extract(data)
        except UserError:
            raise
        except Exception as error:
            reason = (" ".join(str(error).split()) or type(error).__name__)[:120]
            raise UserError(f"a broken {kind} ({reason}). Save it again.") from error

    return guarded


EXTRACTORS = {
    ".html": _guarded("HTML page", _html),
    ".htm": _guarded("HTML page", _html),
    ".pdf": _guarded("PDF", _pdf),
    ".docx": _guarded("DOCX", _docx),
}
"""What turns the bytes of a file into text, by the ending of its name."""


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"needs {package} to be read: pip install 'mnemoscope[audit]'") from None


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's warnings to itself."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


# Read the documents of an audit: files, folders, tables of texts and standard input.

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


# A document as tokens, each with the characters of the document that it covers.


class Tokens(NamedTuple):
    """Tokens of one document.

    Attributes:
        ids: shape (n,), int32.
        starts: first character of each token, shape (n,), int64.
        ends: position after its last character, shape (n,), int64. A token that ends inside a
            character of several bytes covers the whole character, as the next token does too;
            the combining marks of its last character are covered with it.
    """

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def tokenize(text: str, tokenizer: Any) -> Tokens:
    """Cut a document into tokens, without special ones.

    Args:
        text: the document.
        tokenizer: a Hugging Face tokenizer that knows offsets (a fast one).

    Raises:
        UserError: a tokenizer without offsets.
    """
    ids, offsets = WindowCutter(tokenizer).encode_with_offsets(text)
    if offsets is None:
        raise UserError(
            "the model's tokenizer cannot say which characters a token covers. Save its fast "
            "form (tokenizer.json) with the model."
        )
    places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    _take_in_marks(text, places)
    return Tokens(np.array(ids, dtype=np.int32), places[:, 0], places[:, 1])


def _take_in_marks(text: str, places: npt.NDArray[np.int64]) -> None:
    """Give combining marks that no token covers to the tokens of their letter, in place.

    A tokenizer that composes characters first (NFC) says of é as two characters where e stands.
    """
    nexts = np.append(places[1:, 0], len(text))
    for row in np.flatnonzero(nexts > places[:, 1]).tolist():
        end = begun = int(places[row, 1])
        while end < nexts[row] and unicodedata.combining(text[end]):
            end += 1
        while end > begun and row >= 0 and places[row, 1] == begun:
            places[row, 1] = end
            row -= 1


def character_range(tokens: Tokens, first: int, last: int) -> tuple[int, int]:
    """Characters that tokens `first` up to and without `last` cover: start and end."""
    return int(tokens.starts[first:last].min()), int(tokens.ends[first:last].max())


def token_texts(tokenizer: Any, ids: npt.ArrayLike) -> list[str]:
    """Text of each token by itself; bytes that are no whole character show as U+FFFD."""
    rows = [[int(one)] for one in np.asarray(ids).ravel()]
    texts: list[str] = tokenizer.batch_decode(
        rows, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return texts


# Cut documents by a model's tokenizer, or by words where there is none (a model behind an API).

NOTHING = -1
"""Stands where the model wrote no token, or one that has no id."""

# Blanks belong to what follows them, as in most models' tokens, so that no prompt ends in one.
# Scripts without blanks go by the character; what is longer than twelve letters is cut.
_CHARACTER = r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
_PIECE = re.compile(rf"\s*(?:{_CHARACTER}|(?:(?!{_CHARACTER})\w){{1,12}}|[^\w\s])|\s+\Z")


class Splitter(Protocol):
    """Cuts texts into pieces with exact places.

    Attributes:
        tokenizer: gives the text of pieces, as a Hugging Face tokenizer does.
        is_model: the pieces are the audited model's own tokens.
        bos_id: to be put before token ids, None for none.
    """

    @property
    def tokenizer(self) -> Any:
        """Gives the text of pieces."""

    @property
    def is_model(self) -> bool:
        """Whether the pieces are the model's own tokens."""

    @property
    def bos_id(self) -> int | None:
        """Goes before the token ids."""

    def split(self, text: str) -> Tokens:
        """Pieces of a text."""


class ModelTokens:
    """The tokens of the model itself.

    Args:
        tokenizer: a Hugging Face tokenizer that knows offsets.
        bos_id: what the tokenizer puts before a text by default.
    """

    is_model = True

    def __init__(self, tokenizer: Any, bos_id: int | None) -> None:
        self.tokenizer, self.bos_id = tokenizer, bos_id

    def split(self, text: str) -> Tokens:
        """Tokens of a text, without special ones."""
        return tokenize(text, self.tokenizer)


class Words:
    """Words with the blanks before them, punctuation, characters of scripts without blanks.

    Every character is in exactly one piece. Ids number the pieces in the order in which they were
    met; they mean nothing outside.
    """

    is_model, bos_id = False, None

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []

    @property
    def tokenizer(self) -> "Words":
        """Itself: it gives the text of pieces."""
        return self

    def split(self, text: str) -> Tokens:
        """Pieces of a text."""
        matches = list(_PIECE.finditer(text))
        ids = np.array([self._id(match[0]) for match in matches], dtype=np.int32)
        places = np.array([match.span() for match in matches], dtype=np.int64).reshape(-1, 2)
        return Tokens(ids, places[:, 0], places[:, 1])

    def decode(self, ids: npt.ArrayLike, **_: Any) -> str:
        """Text of pieces."""
        return "".join(self._texts[int(one)] for one in np.asarray(ids).ravel())

    def batch_decode(self, rows: list[list[int]], **_: Any) -> list[str]:
        """Text of each row of pieces."""
        return [self.decode(row) for row in rows]

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._texts)
            self._texts.append(piece)
        return self._ids[piece]


# Show what cannot be seen: control, zero-width and direction-changing characters get a sign.

_HIDDEN = {*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF}
_CONTROLS = ("Cc", "Cs", "Co")


class Mark(NamedTuple):
    """A run of characters as shown; a sign stands for a hidden one."""

    is_sign: bool
    text: str


def mark_hidden(text: str) -> list[Mark]:
    r"""Split a text into runs shown as they stand and signs for hidden characters.

    Line breaks and tabs stay as they are.

    >>> mark_hidden("a\u202e")
    [Mark(is_sign=False, text='a'), Mark(is_sign=True, text='U+202E')]
    """
    found: list[Mark] = []
    run = 0
    for place, character in enumerate(text):
        if _is_hidden(character):
            if place > run:
                found.append(Mark(False, text[run:place]))
            found.append(Mark(True, f"U+{ord(character):04X}"))
            run = place + 1
    return [*found, Mark(False, text[run:])] if run < len(text) else found


def _is_hidden(character: str) -> bool:
    if character in "\n\t\r\f" or " " <= character <= "~":
        return False
    return ord(character) in _HIDDEN or unicodedata.category(character) in _CONTROLS
