"""A model spread over several devices by accelerate (`device_map`), or quantized by bitsandbytes.

Each layer computes where its weights are, or where accelerate brings them for the moment (from
memory or disk); what is captured there is gathered on the way out.
"""

import importlib.util
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from mnemoscope.errors import UserError, nearest
from mnemoscope.lm.device import find_device

__all__ = [
    "DEVICE_MAPS",
    "check_bitsandbytes",
    "check_device_map",
    "describe_device_map",
    "describe_quantization",
    "input_device",
    "is_spread",
    "quantization_settings",
]

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def check_device_map(
    device_map: str | Mapping[str, int | str], *, device: str = "auto"
) -> str | dict[str, int | str]:
    """Check what a user wrote as `device_map`, as transformers' `from_pretrained` takes it.

    Args:
        device_map: one of `DEVICE_MAPS`, or for each module of the model its device: ``cpu``,
            ``disk``, a CUDA device's number or name.
        device: the device asked for beside it; only ``auto`` goes with a map.

    Returns:
        The same, ready for transformers.

    Raises:
        UserError: another name, a device that is not there, a device beside the map, or
            accelerate is not installed.
    """
    if device != "auto":
        raise UserError(f"device '{device}' and a device_map: give one of the two.")
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        raise UserError(
            f"device_map '{device_map}' is not one of {', '.join(DEVICE_MAPS)}, nor a device for "
            f"each module.{nearest(device_map, DEVICE_MAPS)}"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise UserError("a device_map needs accelerate: pip install 'mnemoscope[devices]'")
    if isinstance(device_map, str):
        return device_map
    for where in device_map.values():
        if where != "disk":
            find_device(f"cuda:{where}" if isinstance(where, int) else where)
    return dict(device_map)


def check_bitsandbytes(name: str) -> None:
    """Refuse weights that bitsandbytes has quantized where it cannot be used.

    Raises:
        UserError: bitsandbytes or accelerate is not installed.
    """
    missing = [one for one in ("bitsandbytes", "accelerate") if not importlib.util.find_spec(one)]
    if missing:
        raise UserError(
            f"{name}: quantized weights (bitsandbytes) need {' and '.join(missing)}: "
            "pip install 'mnemoscope[bitsandbytes]'"
        )


def is_spread(model: Any) -> bool:
    """True of a model whose modules accelerate has put on more than one device."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def input_device(model: Any) -> torch.device:
    """Where a model wants its token ids: the device on which its embedding computes."""
    embedding = model.get_input_embeddings()
    device = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return next(embedding.parameters()).device if device is None else torch.device(device)


def describe_device_map(model: Any) -> str | None:
    """How many modules are where, as ``cuda:0: 13, disk: 2 modules``; None on one device."""
    if not is_spread(model):
        return None
    devices = model.hf_device_map.values()
    named = (f"cuda:{one}" if isinstance(one, int) else str(one) for one in devices)
    return ", ".join(f"{name}: {count}" for name, count in Counter(named).items()) + " modules"


def quantization_settings(model: Any) -> dict[str, Any]:
    """How the weights in memory are quantized, as transformers records it; empty where not.

    Those of a GGUF file are not: they are read into plain ones.
    """
    if getattr(model, "hf_quantizer", None) is None:
        return {}
    config = model.config.quantization_config
    settings: dict[str, Any] = config if isinstance(config, dict) else config.to_dict()
    method = settings.get("quant_method", "unknown")
    name = str(getattr(method, "value", method))
    return {} if name == "gguf" else {**settings, "quant_method": name}


def describe_quantization(model: Any) -> str | None:
    """As ``bitsandbytes 4bit nf4 twice, computed in bfloat16``; None of plain weights.

    Twice: the scales of the quantized weights are quantized too.
    """
    settings = quantization_settings(model)
    if not settings:
        return None
    words = [settings["quant_method"]]
    if settings.get("load_in_8bit"):
        words.append("8bit")
    if settings.get("load_in_4bit"):
        words += ["4bit", str(settings.get("bnb_4bit_quant_type", ""))]
        words += ["twice"] if settings.get("bnb_4bit_use_double_quant") else []
        words[-1] += f", computed in {settings.get('bnb_4bit_compute_dtype', 'float32')}"
    return " ".join(word for word in words if word)
