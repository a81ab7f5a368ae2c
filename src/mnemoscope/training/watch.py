"""Look at a model in training: which watched windows would it reproduce now?

One teacher-forced forward without gradients. The model is left as it was found: the mode of every
module, its gradients, the generators of random numbers.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.language_model import LanguageModel, wrap_model
from mnemoscope.lm.logprobs import teacher_forced
from mnemoscope.training.history import HistoryWriter
from mnemoscope.training.windows import CONTROL, GUESS, RECALL, WatchedWindows

__all__ = ["PREFIX", "MemorizationWatch", "judge", "look", "metrics_of"]

PREFIX = "memorization/"
"""What the names of all metrics begin with."""


class MemorizationWatch:
    """Looks at a model whenever asked, and keeps what it saw.

    For a training loop of one's own::

        watch = MemorizationWatch(windows, "memorization")
        for step, batch in enumerate(batches, 1):
            ...
            if step % 100 == 0:
                print(watch.check(model, step))

    Attributes:
        windows: what is watched.
    """

    def __init__(
        self, windows: WatchedWindows, folder: Path | str | None = None, *, batch_size: int = 64
    ) -> None:
        """Begin a history, or go on with one.

        Args:
            windows: what is watched.
            folder: keeps the history in Parquet (`read_history`); None keeps nothing.
            batch_size: windows a forward pass.

        Raises:
            UserError: the folder holds a history of other windows.
        """
        self.windows = windows
        self._batch_size = batch_size
        self._history = HistoryWriter(folder, windows) if folder is not None else None

    def check(self, model: Any, step: int) -> dict[str, float]:
        """Look at the model now.

        Args:
            model: a causal `PreTrainedModel`, also inside DDP, `torch.compile` or a PEFT model of
                merged weights (LoRA and its kin).
            step: of the training; a second check of one step replaces the first.

        Returns:
            Metrics by name, as `metrics_of`, and the seconds it took.

        Raises:
            UserError: a model whose weights are spread over processes, or not of these tokens.
        """
        started = time.perf_counter()
        check = look(model, self.windows, batch_size=self._batch_size)
        if self._history is not None:
            self._history.add(step, check)
        metrics = metrics_of(self.windows, check)
        return metrics | {f"{PREFIX}seconds": time.perf_counter() - started}

    def begin(self, step: int) -> int:
        """Say at which step a run begins: later checks are of a run that was given up."""
        return 0 if self._history is None else self._history.drop_after(step)


def look(model: Any, windows: WatchedWindows, *, batch_size: int) -> pl.DataFrame:
    """One check of a model, columns as in a history.

    Args:
        model: as for `MemorizationWatch.check`.
        windows: what is watched.
        batch_size: windows a forward pass; halved where memory runs out.
    """
    plain = _plain(model)
    with _evaluating(plain):
        lm = replace(wrap_model(plain, fingerprint="in training"), bos_id=windows.bos_id)
        return judge(lm, windows, batch_size=batch_size)


def judge(lm: LanguageModel, windows: WatchedWindows, *, batch_size: int) -> pl.DataFrame:
    """As `look`, of a loaded model."""
    found = teacher_forced(lm, windows.tokens, batch_size=batch_size, prefix=windows.length // 2)
    return pl.DataFrame(
        {
            "window": windows.table["window"],
            "is_memorized": found.is_right.all(axis=1),
            "right": found.is_right.mean(axis=1, dtype=np.float64).astype(np.float32),
            "logprob": found.logprobs.mean(axis=1, dtype=np.float64).astype(np.float32),
        }
    )


def metrics_of(windows: WatchedWindows, check: pl.DataFrame) -> dict[str, float]:
    """Sum a check up.

    Args:
        windows: what is watched.
        check: as `look` gives it.

    Returns:
        By name, each below `memorization/`: `recall` and `guess` (share of the windows of that
        class that are reproduced), `control_recall` and `control_guess` (the same of those that
        were kept out of training), and each with `_logprob` (mean log-probability of a suffix
        token). What has no window is left out.
    """
    table = windows.table.select("window", "source", "class").join(check, on="window")
    is_control = pl.col("source") == CONTROL
    groups = {
        f"{name}{kind.lower()}": rule & (pl.col("class") == kind)
        for name, rule in (("", ~is_control), ("control_", is_control))
        for kind in (RECALL, GUESS)
    }
    metrics = {}
    for name, rule in groups.items():
        rows = table.filter(rule)
        if not rows.is_empty():
            share, logprob = rows.select(
                pl.col("is_memorized").cast(pl.Float64).mean(),
                pl.col("logprob").cast(pl.Float64).mean(),
            ).row(0)
            metrics[f"{PREFIX}{name}"] = share
            metrics[f"{PREFIX}{name}_logprob"] = logprob
    return metrics


def _plain(model: Any) -> Any:
    """The `PreTrainedModel` inside wrappers of parallel training, compilation and PEFT."""
    parallel = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = _adapted(model)
        else:
            break
    if "FSDP" in type(model).__name__ or any(hasattr(one, "ds_id") for one in model.parameters()):
        raise UserError(
            "the model's weights are spread over several processes (FSDP, ZeRO-3), where no one "
            "process can look at it. Track its checkpoints: mnemoscope track."
        )
    return model


def _adapted(model: Any) -> Any:
    """The base model with a PEFT model's adapters in its layers."""
    config = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise UserError(
            "a PEFT model of prompts or prefixes cannot be watched: its windows would not begin "
            "where they do. Adapters of weights (LoRA and its kin) can."
        )
    return model.get_base_model()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Set evaluation mode, and give every module its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
