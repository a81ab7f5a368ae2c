"""What an audit can be told: window, threshold, sampling and the other prefixes of the prior."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mnemoscope.errors import DamagedDataError, UserError, nearest
from mnemoscope.files import read_parquet, write_json, write_parquet

# What an audit can be told: window, threshold, sampling and the other prefixes of the prior.


class AuditSettings(BaseModel):
    """Settings of one audit; they stand in `audit.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: int = Field(
        default=32, ge=1, description="Tokens of the document that the model is shown."
    )
    suffix: int = Field(default=32, ge=2, description="Tokens it is asked for.")
    stride: int = Field(default=8, ge=1, description="Tokens from one window to the next.")
    threshold: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of the suffix's tokens that makes a window a hit.",
    )
    refine_from: int = Field(
        default=8,
        ge=1,
        description="Around a window whose first tokens, this many, come out, every start is "
        "tried that the stride left out.",
    )
    max_growth: int = Field(
        default=128, ge=0, description="Tokens that a span may grow past a window."
    )
    patterns: Literal["published", "strict"] = Field(
        default="published", description="Mode of the rules for counting and repeating text."
    )
    temperature: float = Field(
        default=1.0, gt=0, description="Temperature of the sampling asked about."
    )
    top_k: int = Field(default=40, ge=0, description="Tokens it samples from; 0 is all.")
    probability: float = Field(
        default=0.9, gt=0, lt=1, description="Chance with which the tries are to give the text."
    )
    n_prefixes: int = Field(
        default=8, ge=0, description="Other prefixes of the prior; 0 leaves it out."
    )
    batch_size: int = Field(default=64, ge=1, description="Windows a forward pass.")
    chat_template: bool = Field(
        default=False,
        description="Speak to a chat-tuned model in its chat template: the text begins its answer.",
    )
    instruction: str = Field(
        default="Continue this text.",
        min_length=1,
        description="What the user of that chat asks for.",
    )
    seed: int = Field(default=0, description="Draws the other prefixes.")

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return self.prefix + self.suffix

    @property
    def n_allowed(self) -> int:
        """Tokens of the suffix that a hit may get wrong."""
        return min(int((1 - self.threshold) * self.suffix + 1e-9), self.suffix - 1)


def audit_settings(**values: Any) -> AuditSettings:
    """Check settings; None stands for the default.

    Args:
        values: fields of `AuditSettings`.

    Raises:
        UserError: an unknown name or a value out of range.
    """
    try:
        return AuditSettings(**{key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        hint = (
            nearest(name, AuditSettings.model_fields)
            if name not in (AuditSettings.model_fields)
            else ""
        )
        raise UserError(f"{name} {first['input']}: {first['msg'].lower()}.{hint}") from None


# Keep what an unfinished audit has done, part by part, so that a killed one goes on.

_KEY_FILE = "key.json"


class Parts:
    """The folder `parts/` of an audit.

    Args:
        out: the audit's folder.
        key: hash of everything that decides what the parts hold.

    Raises:
        UserError: the folder is a link, so that parts would be written elsewhere.
    """

    def __init__(self, out: Path, key: str) -> None:
        self._folder = out / "parts"
        if self._folder.is_symlink():
            raise UserError(f"{self._folder}: a link that leaves the output folder. Remove it.")
        if self._folder.exists() and _read_key(self._folder) != key:
            self.remove()
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / _KEY_FILE, {"key": key})

    def read(self, name: str) -> pl.DataFrame | None:
        """A part that an earlier run finished, None where there is none."""
        path = self._folder / f"{name}.parquet"
        try:
            return read_parquet(path) if path.is_file() else None
        except (OSError, DamagedDataError):
            return None  # torn or altered since: it is made again

    def write(self, name: str, frame: pl.DataFrame) -> None:
        """Keep a finished part."""
        write_parquet(self._folder / f"{name}.parquet", frame)

    def remove(self) -> None:
        """Leave nothing of the parts, once the audit stands."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _read_key(folder: Path) -> str | None:
    try:
        found = json.loads((folder / _KEY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("key") if isinstance(found, dict) else None
