"""What `study.yaml` holds beside the settings, as far as anything reads it; the rest is free."""

from typing import NotRequired

from pydantic import NonNegativeInt
from typing_extensions import TypedDict


class Model(TypedDict):
    """A model, in `study.yaml`."""

    name: str
    revision: str | None
    fingerprint: str
    dtype: str
    device: str
    device_map: str | None
    quantization: str | None
    n_layers: NonNegativeInt
    n_heads: NonNegativeInt
    vocab_size: int
    bos_id: int | None
    max_positions: int | None


class StudyRecord(TypedDict):
    """What a study knows of itself."""

    study_version: int
    models: dict[str, Model]
    versions: NotRequired[dict[str, str]]
    tokens: NotRequired[str]


class WithRecord(TypedDict):
    """`study.yaml`, whose settings are checked elsewhere."""

    record: StudyRecord
