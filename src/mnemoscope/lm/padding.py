"""Padded tables: every row is read without its padding, beside rows padded in the same way.

Nothing is masked, so no family's handling of masks, positions or distances matters: a padded
sequence gives what the sequence alone gives.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.model import LanguageModel, check_tokens, run_batches

# Rows among which those padded alike are read together; results wait for the last of them.
_WINDOW = 256

_Rows = TypeVar("_Rows", bound=tuple[Any, ...])


class Span(NamedTuple):
    """First column of a row's tokens, the column after the last, and how many there are."""

    first: int
    end: int
    length: int

    @property
    def padding(self) -> tuple[int, int]:
        """Padded columns before and after the tokens."""
        return self.first, self.length - self.end


class PaddedTable(NamedTuple):
    """Tokens (n, T), int64, 0 where padded; first column and the one after the last, (n, 2)."""

    tokens: torch.Tensor
    spans: npt.NDArray[np.int64]


def check_padded(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    attention_mask: npt.ArrayLike,
    *,
    prefix: int | None = None,
) -> PaddedTable:
    """Check a padded table against a model; return it on the CPU.

    Arguments as `run_sequences`; any integer may stand where padded.

    Raises:
        UserError: as `check_tokens`; a mask of another shape or with other values; a row without
            tokens, with a hole between them, or with none before or after `prefix`.
    """
    given = np.asarray(attention_mask)
    if given.shape != np.shape(tokens):
        raise UserError(f"attention_mask: shape {given.shape}, the tokens have {np.shape(tokens)}.")
    if not np.isin(given, (0, 1)).all():
        raise UserError("attention_mask: values other than 1 (a token) and 0 (padding).")
    mask = given.astype(bool)
    table = check_tokens(lm, np.where(mask, np.asarray(tokens), 0), prefix=prefix)
    first, n_tokens = mask.argmax(axis=1), mask.sum(axis=1)
    end = mask.shape[1] - mask[:, ::-1].argmax(axis=1)
    _refuse_rows(n_tokens == 0, "no token at all, only padding. Drop the row.")
    _refuse_rows(end - first != n_tokens, "padding between its tokens. Pad on the sides only.")
    if prefix is not None:
        _refuse_rows(
            (first >= prefix) | (end <= prefix),
            f"no token before or none from column {prefix} on, where its suffix begins. "
            "Drop the row, or set another prefix.",
        )
    return PaddedTable(table, np.stack([first, end], axis=1))


def run_sequences(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    batch_size: int,
    step: Callable[[torch.Tensor, Span], _Rows],
    *,
    attention_mask: npt.ArrayLike | None,
    prefix: int | None = None,
) -> Iterator[_Rows]:
    """Check a table at once, then apply `step` to its batches; yield results in its order.

    Args:
        lm: the model that will read it.
        tokens: shape (n, T), integers.
        batch_size: rows at once. Batches of a padded table fill up where many of 256 successive
            rows are padded alike (sort it by length); it yields up to 256 rows, or `batch_size`.
        step: gets (batch, length) int64 on the model's device and the rows' span; gives a named
            tuple with one row a sequence, or None.
        attention_mask: None for whole rows; else (n, T): 1 for a token, 0 for padding, on either
            side or both.
        prefix: columns of the prefix, padded or not; each row needs a token on either side.

    Raises:
        UserError, NoRoomError: as `check_tokens`, `check_padded` and `run_batches`.
    """
    if attention_mask is not None:
        padded = check_padded(lm, tokens, attention_mask, prefix=prefix)
        return _run_padded(lm, padded, batch_size, step)
    table = check_tokens(lm, tokens, prefix=prefix)
    whole = Span(0, table.shape[1], table.shape[1])
    return run_batches(lm, table, batch_size, lambda batch: step(batch, whole))


def _run_padded(
    lm: LanguageModel,
    table: PaddedTable,
    batch_size: int,
    step: Callable[[torch.Tensor, Span], _Rows],
) -> Iterator[_Rows]:
    window = max(1, _WINDOW // max(1, batch_size)) * max(1, batch_size)
    for start in range(0, len(table.tokens), window):
        rows = slice(start, start + window)
        tokens, spans = table.tokens[rows], table.spans[rows]
        order = np.lexsort((spans[:, 1], spans[:, 0]))
        changes = np.flatnonzero(np.diff(spans[order], axis=0).any(axis=1)) + 1
        done: list[_Rows] = []
        for begin, stop in pairwise([0, *changes.tolist(), len(order)]):
            group = order[begin:stop]
            first, end = spans[group[0]].tolist()
            span = Span(first, end, tokens.shape[1])
            alike = tokens[torch.from_numpy(group), first:end]
            done += run_batches(lm, alike, batch_size, lambda batch, span=span: step(batch, span))  # type: ignore[misc]
        yield _joined(done, np.argsort(order))


def _joined(parts: list[_Rows], order: npt.NDArray[np.int64]) -> _Rows:
    """Join named tuples field by field and put their rows in order."""
    fields: list[Any] = []
    for columns in zip(*parts, strict=True):
        if columns[0] is None:
            fields.append(None)
        elif isinstance(columns[0], torch.Tensor):
            fields.append(torch.cat(columns)[torch.from_numpy(order)])
        else:
            fields.append(np.concatenate(columns)[order])
    return type(parts[0])(*fields)


def _refuse_rows(is_bad: npt.NDArray[np.bool_], what: str) -> None:
    if is_bad.any():
        raise UserError(f"tokens, row {int(is_bad.argmax())}: {what}")
