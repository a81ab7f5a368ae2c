"""Find what a corpus is made of, and stream it: texts, tables, or flat binaries of token ids."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mnemoscope.errors import UserError
from mnemoscope.progress import say
from mnemoscope.sequences.corpus_chunks import Chunk
from mnemoscope.sequences.corpus_flat import FLAT_ENDINGS, FlatFile, check_dtype, open_flat
from mnemoscope.sequences.corpus_rows import TABLE_ENDINGS, TextFiles, open_jsonl, open_parquet
from mnemoscope.sequences.documents import list_files
from mnemoscope.sequences.windows import WindowCutter

__all__ = ["Corpus", "Place", "open_corpus"]


class _Source(Protocol):
    """A part of the corpus that can be read from any place on."""

    def chunks(self, position: int, k: int) -> Iterator[Chunk]:
        """Pieces from a position on, with what k-token suffixes need."""


class Place(NamedTuple):
    """Where reading goes on: in which source, and where in it."""

    source: int = 0
    position: int = 0


class Corpus(NamedTuple):
    """An opened corpus; nothing of it is in memory.

    Attributes:
        path: as the user named it.
        sources: its parts, in the order of their names.
        files: every file that belongs to it.
        reading: what else decides its tokens (type on disk, tokenizer).
    """

    path: Path
    sources: Sequence[_Source]
    files: tuple[Path, ...]
    reading: str

    @property
    def n_tokens(self) -> int | None:
        """How many tokens there are, where the files say so."""
        flat = [source for source in self.sources if isinstance(source, FlatFile)]
        known = sum(source.n_tokens for source in flat)
        return known if len(flat) == len(self.sources) else None

    @property
    def has_documents(self) -> bool:
        """Whether any part of it says where its documents end."""
        return any(not isinstance(one, FlatFile) or one.documents for one in self.sources)

    def identity(self) -> str:
        """Hash of the files' paths, sizes and times of change, and of how they are read."""
        stats = [(str(path.resolve()), path.stat()) for path in self.files]
        files = [(name, one.st_size, one.st_mtime_ns) for name, one in stats]
        return hashlib.sha256(json.dumps([files, self.reading]).encode()).hexdigest()

    def chunks(self, place: Place, k: int) -> Iterator[tuple[Chunk, Place]]:
        """Pieces from a place on, each with the place after it.

        Args:
            place: where to begin; `Place()` is the beginning.
            k: tokens a suffix.

        Raises:
            UserError: a line or a file that cannot be used.
            DamagedDataError: a torn file.
        """
        for number in range(place.source, len(self.sources)):
            position = place.position if number == place.source else 0
            for chunk in self.sources[number].chunks(position, k):
                yield chunk, Place(number, chunk.position)


def open_corpus(path: Path | str, *, tokenizer: Any | None, dtype: str | None) -> Corpus:
    """Look at every file of a corpus, so that what can be refused is refused before any work.

    In a folder files are told apart by their endings. Without a tokenizer only tables and flat
    binaries are read, and what is passed over is said.

    Args:
        path: a text file, a `.jsonl` or `.parquet` table, a flat binary (`.bin`, `.npy`), or a
            folder of texts and tables, or of flat binaries.
        tokenizer: a Hugging Face tokenizer; None will do where there are no texts.
        dtype: type of the ids of a plain `.bin`, one of `corpus_flat.DTYPES`; None for uint16.

    Raises:
        UserError: nothing there, texts without a tokenizer, or a file that cannot be used.
        DamagedDataError: a torn Parquet file, array or index.
    """
    path = Path(path)
    if dtype is not None:
        check_dtype(dtype)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder.")
    files = list_files(path) if path.is_dir() else [path]
    cutter = None if tokenizer is None else WindowCutter(tokenizer)
    tables = [file for file in files if file.suffix in TABLE_ENDINGS]
    flats = [file for file in files if file.suffix in FLAT_ENDINGS]
    texts = [file for file in files if file.suffix not in (*TABLE_ENDINGS, *FLAT_ENDINGS)]
    if flats:
        indices = {file.with_suffix(".idx") for file in flats}
        texts = [file for file in texts if file not in indices]
        _check_flat_alone(path, flats, tables, texts if cutter else [])
    sources: list[_Source] = [open_flat(file, dtype) for file in flats]
    sources += [one for one in (_open_table(file, cutter) for file in tables) if one is not None]
    sources += _open_texts(path, texts, cutter, has_data=bool(tables or flats))
    if dtype is not None and not flats:
        say(f"--dtype {dtype} plays no part: {path} holds no flat binary.")
    used = [file for one in sources if isinstance(one, FlatFile) for file in one.files]
    used += [*tables, *(texts if cutter else [])]
    return Corpus(path, sources, tuple(used), f"{dtype} {_tokenizer_hash(tokenizer)}")


def _check_flat_alone(path: Path, flats: list[Path], tables: list[Path], texts: list[Path]) -> None:
    """A stray .bin among texts need not be token ids."""
    if tables or texts:
        raise UserError(
            f"{path}: holds flat binaries ({flats[0].name}) beside other files "
            f"({(tables or texts)[0].name}). Name the file or the folder that is meant."
        )


def _open_table(path: Path, cutter: WindowCutter | None) -> _Source | None:
    return open_parquet(path, cutter) if path.suffix == ".parquet" else open_jsonl(path, cutter)


def _open_texts(
    path: Path, texts: list[Path], cutter: WindowCutter | None, *, has_data: bool
) -> list[_Source]:
    """The texts as one source; without a tokenizer they are passed over beside other data."""
    if not texts:
        return []
    if cutter is not None:
        return [TextFiles(tuple(texts), cutter, is_alone=path.is_file())]
    if not has_data:
        raise UserError(
            f"{path}: texts must be cut into tokens: name a model or a folder with --tokenizer. "
            "(Tables must end in .jsonl or .parquet, flat binaries in .bin or .npy.)"
        )
    say(f"{path}: {len(texts):,} other files passed over ({texts[0].name}); no --tokenizer given.")
    return []


def _tokenizer_hash(tokenizer: Any | None) -> str | None:
    """Hash of all that decides what a tokenizer does."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
