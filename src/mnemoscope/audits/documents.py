"""Read the documents of an audit; what cannot be read is said with its reason."""

import codecs
import hashlib
import importlib
import io
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from mnemoscope.data.folders import last_parts, row_name
from mnemoscope.data.formats import (
    AS_TEXT,
    Skipped,
    check_there,
    is_excluded,
    table_ending,
    walk_files,
)
from mnemoscope.data.hub import find_hub_files, parse_hub_name
from mnemoscope.data.rows import row_texts
from mnemoscope.errors import MnemoscopeError, UserError, a_kind, pip_install
from mnemoscope.parse import MOST_BYTES, MOST_TEXT_BYTES, TOO_LONG, read_bounded
from mnemoscope.words import whole_characters

_SNIFFED_BYTES = 8192
_HEAD_BYTES = 4096
_CHARSET = re.compile(rb"charset=[\"']?([\w-]+)", re.IGNORECASE)
_BYTE_ORDER = {  # the longer ones first: UTF-32's begins as UTF-16's does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Document:
    """One text."""

    name: str  # the path as given; of a table's row `path#row`, rows counted from 1; `-`
    text: str
    sha256: str  # of the text in UTF-8
    # The text is not the file's own characters (HTML, PDF, DOCX, standard input).
    is_extracted: bool = False
    file_sha256: str | None = None  # of the file that a text was extracted from


@dataclass(frozen=True)
class Reading:
    """What was read, in order, what was not; the encoding of text files, the columns of tables.

    `excluded` are the files that each pattern of `--exclude` left out.
    """

    documents: list[Document]
    skipped: list[Skipped]
    encoding: str = "utf-8"
    columns: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_documents(
    sources: Sequence[str],
    *,
    stdin: BinaryIO | None = None,
    encoding: str = "utf-8",
    columns: Mapping[str, str] | None = None,
    leave_out: Path | None = None,
    exclude: Sequence[str] = (),
) -> Reading:
    """Read all documents; the same name twice is read once.

    `sources` are files, folders (read recursively, as `walk_files`), tables with a column
    `text` (`TABLE_ENDINGS`), data sets of the hub, or `-` for `stdin`. Files in `leave_out` are no
    documents: the audit itself goes there; nor are those that `exclude` fits (`is_excluded`).
    `columns` of tables are taken by their paths, as a study's are (`take_columns`); with `AS_TEXT`
    they are texts. What a folder holds and cannot be
    read is passed over; what `sources` name themselves is refused. Raises UserError: that, a source
    that does not exist, an encoding nobody knows, or nothing readable.
    """
    if not isinstance(encoding, str):
        raise UserError(f"--encoding: {a_kind(encoding)}; give a name, such as latin-1.")
    try:
        " ".encode(encoding)  # codecs.lookup also knows rot13 and zip, which give no characters
    except (LookupError, ValueError):
        raise UserError(f"--encoding {encoding}: no such encoding. Try latin-1.") from None
    check_sources(sources)
    if other := [one for one in columns or {} if one != "text"]:
        raise UserError(f"--column {other[0]}: nothing that is read here. Give text=NAME.")
    documents: dict[str, Document] = {}
    skipped: dict[str, Skipped] = {}
    refused: list[Skipped] = []
    tables: list[Skipped] = []  # that lack what --column names
    has_rows = False
    for name, path, reason in _files(sources, leave_out, exclude):
        shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
        if shown != name:  # nothing that we write could name it
            skipped[shown] = Skipped(shown, "a name that is not UTF-8. Rename it.")
            continue
        if reason:
            skipped[name] = Skipped(name, reason)
            continue
        try:
            for one in _read(name, path, stdin, encoding, columns):
                if isinstance(one, Skipped):
                    skipped[one.name] = one
                elif one.text.strip():
                    has_rows |= one.name != name
                    documents.setdefault(one.name, one)
                else:
                    skipped[one.name] = Skipped(one.name, "empty.")
        except MnemoscopeError as error:
            why = str(error).removeprefix(name).lstrip(":, ").replace(f": {name}: ", ": ", 1)
            skipped[name] = Skipped(name, why)
            refused += [skipped[name]] * (name in sources)
            is_table = path is not None and table_ending(path) and name not in sources
            tables += [skipped[name]] * bool(columns and columns != AS_TEXT and is_table)
    if tables and not has_rows:
        raise UserError(f"{tables[0].name}: {tables[0].reason}")
    passed = list(skipped.values())
    if documents and not refused:
        return Reading(list(documents.values()), passed, encoding, dict(columns or {}))
    if not passed:
        raise UserError(f"{', '.join(sources)}: no document in it.")
    first, *others = refused if documents else passed
    more = f" ({len(others)} more could not be read either.)" if others else ""
    more += " Or leave it out: only what a folder holds is passed over." * bool(documents)
    raise UserError(f"{first.name}: {first.reason}{more}")


def check_columns(
    sources: Sequence[str], columns: Mapping[str, str] | None, exclude: Sequence[str]
) -> None:
    """Raise UserError where columns are named, and none of the sources is or holds a table."""
    if not columns or columns == AS_TEXT:
        return
    if not any(path and table_ending(path) for _, path, _ in _files(sources, None, exclude)):
        name, own = next(iter(columns.items()))
        raise UserError(
            f"{', '.join(sources)}: --column {name}={own}: texts, and only tables have columns. "
            "Leave out --column."
        )


def check_sources(sources: Sequence[str]) -> None:
    """Raise UserError where one of the sources does not exist."""
    for source in sources:
        if source != "-" and parse_hub_name(source) is None:
            check_there(source, "Give a text as {name: text} in Python, or on standard input (-).")


def check_outside(sources: Sequence[str], out: Path) -> None:
    """Raise UserError where the result folder holds one of the folders of documents, or is it."""
    for source in sources:
        folder = Path(source)
        if folder.is_dir() and folder.resolve().is_relative_to(out.resolve()):
            raise UserError(
                f"-o {out}: this folder holds the documents ({source}), and what a result folder "
                "holds is not read. Choose another folder with -o."
            )


def _files(
    sources: Sequence[str], leave_out: Path | None, exclude: Sequence[str]
) -> Iterator[tuple[str, Path | None, str]]:
    """Names, their files, and why one that a folder holds is passed over."""
    for source in sources:
        path = Path(source)
        hub = parse_hub_name(source)
        if not path.is_dir() and is_excluded(path, path.parent, exclude):
            continue
        if source == "-":
            yield source, None, ""
        elif hub is not None:
            tables = find_hub_files(hub).files
            if len(tables) > 1:  # rows are counted from 1 in each
                raise UserError(
                    f"{source}: {len(tables)} files, where an audit reads one. Fetch them and give "
                    "their folder."
                )
            yield source, tables[0], ""
        elif path.is_dir():
            files, passed = walk_files(path, exclude)
            for file, reason in [*((file, "") for file in files), *passed]:
                if leave_out is None or not file.resolve().is_relative_to(leave_out.resolve()):
                    yield file.as_posix(), file, reason
        else:
            yield source, path, ""


def _read(
    name: str,
    path: Path | None,
    stdin: BinaryIO | None,
    encoding: str,
    columns: Mapping[str, str] | None,
) -> Iterator[Document | Skipped]:
    """The documents of one source; a row of a table that is too long is skipped alone."""
    if path is None:
        data = stdin.read(MOST_BYTES + 1) if stdin is not None else b""
        yield make_document(name, _decode(data, encoding), is_extracted=True)
        return
    ending = path.suffix.lower()
    if table_ending(path) and columns != AS_TEXT:
        for row, text in enumerate(row_texts(path, columns), start=1):
            own = row_name(name, row)
            try:
                yield make_document(own, text)
            except UserError as error:
                yield Skipped(own, str(error))
        return
    try:
        data = read_bounded(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({getattr(error, 'strerror', error)}).") from error
    if ending in _EXTRACTORS:
        made = make_document(name, _extract(ending, data) if data else "", is_extracted=True)
        yield replace(made, file_sha256=hashlib.sha256(data).hexdigest())
    else:
        yield make_document(name, _decode(data, encoding))


def _decode(data: bytes, encoding: str) -> str:
    """Characters of a text file, line ends as they are, a byte order mark left out."""
    encoding = next((own for mark, own in _BYTE_ORDER.items() if data.startswith(mark)), encoding)
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


def make_document(name: str, text: str, *, is_extracted: bool = False) -> Document:
    """A document of a text; `is_extracted`: the text is not the file's own characters.

    Raises UserError: a text too long to be cut into tokens.
    """
    if len(text) > MOST_TEXT_BYTES:
        raise UserError(f"{TOO_LONG} documents.")
    text = whole_characters(text)  # no tokenizer takes others
    return Document(name, text, hashlib.sha256(text.encode("utf-8")).hexdigest(), is_extracted)


def _extract(ending: str, data: bytes) -> str:
    """Text of a file; any failure of a library on a hostile or torn file becomes one line."""
    kind, extract = _EXTRACTORS[ending]
    try:
        return extract(data)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:120]
        raise UserError(f"a broken {kind} ({reason}). Save it again.") from error


def _html(data: bytes) -> str:
    """Text of a page as a reader would see it: UTF-8, else what the page says of itself."""
    get_text: Callable[[str], str] = _library("inscriptis", "inscriptis").get_text
    named = _CHARSET.search(data[:_HEAD_BYTES])
    for encoding in ("utf-8-sig", named[1].decode("ascii") if named else "utf-8"):
        try:
            page = data.decode(encoding)
            break
        except (UnicodeDecodeError, LookupError):
            continue
    else:
        raise UserError("unknown encoding: not UTF-8, and the page names none that fits.")
    _refuse_cut(page)
    return get_text(page)


def _refuse_cut(page: str) -> None:
    """Refuse a page of which libxml2 would leave out what is too deep or too large."""
    etree = _library("lxml.etree", "inscriptis")
    parser = etree.HTMLParser(encoding="utf-8")
    with suppress(etree.LxmlError):  # an empty one
        etree.fromstring(page.encode("utf-8", "replace"), parser)
    for one in parser.error_log:
        if one.type_name == "ERR_RESOURCE_LIMIT":
            reason = one.message.partition(",")[0]
            raise UserError(f"cannot be read as a whole ({reason}). Save it as text.")


def _pdf(data: bytes) -> str:
    pypdf = _library("pypdf", "pypdf")
    if b"%PDF-" not in data[:_HEAD_BYTES]:
        raise UserError("not a PDF, whatever its name says. If it is a text, name it .txt.")
    logger = logging.getLogger("pypdf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its warnings are not the user's
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        is_open = not reader.is_encrypted
        with suppress(Exception):  # a cipher that needs one more library, or a torn dictionary
            is_open = is_open or bool(reader.decrypt(""))
        if not is_open:
            raise UserError("an encrypted PDF. Save it without its password.")
        text = "\f".join(page.extract_text() for page in reader.pages)
    finally:
        logger.setLevel(level)
    if not text.strip("\f \n"):
        raise UserError("a PDF without text, perhaps a scan. Recognize its text first (OCR).")
    return text


_MOST_XML_BYTES = 8 * MOST_TEXT_BYTES  # a file of 1 MB can unpack to a thousand


def _docx(data: bytes) -> str:
    """Paragraphs and table rows in their order, a line each; a merged cell once."""
    library = _library("docx", "python-docx")
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        size = sum(one.file_size for one in parts.infolist() if one.filename.endswith(".xml"))
    if size > _MOST_XML_BYTES:
        raise ValueError(f"more than {_MOST_XML_BYTES >> 20} MB when unpacked")
    return "\n".join(
        _docx_lines(library.Document(io.BytesIO(data)), _library("docx.table", "python-docx")._Cell)
    )


def _docx_lines(block: Any, cell: Callable[[Any, Any], Any]) -> Iterator[str]:
    """Lines of a document, or of a cell with the tables in it."""
    for part in block.iter_inner_content():
        if hasattr(part, "rows"):
            # `row.cells` would give a merged cell once for each column that it claims to span.
            for row in part.rows:
                cells = (cell(one, part) for one in row._tr.tc_lst)
                yield "\t".join("\n".join(_docx_lines(one, cell)) for one in cells)
        else:
            yield part.text


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"needs {package} to be read: {pip_install('audit')}") from None


_EXTRACTORS: dict[str, tuple[str, Callable[[bytes], str]]] = {
    ".html": ("HTML page", _html),
    ".htm": ("HTML page", _html),
    ".pdf": ("PDF", _pdf),
    ".docx": ("DOCX", _docx),
}


def titles_of(names: Sequence[str]) -> dict[str, str]:
    """What documents are called in headings: of all paths as many last parts as tell them apart.

    >>> list(titles_of(["/a/b/x.py", "/a/c/x.py", "/a/b/t.csv#3", "-"]).values())
    ['b/x.py', 'c/x.py', 'b/t.csv#3', 'standard input']
    """
    paths = {name: name.replace("\\", "/") for name in names}
    short = last_parts(list(paths.values()))
    return {
        name: "standard input" if name == "-" else short[path] or name
        for name, path in paths.items()
    }
