"""Find the texts of a folder and read them as UTF-8, the same way on every machine."""

import os
from pathlib import Path

from mnemoscope.errors import UserError

__all__ = ["guess_genre", "list_files", "read_text"]

_CODE = """
.asm .bash .c .cc .clj .cmake .cpp .cs .css .cu .cxx .d .dart .el .erl .ex .f90 .fs .go .groovy
.h .hpp .hs .java .jl .js .jsx .kt .lisp .lua .m .ml .mjs .nim .php .pl .pm .ps1 .py .pyi .pyx
.r .rb .rs .s .scala .scm .sh .sql .swift .tcl .ts .tsx .v .vb .vhd .vim .zig .zsh
"""
_CODE_ENDINGS = frozenset(_CODE.split())
_PROSE_ENDINGS = frozenset([".adoc", ".md", ".org", ".rst", ".tex", ".txt"])
_CODE_NAMES = frozenset(["cmakelists", "dockerfile", "makefile"])
_PROSE_NAMES = frozenset(
    ["authors", "changelog", "contributing", "copying", "license", "news", "notice", "readme"]
)
_SNIFFED_BYTES = 8192


def list_files(folder: Path) -> list[Path]:
    """All files of a folder and its subfolders, hidden ones left out.

    Args:
        folder: an existing folder; links to folders are not followed.

    Returns:
        Paths sorted by their names below the folder, so that the order does not depend on the
        file system.
    """
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    found = [path for path in found if path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def read_text(path: Path) -> str | None:
    """The text of a file, line ends as they are, without a byte order mark.

    Args:
        path: an existing file.

    Returns:
        None where it is no text: a zero byte near its beginning, or bytes that are not UTF-8.

    Raises:
        UserError: no permission to read it.
    """
    try:
        data = path.read_bytes()
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it.") from error
    if b"\0" in data[:_SNIFFED_BYTES]:
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def guess_genre(path: Path) -> str | None:
    """Say by its name whether a file is ``code`` or ``prose``; None where the name says neither."""
    ending, stem = path.suffix.lower(), path.name.split(".")[0].lower()
    if ending in _CODE_ENDINGS or stem in _CODE_NAMES:
        return "code"
    if ending in _PROSE_ENDINGS or (stem in _PROSE_NAMES and not ending):
        return "prose"
    return None
