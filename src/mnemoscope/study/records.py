"""What `study.yaml` holds beside the settings, as far as anything reads it; the rest is free."""

from typing import NotRequired

from pydantic import NonNegativeInt
from typing_extensions import TypedDict


class Model(TypedDict):
    """A model, in `study.yaml`."""

    name: str
    fingerprint: str
    dtype: str
    n_layers: NonNegativeInt
    n_heads: NonNegativeInt


class _Record(TypedDict):
    study_version: int
    models: dict[str, Model]
    versions: NotRequired[dict[str, str]]
    tokens: NotRequired[str]


class WithRecord(TypedDict):
    """`study.yaml`, whose settings are checked elsewhere."""

    record: _Record
