"""A device that computes nothing and counts what waits for it: copies to it, from it, and reads.

torch's device `meta` has shapes and no values; what would wait for an accelerator is seen by its
operator, and what would come back from it is ones.
"""

import sys
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")


class Counted(TorchDispatchMode):
    """`n["to"]` copies to the device, `n["from"]` copies from it, `n["wait"]` other waits."""

    def __init__(self) -> None:
        super().__init__()
        self.n: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        given = [one for one in args if isinstance(one, torch.Tensor)]
        are_far = [one.device == DEVICE for one in given]
        if name in ("_to_copy", "to") and kwargs.get("device") is not None:
            to = torch.device(kwargs["device"])
            self.n["to"] += to == DEVICE and not are_far[0]
            if to.type == "cpu" and are_far[0]:
                self.n["from"] += 1
                return torch.ones(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype)
        elif name == "copy_" and are_far[0] != are_far[1]:
            self.n["to" if are_far[0] else "from"] += 1
            return given[0]
        elif name in ("_local_scalar_dense", "item", "is_nonzero") and are_far[0]:
            self.n["wait"] += 1
            return 0
        elif name in ("nonzero", "masked_select", "_unique2") and are_far[0]:
            self.n["wait"] += 1  # of how many there are: all
            return torch.empty(len(given[0]), given[0].ndim, dtype=torch.int64, device=DEVICE)
        elif name == "_fused_adamw_":  # it has no shapes to tell
            return None
        if name in ("index", "index_put_") and are_far[0]:
            masks = [one for one in args[1] if one is not None and one.dtype == torch.bool]
            self.n["wait"] += len(masks)  # of how many there are
        return func(*args, **kwargs)


def count_waits(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """A mode under which CNNs train on `DEVICE`, whose random streams are torch's own."""
    for place in ("network", "steps"):
        monkeypatch.setattr(f"mnemoscope.cnn.{place}.make_generator", _generator)
    optimizer = sys.modules["torch.optim.optimizer"]  # torch.optim has no such attribute
    kinds = ["cpu", DEVICE.type]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: list(kinds))
    return Counted()


def _generator(seed: int, device: torch.device) -> torch.Generator | None:
    return None if device == DEVICE else torch.Generator(device=device).manual_seed(seed)
