"""Where a model is: a local folder, a GGUF file, or a name on the hub; refusals before loading."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnemoscope.errors import UserError

__all__ = ["Source", "find_source"]

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "*.model",
    "vocab.json",
    "vocab.txt",
    "*.tiktoken",
    "tekken.json",
)


@dataclass(frozen=True)
class Source:
    """What to hand to transformers.

    Attributes:
        name: what the user called it, for messages.
        location: folder or hub name.
        gguf_file: name of the GGUF file inside the folder, or None.
        is_local: False for a hub name.
        revision: hub revision, or None.
    """

    name: str
    location: str
    gguf_file: str | None
    is_local: bool
    revision: str | None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that every `from_pretrained` of this source takes."""
        found = {"gguf_file": self.gguf_file, "revision": self.revision}
        return {key: value for key, value in found.items() if value is not None}


def find_source(
    name: str | Path, revision: str | None = None, *, needs_weights: bool = True
) -> Source:
    """Find out what a name stands for and refuse what cannot be a model.

    Args:
        name: a folder, a ``.gguf`` file, a folder holding one, or a hub name.
        revision: hub branch, tag or commit.
        needs_weights: False where only the tokenizer is wanted.

    Returns:
        The source; a hub name is not looked up yet.

    Raises:
        UserError: nothing there, not a model folder, only pickled weights, no tokenizer, several
            GGUF files, or a revision of something local.
    """
    path = Path(name).expanduser()
    if revision is not None and path.exists():
        raise UserError(
            f"{name}: a local model has no revision '{revision}'. Leave --revision out."
        )
    if path.is_dir():
        return _folder(str(name), path, needs_weights)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise UserError(f"{name}: a file, but not .gguf. Give the folder that the model is in.")
        return Source(str(name), str(path.parent), path.name, True, None)
    if path.suffix.lower() == ".gguf" or not _HUB_NAME.fullmatch(str(name)):
        raise UserError(f"{name}: no such model folder or file. Check the path.")
    return Source(str(name), str(name), None, False, revision)


def _folder(name: str, folder: Path, needs_weights: bool) -> Source:
    if not (folder / "config.json").is_file():
        return Source(name, str(folder), _only_gguf(name, folder), True, None)
    _check_config(name, folder / "config.json")
    if needs_weights:
        _check_weights(name, folder)
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise UserError(
            f"{name}: holds no tokenizer (tokenizer.json). Copy the files of the model's tokenizer "
            "into the folder."
        )
    return Source(name, str(folder), None, True, None)


def _only_gguf(name: str, folder: Path) -> str:
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if not found:
        raise UserError(
            f"{name}: no config.json and no .gguf file, so no model. Give a folder as saved by "
            "transformers' save_pretrained."
        )
    if len(found) > 1:
        raise UserError(f"{name}: holds {len(found)} .gguf files. Give one: {', '.join(found)}.")
    return found[0]


def _check_config(name: str, path: Path) -> None:
    try:
        is_object = isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        is_object = False
    if not is_object:
        raise UserError(f"{name}: config.json cannot be read as JSON. Copy the model again.")


def _check_weights(name: str, folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(any(folder.glob(pattern)) for pattern in _PICKLES):
        raise UserError(
            f"{name}: holds only pickled weights, which can run code when read. Save it as "
            "safetensors (transformers' save_pretrained does)."
        )
    raise UserError(f"{name}: holds no weights (*.safetensors). Copy the model again.")
