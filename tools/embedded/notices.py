"""Write `LICENSES/notices.txt`: notices of their own in the files that the shipped texts quote.

Run: python -m tools.embedded.notices, with the Python whose library the texts were taken from.
"""

import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from mnemoscope.data.table import read_table
from mnemoscope.embedded import sequences_path

NOTICES = Path("LICENSES/notices.txt")
_HEAD = """\
The windows of text in src/mnemoscope/embedded/data/sequences.parquet, and the shipped model, were
made of the library of Python 3.11.7 (PSF-2.0.txt). These of its files carry notices of their own.
"""
_NOTICE = re.compile(
    r"copyright.*\d{4}|permission to use|redistribution|disclaim|warrant(y|ies)|released under",
    re.IGNORECASE,
)
_OF_PYTHON = re.compile(r"copyright.*python software foundation", re.IGNORECASE)


def own_notices(source: str) -> list[str]:
    """The paragraphs of a source file that state rights of others than Python's foundation."""
    return [
        "\n".join(lines)
        for lines in _paragraphs(source)
        if any(_NOTICE.search(line) and not _OF_PYTHON.search(line) for line in lines)
    ]


def _paragraphs(source: str) -> Iterator[list[str]]:
    """Runs of lines that are comment or prose, without their marks."""
    held = list[str]()
    for line in [*source.splitlines(), ""]:
        text = line.strip().lstrip("#").strip().strip('"')
        if text:
            held.append(text)
        elif held:
            yield held
            held = []


def quoted_files(library: Path) -> Iterator[Path]:
    """Files of a Python's library that the shipped texts quote."""
    for name in read_table(sequences_path())["document"].unique().sort():
        if (library / name).is_file() and name.endswith(".py"):
            yield library / name


def main() -> None:
    """Write the file anew."""
    library = Path(sysconfig.get_path("stdlib"))
    parts = [_HEAD]
    for path in quoted_files(library):
        if notices := own_notices(path.read_text(encoding="utf-8")):
            parts.append("\n\n".join([f"== {path.relative_to(library).as_posix()} ==", *notices]))
    NOTICES.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
