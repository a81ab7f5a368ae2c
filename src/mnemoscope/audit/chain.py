"""The chain of evidence: which model files, which versions, so that someone else can repeat it."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mnemoscope import __version__
from mnemoscope.errors import UserError
from mnemoscope.lm.language_model import LanguageModel

__all__ = ["SCHEMA_VERSION", "file_sha256", "model_facts", "versions"]

SCHEMA_VERSION = 1
"""Of `audit.json` and `spans.parquet`; raised when a column or key changes its meaning."""

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "polars", "rapidfuzz", "scipy")
_READERS = ("pypdf", "python-docx", "inscriptis")
_MODEL_FILES = ("*.safetensors", "*.json", "*.gguf", "*.model")


def versions() -> dict[str, str]:
    """Versions of Python, of mnemoscope and of the packages that the figures depend on."""
    found = {"mnemoscope": __version__, "python": platform.python_version()}
    for package in (*_PACKAGES, *_READERS):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def model_facts(lm: LanguageModel, name: str) -> dict[str, Any]:
    """What is recorded of a model.

    Args:
        lm: the model as loaded.
        name: what the user called it.

    Returns:
        Plain values; `fingerprint` is over weights and configuration as loaded, `files` holds the
        SHA-256 of each file of a local folder.
    """
    return {
        "name": name,
        "revision": lm.revision,
        "fingerprint": lm.fingerprint,
        "files": _files(Path(lm.name)),
        "dtype": lm.dtype,
        "device": lm.device,
        "bos_id": lm.bos_id,
        "vocab_size": lm.vocab_size,
    }


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal.

    Args:
        path: the file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error


def _files(place: Path) -> dict[str, str]:
    if place.is_file():
        return {place.name: file_sha256(place)}
    if not place.is_dir():
        return {}
    found = sorted({path for pattern in _MODEL_FILES for path in place.glob(pattern)})
    return {path.name: file_sha256(path) for path in found if path.is_file()}
