"""A trained CNN as one file: safetensors, with all that is not a tensor as JSON in its header.

Equal runs give equal bytes: no time, place or version is inside.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import CnnSetting, TrainingPreset
from mnemoscope.cnn.training import Scaling, TrainedCnn, TrainingHistory
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import write_bytes

FORMAT_VERSION = 1
_HEADER_KEY = "mnemoscope_cnn"  # a single key: the order of several is not fixed
_REPAIR = "Delete it and run 'mnemoscope train --redo': only this CNN is trained anew."


def save_cnn(path: Path | str, trained: TrainedCnn) -> None:
    """Write a trained CNN, without its `seconds`, whole or not at all.

    Raises:
        NoRoomError: the disk is full.
        UserError: the folder is missing or cannot be written to.
    """
    network, scaling = trained.network, trained.scaling
    numbers = {f"network.{name}": value for name, value in network.state_dict().items()}
    if scaling.mean is not None and scaling.inverse_deviation is not None:
        numbers["scaling.mean"] = scaling.mean
        numbers["scaling.inverse_deviation"] = scaling.inverse_deviation
    # In plain order of memory.
    tensors = {name: value.detach().cpu().contiguous() for name, value in numbers.items()}
    facts = {
        "format": FORMAT_VERSION,
        "sha256": _digest(tensors),
        "n_layers": network.n_layers,
        "n_classes": network.n_classes,
        "length": network.length,
        "clamp": scaling.clamp,
        **({"prefix": scaling.prefix} if scaling.over_rows else {}),
        "setting": asdict(trained.setting),
        "preset": asdict(trained.preset),
        "seed": trained.seed,
        "history": asdict(trained.history),
    }
    header = {_HEADER_KEY: json.dumps(facts, sort_keys=True)}
    write_bytes(path, save(tensors, metadata=header))


def load_cnn(path: Path | str) -> TrainedCnn:
    """Read a trained CNN onto the CPU; it gives the saved one's logits, bit for bit.

    Raises:
        UserError: no such file, or one of a later format.
        DamagedDataError: cut short, altered, or no CNN at all.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Train the CNN with 'mnemoscope train --redo'.")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_HEADER_KEY])
        tensors = load(path.read_bytes())
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        reason = "no CNN of mnemoscope" if isinstance(error, KeyError) else "cut short or altered"
        raise DamagedDataError(f"{path}: {reason}. {_REPAIR}") from error
    if facts.get("format") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format {facts.get('format')}, this version reads {FORMAT_VERSION}. "
            "Use the version of mnemoscope that wrote it, or train again."
        )
    if facts["sha256"] != _digest(tensors):
        raise DamagedDataError(f"{path}: its numbers were altered. {_REPAIR}")
    return _rebuild(facts, tensors)


def _rebuild(facts: dict[str, Any], tensors: dict[str, Tensor]) -> TrainedCnn:
    """Put a CNN together again."""
    setting, preset = CnnSetting(**facts["setting"]), TrainingPreset(**facts["preset"])
    with torch.random.fork_rng(devices=[]):  # weights are drawn, then replaced
        network = AttentionCnn.of_setting(
            setting, preset, facts["n_layers"], facts["n_classes"], length=facts["length"]
        )
    own = {name.partition(".")[2]: one for name, one in tensors.items() if name[:8] == "network."}
    network.load_state_dict(own)
    scaling = Scaling(
        tensors.get("scaling.mean"),
        tensors.get("scaling.inverse_deviation"),
        facts["clamp"],
        facts.get("prefix"),
    )
    history = TrainingHistory(**facts["history"] | {"loss": tuple(facts["history"]["loss"])})
    return TrainedCnn(network.eval(), scaling, setting, preset, facts["seed"], history)


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes of all tensors, by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
