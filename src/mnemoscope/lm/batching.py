"""Walk a table of tokens in batches; where memory runs out, halve the batch and go on."""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.errors import NoRoomError, UserError
from mnemoscope.lm.language_model import LanguageModel, check_fits

__all__ = ["check_tokens", "note_halved", "noting_halved", "run_batches"]

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# How allocators other than CUDA's say that memory is out; they raise a plain RuntimeError.
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")

_halved: ContextVar[Callable[[int], None] | None] = ContextVar("halved", default=None)


def check_tokens(
    lm: LanguageModel, tokens: npt.ArrayLike, *, prefix: int | None = None
) -> torch.Tensor:
    """Check a table of tokens against a model.

    Args:
        lm: the model that will read them.
        tokens: shape (n, T), integers.
        prefix: tokens of the prefix, where the caller splits sequences: 0 < prefix < T.

    Returns:
        The tokens, shape (n, T), int64, on the CPU.

    Raises:
        UserError: not two axes, not integers, an id outside the vocabulary, T above the model's
            positions, or no suffix left.
    """
    table = np.asarray(tokens)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise UserError(f"tokens: axes {table.shape} of {table.dtype}, wanted (n, T) of integers.")
    if prefix is not None and not 0 < prefix < table.shape[1]:
        raise UserError(f"prefix {prefix}: sequences of {table.shape[1]} tokens leave no suffix.")
    if table.size and (table.min() < 0 or table.max() >= lm.vocab_size):
        row, column = np.argwhere((table < 0) | (table >= lm.vocab_size))[0]
        raise UserError(
            f"tokens, row {row}: id {table[row, column]} is outside the vocabulary of {lm.name} "
            f"(0 to {lm.vocab_size - 1}). Were they made with another tokenizer?"
        )
    check_fits(lm, table.shape[1])
    return torch.from_numpy(table.astype(np.int64))


@contextmanager
def noting_halved(
    counts: dict[str, Any], keep: Callable[[int], None] | None = None
) -> Iterator[None]:
    """Record the smallest batch size that memory forced inside this block, where it did.

    Args:
        counts: gets `batch_size_halved_to`, also after an error; left alone where all went well.
        keep: told each new smallest size at once, for a record that outlives the process.
    """
    sizes: list[int] = []

    def note(size: int) -> None:
        sizes.append(size)
        if keep is not None:
            keep(min(sizes))

    token = _halved.set(note)
    try:
        yield
    finally:
        _halved.reset(token)
        if sizes:
            counts["batch_size_halved_to"] = min(sizes)


def note_halved(size: int) -> None:
    """Tell the block of `noting_halved` that runs now of a smaller batch size, if there is one."""
    if (note := _halved.get()) is not None:
        note(size)


def run_batches(
    lm: LanguageModel,
    tokens: torch.Tensor,
    batch_size: int,
    step: Callable[[torch.Tensor], _Result],
) -> Iterator[_Result]:
    """Apply `step` to one batch after another, in order.

    When memory runs out the batch is halved, for good, and the same rows are done again; this is
    said once each time through `logging`. No row is lost, repeated or moved.

    Args:
        lm: the model, for its device and its name in messages.
        tokens: shape (n, T), int64, on the CPU.
        batch_size: rows a batch, at least 1.
        step: gets (batch, T) int64 on the model's device.

    Yields:
        What `step` returns, batch by batch.

    Raises:
        NoRoomError: not even one row fits.
        UserError: `batch_size` below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: must be at least 1.")
    start = 0
    while start < len(tokens):
        batch = tokens[start : start + batch_size]
        result = _try(step, batch, lm.device)
        if result is not None:
            start += len(batch)
            yield result[0]
            continue
        batch_size = len(batch) // 2
        _free(lm, batch_size)


def _try(
    step: Callable[[torch.Tensor], _Result], batch: torch.Tensor, device: str
) -> tuple[_Result] | None:
    """Run the step; None when memory ran out. The error and its frames die here, with tensors."""
    try:
        return (step(batch.to(device)),)
    except (RuntimeError, MemoryError) as error:
        if _is_out_of_memory(error):
            return None
        raise


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in _NO_MEMORY)


def _free(lm: LanguageModel, batch_size: int) -> None:
    """Give back what the failed batch held, or give up."""
    if batch_size == 0:
        raise NoRoomError(
            f"{lm.name}: one sequence alone does not fit into the memory of {lm.device}. "
            "Use --dtype bfloat16, another device or a smaller model."
        )
    _log.warning("out of memory on %s: going on with batch size %d", lm.device, batch_size)
    note_halved(batch_size)
    if lm.device.startswith("cuda"):
        gc.collect()
        torch.cuda.empty_cache()
