"""What a study's CNNs say of a passage: the calibrated probability that it is Recall.

They look at the attention with which the audited model reads the window that speaks for a span,
as they did at the study's sequences: prefix and the document's own suffix, pooled over heads.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.cnn.calibration import Calibration, apply_calibration
from mnemoscope.cnn.prediction import predict_logits
from mnemoscope.cnn.trained import TrainedCnn
from mnemoscope.lm.capture import capture_pooled
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.maps.combined import StackedMaps
from mnemoscope.maps.dataset import MapSource, TensorMaps
from mnemoscope.maps.triangle import pack_triangle

__all__ = ["USABLE_POOLINGS", "CnnGround", "log_odds", "recall_probabilities"]

USABLE_POOLINGS = ("mean", "max", "both")
"""Poolings that the audited model alone gives; every head and a reference's maps are not kept."""

_LEAST = 1e-7  # a float32 softmax gives 0 below


@dataclass(frozen=True)
class CnnGround:
    """The CNNs of a study of the audited model, or why they give no probability.

    Attributes:
        facts: what `audit.json` holds under `cnn`; `reason` is None, or says in words why there
            is no probability.
        cnns: settings and seeds of one taxonomy; none where there is a reason.
        guess: class index of Guess in their outputs.
        recall: class index of Recall.
        calibration: fitted on evaluation sequences of the study.
    """

    facts: dict[str, Any]
    cnns: tuple[TrainedCnn, ...] = field(default=(), repr=False)
    guess: int = 0
    recall: int = 1
    calibration: Calibration | None = None


def recall_probabilities(
    ground: CnnGround | None,
    lm: LanguageModel,
    windows: npt.NDArray[np.int32],
    *,
    batch_size: int,
) -> list[float | None]:
    """Ask the CNNs about windows.

    Args:
        ground: None, or one without calibration, says nothing.
        lm: the audited model.
        windows: token ids, shape (n, length), of the length that the CNNs were trained on.
        batch_size: windows a forward.

    Returns:
        Calibrated probability of Recall, against Guess, of each window; None where nothing is
        said.
    """
    if ground is None or ground.calibration is None or not len(windows):
        return [None] * len(windows)
    maps = _capture(lm, windows, batch_size)
    softmax = [predict_logits(one, _seen_by(one, maps)).softmax(dim=1) for one in ground.cnns]
    average = torch.stack(softmax).mean(dim=0).double().numpy()
    odds = log_odds(average, guess=ground.guess, recall=ground.recall)
    return [float(value) for value in apply_calibration(ground.calibration, odds)]


def log_odds(
    probabilities: npt.NDArray[np.float64], *, guess: int, recall: int
) -> npt.NDArray[np.float64]:
    """Log-odds of Recall against Guess from class probabilities (n, classes); shape (n,)."""
    kept = np.maximum(np.asarray(probabilities, dtype=np.float64), _LEAST)
    return np.asarray(np.log(kept[:, recall]) - np.log(kept[:, guess]))


def _capture(
    lm: LanguageModel, windows: npt.NDArray[np.int32], batch_size: int
) -> dict[str, MapSource]:
    """Maps by pooling, at the precision in which a study keeps them."""
    packed: dict[str, list[torch.Tensor]] = {"mean": [], "max": []}
    for batch in capture_pooled(lm, windows, batch_size=batch_size):
        packed["mean"].append(pack_triangle(batch.mean).cpu().to(torch.float16))
        packed["max"].append(pack_triangle(batch.max).cpu().to(torch.float16))
    return {pooling: TensorMaps(torch.cat(rows)) for pooling, rows in packed.items()}


def _seen_by(cnn: TrainedCnn, maps: dict[str, MapSource]) -> MapSource:
    """The maps that one CNN looks at."""
    if cnn.setting.pooling == "both":
        return StackedMaps(maps["mean"], maps["max"])
    return maps[cnn.setting.pooling]
