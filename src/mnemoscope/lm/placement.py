"""A model spread over devices by accelerate (`device_map`), or quantized by bitsandbytes.

Each layer computes where its weights are, or where accelerate brings them from memory or disk.
"""

import hashlib
import json
import os
import timeit
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from mnemoscope.errors import UserError, check_installed, nearest
from mnemoscope.lm.hub import ROWS, check_device_name, check_dtype_name
from mnemoscope.progress import say

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")

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
# Where quantized weights lie or are kept, not what is computed with them. Which
# modules are left as they were shows in the state dict.
_STORAGE = {
    "_load_in_4bit",
    "_load_in_8bit",
    "bnb_4bit_quant_storage",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_skip_modules",
}
_MAX_THREADS = 8
_TOKENS_ON_ACCELERATOR = 65_536


def check_dtype(name: str) -> str | torch.dtype:
    """Turn ``float32``, ``float16``, ``bfloat16`` or ``auto`` into what transformers takes."""
    check_dtype_name(name)
    return name if name == "auto" else getattr(torch, name)


def find_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1` or `mps` into a device that exists, else UserError."""
    check_device_name(name := str(name))
    kind, _, index = name.partition(":")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device '{name}': torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices. Use --device cpu, or install a torch built for CUDA."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps': not on this machine. Use --device cpu.")
    return torch.device(name)


def rows_at_once(batch_size: int | None, device: str, length: int) -> int:
    """Sequences of `length` tokens a forward pass; without a number 64 on a processor.

    On an accelerator 65,536 tokens, 1,024 sequences of 64, or what fits: batches are halved
    where memory runs out.
    """
    if batch_size is not None:
        return batch_size
    return ROWS if device == "cpu" else max(1, _TOKENS_ON_ACCELERATOR // length)


def find_cnn_device(name: str) -> torch.device:
    """As `find_device`, but `auto` is CUDA or the processor: no CNN was ever measured on mps."""
    is_plain = name == "auto" and not torch.cuda.is_available()
    return find_device("cpu" if is_plain else name)


def slowdown(dtype: torch.dtype) -> float:
    """How many times longer a matrix product takes on this processor than in float32.

    Processors without instructions for bfloat16 or float16 emulate them, 70 times slower on some.
    """

    def seconds(kind: torch.dtype) -> float:
        matrix = torch.ones(256, 256, dtype=kind)
        return min(timeit.repeat(lambda: matrix @ matrix, number=1, repeat=3))

    return seconds(dtype) / seconds(torch.float32)


def warn_if_emulated(dtype: torch.dtype, device: torch.device) -> None:
    """Say it where a processor only emulates the `dtype` that was asked for to save time."""
    if device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return
    factor = slowdown(dtype)
    if factor > 3:
        name = str(dtype).removeprefix("torch.")
        say(
            f"{name}: this processor only emulates it; matrix products take about {factor:.0f} "
            "times longer than in float32. Use --dtype float32 unless memory is short."
        )


def check_device_map(
    device_map: str | Mapping[str, int | str], *, device: str = "auto"
) -> str | dict[str, int | str]:
    """Check a user's `device_map` and return it ready for `from_pretrained`.

    It is one of `DEVICE_MAPS`, or gives each module a device: `cpu`, `disk`, a CUDA number or name.
    Raises UserError: another name, a device that is not there, a `device` other than `auto` beside
    the map, or accelerate is not installed.
    """
    if device != "auto":
        raise UserError(f"device '{device}' and a device_map: give one of the two.")
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        raise UserError(
            f"device_map '{device_map}' is not one of {', '.join(DEVICE_MAPS)}, nor a device for "
            f"each module.{nearest(device_map, DEVICE_MAPS)}"
        )
    check_installed("a device_map needs", "accelerate", extra="devices")
    if isinstance(device_map, str):
        return device_map
    for where in device_map.values():
        if where != "disk":
            find_device(f"cuda:{where}" if isinstance(where, int) else where)
    return dict(device_map)


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
    """How the weights in memory are quantized; empty for plain ones, as GGUF's are once read."""
    if getattr(model, "hf_quantizer", None) is None:
        return {}
    config = model.config.quantization_config
    settings = config if isinstance(config, dict) else config.to_dict()
    method = settings.get("quant_method", "unknown")
    name = str(getattr(method, "value", method))
    return {} if name == "gguf" else {**settings, "quant_method": name}


def describe_quantization(model: Any) -> str | None:
    """As `bitsandbytes 4bit nf4 twice` (the scales too), `computed in bfloat16`; None if plain."""
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


def fingerprint_model(model: Any) -> str:
    """SHA-256, in hexadecimal, of the weights as loaded and the configuration.

    Covers sorted names, dtypes, shapes and digests of the state dict and the JSON of what the
    configuration sets, without volatile keys. Files are not hashed: that would depend on sharding
    and fail for models made in memory. The loaded dtype counts, since it changes what is computed,
    and so do bitsandbytes' compute settings, which no weight shows. On a processor bitsandbytes may
    pack 4-bit weights anew in the first forward pass: take the fingerprint before it.
    """
    tensors = sorted(model.state_dict().items())
    if any(tensor.device.type == "meta" for _, tensor in tensors):
        digests = [tensor_digest(_present(model, name, tensor)) for name, tensor in tensors]
    else:
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(lambda item: tensor_digest(item[1]), tensors))
    whole = hashlib.sha256(_stable_config(model).encode())
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


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def _stable_config(model: Any) -> str:
    """What the configuration sets apart from its family's defaults, at every depth, as JSON."""
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
    return json.dumps(stable, sort_keys=True)


def _without_volatile(value: Any) -> Any:
    """Drop volatile keys at every depth (composite models nest configurations)."""
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list):
        return [_without_volatile(item) for item in value]
    return value
