"""Generated tokens by score level, which of them are right, and the states they are chosen from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.analysis.decoding import decode_rows, draw_rows, hash_ids, model_basis
from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.errors import UserError
from mnemoscope.progress import track
from mnemoscope.sequences.schema import token_matrix

__all__ = ["Generated", "choose_levels", "generate_by_level", "states_of"]

_BLOCK = 512


@dataclass(frozen=True)
class Generated:
    """Sequences with the first tokens that the model writes after their prefix.

    Attributes:
        rows: of the study's table, n of them.
        tokens: prefix and generated tokens, shape (n, prefix + steps), int32.
        is_right: shape (n, steps), bool: the generated token is the sequence's own.
    """

    rows: pl.DataFrame
    tokens: npt.NDArray[np.int32]
    is_right: npt.NDArray[np.bool_]

    @property
    def n_steps(self) -> int:
        """Generated tokens of a sequence."""
        return int(self.is_right.shape[1])

    @property
    def level(self) -> npt.NDArray[np.int64]:
        """Right tokens of each sequence, shape (n,)."""
        return np.asarray(self.is_right.sum(axis=1), dtype=np.int64)

    def keep(self, chosen: npt.NDArray[np.integer[Any]]) -> "Generated":
        """These sequences alone."""
        return Generated(self.rows[chosen], self.tokens[chosen], self.is_right[chosen])


def generate_by_level(
    inputs: AnalysisInputs,
    *,
    n_sequences: int | None,
    n_steps: int,
    per_level: int,
    seed: int,
    where: str,
) -> Generated:
    """Continue sequences and take as many of each score level.

    Args:
        inputs: a study and its model.
        n_sequences: sequences that are looked at, drawn by the seed; None for all.
        n_steps: generated tokens looked at; a level is how many of them are right.
        per_level: sequences a level at most.
        seed: of both draws.
        where: what to name in an error.

    Raises:
        UserError: more steps than the suffix has tokens.
    """
    if n_steps > inputs.length - inputs.prefix:
        raise UserError(
            f"{where}: {n_steps} steps, but suffixes of {inputs.length - inputs.prefix} tokens. "
            "Lower --set n_steps=N."
        )
    rows = _continued(inputs, draw_rows(inputs.table, n_sequences, seed))
    half = inputs.prefix
    tokens = token_matrix(rows)
    written = token_matrix(rows, "continuation")[:, :n_steps]
    is_right = written == tokens[:, half : half + n_steps]
    found = Generated(rows, np.concatenate([tokens[:, :half], written], axis=1), is_right)
    return found.keep(choose_levels(found.level, per_level=per_level, seed=seed))


def choose_levels(
    level: npt.NDArray[np.int64], *, per_level: int, seed: int
) -> npt.NDArray[np.int64]:
    """Draw at most so many of each level, in the order of the rows.

    Args:
        level: shape (n,).
        per_level: how many.
        seed: of the draw.
    """
    order = np.random.default_rng(seed).permutation(len(level))
    chosen = [order[level[order] == one][:per_level] for one in np.unique(level)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def states_of(inputs: AnalysisInputs, generated: Generated) -> npt.NDArray[np.float32]:
    """Give the last hidden state from which each generated token is chosen, kept in blocks.

    Args:
        inputs: whose model generated.
        generated: of `generate_by_level`.

    Returns:
        Shape (n, steps, width): step i is chosen from the state of the token before it.
    """
    lm, n = inputs.model(), len(generated.tokens)
    with track("Hidden states", total=n) as progress:
        parts = []
        for start in range(0, n, _BLOCK):
            part = generated.keep(np.arange(start, min(start + _BLOCK, n)))
            basis = {
                **model_basis(lm),
                "ids": hash_ids(part.rows),
                "prefix": inputs.prefix,
                "steps": generated.n_steps,
            }
            parts.append(inputs.shelf("states", basis, lambda part=part: _states(inputs, part)))  # type: ignore[misc]
            progress.advance(len(part.tokens))
    flat = np.concatenate([part["state"].to_numpy() for part in parts])
    return flat.reshape(n, generated.n_steps, -1)


def _states(inputs: AnalysisInputs, part: Generated) -> pl.DataFrame:
    from mnemoscope.lm.hidden_states import hidden_states

    read = part.tokens[:, :-1]  # the last token is chosen, not read
    batches = hidden_states(
        inputs.model(),
        read,
        batch_size=inputs.batch_size,
        positions=slice(inputs.prefix - 1, None),
    )
    states = np.concatenate(list(batches))[:, 0]
    flat = states.reshape(len(states), -1)
    return part.rows.select(
        "sequence_id", pl.Series("state", flat, dtype=pl.Array(pl.Float32, flat.shape[1]))
    )


def _continued(inputs: AnalysisInputs, rows: pl.DataFrame) -> pl.DataFrame:
    """Every row with its continuation: a memorized one's is its suffix."""
    if "continuation" not in rows.columns:
        rows = rows.with_columns(continuation=pl.lit(None, dtype=pl.List(pl.Int32)))
    suffix = pl.col("tokens").list.slice(inputs.prefix)
    known = rows.with_columns(
        continuation=pl.when("is_memorized").then(suffix).otherwise("continuation")
    )
    lacking = known.filter(pl.col("continuation").is_null())
    if lacking.is_empty():
        return known
    found = decode_rows(inputs, inputs.model(), lacking, label="Continuing").select(
        "sequence_id", pl.col("continuation").alias("_written")
    )
    joined = known.join(found, on="sequence_id", how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce("continuation", "_written").alias("continuation")).drop(
        "_written"
    )
