"""A trained CNN with all that is needed to use it and to judge whether it learned anything."""

from dataclasses import dataclass

from mnemoscope.cnn.network import AttentionCnn
from mnemoscope.cnn.presets import CnnSetting, TrainingPreset
from mnemoscope.cnn.scaling import Scaling

__all__ = ["CHANCE_LEVEL", "TrainedCnn", "TrainingHistory"]

CHANCE_LEVEL = 0.01
"""A CNN has left chance on its training maps when the test gives a p-value below this."""


@dataclass(frozen=True)
class TrainingHistory:
    """How training went.

    Attributes:
        loss: mean cross-entropy per map (natural logarithm) of every epoch, in training mode,
            as the epoch went by.
        n_steps: optimizer steps made.
        train_balanced_accuracy: mean recall over the classes on the training maps, final weights,
            evaluation mode; None while training goes on.
        p_value: one-sided binomial test of that against 1 / classes; None while training.
        train_min_f1: min-F1 on the training maps, final weights, evaluation mode; None while
            training goes on.
    """

    loss: tuple[float, ...]
    n_steps: int
    train_balanced_accuracy: float | None = None
    p_value: float | None = None
    train_min_f1: float | None = None

    @property
    def did_train(self) -> bool:
        """Whether the CNN is above chance on the very maps it was trained on."""
        return self.p_value is not None and self.p_value < CHANCE_LEVEL


@dataclass(frozen=True)
class TrainedCnn:
    """A network, the scaling of its inputs and its origin.

    Attributes:
        network: in evaluation mode.
        scaling: fitted on the training maps.
        setting: which network.
        preset: how it was trained.
        seed: of initial weights, order of maps and dropout.
        history: losses and the check against chance.
        seconds: wall time of training; None when loaded from a file.
    """

    network: AttentionCnn
    scaling: Scaling
    setting: CnnSetting
    preset: TrainingPreset
    seed: int
    history: TrainingHistory
    seconds: float | None = None

    @property
    def did_train(self) -> bool:
        """Whether it is above chance on its training maps; if not, its figures mean nothing."""
        return self.history.did_train
