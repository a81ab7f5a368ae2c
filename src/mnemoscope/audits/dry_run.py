"""What an audit of a model that runs here would ask, of which documents, and what it would take.

Documents are read and cut into tokens; no weights are loaded. `mnemoscope audit --dry-run`.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

from mnemoscope.audits.documents import Document, Reading
from mnemoscope.audits.questions import ReadSettings, asked_of
from mnemoscope.audits.read import foreseen
from mnemoscope.audits.reference import WINDOWS, places_beside
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.spans import coarse_starts
from mnemoscope.audits.tokens import tokenize
from mnemoscope.data.read import WindowCutter
from mnemoscope.study.cost import ASSUMED_FLOPS, device_kind
from mnemoscope.words import about, plural

_NAMED = 20
_NEARLY = 0.02
"""Difference of weights below which a reference may be a copy: at 8 bits it is 0.007."""
_TENSORS, _MOST_WEIGHTS = 32, 100_000  # that are compared, and of each


def plan_audit(
    reading: Reading,
    tokenizer: Any,
    settings: AuditSettings,
    *,
    weights: Path,
    device: str,
    reference: Path | None,
    beside: Container[str],
    unread: Sequence[Document] = (),
    tell_short: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """Say it line by line; `tell_short` hears of each document shorter than one window.

    Errors as `tokens.tokenize`.
    """
    cutter = WindowCutter(tokenizer)
    sizes = [len(tokenize(one.text, cutter).ids) for one in reading.documents]
    counts = [
        (one.name, len(one.text), len(coarse_starts(n, settings)))
        for one, n in zip(reading.documents, sizes, strict=True)
    ]
    n_windows = sum(n for *_, n in counts)
    for name in (name for name, _, n in counts if not n):
        tell_short(name)
    for name, characters, n in counts[:_NAMED]:
        said = f"{n:,} windows" if n else "shorter than one window, not asked"
        yield f"{name}: {characters:,} characters, {said}"
    if len(counts) > _NAMED:
        yield f"... and {plural(len(counts) - _NAMED, 'more document')}."
    yield from (f"{one.name}: not read: {one.reason}" for one in reading.skipped)
    yield (
        f"In all {plural(len(counts), 'document')}, {sum(n for _, n, _ in counts):,} characters: "
        f"{n_windows:,} windows of {settings.length} tokens, at one token in {settings.stride}."
    )
    n_tokens, kind = n_windows * settings.length, device_kind(device)
    n_parameters = _count_parameters(weights)
    seconds = 2 * n_parameters * n_tokens / ASSUMED_FLOPS[kind]
    least = about(seconds).removeprefix("about ")
    took = f": at least {least} (assumed for {kind}, not measured)" if n_parameters else ""
    near = ", near copies" * ("near" in asked_of("here", settings, beside))
    yield (
        f"{n_tokens:,} tokens through the model{took}. On top come up to "
        f"{2 * (settings.stride - 1)} windows around each place where it begins right{near} and "
        "the tests of each passage: of documents that it repeats, several times as long."
    )
    if reference is not None:
        n_beside = len(places_beside(sizes, settings))
        yield (
            f"The reference is asked up to {n_beside:,} windows more (did "
            "you swap model and reference?), and both models up to "
            f"{min(WINDOWS, sum(sizes) // settings.length)} of shuffled tokens (how far are they "
            "apart?)."
        )
    if unread:
        starts = (coarse_starts(len(tokenize(one.text, cutter).ids), settings) for one in unread)
        yield (
            f"{plural(len(unread), 'document')} of --unread "
            f"{'is' if len(unread) == 1 else 'are'} asked in the same way: "
            f"{sum(map(len, starts)):,} windows more."
        )
    if isinstance(settings, ReadSettings) and settings.read:
        yield from foreseen(len(counts), len(unread), has_twin=reference is not None)
    yield f"Then of each passage: {', '.join(asked_of('here', settings, beside))}."
    apart = None if reference is None else weights_apart(weights, reference)
    if apart is not None and apart < _NEARLY:
        yield (
            f"The reference's weights differ from the model's by {100 * apart:.2g} %: if it is a "
            "copy of the model, rounded or with noise, it cannot serve as a control. The audit "
            "measures that, and says so."
        )
    yield "No model was loaded, and nothing was written."


def weights_apart(model: Path, reference: Path) -> float | None:
    """How far the weights of two folders are apart: norm of the difference, by the model's norm.

    By the beginnings of some tensors of one name and shape; None where there are none.
    """
    from safetensors import safe_open

    def files(folder: Path) -> dict[str, Path]:
        found = dict[str, Path]()
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        return found

    def beginning(path: Path, name: str) -> Any:
        with safe_open(path, framework="pt") as file:
            part = file.get_slice(name)
            shape = part.get_shape()
            n = max(_MOST_WEIGHTS // max(prod(shape[1:]), 1), 1)
            return shape, part[:n].double()

    own, others = files(model), files(reference)
    names = sorted(own.keys() & others.keys())
    difference = whole = 0.0
    for name in names[:: max(len(names) // _TENSORS, 1)]:
        (shape, mine), (other_shape, theirs) = (beginning(one[name], name) for one in (own, others))
        if shape == other_shape:
            difference += float(((mine - theirs) ** 2).sum())
            whole += float((mine**2).sum())
    return (difference / whole) ** 0.5 if whole else None


def _count_parameters(weights: Path) -> int:
    """By the heads of its safetensors; 0 where there are none here."""
    from safetensors import safe_open

    total = 0
    for path in sorted(weights.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total
