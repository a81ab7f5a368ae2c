"""The CNN: network, presets, training, prediction, metrics and their intervals.

`train_cnn` trains one on a map source, `predict_logits` uses it, `scores` and
`bootstrap_scores` judge it, `choose_calibration` makes its scores probabilities,
`save_cnn` and `load_cnn` keep it.
"""

from importlib import import_module
from typing import Any

_HOMES = {  # resolved on first use: importing the room loads no torch
    "PAPER_GRID": "presets",
    "PRESETS": "presets",
    "AttentionCnn": "network",
    "Calibration": "calibration",
    "CnnSetting": "presets",
    "TrainedCnn": "trained",
    "TrainingHistory": "trained",
    "TrainingPreset": "presets",
    "apply_calibration": "calibration",
    "bootstrap_difference": "intervals",
    "bootstrap_scores": "intervals",
    "brier": "calibration",
    "choose_calibration": "calibration_choice",
    "confusion_matrix": "metrics",
    "ece": "calibration",
    "f1_per_class": "metrics",
    "fit_calibration": "calibration",
    "get_preset": "presets",
    "load_cnn": "files",
    "min_f1": "metrics",
    "precision_recall": "metrics",
    "predict_logits": "prediction",
    "save_cnn": "files",
    "scores": "metrics",
    "train_cnn": "training",
}

__all__ = [
    "PAPER_GRID",
    "PRESETS",
    "AttentionCnn",
    "Calibration",
    "CnnSetting",
    "TrainedCnn",
    "TrainingHistory",
    "TrainingPreset",
    "apply_calibration",
    "bootstrap_difference",
    "bootstrap_scores",
    "brier",
    "choose_calibration",
    "confusion_matrix",
    "ece",
    "f1_per_class",
    "fit_calibration",
    "get_preset",
    "load_cnn",
    "min_f1",
    "precision_recall",
    "predict_logits",
    "save_cnn",
    "scores",
    "train_cnn",
]


def __getattr__(name: str) -> Any:
    """Load a name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
