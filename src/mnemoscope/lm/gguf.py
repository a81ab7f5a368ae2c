"""Convert a GGUF file into an ordinary model folder, once: loading it is then many times faster."""

from pathlib import Path
from typing import Any

from mnemoscope.files import atomic_folder, refuse_existing
from mnemoscope.lm.load import load_model
from mnemoscope.lm.placement import quiet_transformers
from mnemoscope.progress import say


def convert_gguf(file: str | Path, folder: str | Path) -> Path:
    """Write a GGUF model as config, safetensors and tokenizer, and return the folder.

    Weights are stored dequantized in float32: same numbers and fingerprint as the file itself, four
    bytes a weight. `folder` must not exist; it appears only when it is complete.

    Raises:
        UserError: the folder exists, the file holds no model, or gguf is not installed.
        NoRoomError: the disk is full.
    """
    refuse_existing(Path(folder))
    say(f"Reading {file} and dequantizing its weights; this can take minutes")
    lm = load_model(file, device="cpu")
    say(f"Writing {sum(one.numel() for one in lm.model.parameters()):,} parameters to {folder}")
    with atomic_folder(folder) as temporary, quiet_transformers():
        _fresh_copy(lm.model).save_pretrained(temporary)
        lm.tokenizer.save_pretrained(temporary)
    return Path(folder)


def _fresh_copy(model: Any) -> Any:
    """The same weights in a model that may be saved: `save_pretrained` refuses one from GGUF."""
    config = type(model.config).from_dict(model.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = type(model)(config)
    fresh.load_state_dict(model.state_dict())
    return fresh.to(model.dtype)
