"""Which memorized tokens change when hidden states of the prefix are those of another prefix."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.lm.batching import check_tokens, run_batches
from mnemoscope.lm.forward import last_logits, prepend_bos
from mnemoscope.lm.hidden_states import hidden_states
from mnemoscope.lm.patching import patched_states
from mnemoscope.lm.verbatim import right_tokens
from mnemoscope.progress import Progress

if TYPE_CHECKING:
    from mnemoscope.lm.language_model import LanguageModel

__all__ = ["Changes", "find_changes"]


class Changes(NamedTuple):
    """What a replaced state changes.

    Attributes:
        one: (n, layers, prefix, suffix), bool: the token is no longer the best one when this one
            state is another prefix's.
        all_of_layer: (n, layers, suffix), bool: the same for all states of the prefix at once.
        is_right: (n, suffix), bool: the token is the best one when nothing is replaced; where it
            is not, nothing counts as changed.
    """

    one: npt.NDArray[np.bool_]
    all_of_layer: npt.NDArray[np.bool_]
    is_right: npt.NDArray[np.bool_]


def find_changes(
    lm: "LanguageModel",
    tokens: npt.NDArray[np.integer[Any]],
    donors: npt.NDArray[np.integer[Any]],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Changes:
    """Replace every state of every prefix, one by one, by the donor's at the same place.

    Every token is judged after the true ones before it: once one token has changed, those that
    free decoding would write after it have changed for that reason alone.

    Args:
        lm: the model.
        tokens: sequences, shape (n, T).
        donors: prefixes of others, shape (n, prefix): one for each sequence.
        batch_size: sequences a forward.
        progress: advanced by every patched forward's sequences.

    Returns:
        States 0 (the embedding) to `n_layers` - 1; the last state is read by the head of its own
        position alone.
    """
    n, prefix = donors.shape
    layers = range(lm.n_layers)
    states = _states(lm, donors, batch_size)
    table = check_tokens(lm, tokens, prefix=prefix)
    found = Changes(
        np.empty((n, len(layers), prefix, table.shape[1] - prefix), dtype=bool),
        np.empty((n, len(layers), table.shape[1] - prefix), dtype=bool),
        right_tokens(lm, tokens, batch_size=batch_size, prefix=prefix),
    )
    every = torch.arange(prefix).expand(n * prefix, prefix)
    for layer in layers:
        rows = torch.arange(n).repeat_interleave(prefix)
        single = every[0].repeat(n)[:, None]
        changed = _changed(lm, table, rows, single, states[layer], layer, batch_size, progress)
        found.one[:, layer] = changed.reshape(n, prefix, -1) & found.is_right[:, None]
        whole = _changed(
            lm, table, torch.arange(n), every[:n], states[layer], layer, batch_size, progress
        )
        found.all_of_layer[:, layer] = whole & found.is_right
    return found


def _states(
    lm: "LanguageModel", donors: npt.NDArray[np.integer[Any]], batch_size: int
) -> torch.Tensor:
    """States of the donors' prefixes, (layers, n, prefix, width)."""
    batches = hidden_states(lm, donors, batch_size=batch_size, layers=range(lm.n_layers))
    return torch.from_numpy(np.concatenate(list(batches))).transpose(0, 1)


def _changed(
    lm: "LanguageModel",
    table: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    states: torch.Tensor,
    layer: int,
    batch_size: int,
    progress: Progress | None,
) -> npt.NDArray[np.bool_]:
    """Tokens that are no longer the best ones: (len(rows), suffix), one row of `table` each."""
    prefix = states.shape[1]

    def step(numbers: torch.Tensor) -> npt.NDArray[np.bool_]:
        one = numbers[:, 0].cpu()
        row, places = rows[one], positions[one]
        batch = table[row].to(numbers.device)
        wanted = batch[:, prefix:]
        new = states[row[:, None], places]
        with torch.inference_mode(), patched_states(lm, layer, places, new):
            logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), wanted.shape[1])
        if progress is not None:
            progress.advance(len(one))
        found: npt.NDArray[np.bool_] = (logits.argmax(dim=-1) != wanted).cpu().numpy()
        return found

    numbers = torch.arange(len(rows))[:, None]
    return np.concatenate(list(run_batches(lm, numbers, batch_size, step)))
