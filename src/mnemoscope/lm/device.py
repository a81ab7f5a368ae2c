"""Devices and dtypes by name, checked before anything is loaded onto them."""

import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.names import check_device_name, check_dtype_name

__all__ = ["check_dtype", "find_device"]


def check_dtype(name: str) -> str | torch.dtype:
    """Turn a dtype's name into what transformers takes.

    Args:
        name: ``float32``, ``float16``, ``bfloat16``, or ``auto``: as the weights are stored.

    Raises:
        UserError: another name.
    """
    check_dtype_name(name)
    return (
        "auto"
        if name == "auto"
        else {
            "float32": torch.float32,
            "float16": torch.float16,
            "bfloat16": torch.bfloat16,
        }[name]
    )


def find_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into a device that is there.

    Raises:
        UserError: an unknown name, or a device that this machine (or this torch) has not.
    """
    check_device_name(name)
    kind, _, index = name.partition(":")
    if name == "auto":
        return torch.device(_best_kind())
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device '{name}': torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices. Use --device cpu, or install a torch built for CUDA."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps': not on this machine. Use --device cpu.")
    return torch.device(name)


def _best_kind() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
