"""PEFT adapters: a folder with `adapter_config.json` is its base model with the adapter merged in.

Merged and not wrapped: what is captured is then the plain code of the base model's family.
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnemoscope.errors import UserError

__all__ = ["Adapter", "find_adapter", "merge_adapter"]

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk.

    Attributes:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        base: folder or hub name of the model that it was trained on.
        revision: hub revision of the base, or None.
    """

    folder: Path
    base: str
    revision: str | None


def find_adapter(name: str | Path) -> Adapter | None:
    """Say which adapter a folder holds; None for anything that is no such folder.

    Raises:
        UserError: it names no base model, holds pickled weights only, or `peft` is not installed.
    """
    folder = Path(name).expanduser()
    if not (folder / _CONFIG).is_file():
        return None
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    if not base or not isinstance(base, str):
        raise UserError(f"{name}: {_CONFIG} names no base model. Copy the adapter again.")
    if not (folder / _WEIGHTS).is_file():
        raise UserError(
            f"{name}: holds no {_WEIGHTS}; pickled weights are not read. Save the adapter with "
            "PEFT's save_pretrained."
        )
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"{name}: a PEFT adapter needs peft: pip install 'mnemoscope[peft]'")
    return Adapter(folder, base, config.get("revision"))


def merge_adapter(model: Any, adapter: Adapter) -> Any:
    """Add an adapter's weights to its base model.

    Args:
        model: the base model as loaded, changed in place.
        adapter: of `find_adapter`.

    Returns:
        A plain `PreTrainedModel` without any module of PEFT.

    Raises:
        UserError: a kind of adapter that cannot be merged (prompts, prefixes), or one of another
            model.
    """
    from peft import PeftModel

    try:
        merged = PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload()
    except (AttributeError, ValueError, KeyError, RuntimeError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"{adapter.folder}: cannot be merged into {adapter.base} ({reason}). Adapters of "
            "weights (LoRA and its kin) can, prompts and prefixes cannot."
        ) from error
    return merged
