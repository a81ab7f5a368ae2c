"""Run a model from a layer on, for sequences whose states before it are kept.

A change of layer 9 leaves what enters it as it was. Where the same sequences are asked under many
such changes, as grafts do, the layers below need not be computed each time; nor need what is
unchanged within the layer and reads what it read, such as an MLP beside the attention.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mnemoscope.lm.model import (
    CACHE_NAMES,
    LanguageModel,
    last_logits,
    new_cache,
    prepend_bos,
    run_batches,
)
from mnemoscope.lm.probe import beside_attention, decoder_layers, entering

if TYPE_CHECKING:
    from transformers.cache_utils import DynamicCache

MOST_BYTES = 1 << 30
"""Of states that are kept; where they need more, every forward is whole."""


class _Place(NamedTuple):
    """Which tokens of the kept sequences a forward reads."""

    rows: Tensor
    tokens: slice

    def of(self, kept: Tensor) -> Tensor:
        return kept[self.rows, self.tokens]


class _Within(NamedTuple):
    """What a module of the layer read and gave, (n, length, width)."""

    read: Tensor
    gave: Tensor


class KeptStates:
    """What enters a layer on the way through some sequences; see `keep_states`."""

    def __init__(
        self,
        lm: LanguageModel,
        layer: int,
        read: Tensor,
        states: Tensor,
        within: dict[nn.Module, _Within],
    ) -> None:
        self.lm, self.layer = lm, layer
        self._read = read.numpy()  # token ids with what stands before, (n, length)
        self._states, self._within = states, within
        self._numbers: dict[int, dict[bytes, int]] = {}  # by length: of their first tokens
        self._followed: Tensor | None = None  # rows that forwards with a cache read
        self._now: _Place | None = None  # what this forward reads; None: it is whole

    def _rows_of(self, input_ids: Tensor) -> Tensor | None:
        """Numbers of the sequences that begin with these tokens (batch, length); None: not all."""
        ids = np.ascontiguousarray(input_ids.cpu().numpy())
        length = ids.shape[1]
        if length not in self._numbers:
            firsts = np.ascontiguousarray(self._read[:, :length])
            self._numbers[length] = {row.tobytes(): at for at, row in enumerate(firsts)}
        found = [self._numbers[length].get(row.tobytes(), -1) for row in ids]
        return None if -1 in found else torch.tensor(found, device=self._states.device)

    def holds(self, tokens: Tensor) -> bool:
        """Whether all of these sequences (batch, length) are kept."""
        return self._rows_of(prepend_bos(self.lm, tokens)) is not None

    @contextmanager
    def following(self, tokens: Tensor) -> Iterator["DynamicCache | None"]:
        """Give a cache for forwards of these sequences (batch, length), token after token.

        None where not all of them are kept, or a layer of the family's cache is no plain one.
        """
        rows = self._rows_of(prepend_bos(self.lm, tokens))
        cache = None if rows is None else self._new_cache(tokens.shape[1])
        self._followed = None if cache is None else rows
        try:
            yield cache
        finally:
            self._followed = None

    def _new_cache(self, n_tokens: int) -> "DynamicCache | None":
        from transformers.cache_utils import DynamicLayer

        from mnemoscope.lm.cache import PreallocatedLayer

        cache = new_cache(self.lm, n_tokens)
        if cache is None or any(type(one) is not PreallocatedLayer for one in cache.layers):
            return None
        cache.layers[: self.layer] = [DynamicLayer() for _ in range(self.layer)]
        return cache

    def drop_all_but(self, rows: Tensor) -> None:
        """Follow these of the followed sequences alone, (n,) int64."""
        if self._followed is not None:
            self._followed = self._followed[rows]

    @contextmanager
    def resuming(self, changed: Collection[Tensor] | None = None) -> Iterator[None]:
        """In this block begin at the layer wherever a forward reads kept sequences.

        With a cache only in `following`. `changed` are all weights that are not as they were; where
        they are given, modules of the layer without any of them are not asked twice either.
        """
        layers = decoder_layers(self.lm)
        unlike = {id(one) for one in changed or ()}
        with ExitStack() as stack:
            hook = self.lm.model.register_forward_pre_hook(self._begin, with_kwargs=True)
            stack.callback(hook.remove)
            for number, layer in enumerate(layers[: self.layer]):
                layer.forward = self._skip(layer.forward, number)
                stack.callback(delattr, layer, "forward")
            for module, kept in self._within.items() if changed is not None else ():
                if not any(id(weight) in unlike for weight in module.parameters()):
                    module.forward = self._known(module.forward, kept)
                    stack.callback(delattr, module, "forward")
            if self.layer:
                stack.enter_context(entering({layers[self.layer]: self._enter}))
            yield

    def _begin(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        cache = next((kwargs[one] for one in CACHE_NAMES if kwargs.get(one) is not None), None)
        start, rows = 0, self._followed
        if cache is None:
            rows = None if ids is None else self._rows_of(ids)
        elif rows is not None:
            start = cache.get_seq_length(self.layer)
        self._now = None if rows is None else _Place(rows, slice(start, start + ids.shape[1]))

    def _enter(self, state: Tensor) -> Tensor:
        return state if self._now is None else self._now.of(self._states)

    def _skip(self, own: Callable[..., Any], number: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._now is None:
                return own(*args, **kwargs)
            cache = next((kwargs[one] for one in _OF_LAYER if kwargs.get(one) is not None), None)
            if cache is not None:  # what is asked of it is how many tokens it has read
                n_tokens = self._now.tokens.stop - self._now.tokens.start
                counted = self._now.rows[:, None, None, None].expand(-1, 1, n_tokens, 1)
                cache.update(counted, counted, number)
            return args[0] if args else kwargs["hidden_states"]

        return forward

    def _known(self, own: Callable[..., Any], kept: _Within) -> Callable[..., Any]:
        def forward(state: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._now is not None and torch.equal(state, self._now.of(kept.read)):
                return self._now.of(kept.gave)
            return own(state, *args, **kwargs)

        return forward


_OF_LAYER = ("layer_past", *CACHE_NAMES)
"""What families call the cache where a layer is given it."""


def keep_states(
    lm: LanguageModel, tokens: npt.ArrayLike, layer: int, *, batch_size: int
) -> KeptStates | None:
    """Keep what enters a layer (from 0) on the way through sequences (n, T), but for their last.

    None where that may not be done: states that take more than `MOST_BYTES`, a model on several
    devices, or a family that does not give the same logits bit for bit when it begins there
    (layers that give more than a state, or share keys with a layer below).
    """
    read = prepend_bos(lm, torch.as_tensor(np.asarray(tokens), dtype=torch.long)[:, :-1])
    module = decoder_layers(lm)[layer]
    parts = beside_attention(lm, layer)

    def step(batch: Tensor) -> list[Tensor]:
        entered: list[Tensor] = []
        found: list[Tensor | None] = [None] * (2 * len(parts))

        def take(state: Tensor) -> Tensor:
            entered.append(state)
            return state

        def watch(at: int) -> Callable[..., None]:
            def keep(_module: nn.Module, args: Any, output: Any) -> None:
                if len(args) == 1 and torch.is_tensor(output):  # some add to it in place
                    found[2 * at : 2 * at + 2] = args[0].clone(), output.clone()

            return keep

        with ExitStack() as stack:
            stack.enter_context(entering({module: take}))
            for at, part in enumerate(parts):
                stack.callback(part.register_forward_hook(watch(at)).remove)
            last_logits(lm, batch, 1)
        like, none = entered[0].shape[:2], entered[0][:, :, :0]
        # Of a part whose tokens do not lie as the state's, nothing.
        known = (none if one is None or one.shape[:2] != like else one for one in found)
        return [entered[0], *known]

    with torch.inference_mode():
        size = len(read) * sum(one.nbytes for one in step(read[:1].to(lm.device)))
        if lm.device_map is not None or size > MOST_BYTES:
            return None
        states, *rest = map(torch.cat, zip(*run_batches(lm, read, batch_size, step), strict=True))
        within = {
            part: _Within(rest[2 * at], rest[2 * at + 1])
            for at, part in enumerate(parts)
            if rest[2 * at].shape[2] and rest[2 * at + 1].shape[2]
        }
        if not layer and not within:
            return None  # nothing is below, and nothing beside
        kept, some = KeptStates(lm, layer, read, states, within), read[:batch_size].to(lm.device)
        whole = last_logits(lm, some, some.shape[1])
        try:
            with kept.resuming(changed=()):
                resumed = last_logits(lm, some, some.shape[1])
        except Exception:  # whatever a family does with a layer that gives a state alone
            return None
    return kept if torch.equal(whole.nan_to_num(), resumed.nan_to_num()) else None
