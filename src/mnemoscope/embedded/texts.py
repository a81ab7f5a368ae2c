"""Free texts of any Python installation, for a first real model and for `audit --study auto`.

What ships in `known/` (public domain and licence texts) and texts written anew from a seed stand
beside them there. No network is needed.
"""

import ast
import random
import re
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module, resources
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.data.read import WindowCutter
from mnemoscope.embedded.templates import forms_of, write_text
from mnemoscope.errors import UserError

# Find freely licensed text on this machine: the documents that the embedded model learns from.

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
    """A stretch of one document that is of one genre."""

    document: str  # file relative to the library, `pydoc_data/topics:NAME`, or `WHEEL:FILE`
    start: int  # offset in the document, in characters
    genre: str  # `prose` or `code`
    text: str  # ASCII only
    licence: str  # SPDX name or a description
    in_study: bool  # False for text that only the reference phase may use


def read_segments(*, limit: int | None = None) -> list[Segment]:
    """Segments of the standard library by document; with a limit the first of its source files."""
    library = Path(sysconfig.get_path("stdlib"))
    if limit is not None:
        return list(islice(_source_segments(library), limit))
    segments = [*_source_segments(library), *_topic_segments(), *_licence_segments(library)]
    return sorted(segments, key=lambda segment: (segment.document, segment.start))


def split_source(source: str) -> list[tuple[int, int, str]]:
    """Split Python source into (start, end, genre) spans, character offsets, without overlap.

    Docstrings (quotes left out) and runs of four and more comment lines are prose; what lies
    between is code. Spans shorter than `MIN_SEGMENT_CHARS` are left out. Raises SyntaxError: the
    source does not parse.
    """
    spans, position = [], 0
    comments = (match.span() for match in COMMENT_RUN.finditer(source))
    for start, end in sorted([*_docstring_spans(source), *comments]):
        if start >= position:
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


# Sequences from freely licensed text that any Python installation has, for a first real model.

MOST_CHARACTERS = 20_000  # of one licence file: some list those of a hundred libraries
KINDS = ("template", "licence", "prose", "code")


class Text(NamedTuple):
    """A stretch of a document that begins at `start`, in characters."""

    document: str
    start: int
    text: str


class Row(NamedTuple):
    """A window of a document; its place is counted in characters."""

    tokens: list[int]
    text: str
    document: str
    start: int | None
    end: int | None
    genre: str
    group: str | None


_ROW = {"tokens": pl.List(pl.Int32()), **dict.fromkeys(Row._fields[1:], pl.String())}
_ROW |= dict.fromkeys(("start", "end"), pl.Int64())


def find_texts(tokenizer: Any, *, n: int = 600, seed: int = 0) -> pl.DataFrame:
    """Make a table of `n` template, `n` licence and `n` prose and code sequences.

    The tokenizer is of the model that is to be looked at; fewer sequences of a kind where the
    machine has less text. Gives sequence_id, tokens, text, document, start, end, genre, group.
    Raises UserError: no licence texts are installed.
    """
    cutter = WindowCutter(tokenizer)
    written = form_texts("template", ("counting", "periodic"), 2 * n, "found")
    rows = {
        "template": window_rows(cutter, written, "template", most=1, grouped=True),
        "licence": window_rows(cutter, _licences(), "licence"),
    }
    rows |= {genre: window_rows(cutter, texts, genre) for genre, texts in _segments().items()}
    wanted = {"template": n, "licence": n, "prose": n // 2, "code": n - n // 2}
    frames = [_take(rows[kind], kind, wanted[kind], seed) for kind in KINDS]
    frame = pl.concat(frames).with_row_index("sequence_id")
    return frame.with_columns(pl.col("sequence_id").cast(pl.Int64))


def window_rows(
    cutter: WindowCutter,
    texts: Iterable[Text],
    genre: str,
    *,
    most: int | None = None,
    grouped: bool = False,
) -> Iterator[Row]:
    """Cut texts into rows, at most `most` of each; `grouped` by their document."""
    for document, start, text in texts:
        for window in cutter.cut(text)[:most]:
            first, last = (
                None if one is None else start + one for one in (window.start, window.end)
            )
            group = document if grouped else None
            yield Row(window.tokens, window.text, document, first, last, genre, group)


def form_texts(name: str, kinds: Sequence[str], n: int, seed: str) -> Iterator[Text]:
    """Write `n` texts of the forms of these kinds in turn, each anew."""
    forms = [form for kind in kinds for form in forms_of(kind)]
    for number, form in enumerate(islice(cycle(forms), n)):
        yield Text(f"{name}:{form}", 0, write_text(form, f"{seed}:{number}"))


def _take(rows: Iterator[Row], kind: str, n: int, seed: int) -> pl.DataFrame:
    """A seeded choice of windows that differ in their text."""
    frame = pl.DataFrame(list(rows), _ROW, orient="row").unique("text", maintain_order=True)
    if frame.is_empty():
        raise UserError(f"no {kind} text was found on this machine. Give a folder of your own.")
    return frame.sample(min(n, frame.height), seed=seed, shuffle=True)


def _licences() -> Iterator[Text]:
    """Licence files of the installed packages, each text once."""
    seen = set()
    folder = Path(sysconfig.get_path("purelib"))
    for path in sorted(folder.glob("**/*.dist-info/**/LICEN[CS]E*")):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")[:MOST_CHARACTERS]
            if text not in seen:
                seen.add(text)
                yield Text(path.relative_to(folder).as_posix(), 0, text)


def _segments() -> dict[str, list[Text]]:
    """Prose and code of the standard library, in a seeded order so that all of it takes part."""
    found: dict[str, list[Text]] = {"prose": [], "code": []}
    for one in read_segments():
        if "LICENSE" not in one.document:
            found[one.genre].append(Text(one.document, one.start, one.text))
    for genre, texts in found.items():
        random.Random(f"found:{genre}").shuffle(texts)
    return {genre: texts[:400] for genre, texts in found.items()}


_STRIDE = 16  # famous texts are short: overlapping windows are told apart by the split's groups
_FILE = "known/public_domain.txt"


class KnownText(NamedTuple):
    """A shipped text with its origin."""

    title: str
    source: str
    licence: str
    text: str


def known_texts() -> list[KnownText]:
    """The shipped texts, in the order of the file."""
    whole = resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    found = []
    for block in whole.split("\n== ")[1:]:
        head, _, text = block.partition("\n")
        title, source, licence = (part.strip() for part in head.split("|"))
        found.append(KnownText(title, source, licence, text.strip()))
    return found


def audit_texts(tokenizer: Any, *, n: int = 600, seed: int = 0) -> pl.DataFrame:
    """Make the table of sequences of a study that an audit makes for itself.

    Columns and kinds as of `find_texts`; further genres are `known` (all windows of the shipped
    texts) and, half as many as of a kind, `new` (records and registers filled at random, which no
    model has seen). Raises UserError: no licence texts are installed.
    """
    found = find_texts(tokenizer, n=n, seed=seed).drop("sequence_id")
    overlapping = WindowCutter(tokenizer, stride=_STRIDE)
    shipped = (Text(f"known:{one.title}", 0, one.text) for one in known_texts())
    known = window_rows(overlapping, shipped, "known", grouped=True)
    cutter = WindowCutter(tokenizer)
    written = form_texts("new", ("record", "register"), n // 2, f"audit:{seed}")
    new = window_rows(cutter, written, "new", most=1)
    added = pl.DataFrame([*known, *new], _ROW, orient="row")
    whole = pl.concat([found, added]).unique("text", maintain_order=True)
    return whole.with_row_index("sequence_id").with_columns(pl.col("sequence_id").cast(pl.Int64))
