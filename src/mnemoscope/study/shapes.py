"""What is known of a study's models before it runs: their shapes, and the speed of one on disk."""

import re
import time
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError
from mnemoscope.parse import read_json
from mnemoscope.study.cost import ModelShape
from mnemoscope.study.settings import EMBEDDED, StudySettings, split_revision

if TYPE_CHECKING:
    from mnemoscope.study.models import Models

_SPELLINGS = (
    ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    ("hidden_size", "n_embd", "d_model"),
    ("vocab_size",),
)  # in a config.json, of layers, heads, width and vocabulary
_PYTHIA = re.compile(r"(?:EleutherAI/)?pythia-([\d.]+[mb])(?:-deduped)?(?:-v0)?", re.IGNORECASE)


TIMED_SEQUENCES = 64
"""Sequences whose capture is timed where the model is on disk."""


class KnownModels(NamedTuple):
    """The models if loaded, shapes if known, seconds per token if measured, and lines to print."""

    models: "Models | None"
    shape: ModelShape | None
    reference: ModelShape | None
    speed: float | None
    lines: list[str]


def find_models(settings: StudySettings, *, is_needed: bool) -> KnownModels:
    """Load and time the model if it is on disk and needed, else find its shape alone."""
    wanted, models, speed = settings.model, None, None
    shape = find_shape(wanted.name, wanted.revision)
    if is_needed and is_on_disk(wanted.name, wanted.revision):
        from mnemoscope.study.models import Models

        models = Models(settings)
        lm = models.model()
        hidden = getattr(lm.model.config, "hidden_size", shape.hidden if shape else 0)
        n_parameters = sum(weights.numel() for weights in lm.model.parameters())
        shape = ModelShape(lm.n_layers, lm.n_heads, hidden, lm.vocab_size, n_parameters, "")
        speed = _time_capture(models, settings)
        shown = f"{lm.n_layers} layers, {lm.n_heads} heads, {lm.dtype} on {lm.device}, on disk"
    elif shape is None:
        shown = "not on disk and its shape is not known, so bytes, memory and time are left out"
    else:
        shown = f"{shape}, planned in {wanted.dtype} on {wanted.device}"
    lines, reference = [f"Model {wanted.name}: {shown}."], None
    if settings.reference == EMBEDDED:
        lines.append("Reference: the embedded model before it saw the sequences, on disk.")
    elif settings.reference is not None:
        reference = find_shape(*split_revision(settings.reference))
        known = reference or "not on disk and its shape is not known; counted like the model"
        lines.append(f"Reference {settings.reference}: {known}.")
    return KnownModels(models, shape, reference or shape, speed, lines)


def _time_capture(models: "Models", settings: StudySettings) -> float:
    """Seconds per token of a forward pass with capture, measured here."""
    from mnemoscope.lm.attention import capture_pooled

    lm = models.model()
    n = min(settings.model.batch_size, TIMED_SEQUENCES)
    length = settings.sequences.length
    sample = np.random.default_rng(0).integers(0, lm.vocab_size, (n, length))
    for _ in range(2):  # the first pass warms up
        started = time.perf_counter()
        for _ in capture_pooled(lm, sample, batch_size=settings.model.batch_size):
            pass
        seconds = (time.perf_counter() - started) / n
    return seconds / length


@cache
def shape_facts(name: str) -> dict[str, Any]:
    """Package data of `pythia` or `suites`: `models`, `data`, and `splits` or `rates` by name."""
    text = resources.files("mnemoscope").joinpath(f"studies/shapes/{name}.yaml").read_text("utf-8")
    facts: dict[str, Any] = yaml.safe_load(text)
    return facts


def find_shape(name: str, revision: str | None = None) -> ModelShape | None:
    """A model's shape from its files (of the hub: in the local cache), else from package data.

    None if unknown. Raises UserError: a path at which there is nothing.
    """
    folder = Path(place_of(name)).expanduser()
    if name.startswith(("./", "../", "/", "~")) and not folder.exists():
        raise UserError(f"{name}: no such model folder or file. Check the path.")
    config = folder / "config.json" if folder.exists() else _cached(name, revision, "config.json")
    found = _read_config(config) if config is not None and config.is_file() else None
    if found is not None:
        return found
    if match := _PYTHIA.fullmatch(name):
        known = shape_facts("pythia")["models"].get(match[1].lower())
        source = "not on disk; from the Pythia suite's published table"
    else:
        shapes, source = (
            shape_facts("suites")["models"],
            "not on disk; from its configuration as published",
        )
        known = next((shapes[one] for one in shapes if name.startswith(one)), None)
    return None if known is None else ModelShape(**known, source=source)


def is_on_disk(name: str, revision: str | None = None) -> bool:
    """True if the weights can be loaded without a network."""
    if name == EMBEDDED or Path(name).expanduser().exists():
        return True
    files = ("model.safetensors", "model.safetensors.index.json")
    return any(_cached(name, revision, file) is not None for file in files)


def _cached(name: str, revision: str | None, file: str) -> Path | None:
    """A hub model's file in the local cache, without using the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _read_config(path: Path) -> ModelShape | None:
    """The shape from config.json; None if its keys are unknown."""
    try:
        values = read_json(path)
        n_layers, n_heads, hidden, vocabulary = (
            next((values[key] for key in keys if isinstance(values.get(key), int)), 0)
            for keys in _SPELLINGS
        )
    except (OSError, ValueError, AttributeError):
        return None
    if not (n_layers and n_heads and hidden and vocabulary):
        return None
    about = n_layers * 12 * hidden**2 + 2 * vocabulary * hidden
    return ModelShape(n_layers, n_heads, hidden, vocabulary, about, "from config.json, about")
