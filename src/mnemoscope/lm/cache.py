"""A layer of a key-value cache that has room for every token from the start."""

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values are views of the used part of their rooms: others copy all for each token."""

    keys: torch.Tensor
    values: torch.Tensor

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
        new = key_states, value_states
        # Whatever changes the rows of a cache puts new tensors in place of the views.
        if self._rooms is None or self.keys.data_ptr() != self._rooms[0].data_ptr():
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            key_room, value_room = (
                states.new_empty(*states.shape[:2], self._n_tokens, states.shape[3])
                for states in new
            )
            if start:
                key_room[:, :, :start], value_room[:, :, :start] = self.keys, self.values
            self._rooms = key_room, value_room
        for room, states in zip(self._rooms, new, strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._rooms)
        return self.keys, self.values
