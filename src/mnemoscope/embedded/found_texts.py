"""Sequences from freely licensed text that any Python installation has, for a first real model.

Run: python -m mnemoscope.embedded.found_texts --model MODEL -o texts.parquet
"""

import argparse
import random
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.embedded.templates import forms_of, write_text
from mnemoscope.embedded.text_sources import read_segments
from mnemoscope.errors import MnemoscopeError, UserError
from mnemoscope.lm.loading import load_tokenizer
from mnemoscope.sequences.schema import write_table
from mnemoscope.sequences.windows import WindowCutter

__all__ = ["find_texts", "main"]

MOST_CHARACTERS = 20_000  # of one licence file: some list those of a hundred libraries
KINDS = ("template", "licence", "prose", "code")


def find_texts(tokenizer: Any, *, n: int = 600, length: int = 64, seed: int = 0) -> pl.DataFrame:
    """Make a table of `n` template, `n` licence and `n` prose and code sequences.

    Args:
        tokenizer: of the model that is to be looked at.
        n: sequences of each of the three kinds; fewer where the machine has less text.
        length: tokens a sequence.
        seed: of the choice.

    Returns:
        Columns sequence_id, tokens, text, document, start, end, genre, group.

    Raises:
        UserError: no licence texts are installed.
    """
    cutter = WindowCutter(tokenizer, length=length, stride=length)
    wanted = {"template": n, "licence": n, "prose": n // 2, "code": n - n // 2}
    frames = [_take(_rows(kind, cutter, n), kind, wanted[kind], seed) for kind in KINDS]
    frame = pl.concat(frames).with_row_index("sequence_id")
    return frame.with_columns(pl.col("sequence_id").cast(pl.Int64))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table; exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="model whose tokenizer cuts the texts")
    parser.add_argument("-o", "--out", required=True, type=Path, help=".parquet or .jsonl")
    parser.add_argument("-n", type=int, default=600, help="sequences of each kind (default 600)")
    given = parser.parse_args(arguments)
    try:
        frame = find_texts(load_tokenizer(given.model), n=given.n)
        write_table(given.out, frame)
    except MnemoscopeError as error:
        print(f"found_texts: {error}", file=sys.stderr)
        return 2
    counts = ", ".join(f"{kind} {frame.filter(genre=kind).height:,}" for kind in KINDS)
    print(f"Wrote {given.out}: {counts}.")
    print(f"Next: mnemoscope run --model {given.model} --sequences {given.out} -o STUDY")
    return 0


def _rows(kind: str, cutter: WindowCutter, n: int) -> Iterator[dict[str, Any]]:
    """Every window of one kind of text."""
    texts = {"template": _templates(n), "licence": _licences()}.get(kind) or _segments(kind)
    for document, start, text in texts:
        windows = cutter.cut(text)
        for window in windows[:1] if kind == "template" else windows:
            yield {
                "tokens": window.tokens,
                "text": window.text,
                "document": document,
                "start": None if window.start is None else start + window.start,
                "end": None if window.end is None else start + window.end,
                "genre": kind,
                "group": document if kind == "template" else None,
            }


def _take(rows: Iterator[dict[str, Any]], kind: str, n: int, seed: int) -> pl.DataFrame:
    """A seeded choice of windows that differ in their text."""
    schema: dict[str, Any] = {
        "tokens": pl.List(pl.Int32),
        "text": pl.String,
        "document": pl.String,
        "start": pl.Int64,
        "end": pl.Int64,
        "genre": pl.String,
        "group": pl.String,
    }
    frame = pl.DataFrame(list(rows), schema=schema).unique("text", maintain_order=True)
    if frame.is_empty():
        raise UserError(f"no {kind} text was found on this machine. Give a folder of your own.")
    return frame.sample(min(n, frame.height), seed=seed, shuffle=True)


def _templates(n: int) -> Iterator[tuple[str, int, str]]:
    """Texts of the predictable forms in turn, each written anew."""
    forms = [*forms_of("counting"), *forms_of("periodic")]
    for number, form in enumerate(islice(cycle(forms), 2 * n)):
        yield f"template:{form}", 0, write_text(form, f"found:{number}")


def _licences() -> Iterator[tuple[str, int, str]]:
    """Licence files of the installed packages, each text once."""
    seen = set()
    folder = Path(sysconfig.get_path("purelib"))
    for path in sorted(folder.glob("**/*.dist-info/**/LICEN[CS]E*")):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")[:MOST_CHARACTERS]
            if text not in seen:
                seen.add(text)
                yield path.relative_to(folder).as_posix(), 0, text


def _segments(genre: str) -> Iterator[tuple[str, int, str]]:
    """Prose or code of the standard library, in a seeded order so that all of it takes part."""
    segments = [
        one for one in read_segments() if one.genre == genre and "LICENSE" not in one.document
    ]
    random.Random(f"found:{genre}").shuffle(segments)
    for segment in segments[:400]:
        yield segment.document, segment.start, segment.text


if __name__ == "__main__":
    sys.exit(main())
