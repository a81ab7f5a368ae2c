"""What is known of a study's models before it runs: their shapes, and the speed of one on disk."""

import re
import time
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from mnemoscope.errors import UserError
from mnemoscope.lm.hub import model_near
from mnemoscope.study.cost import ModelShape
from mnemoscope.study.settings import EMBEDDED, StudySettings, check_reference, split_revision

if TYPE_CHECKING:
    from mnemoscope.study.models import Models

_PYTHIA = re.compile(r"(?:EleutherAI/)?pythia-([\d.]+[mb])(?:-deduped)?(?:-v0)?", re.IGNORECASE)


def other_suite(name: str) -> str | None:
    """The same Pythia of the other training run, with or without ``-v0``; None for other names.

    >>> other_suite("EleutherAI/pythia-12b-deduped")
    'EleutherAI/pythia-12b-deduped-v0'
    """
    if _PYTHIA.fullmatch(name) is None:
        return None
    return name.removesuffix("-v0") if name.endswith("-v0") else f"{name}-v0"


_TAKEN = "no such folder here, so taken for a name on the hub, which a dry run does not ask"
TIMED_SEQUENCES = 64
"""Sequences whose capture is timed where the model is on disk."""


class KnownModels(NamedTuple):
    """The models if loaded, shapes if known, seconds per token if measured, and lines to print."""

    models: "Models | None"
    shape: ModelShape | None
    reference: ModelShape | None
    speed: float | None
    lines: list[str]


def find_models(settings: StudySettings) -> KnownModels:
    """Load and time the model if it is on disk, else find its shape; errors as `is_on_disk`."""
    check_reference(settings)
    wanted, models, speed = settings.model, None, None
    shape = find_shape(wanted.name)
    if is_on_disk(wanted.name, wanted.revision):
        from mnemoscope.study.models import Models

        models = Models(settings)
        lm = models.model()
        hidden = getattr(lm.model.config, "hidden_size", shape.hidden if shape else 0)
        n_parameters = sum(weights.numel() for weights in lm.model.parameters())
        shape = ModelShape(lm.n_layers, lm.n_heads, hidden, lm.vocab_size, n_parameters, "")
        speed = _time_capture(models, settings)
        shown = f"{lm.n_layers} layers, {lm.n_heads} heads, {lm.dtype} on {lm.device}, on disk"
    elif shape is None:
        shown = f"{_TAKEN}. Bytes, memory and time are left out"
    else:
        shown = f"{shape}, planned in {wanted.dtype} on {wanted.device}"
    near = "" if shape else model_near(wanted.name)
    lines, reference = [f"Model {wanted.name}: {shown}.{near}"], None
    if settings.reference == EMBEDDED:
        lines.append("Reference: the embedded one, on disk.")
    elif settings.reference is not None:
        name, revision = split_revision(settings.reference)
        reference = find_shape(name)
        if is_on_disk(name, revision):
            known = "on disk."
        elif reference is None:
            known = f"{_TAKEN}. Counted like the model.{model_near(name)}"
        else:
            known = f"{reference}."
        lines.append(f"Reference {settings.reference}: {known}")
    return KnownModels(models, shape, reference or shape, speed, lines)


def _time_capture(models: "Models", settings: StudySettings) -> float:
    """Seconds per token of a forward pass with capture, measured here."""
    from mnemoscope.lm.attention import capture_pooled

    lm = models.model()
    n = min(settings.rows_at_once, TIMED_SEQUENCES)
    length = settings.sequences.length
    sample = np.random.default_rng(0).integers(0, lm.vocab_size, (n, length))
    for _ in range(2):  # the first pass warms up
        started = time.perf_counter()
        for _ in capture_pooled(lm, sample, batch_size=settings.rows_at_once):
            pass
        seconds = (time.perf_counter() - started) / n
    return seconds / length


@cache
def shape_facts(name: str) -> dict[str, Any]:
    """Package data of `pythia` or `suites`: `models`, `data`, and `splits` or `rates` by name."""
    text = resources.files("mnemoscope").joinpath(f"studies/shapes/{name}.yaml").read_text("utf-8")
    return dict(yaml.safe_load(text))


def find_shape(name: str) -> ModelShape | None:
    """The published shape of a model, None if it is not in package data."""
    if match := _PYTHIA.fullmatch(name):
        known = shape_facts("pythia")["models"].get(match[1].lower())
        source = "the Pythia suite's published table"
    else:
        shapes, source = shape_facts("suites")["models"], "its configuration as published"
        known = next((shapes[one] for one in shapes if name.startswith(one)), None)
    return None if known is None else ModelShape(**known, source=f"not on disk; from {source}")


def is_on_disk(name: str, revision: str | None = None) -> bool:
    """True if the weights can be loaded without a network. Raises UserError: a path to nothing."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if name == EMBEDDED or Path(name).expanduser().exists():
        return True
    if name.startswith(("./", "../", "/", "~")):
        raise UserError(f"{name}: no such model folder or file. Check the path.")
    files = ("model.safetensors", "model.safetensors.index.json")
    try:
        found = [try_to_load_from_cache(name, file, revision=revision) for file in files]
    except HFValidationError:
        return False
    return any(isinstance(one, str) for one in found)
