"""The smallest batch that memory forced on a stage, kept over runs that were killed."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnemoscope.files import write_text
from mnemoscope.lm.model import noting_halved

HALVED = "batch_size_halved_to"
"""What the manifest of a stage and the record of a part call it."""


@contextmanager
def halved_on_record(counts: dict[str, Any], file: Path) -> Iterator[None]:
    """Record the smallest batch size that memory forced here, now or before this run was killed.

    Args:
        counts: gets `batch_size_halved_to`; left alone where all went well.
        file: holds the size from the moment it is forced; stands with what was made so, and is
            the caller's to remove.
    """
    before = read_halved(file)

    def keep(size: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, f"{min([size, *before])}\n")

    try:
        with noting_halved(counts, keep):
            yield
    finally:
        sizes = [*before, *([counts[HALVED]] if HALVED in counts else [])]
        if sizes:
            counts[HALVED] = min(sizes)


def read_halved(file: Path) -> list[int]:
    """The size that `halved_on_record` left in a file; none where all went well."""
    with suppress(OSError, ValueError):
        return [int(file.read_text(encoding="utf-8"))]
    return []
