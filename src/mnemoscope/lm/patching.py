"""Replace hidden states inside the running model: what would it say had it other things in mind?

A state is replaced where it enters a layer, so what that layer and all later ones compute from it,
at this position and at those that look at it, is computed from the new one, exactly.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.hidden_states import check_state, decoder_layers, entering
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["patched_states"]


@contextmanager
def patched_states(
    lm: LanguageModel, layer: int, positions: torch.Tensor, states: torch.Tensor
) -> Iterator[None]:
    """Replace states in every forward of this block; each forward must be of whole sequences.

    Args:
        lm: the model; its hooks are removed afterwards, also after an error.
        layer: the state's number, 0 to `n_layers` - 1, see `mnemoscope.lm.hidden_states`. State
            `n_layers` is read by the head of its own position alone and cannot be replaced.
        positions: shape (batch, k), int64: of which k tokens of each sequence, counted without
            the BOS token.
        states: shape (batch, k, width): what stands there instead.

    Raises:
        UserError: a state that the model does not have, shapes that do not fit.
    """
    check_state(lm, layer, last=False)
    if positions.ndim != 2 or states.shape[:2] != positions.shape:
        raise UserError(
            f"patch: positions {tuple(positions.shape)} and states {tuple(states.shape)}, wanted "
            "(batch, k) and (batch, k, width)."
        )
    places = positions + len(lm.before)

    def replace(state: torch.Tensor) -> torch.Tensor:
        if len(state) != len(places) or int(places.max()) >= state.shape[1]:
            raise UserError(
                f"patch: {len(places)} sequences up to position {int(positions.max())}, but the "
                f"forward is of {tuple(state.shape[:2])}."
            )
        rows = torch.arange(len(state), device=state.device)[:, None]
        changed = state.clone()
        changed[rows, places.to(state.device)] = states.to(state.device, state.dtype)
        return changed

    with entering({decoder_layers(lm)[layer]: replace}):
        yield
