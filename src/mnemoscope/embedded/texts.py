"""The texts of `mnemoscope audit --study auto`: widely copied ones, and others never seen.

All are free: what ships in `known/` (public domain and licence texts), what any Python
installation holds (`found_texts`), and texts written anew from a seed. No network is needed.
"""

from collections.abc import Iterator
from importlib import resources
from itertools import cycle, islice
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.data.read import WindowCutter
from mnemoscope.embedded.found_texts import find_texts
from mnemoscope.embedded.templates import forms_of, write_text

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


def audit_texts(tokenizer: Any, *, n: int = 600, length: int = 64, seed: int = 0) -> pl.DataFrame:
    """Make the table of sequences of a study that an audit makes for itself.

    Args:
        tokenizer: of the audited model.
        n: sequences of each of the kinds that `find_texts` knows; half as many that are new.
        length: tokens a sequence.
        seed: of the choice.

    Returns:
        Columns as `find_texts`; further genres `known` (all windows of the shipped texts) and
        `new` (records and registers filled at random, which no model has seen).

    Raises:
        UserError: no licence texts are installed.
    """
    found = find_texts(tokenizer, n=n, length=length, seed=seed)
    rows = [*_known_rows(tokenizer, length), *_new_rows(tokenizer, length, n // 2, seed)]
    added = pl.DataFrame(rows, schema=found.drop("sequence_id").schema)
    whole = pl.concat([found.drop("sequence_id"), added]).unique("text", maintain_order=True)
    return whole.with_row_index("sequence_id").with_columns(pl.col("sequence_id").cast(pl.Int64))


def _known_rows(tokenizer: Any, length: int) -> Iterator[dict[str, Any]]:
    """Every window of the shipped texts; all of one text are one group."""
    cutter = WindowCutter(tokenizer, length=length, stride=_STRIDE)
    for known in known_texts():
        for window in cutter.cut(known.text):
            yield {
                "tokens": window.tokens,
                "text": window.text,
                "document": f"known:{known.title}",
                "start": window.start,
                "end": window.end,
                "genre": "known",
                "group": f"known:{known.title}",
            }


def _new_rows(tokenizer: Any, length: int, n: int, seed: int) -> Iterator[dict[str, Any]]:
    """The first window of texts that are written now."""
    cutter = WindowCutter(tokenizer, length=length, stride=length)
    forms = [*forms_of("record"), *forms_of("register")]
    for number, form in enumerate(islice(cycle(forms), n)):
        for window in cutter.cut(write_text(form, f"audit:{seed}:{number}"))[:1]:
            yield {
                "tokens": window.tokens,
                "text": window.text,
                "document": f"new:{form}",
                "start": window.start,
                "end": window.end,
                "genre": "new",
                "group": None,
            }
