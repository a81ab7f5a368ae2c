"""A trained CNN as one file: safetensors, with all that is not a tensor as JSON in its header.

Equal runs give equal bytes: no time, place or version is inside.
"""

import hashlib
import json
from collections.abc import Mapping
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
from mnemoscope.parse import parse_json

FORMAT_VERSION = 1
_SHA256, _SEAL, _PLACE = "sha256", "facts_sha256", "place"
_HEADER_KEY = "mnemoscope_cnn"  # a single key: the order of several is not fixed
_REPAIR = "Delete it and run 'mnemoscope train --redo': only this CNN is trained anew."


def save_cnn(path: Path | str, trained: TrainedCnn, *, place: str | None = None) -> None:
    """Write a trained CNN, without its `seconds`, whole or not at all.

    `place` is a name that `load_cnn` asks for again, so that no other file stands in its place.

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
    write_bytes(path, sealed_tensors(tensors, _HEADER_KEY, facts, place))


def sealed_tensors(
    tensors: Mapping[str, Tensor], header: str, facts: Mapping[str, Any], place: str | None
) -> bytes:
    """Safetensors with facts under a key of their header, a SHA-256 of both, and their place."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    said = {**facts, _SHA256: _digest(whole)} | ({} if place is None else {_PLACE: place})
    text = json.dumps(said, sort_keys=True)
    seal = hashlib.sha256(text.encode()).hexdigest()
    data: bytes = save(whole, metadata={header: json.dumps(said | {_SEAL: seal}, sort_keys=True)})
    return data


def read_tensors(
    path: Path, header: str, place: str | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `sealed_tensors` made; files of earlier versions say less of themselves.

    Raises:
        OSError, SafetensorError: missing, cut short or no safetensors.
        KeyError: no facts under this key.
        ValueError: altered, or a file that was made for another place.
    """
    data = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        facts = parse_json((file.metadata() or {})[header])
    if not isinstance(facts, dict):
        raise ValueError("its facts are no record")
    tensors: dict[str, Tensor] = load(data)
    seal = facts.pop(_SEAL, None)
    if seal not in (None, hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()):
        raise ValueError("its facts were altered")
    if facts.pop(_SHA256, None) not in (None, _digest(tensors)):
        raise ValueError("its numbers were altered")
    if place is not None and (found := facts.pop(_PLACE, place)) != place:
        raise ValueError(f"made as {found}, for another place")
    return tensors, facts


def load_cnn(path: Path | str, *, place: str | None = None) -> TrainedCnn:
    """Read a trained CNN onto the CPU; it gives the saved one's logits, bit for bit.

    Raises:
        UserError: no such file, or one of a later format.
        DamagedDataError: cut short, altered, or no CNN at all.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Train the CNN with 'mnemoscope train --redo'.")
    try:
        tensors, facts = read_tensors(path, _HEADER_KEY, place)
    except KeyError as error:
        raise DamagedDataError(f"{path}: no CNN of mnemoscope. {_REPAIR}") from error
    except ValueError as error:
        raise DamagedDataError(f"{path}: {error}. {_REPAIR}") from error
    except (SafetensorError, OSError) as error:
        raise DamagedDataError(f"{path}: cut short or altered. {_REPAIR}") from error
    if facts.get("format") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format {facts.get('format')}, this version reads {FORMAT_VERSION}. "
            "Use the version of mnemoscope that wrote it, or train again."
        )
    try:
        return _rebuild(facts, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # of a torn header
        raise DamagedDataError(f"{path}: no CNN that fits its facts. {_REPAIR}") from error


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
