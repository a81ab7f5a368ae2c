"""What shape has a model: from its files where they are on disk, else from a small table.

Loads neither torch nor transformers, and asks no network.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mnemoscope.config import EMBEDDED

__all__ = ["ModelShape", "find_shape", "is_on_disk", "pythia_facts"]

_PYTHIA = re.compile(r"(?:EleutherAI/)?pythia-([\d.]+[mb])(?:-deduped)?(?:-v0)?", re.IGNORECASE)
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_HIDDEN = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class ModelShape:
    """What decides the cost of a model.

    Attributes:
        n_layers: layers with attention.
        n_heads: attention heads (of queries) a layer.
        hidden: width of the hidden state.
        vocabulary: width of the output.
        n_parameters: weights, embeddings included.
        source: where this is known from, in words.
    """

    n_layers: int
    n_heads: int
    hidden: int
    vocabulary: int
    n_parameters: int
    source: str


@cache
def pythia_facts() -> dict[str, Any]:
    """The table of package data: `models` and `splits` by name, `data` the data set's hub name."""
    text = resources.files("mnemoscope").joinpath("stages/data/pythia.yaml").read_text("utf-8")
    facts: dict[str, Any] = yaml.safe_load(text)
    return facts


def find_shape(name: str, revision: str | None = None) -> ModelShape | None:
    """Find a model's shape without loading it.

    Args:
        name: folder, hub name, .gguf file or 'embedded'.
        revision: hub revision.

    Returns:
        The shape: from the model's files where they are on disk (hub names: in the local cache),
        else from the table of the Pythia suite; None where neither knows it.
    """
    config = _config_file(name, revision)
    found = _read_config(config) if config is not None else None
    return found or _known_shape(name)


def is_on_disk(name: str, revision: str | None = None) -> bool:
    """True where the weights can be loaded without a network."""
    if name == EMBEDDED or Path(name).expanduser().exists():
        return True
    files = ("model.safetensors", "model.safetensors.index.json")
    return any(_cached(name, revision, file) is not None for file in files)


def _known_shape(name: str) -> ModelShape | None:
    """The Pythia suite's shapes by hub name."""
    match = _PYTHIA.fullmatch(name)
    known = pythia_facts()["models"].get(match[1].lower()) if match else None
    if known is None:
        return None
    return ModelShape(
        n_layers=known["layers"],
        n_heads=known["heads"],
        hidden=known["hidden"],
        vocabulary=known["vocabulary"],
        n_parameters=known["parameters"],
        source="the Pythia suite's published table",
    )


def _config_file(name: str, revision: str | None) -> Path | None:
    """The model's config.json, where it is on disk."""
    if name == EMBEDDED:
        from mnemoscope.embedded import model_path

        return model_path() / "config.json"
    folder = Path(name).expanduser()
    if folder.exists():
        config = folder / "config.json"
        return config if config.is_file() else None
    return _cached(name, revision, "config.json")


def _cached(name: str, revision: str | None, file: str) -> Path | None:
    """A file of a hub model in the local cache; no network is asked."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _read_config(path: Path) -> ModelShape | None:
    """The shape as config.json has it; None where the keys are not those that we know."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    n_layers, n_heads, hidden = (_first(values, keys) for keys in (_LAYERS, _HEADS, _HIDDEN))
    vocabulary = _first(values, ("vocab_size",))
    if not (n_layers and n_heads and hidden and vocabulary):
        return None
    stored = _count_stored(path.parent.glob("*.safetensors"))
    source = "config.json and weights on disk" if stored else "config.json, parameters about"
    about = n_layers * 12 * hidden**2 + 2 * vocabulary * hidden
    return ModelShape(n_layers, n_heads, hidden, vocabulary, stored or about, source)


def _first(values: Any, keys: Iterable[str]) -> int | None:
    """The first of some keys that is there."""
    if not isinstance(values, dict):
        return None
    return next((values[key] for key in keys if isinstance(values.get(key), int)), None)


def _count_stored(paths: Iterable[Path]) -> int:
    """Weights in safetensors files, from their headers alone; 0 where there are none."""
    total = 0
    for path in paths:
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        except (OSError, ValueError, OverflowError, MemoryError):
            return 0
        tensors = (one for key, one in header.items() if key != "__metadata__")
        total += sum(math.prod(one["shape"]) for one in tensors)
    return total
