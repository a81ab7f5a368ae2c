"""A key-value cache with room set aside: a token is written in, where others copy all before it."""

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

__all__ = ["roomy_cache"]


def roomy_cache(config: Any, n_tokens: int) -> DynamicCache:
    """Give an empty cache whose plain layers have room for `n_tokens`; more may still come.

    Layers of other kinds (sliding windows) are transformers' own.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        _RoomyLayer(n_tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values are views of the used part of their rooms."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self._n_tokens = n_tokens
        self._rooms: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new states (batch, heads, tokens, size) behind the others; give all of them."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._n_tokens:
            return super().update(key_states, value_states, *args, **kwargs)  # type: ignore[no-any-return]
        if self._rooms is None or self._rooms[0].shape[0] != len(key_states):
            self._move(key_states, value_states, start)
        assert self._rooms is not None
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._rooms)
        return self.keys, self.values

    def _move(self, key_states: torch.Tensor, value_states: torch.Tensor, start: int) -> None:
        """Set room aside, and put what there is into it."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = (key_states, value_states)
        self._rooms = tuple(  # type: ignore[assignment]
            states.new_empty(*states.shape[:2], self._n_tokens, states.shape[3]) for states in new
        )
        if start:
            for room, there in zip(self._rooms, (self.keys, self.values), strict=True):  # type: ignore[arg-type]
                room[:, :, :start] = there

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        super().batch_select_indices(indices)
        self._rooms = None

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Put the rows in another order."""
        super().reorder_cache(beam_idx)
        self._rooms = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        super().batch_repeat_interleave(repeats)
        self._rooms = None

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._rooms = None
