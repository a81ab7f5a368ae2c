"""Put one part of a twin model's weights, or of its activations, into a model, and take it out.

A *twin* is the same network without what the model memorized: one trained as long on other text,
the model before fine-tuning or with its adapter off, or an earlier checkpoint. What no longer
works with a part of the twin in place depends on what that part learned. A *part* is a set of
weights: `layers.0.qk` (queries and keys), `.values`, `.output` (the projection after attention),
`.mlp`, `.norms`; `embedding`, `unembedding` and the last `norms` stand alone. Sets of parts are
named too; see `graft_parts`.

Which weights are queries and keys is asked of the model, since families fuse and order them in
many ways: the columns of a projection that the attention scores depend on. This holds for fused
projections, grouped keys, Conv1D and adapters alike.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import chain
from math import inf
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mnemoscope.errors import UserError, a_kind, nearest
from mnemoscope.lm.continue_ import compare
from mnemoscope.lm.intervene import AtSoftmax, around_attention
from mnemoscope.lm.model import (
    LanguageModel,
    attention_modules,
    brought,
    check_finite,
    check_tokens,
    find_argument,
    last_logits,
    prepend_bos,
    run_batches,
    wrap_model,
)
from mnemoscope.lm.probe import check_state, decoder_layers, entering, logprobs_of, output_matrices

Control = Literal["twin", "flip", "random", "spectrum", "permuted"]
"""What is put in: the twin's part; its mirror image, the same distance away from the twin; or a
change of the twin's norm, tensor by tensor, that knows nothing of the twin: Gaussian; of matrices
with the singular values of the twin's change and random singular vectors; or the twin's change with
rows and columns each in random order (vectors: entries, with random signs)."""
Place = Literal["residual", "attention", "mlp"]
PLACES: tuple[Place, ...] = ("residual", "attention", "mlp")
KINDS = ("qk", "values", "output", "mlp", "norms")
"""Kinds of parts of a layer."""
OUTSIDE = ("embedding", "unembedding", "norms")
"""Parts outside the layers."""
WHOLE = tuple(one for one in KINDS if one not in OUTSIDE)
"""Kinds that are named alone for all layers together; `norms` are those outside the layers."""
ALL = "all"
_BUT = "all but "
_LAYER = re.compile(r"layers\.(\d+)(?:-(\d+))?(?:\.(\w+))?")
_HEAD = re.compile(r"layers\.(\d+)\.heads\.(\d+)")
_NEURONS = re.compile(r"layers\.(\d+)\.neurons\.(\d+)/(\d+)")
_PROBED = 12  # tokens of the forward that asks which columns the scores depend on
_ROUNDINGS = 12  # tries to reach a norm in half precision
# Settings in which model and twin may differ, by parts of their names.
_FREE = ("token_id", "dropout", "initializer", "version", "dtype", "use_cache", "architectures",
         "output_", "return_dict", "attn_implementation", "label", "problem_type", "name_or_path",
         "chunk_size", "quantization", "router_aux", "pretraining_tp", "task_specific")  # fmt: skip
_ADAPTER = "lora_"  # an adapter of which this is left at zero does nothing: lora_B
_MORE = ("lora_magnitude", "modules_to_save", "trainable_tokens_")  # what zero does not switch off


class Slice(NamedTuple):
    """Some of a weight: its name, and which places along an axis; None is all of it."""

    name: str
    axis: int = 0
    places: Tensor | None = None


class Anatomy:
    """Map each part of a causal model, plain or wrapped by PEFT, to its weights.

    What reads queries or keys in the model that it is compared with (`like`) does so here too.
    Raises UserError: quantized or offloaded weights, or a family whose parts are not found.
    """

    model: Any

    def __init__(self, model: Any, like: "Anatomy | None" = None) -> None:
        self.model, was_training = model, [one for one in model.modules() if one.training]
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._lm = wrap_model(inner, bos="never", fingerprint="")
        if self._lm.quantization is not None:
            raise UserError(
                f"{self._lm.name}: its weights are quantized ({self._lm.quantization}), so no part "
                "of another model fits in. Load it plain."
            )
        if any(weight.is_meta for weight in model.parameters()):
            raise UserError(
                f"{self._lm.name}: some of its weights are offloaded, so no part of another model "
                "fits in. Load it where it has room whole."
            )
        for module in was_training:
            module.training = True
        self.weights: dict[str, Tensor] = _weights_of(model)
        self._names = {id(weight): name for name, weight in self.weights.items()}
        self._layers = decoder_layers(self._lm)
        self.parts: dict[str, list[Slice]] = {}
        """Weights of each single part; together they are all weights, each once."""
        self._projections = [_projections(layer) for layer in self._layers]
        self._columns = _score_columns(self._lm, self._layers, self._projections)
        for own, other in zip(self._columns, like._columns if like else [], strict=bool(like)):
            for reads, also in zip(own.values(), other.values(), strict=True):
                reads |= also
        taken: set[str] = set()
        for number, layer in enumerate(self._layers):
            found = self._of_layer(number, layer, taken)
            self.parts |= {f"layers.{number}.{kind}": found[kind] for kind in KINDS if found[kind]}
        self.parts |= self._outside(taken)

    def _of_layer(self, number: int, layer: nn.Module, taken: set[str]) -> dict[str, list[Slice]]:
        found: dict[str, list[Slice]] = {kind: [] for kind in KINDS}
        output = self._projections[number][-1]  # of those in attention the last to be called
        if self._columns[number][output].any():
            raise UserError(
                f"{self._lm.name}: the last projection of layer {number}'s attention decides where "
                "it looks, so its parts cannot be told apart. Choose another family."
            )
        for module, reads in self._columns[number].items():
            whole = "output" if module is output else "qk" if reads.any() else "values"
            for name, weight in self._weights(module, taken):
                axis = _output_axis(module, name, weight, len(reads))
                if axis is None or reads.all() or not reads.any():
                    found[whole].append(Slice(name))
                    continue
                for kind, chosen in (("qk", reads), ("values", ~reads)):
                    found[kind].append(Slice(name, axis, chosen.nonzero().squeeze(1)))
        attention = {one for module in attention_modules(layer) for one in module.modules()}
        for module in layer.modules():
            for name, _ in self._weights(module, taken, recurse=False):
                kind = "norms" if _is_norm(module) else "qk" if module in attention else "mlp"
                found[kind].append(Slice(name))
        return found

    def _outside(self, taken: set[str]) -> dict[str, list[Slice]]:
        found: dict[str, list[Slice]] = {name: [] for name in OUTSIDE}
        head = self._lm.model.get_output_embeddings()
        of_head = set() if head is None else set(head.modules())  # an adapter wraps it
        for module in self.model.modules():
            for name, _ in self._weights(module, taken, recurse=False):
                plain = "unembedding" if module in of_head else "embedding"
                kind = "norms" if _is_norm(module) else plain
                found[kind].append(Slice(name))
        return {name: slices for name, slices in found.items() if slices}

    def _weights(
        self, module: nn.Module, taken: set[str], *, recurse: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """A module's weights that no part has yet, by their names in the model."""
        for name, weight in self._named(module, recurse=recurse):
            if name not in taken:
                taken.add(name)
                yield name, weight

    def _named(self, module: nn.Module, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        for weight in chain(module.parameters(recurse), module.buffers(recurse)):
            if id(weight) in self._names:
                yield self._names[id(weight)], weight

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def names_in(self, number: int) -> set[str]:
        """Names of all weights of a layer."""
        return {name for name, _ in self._named(self._layers[number])}

    def find(self, name: str, twin: "Anatomy | None" = None) -> list[Slice]:
        """The weights of a part or set of parts; see `graft_parts` for names.

        `twin` is needed by blocks of neurons, which are ranked by how far the two differ. Raises
        UserError: an unknown name, or heads or neurons that this family does not show.
        """
        if name == ALL:
            return [one for slices in self.parts.values() for one in slices]
        if match := _HEAD.fullmatch(name):
            return self._head(*map(int, match.groups()))
        if (match := _NEURONS.fullmatch(name)) and twin is not None:
            return self._neurons(twin, *map(int, match.groups()))
        names = self._single(name.removeprefix(_BUT))
        if names is None:
            raise self._unknown(name)
        if name.startswith(_BUT):
            names = [part for part in self.parts if part not in names]
        return list(chain.from_iterable(self.parts[one] for one in names))

    def _single(self, name: str) -> list[str] | None:
        """Names of the single parts in a set; None if it is unknown."""
        if name in self.parts:
            return [name]
        if name in KINDS:
            return [part for part in self.parts if part.endswith(f".{name}")]
        match = _LAYER.fullmatch(name)
        if match is None:
            return None
        first, last, kind = int(match[1]), int(match[2] or match[1]), match[3]
        wanted = [f"layers.{number}." for number in range(first, last + 1)]
        chosen = [
            part
            for part in self.parts
            if part.startswith(tuple(wanted)) and (kind is None or part.endswith(f".{kind}"))
        ]
        return chosen if chosen and last < len(self._layers) else None

    def _unknown(self, name: str) -> UserError:
        hint = nearest(name, list(self.parts)) or f" There are: {', '.join(self.parts)}."
        return UserError(f"part '{name}': the model has no such part.{hint}")

    def _head(self, number: int, head: int) -> list[Slice]:
        """What one head alone decides: its queries, keys and values, and what reads its output."""
        n_heads = self._lm.n_heads
        if number >= len(self._layers) or head >= n_heads:
            raise self._unknown(f"layers.{number}.heads.{head}")
        *projections, output = self._projections[number]
        n_in = _n_inputs(output)
        own = torch.arange(n_in).reshape(n_heads, -1)[head]
        ask = partial(_score_columns, self._lm, self._layers, self._projections, head=head)
        scores, of_others = ask()[number], ask(others=True)[number]
        chosen = {module: scores[module] & ~of_others[module] for module in projections}
        for module, reads in self._columns[number].items():
            values = (~reads).nonzero().squeeze(1)
            if module is not output and len(values) == n_in:  # not grouped: its own values too
                chosen[module][values[own]] = True
        found = []
        for module, is_own in chosen.items():
            for name, weight in self._named(module):
                axis = _output_axis(module, name, weight, len(is_own))
                if axis is not None and is_own.any():
                    found.append(Slice(name, axis, is_own.nonzero().squeeze(1)))
        for name, weight in self._named(output):
            axis = _input_axis(output, name, weight, n_in)
            if axis is not None:
                found.append(Slice(name, axis, own))
        return found

    def _neurons(self, twin: "Anatomy", number: int, block: int, n: int) -> list[Slice]:
        """The block-th of n blocks of a layer's neurons, those that differ most first."""
        if number >= len(self._layers) or not 1 <= block <= n:
            raise self._unknown(f"layers.{number}.neurons.{block}/{n}")
        down = output_matrices(self._lm)[number]
        n_neurons = _n_inputs(down)
        ours, theirs = self.weights, twin.weights
        of_mlp = {one.name for one in self.parts[f"layers.{number}.mlp"]}
        of_down = set(down.modules())
        found: list[tuple[str, int, int]] = []
        for module in self._layers[number].modules():
            for name, weight in self._named(module, recurse=False):
                if name not in of_mlp or weight.ndim not in (1, 2):
                    continue
                for times in (1, 2):  # 2: two projections fused, neuron by neuron in the same order
                    if module in of_down:
                        axis = _input_axis(down, name, weight, times * n_neurons)
                    else:
                        axis = _output_axis(module, name, weight, times * n_neurons)
                    if axis is not None:
                        found.append((name, axis, times))
        distance = torch.zeros(n_neurons, dtype=torch.float64)
        for name, axis, times in found:
            change = theirs[name].detach().double().cpu() - ours[name].detach().double().cpu()
            change = change.movedim(axis, 0)
            distance += change.reshape(times, n_neurons, -1).square().sum(dim=(0, 2))
        chosen = distance.argsort(descending=True, stable=True).tensor_split(n)[block - 1]
        return [
            Slice(name, axis, torch.cat([chosen + n_neurons * one for one in range(times)]))
            for name, axis, times in found
        ]


def graft_parts(model: Any) -> list[str]:
    """Names of a model's parts; together they are all its weights, each once.

    Wherever parts are asked for, sets of them have names too: `qk` (that kind in every layer),
    `layers.2`, `layers.0-1.mlp`, `all`, `all but layers.0.qk`; and pieces: `layers.1.heads.3`, and
    `layers.2.neurons.1/8`, the first of eight blocks of neurons, those that differ most first.

    Raises:
        UserError: quantized weights, or a family whose parts are not found.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model: {a_kind(model)}; give a loaded model.")
    return list(Anatomy(model).parts)


@contextmanager
def grafted(
    model: Any,
    twin: Any,
    parts: str | Iterable[str],
    *,
    control: Control = "twin",
    seed: int = 0,
    share: float = 1.0,
) -> Iterator[Any]:
    """Put parts of the twin into the model inside this block; restored bit for bit afterwards.

    Args:
        model: a Hugging Face causal model.
        twin: one of the same architecture and shapes; None is a PEFT model's own base, which is
            the model with these parts of its LoRA adapter off.
        parts: names as in `graft_parts`.
        control: what is put in, see `Control`.
        seed: of a random control; its direction is the same at every share.
        share: how far to go from the model's weights (0) to the twin's (1) or beyond; for controls
            the size of the change relative to the twin's. Positive.

    Yields:
        The model.

    Raises:
        UserError: models of different shapes, quantized weights, an unknown part, or a share that
            is not positive.
    """
    for role, one in (("model", model), ("twin", twin)):
        if one is not None and not isinstance(one, nn.Module):
            raise UserError(
                f"{role}: {a_kind(one)}; give a loaded model, whose weights are changed."
            )
    if control not in get_args(Control):
        raise UserError(f"control {control!r}: give one of {', '.join(get_args(Control))}.")
    pair = Pair(model, twin)
    with pair.grafted(parts, control=control, seed=seed, share=share):
        yield model


@contextmanager
def patched_activations(
    model: Any,
    twin: Any,
    place: Place,
    layer: int,
    positions: Sequence[int] | None = None,
    *,
    tokens: Tensor | None = None,
) -> Iterator[Any]:
    """Activation patching: in every forward of this block take over what the twin has there.

    The twin first runs on the same inputs, which must be whole sequences (no cache).

    Args:
        model: a Hugging Face causal model.
        twin: another of the same widths.
        place: `residual` is what enters a layer; `attention` and `mlp` what these add to it, before
            a norm that may follow.
        layer: counted from 0.
        positions: of the input's tokens; None is all.
        tokens: read by the twin in place of the input, (batch, length): a control, whose
            activations are those of other sequences.

    Raises:
        UserError: a layer that there is not, or one whose attention or MLP is not found.
    """
    if model is twin:
        raise UserError("patched: model and twin are one object. Give another model as twin.")
    ours, theirs = (module_at(one, place, layer) for one in (model, twin))
    kept: list[Tensor] = []
    n_rows: list[int] = []  # some families lay all tokens of a batch in one row

    def keep(_module: nn.Module, state: Tensor) -> Tensor:
        kept[:] = [state]
        return state

    def replace(_module: nn.Module, state: Tensor) -> Tensor:
        if positions is None:
            return kept[0].to(state)
        changed = state.clone()
        rows, others = (one.view(n_rows[0], -1, one.shape[-1]) for one in (changed, kept[0]))
        if max(positions) >= rows.shape[1]:
            raise UserError(f"patched: position {max(positions)} of {rows.shape[1]} tokens.")
        rows[:, list(positions)] = others[:, list(positions)].to(state)
        return changed

    def run_twin(_module: nn.Module, args: Any, kwargs: Any) -> None:
        if any(kwargs.get(one) for one in ("past_key_values", "cache")):
            raise UserError(
                "patched: the input is not a whole sequence. Decode with use_cache=False."
            )
        asked = args[0] if args else kwargs.get("input_ids")
        read = kwargs["inputs_embeds"] if asked is None else asked
        n_rows[:] = [len(read)]
        if tokens is not None:
            if tokens.shape != read.shape:
                raise UserError(
                    f"patched: tokens of shape {tuple(tokens.shape)} for an input of "
                    f"{tuple(read.shape)}. Give the twin as many."
                )
            args = tuple(tokens if one is read else one for one in args)
            kwargs = {name: tokens if one is read else one for name, one in kwargs.items()}
        twin(*args, **kwargs)

    with ExitStack() as stack:
        for module, function in ((theirs, keep), (ours, replace)):
            if place == "residual":
                stack.enter_context(entering({module: partial(function, module)}))
            else:
                handle = module.register_forward_hook(_on_output(function))
                stack.callback(handle.remove)
        handle = model.register_forward_pre_hook(run_twin, with_kwargs=True)
        stack.callback(handle.remove)
        yield model


class Patched(NamedTuple):
    """What becomes of sequences under a patch, one batch: is every suffix token still the best one?

    `smallest_gap` is as `Scan.smallest_gap`, `logprob` the suffix tokens' mean, in nats.
    """

    is_memorized: npt.NDArray[np.bool_]
    smallest_gap: npt.NDArray[np.float32]
    logprob: npt.NDArray[np.float32]


def scan_patched(
    lm: LanguageModel,
    twin: LanguageModel,
    tokens: npt.ArrayLike,
    place: Place,
    layer: int,
    positions: Sequence[int] | None = None,
    *,
    others: npt.ArrayLike | None = None,
    batch_size: int,
    prefix: int,
) -> Iterator[Patched]:
    """Judge the suffix of every sequence, shape (n, T), under a patch as of `patched`.

    Each token is asked after the true ones before it, in one forward of the twin and one of the
    model a batch. `positions` do not count what stands before a sequence, such as BOS, and go up to
    T - 2, since the last token is not read; None is all, what stands before too. `others` (n, T)
    are read by the twin in place of `tokens`. Raises UserError: as `patched`, or logits that are
    not finite. NoRoomError: not even one sequence fits into memory.
    """
    table = check_tokens(lm, tokens, prefix=prefix)
    length = table.shape[1]
    read = table if others is None else check_tokens(lm, others, prefix=prefix)
    shifted = None if positions is None else [len(lm.before) + one for one in positions]

    def step(both: Tensor) -> Patched:
        own, other = (prepend_bos(lm, one[:, :-1]) for one in (both[:, :length], both[:, length:]))
        wanted = both[:, prefix:length]
        patch = patched_activations(lm.model, twin.model, place, layer, shifted, tokens=other)
        with patch, torch.no_grad():
            logits = last_logits(lm, own, wanted.shape[1])
            is_memorized, gap = compare(logits, wanted)
            logprob = logprobs_of(logits, wanted).mean(dim=1)
        found = brought(is_memorized, gap, logprob)
        check_finite(lm, found[1])
        return Patched(*(one.numpy() for one in found))

    return run_batches(lm, torch.cat([table, read], dim=1), batch_size, step)


def module_at(model: Any, place: Place, layer: int) -> nn.Module:
    """Find where `patched` takes over: a module's input (residual) or output; errors as there."""
    lm = wrap_model(model, bos="never", fingerprint="")
    check_state(lm, layer, last=False)
    module = decoder_layers(lm)[layer]
    if place == "residual":
        return module
    attention = set(attention_modules(module))
    of_attention = [child for child in module.children() if attention & set(child.modules())]
    others = [child for child in _with_weights(module) if child not in of_attention]
    found = of_attention if place == "attention" else others
    # A module that adds the residual stream itself gives all of it; its last projection does not.
    while found and any(_adds_residual(one) for one in found[-1].modules()):
        found = _with_weights(found[-1])
    if not found:
        raise UserError(
            f"{lm.name}: no {place} module of its own in layer {layer}. Patch another place, or "
            "choose another family."
        )
    return found[-1]


def _with_weights(module: nn.Module) -> list[nn.Module]:
    """Children with weights that are no norms, in order."""
    return [
        child
        for child in module.children()
        if not _is_norm(child) and next(child.parameters(), None) is not None
    ]


def _adds_residual(module: Any) -> bool:
    """Whether a module is given the residual stream to add (BLOOM, MPT, BERT and its kin)."""
    return find_argument(module.__class__, "residual", "input_tensor") is not None


def _on_output(function: Callable[[nn.Module, Tensor], Tensor]) -> Callable[..., Any]:
    """A hook on what a module gives; of several outputs the first is the state."""

    def hook(module: nn.Module, _: Any, output: Any) -> Any:
        if isinstance(output, list):  # openai-gpt
            return [function(module, output[0]), *output[1:]]
        if isinstance(output, tuple):
            return function(module, output[0]), *output[1:]
        return function(module, output)

    return hook


class Pair:
    """A model and its twin, laid out once for many grafts; UserError where shapes differ."""

    def __init__(self, model: Any, twin: Any) -> None:
        if twin is None:
            _check_adapter(model)
        else:
            check_alike(model.config, twin.config)
        self.twin: Anatomy | None = None if twin is None else Anatomy(twin)
        self.anatomy: Anatomy = Anatomy(model, self.twin)
        self._ours, self._is_adapter = self.anatomy.weights, twin is None
        theirs = self._ours if self.twin is None else self.twin.weights
        shapes, others = (
            {name: tuple(weight.shape) for name, weight in one.items()}
            for one in (self._ours, theirs)
        )
        if shapes != others:
            names = {*shapes, *others}
            name = min(one for one in names if shapes.get(one) != others.get(one))
            raise UserError(
                f"graft: {name} is {shapes.get(name, 'missing')} in the model and "
                f"{others.get(name, 'missing')} in the twin. Give two models of one architecture."
            )
        self._theirs = theirs

    def grafted(
        self,
        parts: str | Iterable[str],
        *,
        control: Control = "twin",
        seed: int = 0,
        share: float = 1.0,
    ) -> Any:
        """As the function `grafted`, between these two."""
        slices = self._slices(parts)
        return self._swapped(slices, control, self._directions(slices, control, seed), share)

    def first_layer(self, part: str) -> int:
        """The first layer, from 0, that a part changes; 0 too where it changes what is outside."""
        changed = {one.name for one in self._slices(part)}
        within = [self.anatomy.names_in(number) for number in range(self.anatomy.n_layers)]
        if not changed <= set().union(*within):
            return 0
        return next(number for number, names in enumerate(within) if changed & names)

    def changed(self, part: str) -> list[Tensor]:
        """The weights that a part changes, whole ones too of which it changes some places."""
        return [self._ours[one.name] for one in self._slices(part)]

    def walk(
        self, parts: str | Iterable[str], *, control: Control, seed: int = 0
    ) -> Callable[[float], AbstractContextManager[None]]:
        """As `grafted` for many shares: the direction is drawn once and held in float32."""
        slices = self._slices(parts)
        directions = list(self._directions(slices, control, seed))
        return lambda share: self._swapped(slices, control, directions, share)

    def _slices(self, parts: str | Iterable[str]) -> list[Slice]:
        if not isinstance(parts, Iterable):
            raise UserError(f"parts: {a_kind(parts)}; give names of parts, see ms.graft_parts.")
        names = [parts] if isinstance(parts, str) else [str(one) for one in parts]
        found = (self.anatomy.find(name, self.twin) for name in names)
        return _merged(chain.from_iterable(found), self._ours)

    def _directions(
        self, slices: Sequence[Slice], control: Control, seed: int
    ) -> Iterator[Tensor | None]:
        """A change of each slice, of the norm of the twin's; None where the twin decides it."""
        generator = torch.Generator().manual_seed(seed)
        for one in slices:
            if control in ("twin", "flip"):
                yield None
                continue
            own = _read(self._ours[one.name].detach(), one)
            change = self._other(one).to(own).float() - own.float()
            yield _like(change, control, generator)

    @contextmanager
    def _swapped(
        self,
        slices: Sequence[Slice],
        control: Control,
        directions: Iterable[Tensor | None],
        share: float,
    ) -> Iterator[None]:
        if not 0 < share < inf:
            raise UserError(f"graft: share {share} is not a positive number.")
        kept: list[tuple[Tensor, Slice, Tensor]] = []
        try:
            for one, direction in zip(slices, directions, strict=True):
                weight = self._ours[one.name].detach()
                own = _read(weight, one).clone()
                if direction is not None:
                    other = _moved(own, direction, share)
                elif control == "twin" and share == 1:
                    other = self._other(one)
                else:
                    toward = share if control == "twin" else -share
                    other = torch.lerp(own, self._other(one).to(own), toward)
                kept.append((weight, one, own))
                _write(weight, one, other.to(own))
            yield
        finally:
            interrupted: KeyboardInterrupt | None = None
            for weight, one, own in reversed(kept):
                try:
                    _write(weight, one, own)
                except KeyboardInterrupt as error:  # a second one: first make the model whole
                    _write(weight, one, own)
                    interrupted = error
            if interrupted is not None:
                raise interrupted

    def _other(self, one: Slice) -> Tensor:
        other = _read(self._theirs[one.name].detach(), one)
        # An adapter is off with its second matrix at zero; for some of its inputs, with their
        # columns of the first.
        is_second = f"{_ADAPTER}B" in one.name or f"{_ADAPTER}embedding_B" in one.name
        is_off = is_second or (f"{_ADAPTER}A" in one.name and one.places is not None)
        return torch.zeros_like(other) if self._is_adapter and is_off else other


def _merged(slices: Iterable[Slice], weights: dict[str, Tensor]) -> list[Slice]:
    """Slices in which no weight comes twice, in the order of the model's weights."""
    by_name: dict[str, list[Slice]] = {}
    for one in slices:
        by_name.setdefault(one.name, []).append(one)
    merged = []
    for name in weights:
        several = by_name.get(name)
        if not several:
            continue
        if len(several) == 1:
            merged.append(several[0])
        elif any(one.places is None for one in several) or len({one.axis for one in several}) > 1:
            merged.append(Slice(name))
        else:
            places = torch.unique(
                torch.cat([one.places for one in several if one.places is not None])
            )
            merged.append(Slice(name, several[0].axis, places))
    return merged


def _read(weight: Tensor, one: Slice) -> Tensor:
    if one.places is None:
        return weight
    return weight.index_select(one.axis, one.places.to(weight.device))


def _write(weight: Tensor, one: Slice, values: Tensor) -> None:
    if one.places is None:
        weight.copy_(values)
    else:
        weight.index_copy_(one.axis, one.places.to(weight.device), values)


def _like(change: Tensor, control: Control, generator: torch.Generator) -> Tensor:
    """A change of equal norm, float32, that knows nothing of the direction of the given one.

    `permuted` keeps rows and columns of a matrix whole, and the mean of a vector, up or down: where
    the twin shifts all gains of a norm by the same, so does this control.
    """
    made = torch.randn(change.shape, generator=generator).to(change)
    if control == "permuted":
        drawn, made = made, change
        for axis, size in enumerate(change.shape):
            order = torch.randperm(size, generator=generator).to(change.device)
            made = made.index_select(axis, order)
        if change.ndim < 2:
            made = made * drawn.flatten()[0].sign()
    elif control == "spectrum" and change.ndim >= 2:
        values = _singular_values(change.cpu())
        left, right = (
            _orthonormal((*change.shape[:-2], size, values.shape[-1]), generator).to(change)
            for size in change.shape[-2:]
        )
        made = (left * values[..., None, :].to(change)) @ right.mT
    found: Tensor = made * (change.norm() / made.norm().clamp_min(torch.finfo(torch.float32).tiny))
    return found


def _singular_values(matrix: Tensor) -> Tensor:
    """From the smaller Gram matrix in float64: several times as fast as a decomposition."""
    long = matrix if matrix.shape[-2] >= matrix.shape[-1] else matrix.mT
    found: Tensor = torch.linalg.eigvalsh(long.mT.double() @ long.double()).clamp_min(0).sqrt()
    return found


def _orthonormal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Orthonormal columns, uniform among all such: QR of Gaussians, R's diagonal made positive."""
    columns, upper = torch.linalg.qr(torch.randn(*shape, generator=generator))
    found: Tensor = columns * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    return found


def _moved(own: Tensor, direction: Tensor, share: float) -> Tensor:
    """Weights moved by a share of the direction's norm, after rounding to their dtype."""
    before, wanted, scale = own.float(), share * direction.norm(), torch.tensor(share)
    nearest, least = own, inf
    for _ in range(1 if own.dtype == torch.float32 else _ROUNDINGS):
        changed: Tensor = (before + scale.to(before) * direction).to(own.dtype)
        reached = (changed.float() - before).norm()
        if (error := float((reached - wanted).abs())) < least:
            nearest, least = changed, error
        # Half the step in proportion: a small change is rounded off all at once.
        scale = scale * (2 if not reached else ((1 + wanted / reached) / 2))
    return nearest


def _weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, and the buffers that are saved with them, by name."""
    saved = model.state_dict().keys()
    buffers = {name: one for name, one in model.named_buffers() if name in saved}
    return {**dict(model.named_parameters()), **buffers}


def _check_adapter(model: Any) -> None:
    """Refuse a model whose base is not the model with a LoRA adapter at zero."""
    names = [name for name, _ in model.named_parameters()]
    if not any(_ADAPTER in name for name in names):
        raise UserError("graft: no twin, and the model has no LoRA adapter. Name a twin.")
    has_bias = any(name.endswith("bias") and _ADAPTER not in name for name in names)
    asked = {getattr(one, "bias", "none") for one in getattr(model, "peft_config", {}).values()}
    is_more = any(word in name for name in names for word in _MORE)
    if is_more or (has_bias and asked - {"none"}):
        raise UserError(
            "graft: the adapter changes more than LoRA's two matrices (DoRA, modules_to_save, "
            "trainable tokens, biases), so its base is not the model with these off. Give the base "
            "model as twin."
        )
    if any(getattr(module, "merged", False) for module in model.modules()):
        raise UserError("graft: the adapter is merged into the weights. Unmerge it first.")


def check_alike(model: Any, twin: Any) -> None:
    """Refuse configurations of two models that would compute differently from the same weights."""
    ours, theirs = (one.to_dict() for one in (model, twin))
    for name in sorted({*ours, *theirs}):
        is_free = name.startswith("_") or any(word in name for word in _FREE)
        if not is_free and ours.get(name) != theirs.get(name):
            raise UserError(
                f"graft: {name} is {ours.get(name)} in the model and {theirs.get(name)} in the "
                "twin. Give two models of one architecture."
            )


# -- which columns decide where attention looks -----------------------------------------------


def _projections(layer: nn.Module) -> list[nn.Module]:
    """Outermost modules with a matrix inside a layer's attention, norms left out."""

    def search(module: nn.Module) -> Iterator[nn.Module]:
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            yield module
        else:
            for child in module.children():
                yield from search(child)

    return list(chain.from_iterable(map(search, attention_modules(layer))))


def _score_columns(
    lm: LanguageModel,
    layers: Sequence[nn.Module],
    projections: list[list[nn.Module]],
    *,
    head: int | None = None,
    others: bool = False,
) -> list[dict[nn.Module, Tensor]]:
    """For each layer's projections which output columns the attention scores depend on.

    The gradient of the scores before the softmax, randomly weighted: it is nonzero for what is
    read as query or key, and exactly zero for values. `head` asks for the scores of one head alone,
    `others` for those of all but that. Puts each layer's projections in the order of their calls.
    """
    scores: list[Tensor | None] = []  # of each layer, in order
    leaves = [dict[nn.Module, Tensor]() for _ in layers]
    generator = torch.Generator().manual_seed(0)

    def watch(number: int) -> Callable[..., Tensor]:
        def add_leaf(module: nn.Module, _: Any, output: Tensor) -> Tensor:
            leaf = torch.zeros_like(output, requires_grad=True)
            leaves[number].setdefault(module, leaf)
            return output + leaf

        return add_leaf

    def attend(run: Callable[[], Any], n_keys: int | None) -> Any:  # noqa: ARG001 - see `Attend`
        entered: list[Tensor] = []

        def keep(before: Tensor, after: Tensor) -> Tensor:
            entered.append(before)
            return after

        with AtSoftmax(keep):
            output = run()
        scores.append(entered[0] if entered else None)
        return output

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        ids = torch.arange(3, 3 + _PROBED, device=lm.device)[None] % lm.vocab_size
        for number, modules in enumerate(projections):
            for module in modules:
                stack.callback(module.register_forward_hook(watch(number)).remove)
        with around_attention(lm, attend):
            last_logits(lm, ids, 1)
        columns = []
        for number, called in enumerate(leaves):
            found = scores[number] if number < len(scores) else None
            if found is None or not called:
                raise UserError(
                    f"{lm.name}: layer {number} shows no softmax of its attention, so its parts "
                    "cannot be told apart. Choose another family."
                )
            score = found.reshape(lm.n_heads, -1)
            weights = torch.randn(score.shape, generator=generator).to(score)
            if head is not None:
                is_head = torch.arange(lm.n_heads, device=score.device) == head
                weights *= (is_head ^ others)[:, None]
            gradients = torch.autograd.grad(
                score, list(called.values()), weights, allow_unused=True, retain_graph=True
            )
            columns.append(
                {
                    module: torch.zeros(leaf.shape[-1], dtype=torch.bool)
                    if gradient is None
                    else gradient.reshape(-1, leaf.shape[-1]).ne(0).any(dim=0).cpu()
                    for (module, leaf), gradient in zip(called.items(), gradients, strict=True)
                }
            )
            projections[number][:] = list(called)
    return columns


def _output_axis(module: nn.Module, name: str, weight: Tensor, n_columns: int) -> int | None:
    """The axis of a projection's weight along which its outputs lie; None if it has none."""
    if f"{_ADAPTER}A" in name:
        return None
    axis = int(_is_transposed(module) and weight.ndim == 2 and _ADAPTER not in name)
    return axis if weight.shape[axis] == n_columns else None


def _input_axis(module: nn.Module, name: str, weight: Tensor, n_columns: int) -> int | None:
    """The axis of a projection's weight along which its inputs lie; None if it has none."""
    if weight.ndim != 2 or f"{_ADAPTER}B" in name:
        return None
    axis = int(not _is_transposed(module) or _ADAPTER in name)
    return axis if weight.shape[axis] == n_columns else None


def _n_inputs(module: nn.Module) -> int:
    """Columns that a projection reads."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return int(weight.shape[0 if _is_transposed(module) else 1])


def _is_transposed(module: nn.Module) -> bool:
    """Whether a projection's matrix is (inputs, outputs), as GPT-2's are; adapters wrap it."""
    return any(type(one).__name__ == "Conv1D" for one in module.modules())


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()
