"""Take the text out of HTML, PDF and DOCX, each through a kept library of the extra `[audit]`."""

import importlib
import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mnemoscope.errors import UserError

__all__ = ["EXTRACTORS"]

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
