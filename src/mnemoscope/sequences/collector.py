"""Gather the windows of many texts into one table, and count the texts that give none."""

import polars as pl

from mnemoscope.errors import UserError
from mnemoscope.sequences.columns import COLUMNS
from mnemoscope.sequences.windows import Window, WindowCutter

__all__ = ["WindowCollector"]

_COLUMNS = ("text", "tokens", "start", "end")


class WindowCollector:
    """Windows in the order of their texts.

    Attributes:
        n_texts: texts given.
        n_too_short: those shorter than one window.
    """

    def __init__(self, cutter: WindowCutter, *, limit: int | None = None) -> None:
        self.n_texts = 0
        self.n_too_short = 0
        self._cutter, self._limit = cutter, limit
        self._windows: list[Window] = []
        self._sources: list[int] = []

    @property
    def is_full(self) -> bool:
        """No more windows are wanted."""
        return self._limit is not None and len(self._windows) >= self._limit

    def add(self, text: str) -> None:
        """Cut one more text."""
        windows = self._cutter.cut(text)
        self._windows += windows
        self._sources += [self.n_texts] * len(windows)
        self.n_too_short += not windows
        self.n_texts += 1

    def to_frame(self, *, where: str) -> pl.DataFrame:
        """The windows as columns text, tokens, start, end and source (0 for the first text).

        Raises:
            UserError: there is none.
        """
        if not self._windows:
            raise UserError(
                f"{where}: no text of {self._cutter.length} tokens, the length of one sequence, "
                f"among its {self.n_texts}. Give longer texts."
            )
        columns = {name: [getattr(window, name) for window in self._windows] for name in _COLUMNS}
        schema = {name: COLUMNS[name].dtype for name in _COLUMNS}
        frame = pl.DataFrame(columns, schema=schema)
        frame = frame.with_columns(pl.Series("source", self._sources, dtype=pl.Int64))
        return frame if self._limit is None else frame.head(self._limit)
