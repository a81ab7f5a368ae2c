"""One hash for what a model computes with: its weights and its configuration, not its path."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from mnemoscope.lm.placement import quantization_settings

__all__ = ["fingerprint_model"]

# Keys that say where a model came from or how it is run, not what it computes.
_VOLATILE = {
    "_name_or_path",
    "_model_name_or_path",
    "architectures",
    "attn_implementation",
    "dtype",
    "output_attentions",
    "output_hidden_states",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
# Of how weights are quantized: where they lie or are kept, not what is computed with them. Which
# modules are left as they were shows in the state dict.
_STORAGE = {
    "_load_in_4bit",
    "_load_in_8bit",
    "bnb_4bit_quant_storage",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_skip_modules",
}
_MAX_THREADS = 8


def fingerprint_model(model: Any) -> str:
    """Hash the weights as loaded and the configuration.

    Always the state dict, also of big models: a hash of files would differ with their sharding
    and would not exist for a model made in memory. Tensors are hashed side by side (hashlib lets
    go of the interpreter lock), about as fast as they are read from disk. The loaded dtype is
    part of it: in float16 other numbers are computed than in float32. So is what bitsandbytes
    computes with (its dtype, kind of 4 bits, threshold of 8), which no weight shows.

    Args:
        model: a `PreTrainedModel`.

    Returns:
        SHA-256 in hexadecimal, over the sorted names, dtypes, shapes and digests of the state
        dict and the JSON of what the configuration sets, without volatile keys.
    """
    tensors = sorted(model.state_dict().items())
    if any(tensor.device.type == "meta" for _, tensor in tensors):
        digests = [_digest(_present(model, name, tensor)) for name, tensor in tensors]
    else:
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(lambda item: _digest(item[1]), tensors))
    whole = hashlib.sha256(json.dumps(_stable_config(model), sort_keys=True).encode())
    for (name, tensor), digest in zip(tensors, digests, strict=True):
        whole.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)} {digest}".encode())
    return whole.hexdigest()


def _present(model: Any, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with its values; accelerate keeps those of some modules in memory or on disk."""
    if tensor.device.type != "meta":
        return tensor
    from accelerate.utils import align_module_device

    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    with align_module_device(module, "cpu"):
        present: torch.Tensor = getattr(module, leaf).detach().clone()
    return present


def _digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def _stable_config(model: Any) -> dict[str, Any]:
    """What the configuration sets apart from its family's defaults, at every depth.

    Left at their defaults are keys that a later transformers adds: they must change no hash.
    """
    config = json.loads(model.config.to_json_string(use_diff=False))
    try:
        defaults = json.loads(type(model.config)().to_json_string(use_diff=False))
    except (TypeError, ValueError):  # a configuration class that cannot be made without arguments
        defaults = {}
    chosen = {key: value for key, value in config.items() if value != defaults.get(key)}
    stable = {"model_type": model.config.model_type, **_without_volatile(chosen)}
    quantization = quantization_settings(model)
    if quantization:
        kept = {key: str(value) for key, value in quantization.items() if key not in _STORAGE}
        stable["quantization"] = kept
    return stable


def _without_volatile(value: Any) -> Any:
    """Drop volatile keys at every depth (composite models nest configurations)."""
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list):
        return [_without_volatile(item) for item in value]
    return value
