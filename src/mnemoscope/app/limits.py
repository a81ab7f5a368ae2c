"""What a visitor may bring: one document of a known type, not too large, read as any other."""

import io
from dataclasses import replace
from pathlib import Path

from mnemoscope.audit.texts import Reading, read_documents
from mnemoscope.errors import UserError

__all__ = ["MOST_BYTES", "MOST_CHARACTERS", "TYPES", "read_visit"]

MOST_BYTES = 4_000_000
"""Of an uploaded file, and of a pasted text in UTF-8."""
MOST_CHARACTERS = 300_000
"""Of all texts in it together: a PDF or a DOCX holds more than its size tells."""
TYPES = (
    *(".txt", ".md", ".rst", ".csv", ".json", ".html", ".htm", ".pdf", ".docx", ".jsonl"),
    *(".parquet", ".py", ".c", ".h", ".cpp", ".java", ".js", ".ts", ".go", ".rs", ".sh", ".tex"),
)
"""Endings of files that are taken."""
_PASTED = "pasted text"


def read_visit(pasted: str | None, upload: str | Path | None) -> Reading:
    """Read what was pasted or uploaded; an uploaded file goes before.

    Args:
        pasted: text, or None.
        upload: path of the uploaded file, or None.

    Returns:
        Its documents, named as the visitor knows them.

    Raises:
        UserError: neither, too much, an ending that is not taken, or nothing readable in it.
    """
    if upload is not None:
        return _check_characters(_read_file(Path(upload)))
    if not (pasted or "").strip():
        raise UserError("Nothing to audit: paste a text, or choose a file.")
    data = str(pasted).encode("utf-8", "replace")
    _check_bytes(len(data), "the text")
    reading = read_documents(["-"], stdin=io.BytesIO(data))
    return _check_characters(_named(reading, "-", _PASTED))


def _read_file(path: Path) -> Reading:
    if path.suffix.lower() not in TYPES:
        raise UserError(
            f"{path.name}: files that end in '{path.suffix}' are not taken. Taken are "
            f"{', '.join(TYPES)}."
        )
    _check_bytes(path.stat().st_size, path.name)
    try:
        reading = read_documents([str(path)])
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from None
    return _named(reading, str(path), path.name)


def _named(reading: Reading, path: str, name: str) -> Reading:
    """The documents under the name that the visitor gave, not that of the copy."""

    def renamed(one: str) -> str:
        return one.replace(path, name, 1)

    return replace(
        reading,
        documents=[replace(one, name=renamed(one.name)) for one in reading.documents],
        skipped=[replace(one, name=renamed(one.name)) for one in reading.skipped],
    )


def _check_bytes(n: int, name: str) -> None:
    if n > MOST_BYTES:
        raise UserError(
            f"{name}: {n / 1e6:.1f} MB, more than the {MOST_BYTES / 1e6:.0f} MB that are taken "
            "here. Use 'mnemoscope audit', which has no limit."
        )


def _check_characters(reading: Reading) -> Reading:
    n = sum(len(document.text) for document in reading.documents)
    if n > MOST_CHARACTERS:
        raise UserError(
            f"{n:,} characters, more than the {MOST_CHARACTERS:,} that are taken here. Use "
            "'mnemoscope audit', which has no limit."
        )
    return reading
