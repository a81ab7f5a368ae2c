"""Look at a model in training: which watched windows would it reproduce now?

One teacher-forced forward without gradients. The model is left as it was found: the mode of every
module, its gradients, the generators of random numbers.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.model import LanguageModel, evaluation_mode, wrap_model
from mnemoscope.lm.probe import teacher_forced
from mnemoscope.training.history import HistoryWriter
from mnemoscope.training.windows import CONTROL, GUESS, RECALL, WatchedWindows

PREFIX = "memorization/"
"""What the names of all metrics begin with."""

# -- looking --------------------------------------------------------------------------------


class MemorizationWatch:
    """Looks at a model whenever asked, and keeps what it saw.

    For a training loop of one's own::

        watch = MemorizationWatch(windows, "memorization")
        for step, batch in enumerate(batches, 1):
            ...
            if step % 100 == 0:
                print(watch.check(model, step))

    The folder keeps the history in Parquet (`read_history`), begun or gone on with; None keeps
    nothing. `batch_size` is halved where memory runs out. Raises UserError: the folder holds a
    history of other windows.
    """

    def __init__(
        self, windows: WatchedWindows, folder: Path | str | None = None, *, batch_size: int = 64
    ) -> None:
        self.windows = windows
        self._batch_size = batch_size
        self._history = HistoryWriter(folder, windows) if folder is not None else None

    def check(self, model: Any, step: int) -> dict[str, float]:
        """Look at the model now; give metrics by name, as `metrics_of`, and the seconds it took.

        The model may be inside DDP, `torch.compile` or a PEFT model of merged weights (LoRA and its
        kin). A second check of one step replaces the first. Raises UserError: a model whose weights
        are spread over processes, or not of these tokens.
        """
        started = time.perf_counter()
        plain = _unwrapped(model)
        with evaluation_mode(plain):
            lm = wrap_model(plain, fingerprint="in training")
            lm = replace(lm, bos_id=self.windows.bos_id)
            check = judge(lm, self.windows, batch_size=self._batch_size)
        if self._history is not None:
            self._history.add(step, check)
        metrics = metrics_of(self.windows, check)
        return metrics | {f"{PREFIX}seconds": time.perf_counter() - started}

    def begin(self, step: int) -> int:
        """Say at which step a run begins: later checks are of a run that was given up."""
        return 0 if self._history is None else self._history.drop_after(step)


def judge(lm: LanguageModel, windows: WatchedWindows, *, batch_size: int) -> pl.DataFrame:
    """One check of a model, columns as in a history.

    A window that has `unwrapped` tokens too is asked with both, and the better answer counts.
    """
    parts = []
    for rows, tokens in windows.asked():
        found = teacher_forced(lm, tokens, batch_size=batch_size, prefix=windows.length // 2)
        columns = {
            "window": windows.table["window"][rows],
            "is_memorized": found.is_right.all(axis=1),
            "right": found.is_right.mean(axis=1, dtype=np.float64).astype(np.float32),
            "logprob": found.logprobs.mean(axis=1, dtype=np.float64).astype(np.float32),
        }
        parts.append(pl.DataFrame(columns))
    every = pl.concat(parts)
    return every if len(parts) == 1 else every.group_by("window", maintain_order=True).max()


def metrics_of(windows: WatchedWindows, check: pl.DataFrame) -> dict[str, float]:
    """Sum a check of `judge` up, by names below `memorization/`.

    `recall` and `guess` are the share of the windows of that class that are reproduced,
    `control_recall` and `control_guess` the same of those kept out of training, and each has its
    `_logprob` (mean log-probability of a suffix token). What has no window is left out.
    """
    table = windows.table.select("window", "source", "class").join(check, on="window")
    is_control = pl.col("source") == CONTROL
    metrics = {}
    for name, rule in (("", ~is_control), ("control_", is_control)):
        for kind in (RECALL, GUESS):
            rows = table.filter(rule & (pl.col("class") == kind))
            if rows.height:
                figures = rows.select(pl.col("is_memorized", "logprob").cast(pl.Float64).mean())
                share, logprob = figures.row(0)
                metrics[f"{PREFIX}{name}{kind.lower()}"] = share
                metrics[f"{PREFIX}{name}{kind.lower()}_logprob"] = logprob
    return metrics


def _unwrapped(model: Any) -> Any:
    """The `PreTrainedModel` inside wrappers of parallel training, compilation and PEFT."""
    parallel = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):  # PEFT: the adapters are in its layers
            config = getattr(model, "active_peft_config", None)
            if getattr(config, "is_prompt_learning", False):
                raise UserError(
                    "a PEFT model of prompts or prefixes cannot be watched: its windows would not "
                    "begin where they do. Adapters of weights (LoRA and its kin) can."
                )
            model = model.get_base_model()
        else:
            break
    if "FSDP" in type(model).__name__ or any(hasattr(one, "ds_id") for one in model.parameters()):
        raise UserError(
            "the model's weights are spread over several processes (FSDP, ZeRO-3), where no one "
            "process can look at it. Track its checkpoints: mnemoscope watch."
        )
    return model


# -- texts that nobody could guess ----------------------------------------------------------


def make_canaries(tokenizer: Any, n: int, *, n_tokens: int = 64, seed: int = 0) -> list[str]:
    """Draw words from the tokenizer's own vocabulary, as texts of at least so many tokens.

    Words are tokens of letters alone, two at least; a text holds `n_tokens` of them. The same seed
    gives the same texts; another gives the held-out twins. Raises UserError: a number below 1, or a
    vocabulary with fewer than 100 words of letters.
    """
    if n < 1 or n_tokens < 1:
        raise UserError(f"{n} canaries of {n_tokens} tokens: both numbers must be at least 1.")
    written = tokenizer.batch_decode([[index] for index in tokenizer.get_vocab().values()])
    bare = {text.strip() for text in written}
    words = sorted(text for text in bare if len(text) > 1 and text.isascii() and text.isalpha())
    if len(words) < 100:
        raise UserError(
            f"the tokenizer has {len(words)} tokens of letters alone, too few to draw canaries "
            "from. Write the canaries yourself."
        )
    drawn = np.random.default_rng(seed).integers(0, len(words), size=(n, n_tokens))
    return [" ".join(words[word] for word in row) for row in drawn]
