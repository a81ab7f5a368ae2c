"""The chain of evidence: which model files, which versions, so that someone else can repeat it."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnemoscope import __version__
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.errors import UserError

if TYPE_CHECKING:
    from mnemoscope.lm.language_model import LanguageModel

__all__ = [
    "SCHEMA_VERSION",
    "file_sha256",
    "model_facts",
    "model_files",
    "record_head",
    "versions",
]

SCHEMA_VERSION = 1
"""Of `audit.json` and `spans.parquet`; raised when a column or key changes its meaning."""

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "polars", "numba", "scipy")
_READERS = ("pypdf", "python-docx", "inscriptis")
_MODEL_FILES = ("*.safetensors", "*.json", "*.gguf", "*.model")


def record_head(
    key: str,
    command: Sequence[str],
    settings: AuditSettings,
    encoding: str,
    *,
    model: Mapping[str, Any],
    reference: Mapping[str, Any] | None = None,
    cnn: Mapping[str, Any] | None = None,
    api: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `audit.json` begins with: who asked whom, how, and by which versions.

    Args:
        key: hash of everything that decides what the audit says.
        command: as it was given.
        settings: of the audit.
        encoding: in which text files were read.
        model: as `model_facts`.
        reference: as `model_facts`, None without one.
        cnn: as `CnnGround.facts`, None where no study was asked.
        api: what a service gave and what not; None of a model that ran here, and then no key.
    """
    return {
        "schema": "mnemoscope audit",
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "command": [one.encode("utf-8", "backslashreplace").decode() for one in command],
        "versions": versions(),
        "model": model,
        "reference": reference,
        "cnn": cnn,
        **({} if api is None else {"api": api}),
        "settings": settings.model_dump(),
        "encoding": encoding,
    }


def versions() -> dict[str, str]:
    """Versions of Python, of mnemoscope and of the packages that the figures depend on."""
    found = {"mnemoscope": __version__, "python": platform.python_version()}
    for package in (*_PACKAGES, *_READERS):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def model_facts(lm: "LanguageModel", name: str) -> dict[str, Any]:
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
        "files": model_files(Path(lm.name)),
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


def model_files(place: Path) -> dict[str, str]:
    """SHA-256 of each file of a local model, by name; empty where `place` is none.

    Args:
        place: a model's folder, or one file.
    """
    if place.is_file():
        return {place.name: file_sha256(place)}
    if not place.is_dir():
        return {}
    found = sorted({path for pattern in _MODEL_FILES for path in place.glob(pattern)})
    return {path.name: file_sha256(path) for path in found if path.is_file()}
