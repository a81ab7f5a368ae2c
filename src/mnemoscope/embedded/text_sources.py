"""Find freely licensed text on this machine: the documents that the embedded model learns from.

Everything comes from the Python installation that runs this: the standard library's sources
(PSF-2.0), its pydoc topics, and the licence texts inside it. A source file is split into
segments: docstrings and runs of comment lines are prose, the rest is code, so that no character
is in both genres.
"""

import ast
import re
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path

PSF = "PSF-2.0"
LICENCE_TEXT = "licence text, verbatim copies permitted"
MIN_SEGMENT_CHARS = 160  # shorter than any 64-token window that we have seen
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "data"})
# Machine-made tables and test code make near-copies: good reading for the reference model,
# but not for sequences of which each is to be known apart.
TRAIN_ONLY_FOLDERS = frozenset({"test", "tests", "idle_test", "encodings", "turtledemo"})
COMMENT_RUN = re.compile(r"(?:^[ \t]*#[^\n]*\n){4,}", re.MULTILINE)


@dataclass(frozen=True)
class Segment:
    """A stretch of one document that is of one genre.

    Attributes:
        document: name of the file relative to the library, `pydoc_data/topics:NAME`, or
            `WHEEL:FILE` for a licence inside a bundled wheel.
        start: offset in the document, in characters, where `text` begins.
        genre: `prose` or `code`.
        text: the characters themselves, ASCII only.
        licence: SPDX name or a description.
        in_study: False for text that only the reference phase may use.
    """

    document: str
    start: int
    genre: str
    text: str
    licence: str
    in_study: bool


def read_segments(*, limit: int | None = None) -> list[Segment]:
    """Return the segments of the standard library, in the order of their document names.

    Args:
        limit: stop after the first so many segments of source files (None: all text there is).
    """
    library = Path(sysconfig.get_path("stdlib"))
    if limit is not None:
        return list(islice(_source_segments(library), limit))
    segments = [*_source_segments(library), *_topic_segments(), *_licence_segments(library)]
    return sorted(segments, key=lambda segment: (segment.document, segment.start))


def split_source(source: str) -> list[tuple[int, int, str]]:
    """Split Python source into (start, end, genre) spans, character offsets, without overlap.

    Docstrings (quotes left out) and runs of four and more comment lines are prose; what lies
    between is code. Spans shorter than `MIN_SEGMENT_CHARS` are left out.

    Raises:
        SyntaxError: the source does not parse.
    """
    prose = _merge([*_docstring_spans(source), *(m.span() for m in COMMENT_RUN.finditer(source))])
    spans, position = [], 0
    for start, end in prose:
        spans += [(position, start, "code"), (start, end, "prose")]
        position = end
    spans.append((position, len(source), "code"))
    return [span for span in spans if span[1] - span[0] >= MIN_SEGMENT_CHARS]


def _source_segments(library: Path) -> Iterator[Segment]:
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).as_posix()
        folders = set(name.split("/")[:-1])
        if folders & SKIPPED_FOLDERS or name == "pydoc_data/topics.py":
            continue
        try:
            source = path.read_text(encoding="ascii")
            spans = split_source(source)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue
        in_study = not folders & TRAIN_ONLY_FOLDERS
        for start, end, genre in spans:
            yield Segment(name, start, genre, source[start:end], PSF, in_study)


def _docstring_spans(source: str) -> list[tuple[int, int]]:
    line_starts = [0]
    for line in source.split("\n"):
        line_starts.append(line_starts[-1] + len(line) + 1)
    spans = []
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
            continue
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            start = line_starts[value.lineno - 1] + value.col_offset
            end = line_starts[(value.end_lineno or value.lineno) - 1] + (value.end_col_offset or 0)
            spans.append((start + 3, end - 3))
    return [(start, end) for start, end in spans if end - start >= MIN_SEGMENT_CHARS]


def _merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if not merged or start >= merged[-1][1]:
            merged.append((start, end))
    return merged


def _topic_segments() -> Iterator[Segment]:
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    for name, text in sorted(topics.items()):
        for start, line in _ascii_parts(text):
            yield Segment(f"pydoc_data/topics:{name}", start, "prose", line, PSF, True)


def _licence_segments(library: Path) -> Iterator[Segment]:
    seen = set()
    for name, text in _licence_texts(library):
        if text not in seen:
            seen.add(text)
            for start, part in _ascii_parts(text):
                yield Segment(name, start, "prose", part, LICENCE_TEXT, True)


def _licence_texts(library: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(library.glob("LICENSE*")):
        yield path.name, path.read_text(encoding="utf-8", errors="replace")
    for wheel in sorted((library / "ensurepip" / "_bundled").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if re.search(r"/(LICEN[SC]E|COPYING)[^/]*$", name, re.IGNORECASE):
                    text = archive.read(name).decode("utf-8", errors="replace")
                    yield f"{wheel.name}:{name}", text


def _ascii_parts(text: str) -> Iterator[tuple[int, str]]:
    for match in re.finditer(r"[\x00-\x7f]+", text):
        if len(match[0]) >= MIN_SEGMENT_CHARS:
            yield match.start(), match[0]
