"""What the records of a study hold, as far as anything reads it; what they hold besides is free."""

from typing import Annotated, Generic, NotRequired, TypeVar

from pydantic import AfterValidator, NonNegativeInt
from typing_extensions import TypedDict

_Counts = TypeVar("_Counts")


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


class Seals(TypedDict):
    """`tables.json`: the checksums that a table may carry, by name."""

    tables: dict[str, list[str]]


class Manifest(TypedDict, Generic[_Counts]):
    """The manifest of a stage."""

    key: str
    counts: _Counts
    tokens: NotRequired[str]


class _Split(TypedDict):
    name: str
    parts: dict[str, NonNegativeInt]
    kept_per_class: NonNegativeInt
    classes: dict[str, dict[str, NonNegativeInt]]


class Sequences(TypedDict):
    """What the manifest of `sequences` counts."""

    given: list[str]
    too_short: NotRequired[NonNegativeInt]
    split: NotRequired[_Split]
    split_duplicate_ids: NotRequired[NonNegativeInt]
    split_overlapping_ids: NotRequired[NonNegativeInt]


class _Check(TypedDict):
    checked: NotRequired[NonNegativeInt]
    disagree: NotRequired[NonNegativeInt]
    largest_gap_of_these: NotRequired[float | None]


class Continue(TypedDict):
    """What that of `continue` counts."""

    scan_check: NotRequired[_Check]


class _Sample(TypedDict):
    taxonomy: str
    published_name: str
    title: str
    note: str
    split_by: NotRequired[str]
    classes: list[str]
    meanings: list[str]
    counts: dict[str, NonNegativeInt]
    unlabelled: NonNegativeInt


class _Impossible(_Sample):
    impossible: str
    flags: NotRequired[str]


class _Trained(_Sample):
    trained_classes: list[str]
    dropped: list[str]
    n_train: NonNegativeInt
    n_eval: NonNegativeInt
    warnings: NotRequired[list[str]]


def _paired(entry: _Impossible | _Trained) -> _Impossible | _Trained:
    """Raise ValueError where classes and meanings are not as many."""
    if len(entry["classes"]) != len(entry["meanings"]):
        raise ValueError("not a meaning for each class")
    return entry


class _Alias(TypedDict):
    reason: str
    classes: list[NonNegativeInt]


class _Near(TypedDict):
    shingle: NonNegativeInt
    jaccard: float
    groups: NonNegativeInt
    sequences_with_relatives: NonNegativeInt
    largest_group: NonNegativeInt


class Label(TypedDict):
    """What that of `label` counts."""

    distinct_sequences: NonNegativeInt
    distinct_maps: NonNegativeInt
    maps_without_sharing: NonNegativeInt
    aliases: dict[str, str]
    alias_details: dict[str, _Alias]
    near_duplicates: _Near
    samples: dict[str, Annotated[_Impossible | _Trained, AfterValidator(_paired)]]


class Graft(TypedDict):
    """What that of `graft` counts."""

    heldout_loss: float | None  # none where nothing was held out
    parts: NotRequired[list[str]]


class Search(TypedDict):
    """What that of `search` counts."""

    memorized: NonNegativeInt
    memorized_train: NonNegativeInt
    memorized_select: NonNegativeInt
    memorized_final: NonNegativeInt
    proposed: NonNegativeInt
    tried: NonNegativeInt
    same: NonNegativeInt
    too_small: NonNegativeInt
    impossible_beside: dict[str, dict[str, NonNegativeInt]]
