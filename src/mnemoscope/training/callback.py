"""Look at a model while transformers' Trainer trains it.

A module of its own, since the Trainer's imports take seconds and nothing else needs them.
"""

import logging
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mnemoscope.errors import UserError
from mnemoscope.training.history import FOLDER
from mnemoscope.training.watch import PREFIX, MemorizationWatch
from mnemoscope.training.windows import CONTROL, RECALL, WatchedWindows

_log = logging.getLogger(__name__)


class MemorizationCallback(TrainerCallback):  # type: ignore[misc]
    """Every N steps, say which watched windows the model would reproduce.

    Use::

        windows = WatchedWindows.from_texts(texts, tokenizer)
        trainer.add_callback(MemorizationCallback(trainer, windows, every=100))

    The metrics (`metrics_of`) go through `trainer.log`, so to TensorBoard, Weights & Biases,
    MLflow or whatever `report_to` names; every check is kept in Parquet too, from which
    `mnemoscope watch FOLDER` draws a page. It looks before the first step, after every N-th
    optimizer step and after the last. Under DDP the main process looks; the others wait for it.
    """

    def __init__(
        self,
        trainer: Any,
        windows: WatchedWindows,
        *,
        every: int = 100,
        folder: Path | str | None = None,
        batch_size: int = 64,
        stop_recall: float | None = None,
    ) -> None:
        """Prepare; nothing is looked at yet.

        `every` counts optimizer steps between two checks, `batch_size` windows a forward pass. The
        history's `folder` is `memorization` in the trainer's output folder unless given. Training
        stops once a larger share than `stop_recall` of the Recall windows is reproduced. Raises
        UserError: `every` below 1, `stop_recall` outside [0, 1] or without Recall windows, a
        trainer that spreads weights over processes (FSDP, DeepSpeed).
        """
        if every < 1:
            raise UserError(f"every {every}: at least 1 step must lie between two checks.")
        if stop_recall is not None and not 0 <= stop_recall <= 1:
            raise UserError(f"stop_recall {stop_recall}: give a share from 0 to 1.")
        trained = windows.table.filter(pl.col("source") != CONTROL)
        if stop_recall is not None and RECALL not in trained["class"]:
            raise UserError("stop_recall: none of the watched windows is of the class Recall.")
        if any(getattr(trainer, f"is_{one}_enabled", False) for one in ("fsdp", "deepspeed")):
            raise UserError(
                "the trainer spreads the model over processes (FSDP, DeepSpeed), where no one "
                "process can look at it. Track its checkpoints: mnemoscope watch."
            )
        self._trainer, self._windows, self._every = trainer, windows, every
        self._folder = Path(folder or Path(trainer.args.output_dir) / FOLDER)
        self._batch_size, self._stop_recall = batch_size, stop_recall
        self._watch: MemorizationWatch | None = None
        self._last: int | None = None

    def on_train_begin(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look before the first step; a resumed run forgets checks after its checkpoint."""
        if state.is_world_process_zero:
            self._watch = MemorizationWatch(
                self._windows, self._folder, batch_size=self._batch_size
            )
            if dropped := self._watch.begin(state.global_step):
                _log.warning(
                    "%s: %d checks after step %d are of a run that was given up; dropped",
                    self._folder,
                    dropped,
                    state.global_step,
                )
        self._look(state, control, kwargs["model"])

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look after every N-th optimizer step."""
        if state.global_step % self._every == 0:
            self._look(state, control, kwargs["model"])

    def on_train_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look after the last step, unless that was done."""
        if state.global_step != self._last:
            self._look(state, control, kwargs["model"])

    def _look(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        self._last = state.global_step
        share = 0.0
        if self._watch is not None:
            metrics = self._watch.check(model, state.global_step)
            should_log = control.should_log  # logging says that what was to be logged has been
            self._trainer.log(dict(metrics))
            control.should_log = should_log
            share = metrics.get(f"{PREFIX}recall", 0.0)
        if self._stop_recall is not None and self._from_main(share) > self._stop_recall:
            if self._watch is not None:
                _log.warning(
                    "step %d: %.1f %% of the Recall windows are reproduced, above %.1f %%: "
                    "training stops",
                    state.global_step,
                    100 * share,
                    100 * self._stop_recall,
                )
            control.should_training_stop = True

    def _from_main(self, share: float) -> float:
        """The main process's figure, in every process: all must stop at the same step."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return share
        told = torch.tensor([share], dtype=torch.float64, device=self._trainer.args.device)
        torch.distributed.broadcast(told, src=0)
        return float(told.item())
