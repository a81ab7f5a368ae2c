"""The stages of a study in order: what each needs, which settings decide it, what it writes."""

from dataclasses import dataclass
from typing import Any

__all__ = ["NEUTRAL", "STAGES", "TABLE_FILE", "Stage", "stage_named"]

TABLE_FILE = "sequences.parquet"


@dataclass(frozen=True)
class Stage:
    """One step of the flow: what it needs, and which settings decide its output."""

    name: str
    needs: tuple[str, ...]
    settings: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    optional: bool = False  # made by its own verb, not by `run`


_MODEL = tuple(
    f"model.{key}" for key in ("name", "revision", "dtype", "device", "device_map", "bos")
)
_TOKENS = ("sequences", "model.name", "model.revision")
_CNN_SETTINGS = ("preset", "kernels", "filters", "poolings", "seeds", "device")
_FIRST_CNN = ("preset", "kernels", "filters", "poolings", "device")
_TRAIN = tuple(f"train.{key}" for key in _CNN_SETTINGS)

_CONTROLS = ("controls", "control_seeds", "control_taxonomies", "control_settings", "seed")
# Settings that came later, each with the value under which a stage gives what it gave without.
NEUTRAL: dict[str, Any] = {
    "model.device_map": None,
    "sequences.pad": False,
    "label.both_splits": False,
    "capture.per_head": False,
    "train.device": "cpu",
    "benchmark.control_taxonomies": None,
    "benchmark.control_settings": 1,
    "localize.attribution_sequences": 32,  # gradient and guided read all, as ever
    "localize.seed": 0,
    "localize.correct_only": True,
    "localize.sanity": True,
}

STAGES: tuple[Stage, ...] = (
    Stage("sequences", (), _TOKENS, (TABLE_FILE,)),
    Stage("continue", ("sequences",), (*_MODEL, "continue.scan")),
    Stage("features", ("sequences",), ("features",)),
    Stage("label", ("continue", "features"), ("label",), ("labels.parquet", "samples.parquet")),
    Stage(
        "capture",
        ("label",),
        (*_MODEL, "capture.reference", "capture.per_head", "benchmark.controls"),
        ("maps",),
    ),
    Stage(
        "train",
        ("label", "capture"),
        (*_TRAIN, *(f"benchmark.{key}" for key in _CONTROLS)),
        ("cnn", "predictions.parquet", "runs.parquet"),
    ),
    Stage(
        "benchmark",
        ("train",),
        ("benchmark",),
        ("benchmark.parquet", "inputs.parquet", "comparison.parquet"),
    ),
    Stage(
        "localize",
        ("train",),
        ("localize",),
        ("decisiveness.safetensors", "regions.parquet", "agreement.parquet", "attention.parquet"),
    ),
    Stage("knockout", ("localize",), ("knockout",), ("knockout.parquet",), optional=True),
    Stage(
        "search",
        ("capture",),
        ("search", *(f"train.{key}" for key in _FIRST_CNN), "label.non_memo_suffix"),
        ("search.parquet", "search.yaml"),
        optional=True,
    ),
    Stage("report", ("benchmark", "localize"), ("title",), ("report.html",)),
)


def stage_named(name: str) -> Stage:
    """The stage of this name (KeyError for a name that is none of ours)."""
    return {stage.name: stage for stage in STAGES}[name]
