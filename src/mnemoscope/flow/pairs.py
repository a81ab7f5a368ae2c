"""Rows of a table as pictures with prompts and answers, for whoever trains or judges on them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.data.rows import rows_with
from mnemoscope.errors import UserError
from mnemoscope.lm.vision import Pair, VisionModel, answer_tokens, encode_pairs
from mnemoscope.progress import Progress, track

_AT_ONCE = 16


@dataclass(frozen=True)
class Pairs:
    """Rows of a table: its columns, what stands in them for a model, and its name.

    `pictures` holds the SHA-256 of each row's picture.
    """

    frame: pl.DataFrame
    pairs: tuple[Pair, ...]
    where: str
    pictures: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of all pictures, prompts and texts in their order."""
        found = hashlib.sha256()
        texts = self.frame["text"].to_list()
        for picture, one, text in zip(self.pictures, self.pairs, texts, strict=True):
            found.update(json.dumps([picture, one.prompt, text]).encode())
        return found.hexdigest()


def read_pairs(lm: VisionModel, source: Any, columns: Mapping[str, str] | None = None) -> Pairs:
    """Read the columns `image`, `prompt` and `text` of a table, for a model.

    An image is a path from the table's folder, the bytes of a file, or a struct of `bytes` and
    `path` as data sets of the hub have it. Raises UserError: a column that is not there, nulls, a
    picture that is not there, or a text that is no answer.
    """
    needs = {"image": "a path of a picture", "prompt": "a prompt", "text": "an answer"}
    found = rows_with(source, columns or {}, needs)
    if not found.frame.height:
        raise UserError(f"{found.where}: no row. Give at least one.")
    base = Path(source).parent if isinstance(source, str | Path) else Path()
    pairs, pictures = [], []
    rows = found.frame.select("image", "prompt", "text").iter_rows()
    for number, (image, prompt, text) in enumerate(rows):
        where = f"{found.where}, row {number}"
        if not (isinstance(prompt, str) and isinstance(text, str) and text.strip()):
            raise UserError(f"{where}: prompt and text must be texts, and text not empty.")
        try:
            answer = answer_tokens(lm, text)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        picture = _picture(image, base, where)
        seen = picture if isinstance(picture, bytes) else picture.read_bytes()
        pictures.append(hashlib.sha256(seen).hexdigest())
        pairs.append(Pair(picture, prompt, answer))
    return Pairs(found.frame, tuple(pairs), found.where, tuple(pictures))


def _picture(value: Any, base: Path, where: str) -> Path | bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    path = base / str(value)
    if not path.is_file():
        raise UserError(f"{where}: {path}: no such picture. Check the path.")
    return path


def check_pairs(lm: VisionModel, found: Pairs) -> int:
    """Read every row once; the most tokens of one. Raises UserError: as `encode_pairs`."""
    with track("Checking rows", total=len(found.pairs), unit="rows") as progress:
        return max(_lengths(lm, found, progress))


def _lengths(lm: VisionModel, found: Pairs, progress: Progress) -> Iterator[int]:
    for start in range(0, len(found.pairs), _AT_ONCE):
        some = found.pairs[start : start + _AT_ONCE]
        yield encode_pairs(lm, some)["input_ids"].shape[1]
        progress.advance(len(some))
