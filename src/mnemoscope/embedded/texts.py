"""The texts of `mnemoscope audit --study auto`: widely copied ones, and others never seen.

All are free: what ships in `known/` (public domain and licence texts), what any Python
installation holds (`found_texts`), and texts written anew from a seed. No network is needed.
"""

from importlib import resources
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.data.read import WindowCutter
from mnemoscope.embedded.found_texts import ROW, Text, find_texts, form_texts, window_rows

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

    Columns and kinds as of `find_texts`; further genres are `known` (all windows of the shipped
    texts) and, half as many as of a kind, `new` (records and registers filled at random, which
    no model has seen).

    Raises:
        UserError: no licence texts are installed.
    """
    found = find_texts(tokenizer, n=n, length=length, seed=seed).drop("sequence_id")
    overlapping = WindowCutter(tokenizer, length=length, stride=_STRIDE)
    shipped = (Text(f"known:{one.title}", 0, one.text) for one in known_texts())
    known = window_rows(overlapping, shipped, "known", grouped=True)
    cutter = WindowCutter(tokenizer, length=length, stride=length)
    written = form_texts("new", ("record", "register"), n // 2, f"audit:{seed}")
    added = pl.DataFrame([*known, *window_rows(cutter, written, "new", most=1)], schema=ROW)
    whole = pl.concat([found, added]).unique("text", maintain_order=True)
    return whole.with_row_index("sequence_id").with_columns(pl.col("sequence_id").cast(pl.Int64))
