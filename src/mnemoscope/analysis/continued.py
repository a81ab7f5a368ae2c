"""Training continued beside a control: a stream of rows, insertions into it, looks on the way.

A control run reads the stream; a treated run reads the same stream, some of its rows replaced.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.errors import UserError
from mnemoscope.progress import Progress
from mnemoscope.sequences.corpus import Place
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.taxonomy.nodes import parse_node

if TYPE_CHECKING:
    from mnemoscope.lm.fine_tuning import FineTuning
    from mnemoscope.lm.language_model import LanguageModel

__all__ = ["Insertions", "Rows", "run_arm", "stream_rows", "training_rows", "unseen_rows"]

Rows = npt.NDArray[np.int32]
"""Token ids, shape (rows, length)."""

Insertions = Mapping[int, Mapping[int, npt.NDArray[np.int32]]]
"""By step (from 0) and place in its batch: the row that stands there instead."""

_Look = TypeVar("_Look")


def run_arm(
    tuning: "FineTuning",
    stream: npt.NDArray[np.int32],
    insertions: Insertions,
    look: "Callable[[LanguageModel, int], _Look]",
    *,
    every: int,
    pad: int = 0,
    progress: Progress | None = None,
) -> list[_Look]:
    """Train through the stream and look at the model on the way.

    Args:
        tuning: the copy of a model that is trained, at its beginning.
        stream: all batches, shape (steps, batch, length).
        insertions: rows that replace others; none in a control. An id below 0 is padding that the
            loss does not count.
        look: gets the model and how many steps it has made.
        every: steps from one look to the next; the first is before any step, the last at the end.
        pad: what padding is read as.
        progress: is told every step.

    Returns:
        What each look gave, in order.
    """
    found = [look(tuning.lm, 0)]
    for step, batch in enumerate(stream):
        rows = batch.copy()
        for place, row in insertions.get(step, {}).items():
            rows[place] = row
        tuning.train(np.where(rows < 0, pad, rows), rows >= 0)
        if progress is not None:
            progress.advance()
        if tuning.step % every == 0 or tuning.step == len(stream):
            found.append(look(tuning.lm, tuning.step))
    return found


def stream_rows(rows: Rows, n_steps: int, batch_size: int, seed: int) -> npt.NDArray[np.int32]:
    """Batch rows in a seeded order, all of them before any comes again.

    Args:
        rows: what is trained on.
        n_steps: how many batches.
        batch_size: rows a batch.
        seed: of the order.

    Returns:
        Shape (steps, batch, length).
    """
    rng = np.random.default_rng(seed)
    wanted = n_steps * batch_size
    n_rounds = -(-wanted // len(rows))
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(max(1, n_rounds))])[:wanted]
    batches: npt.NDArray[np.int32] = rows[order].reshape(n_steps, batch_size, rows.shape[1])
    return batches


def unseen_rows(inputs: AnalysisInputs, n: int, seed: int, *, where: str) -> pl.DataFrame:
    """Draw sequences that the model cannot know: not memorized, not guessable, not trained on.

    Not trained on is what has no duplicates, where the table counts them; elsewhere what is not
    memorized has to do.

    Args:
        inputs: with features.
        n: how many.
        seed: of the draw.
        where: what to name in an error.

    Raises:
        UserError: there are fewer.
    """
    table = inputs.table
    rule = ~pl.col("is_memorized") & ~parse_node("Guess").expression.fill_null(True)
    if "duplicates" in table.columns:
        rule &= pl.col("duplicates").fill_null(1) == 0
    found = table.filter(rule)
    if found.height < n:
        raise UserError(
            f"{where}: {found.height} sequences are not memorized, not guessable and not trained "
            f"on (duplicates 0), and {n} are needed. Give a table with more, or ask for fewer."
        )
    chosen = np.random.default_rng(seed).permutation(found.height)[:n]
    return found[chosen]


def training_rows(inputs: AnalysisInputs, n: int, *, where: str) -> Rows:
    """Give rows to go on training with: windows of the corpus, else the study's sequences.

    Of the study's sequences those that training has held (duplicates above 0) are taken, where
    the table counts them, else all that `unseen_rows` would not draw.

    Args:
        inputs: with a corpus, or without.
        n: how many at most; of a corpus its beginning.
        where: what to name in an error.

    Raises:
        UserError: there are none.
    """
    if inputs.corpus is not None:
        windows = list(_corpus_windows(inputs, n))
        if windows:
            return np.stack(windows)
        raise UserError(
            f"{where}: {inputs.corpus.path}: no text of {inputs.length} tokens. Give longer ones."
        )
    table = inputs.table
    rule = pl.col("is_memorized") | parse_node("Guess").expression.fill_null(True)
    if "duplicates" in table.columns:
        rule = pl.col("duplicates").fill_null(1) > 0
    found = table.filter(rule)
    if found.is_empty():
        raise UserError(
            f"{where}: no sequence that the model was trained on. Give the training texts: "
            "--corpus PATH."
        )
    return token_matrix(found[:n]).astype(np.int32)


def _corpus_windows(inputs: AnalysisInputs, n: int) -> Iterator[npt.NDArray[np.int32]]:
    """Windows of whole length, one after another in each document, from the beginning on."""
    assert inputs.corpus is not None
    length, n_found = inputs.length, 0
    for chunk, _ in inputs.corpus.chunks(Place(), length):
        ends = [len(chunk.tokens)] if chunk.ends is None else chunk.ends.tolist()
        for begin, end in pairwise([0, *ends]):
            for first in range(begin, end - length + 1, length):
                if n_found == n:
                    return
                yield chunk.tokens[first : first + length].astype(np.int32)
                n_found += 1
