"""Run a model from a layer on, for sequences whose states before it are kept.

A change of layer 9 leaves what enters it as it was. Where the same sequences are asked under many
such changes, as grafts do, the layers below need not be computed each time.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mnemoscope.lm.model import LanguageModel, last_logits, prepend_bos, run_batches
from mnemoscope.lm.probe import decoder_layers, entering

MOST_BYTES = 1 << 30
"""Of states that are kept; where they need more, every forward is whole."""


class KeptStates:
    """What enters a layer, from 1, on the way through some sequences; see `keep_states`."""

    def __init__(self, lm: LanguageModel, layer: int, read: Tensor, states: Tensor) -> None:
        self.lm, self.layer = lm, layer
        self._read = read.numpy()  # token ids with what stands before, (n, length)
        self._states = states  # (n, length, width)
        self._rows: dict[int, dict[bytes, int]] = {}  # by length: of their first tokens

    def _of(self, input_ids: Tensor) -> Tensor | None:
        """States of what begins with these tokens (batch, length); None: not all are kept."""
        ids = np.ascontiguousarray(input_ids.cpu().numpy())
        length = ids.shape[1]
        if length not in self._rows:
            firsts = np.ascontiguousarray(self._read[:, :length])
            self._rows[length] = {row.tobytes(): at for at, row in enumerate(firsts)}
        found = [self._rows[length].get(row.tobytes()) for row in ids]
        return None if None in found else self._states[found, :length]

    @contextmanager
    def resuming(self) -> Iterator[None]:
        """In this block begin at the layer wherever a forward reads kept sequences, uncached."""
        now: list[Tensor] = []  # what enters the layer in this forward; empty: it is whole

        def begin(_module: nn.Module, args: Any, kwargs: Any) -> None:
            ids = args[0] if args else kwargs.get("input_ids")
            is_cached = any(kwargs.get(one) is not None for one in ("past_key_values", "cache"))
            states = None if is_cached or ids is None else self._of(ids)
            now[:] = [] if states is None else [states]

        def skip(own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                if not now:
                    return own(*args, **kwargs)
                return args[0] if args else kwargs["hidden_states"]

            return forward

        layers = decoder_layers(self.lm)
        with ExitStack() as stack:
            hook = self.lm.model.register_forward_pre_hook(begin, with_kwargs=True)
            stack.callback(hook.remove)
            for layer in layers[: self.layer]:
                layer.forward = skip(layer.forward)
                stack.callback(delattr, layer, "forward")
            replace = {layers[self.layer]: lambda state: now[0] if now else state}
            stack.enter_context(entering(replace))
            yield


def keep_states(
    lm: LanguageModel, tokens: npt.ArrayLike, layer: int, *, batch_size: int
) -> KeptStates | None:
    """Keep what enters a layer (from 1) on the way through sequences (n, T), but for their last.

    None where that may not be done: states that take more than `MOST_BYTES`, a model on several
    devices, or a family that does not give the same logits bit for bit when it begins there
    (layers that give more than a state, or share keys with a layer below).
    """
    read = prepend_bos(lm, torch.as_tensor(np.asarray(tokens), dtype=torch.long)[:, :-1])

    def step(batch: Tensor) -> Tensor:
        entered: list[Tensor] = []

        def take(state: Tensor) -> Tensor:
            entered.append(state)
            return state

        with entering({decoder_layers(lm)[layer]: take}):
            last_logits(lm, batch, 1)
        return entered[0]

    with torch.inference_mode():
        size = len(read) * step(read[:1].to(lm.device)).nbytes
        if lm.device_map is not None or size > MOST_BYTES:
            return None
        states = torch.cat(list(run_batches(lm, read, batch_size, step)))
        kept, some = KeptStates(lm, layer, read, states), read[:batch_size].to(lm.device)
        whole = last_logits(lm, some, some.shape[1])
        try:
            with kept.resuming():
                resumed = last_logits(lm, some, some.shape[1])
        except Exception:  # whatever a family does with a layer that gives a state alone
            return None
    return kept if torch.equal(whole.nan_to_num(), resumed.nan_to_num()) else None
