"""Train the embedded network through one phase, resumably: same rows, same bytes.

One thread, so that a sum has one order; every hundred steps everything that the next step needs
is written in one file, so that a killed run continues as if nothing had happened.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from mnemoscope.errors import DamagedDataError
from mnemoscope.files import atomic_path, write_json
from tools.embedded.settings import Setting

BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
FINAL_RATE = 0.03  # of the peak, at the end of the cosine
NETWORK_FIELDS = (  # all of a setting that, beside the rows, decides the weights
    "vocabulary_size",
    "hidden_size",
    "n_layers",
    "n_heads",
    "feed_forward_size",
    "rotary",
    "batch_size",
    "peak_learning_rate",
    "warmup_steps",
)
LOSS_STEPS = 50  # the loss on record is the mean over so many steps
MAX_POSITIONS = 128


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        folder: holds `checkpoint.pt` while it runs, then `final.pt` and `losses.json`.
        rows: all rows in the order of training, uint16, shape (rows, 64); a last partial batch
            is left out.
        start: weights to begin with (a state dict), or None for new ones.
        seed: of new weights.
        bfloat16: run the forward pass under bfloat16 autocast.
    """

    folder: Path
    rows: np.ndarray
    start: dict[str, torch.Tensor] | None
    seed: int
    bfloat16: bool


def train_phase(
    phase: Phase, setting: Setting, *, report: Callable[[str], None]
) -> dict[str, torch.Tensor]:
    """Train to the end of the phase, from its last checkpoint where there is one.

    Returns:
        The weights, float32. A phase that is complete is read and not trained again.

    Raises:
        DamagedDataError: the folder holds a run on other rows or settings.
    """
    phase.folder.mkdir(parents=True, exist_ok=True)
    identity = _identity(phase, setting)
    final = phase.folder / "final.pt"
    if final.exists():
        return dict(_load(final, identity)["model"])
    torch.set_num_threads(1)
    torch.manual_seed(phase.seed)
    model = new_model(setting)
    if phase.start is not None:
        model.load_state_dict(phase.start)
    state = _Run(phase, setting, model, identity)
    state.resume()
    state.train(report)
    return {name: value.clone() for name, value in model.state_dict().items()}


def new_model(setting: Setting) -> GPTNeoXForCausalLM:
    """Return the network with new weights drawn from torch's generator."""
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=setting.vocabulary_size,
            hidden_size=setting.hidden_size,
            num_hidden_layers=setting.n_layers,
            num_attention_heads=setting.n_heads,
            intermediate_size=setting.feed_forward_size,
            max_position_embeddings=MAX_POSITIONS,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": setting.rotary,
            },
            attn_implementation="eager",  # a third faster here than sdpa, at 64 tokens
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def learning_rate(step: int, n_steps: int, setting: Setting) -> float:
    """Learning rate of a step: linear warm-up, then a cosine down to 3 % of the peak."""
    warmup = setting.warmup_steps
    if step < warmup:
        return setting.peak_learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, n_steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return setting.peak_learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def prefers_bfloat16(setting: Setting, *, n_tries: int = 4) -> bool:
    """Measure whether this processor trains faster under bfloat16 autocast."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = new_model(setting)
    batch = torch.randint(0, setting.vocabulary_size, (setting.batch_size, 64))
    seconds = {}
    for bfloat16 in (False, True):
        times = []
        for _ in range(n_tries):
            begin = time.perf_counter()
            _loss(model, batch, bfloat16).backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - begin)
        seconds[bfloat16] = min(times)
    return seconds[True] < seconds[False]


class _Run:
    """What one step changes: weights, optimizer, position, losses, seconds."""

    def __init__(
        self, phase: Phase, setting: Setting, model: GPTNeoXForCausalLM, identity: str
    ) -> None:
        self.phase, self.setting, self.model, self.identity = phase, setting, model, identity
        self.n_steps = len(phase.rows) // setting.batch_size
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=setting.peak_learning_rate,
            betas=BETAS,
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )
        self.step, self.losses, self.seconds = 0, list[float](), 0.0

    def resume(self) -> None:
        path = self.phase.folder / "checkpoint.pt"
        if path.exists():
            saved = _load(path, self.identity)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.losses, self.seconds = saved["step"], saved["losses"], saved["seconds"]

    def train(self, report: Callable[[str], None]) -> None:
        self.model.train()
        begin = time.perf_counter() - self.seconds
        while self.step < self.n_steps:
            self._one_step()
            self.seconds = time.perf_counter() - begin
            if self.step % LOSS_STEPS == 0 or self.step == self.n_steps:
                recent = self.losses[-LOSS_STEPS:]
                report(
                    f"{self.phase.folder.name} step {self.step}/{self.n_steps} "
                    f"loss {sum(recent) / len(recent):.3f} {self.seconds / 60:.1f} min"
                )
            if self.step % self.setting.checkpoint_steps == 0 and self.step < self.n_steps:
                self._save("checkpoint.pt")
        self._finish()

    def _one_step(self) -> None:
        size = self.setting.batch_size
        rows = self.phase.rows[self.step * size : (self.step + 1) * size]
        batch = torch.from_numpy(rows.astype(np.int64))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.n_steps, self.setting)
        loss = _loss(self.model, batch, self.phase.bfloat16)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(round(loss.item(), 6))
        self.step += 1

    def _save(self, name: str) -> None:
        state: dict[str, Any] = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "seconds": self.seconds,
        }
        with atomic_path(self.phase.folder / name) as temporary:
            torch.save(state, temporary)

    def _finish(self) -> None:
        write_json(
            self.phase.folder / "losses.json", {"seconds": self.seconds, "losses": self.losses}
        )
        self._save("final.pt")
        (self.phase.folder / "checkpoint.pt").unlink(missing_ok=True)


def _loss(model: GPTNeoXForCausalLM, batch: torch.Tensor, bfloat16: bool) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = model(input_ids=batch, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), batch[:, 1:].flatten()
    )


def _identity(phase: Phase, setting: Setting) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(phase.rows).tobytes())
    network = {name: value for name, value in asdict(setting).items() if name in NETWORK_FIELDS}
    digest.update(json.dumps([network, phase.seed, phase.bfloat16]).encode())
    for name, value in (phase.start or {}).items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path, identity: str) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:
        raise DamagedDataError(
            f"{path}: cannot be read ({type(error).__name__}). Delete it and run again."
        ) from error
    if saved["identity"] != identity:
        raise DamagedDataError(
            f"{path}: made from other rows or settings. Delete {path.parent} and run again."
        )
    return saved
