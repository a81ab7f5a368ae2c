"""What an audit of a model that runs here would ask, of which documents, and what it would take.

Documents are read and cut into tokens; no weights are loaded. `mnemoscope audit --dry-run`.
"""

from collections.abc import Container, Iterator
from math import prod
from pathlib import Path
from typing import Any

from mnemoscope.audits.documents import Reading
from mnemoscope.audits.questions import asked_of
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.spans import coarse_starts
from mnemoscope.audits.tokens import tokenize
from mnemoscope.data.read import WindowCutter
from mnemoscope.study.cost import ASSUMED_FLOPS, device_kind
from mnemoscope.words import about, plural

_NAMED = 20


def plan_audit(
    reading: Reading,
    tokenizer: Any,
    settings: AuditSettings,
    *,
    weights: Path,
    device: str,
    beside: Container[str],
) -> Iterator[str]:
    """Say it line by line; errors as `tokens.tokenize`."""
    cutter = WindowCutter(tokenizer)
    counts = [
        (one.name, len(one.text), len(coarse_starts(len(tokenize(one.text, cutter).ids), settings)))
        for one in reading.documents
    ]
    n_windows = sum(n for *_, n in counts)
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
    took = f", {about(seconds)} (assumed for {kind}, not measured)" if n_parameters else ""
    yield (
        f"{n_tokens:,} tokens through the model{took}. Around each passage up to "
        f"{2 * (settings.stride - 1)} windows more."
    )
    yield f"Then of each passage: {', '.join(asked_of('here', settings, beside))}."
    yield "No model was loaded, and nothing was written."


def _count_parameters(weights: Path) -> int:
    """By the heads of its safetensors; 0 where there are none here."""
    from safetensors import safe_open

    total = 0
    for path in sorted(weights.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total
