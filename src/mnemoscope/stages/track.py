"""The verb `track`: memorization of a fixed set of windows over the checkpoints of one run.

Each checkpoint is loaded once and its check written whole; a killed run goes on with the next.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.atomic_write import write_json
from mnemoscope.errors import UserError
from mnemoscope.lm.device import check_dtype, find_device
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.loading import load_model, load_tokenizer
from mnemoscope.progress import track as show_track
from mnemoscope.sequences.readers import read_sequences
from mnemoscope.stages.continuation import decode
from mnemoscope.training.checkpoints import Checkpoint, find_checkpoints, lacking_steps, signature
from mnemoscope.training.history import HistoryWriter
from mnemoscope.training.watch import judge
from mnemoscope.training.windows import CONTROL, WatchedWindows

__all__ = ["TrackAsked", "track_checkpoints"]

_LOOKED_AT = "checkpoints.json"


@dataclass(frozen=True)
class TrackAsked:
    """What the user asked for.

    Attributes:
        checkpoints: as for `find_checkpoints`.
        sequences: texts or a table that is watched.
        control: texts or a table that were kept out of training, or None.
        most: windows kept of each; None keeps all.
        length: tokens of a window.
        stride: tokens from one window of a text to the next.
        seed: of the sample.
        decode: continue each window too, for its score; else only memorized or not is known.
        dtype, device, bos, batch_size, trust_remote_code: as for `load_model` and captures.
    """

    checkpoints: tuple[str, ...]
    sequences: str
    control: str | None = None
    most: int | None = 2000
    length: int = 64
    stride: int = 64
    seed: int = 0
    decode: bool = True
    dtype: str = "float32"
    device: str = "auto"
    bos: str = "auto"
    batch_size: int = 64
    trust_remote_code: bool = False


def track_checkpoints(asked: TrackAsked, out: Path) -> list[int]:
    """Look at every checkpoint that was not looked at yet.

    Args:
        asked: what is looked at, and with what.
        out: folder of the history (`training.history`), made where it is missing.

    Returns:
        Steps that seem to be missing between the checkpoints (`lacking_steps`).

    Raises:
        UserError: as `find_checkpoints`, `read_sequences`, `load_model`; checkpoints of different
            tokenizers; a folder with a history of other windows.
    """
    checkpoints = find_checkpoints(asked.checkpoints)
    check_dtype(asked.dtype)
    find_device(asked.device)
    tokenizer = _tokenizer(checkpoints[0], asked)
    windows = _windows(asked, tokenizer)
    history = HistoryWriter(out, windows, source=asked.sequences, control=asked.control)
    known = _looked_at(out)
    vocabulary = _vocabulary(tokenizer)
    with show_track("Checkpoints", total=len(checkpoints), unit="checkpoints") as progress:
        for checkpoint in checkpoints:
            found = [signature(checkpoint), asked.dtype, asked.decode]
            if known.get(str(checkpoint.step)) != found or not history.has(checkpoint.step):
                model = _load(checkpoint, asked, vocabulary, checkpoints[0])
                history.add(checkpoint.step, _check(model, windows, asked))
                known[str(checkpoint.step)] = found
                write_json(out / _LOOKED_AT, known)
            progress.advance(1)
    return lacking_steps([one.step for one in checkpoints])


def _windows(asked: TrackAsked, tokenizer: Any) -> WatchedWindows:
    """What is watched, and beside it what was kept out of training."""
    windows = _read(asked, asked.sequences, "document", tokenizer)
    if asked.control is None:
        return windows
    return windows + _read(asked, asked.control, CONTROL, tokenizer)


def _read(asked: TrackAsked, path: str, source: str, tokenizer: Any) -> WatchedWindows:
    frame = read_sequences(path, tokenizer, length=asked.length, stride=asked.stride).frame
    frame = frame.drop("source", strict=False).with_columns(
        pl.format("{}:{}", pl.lit(source), "sequence_id").alias("sequence_id")
    )
    return WatchedWindows.from_table(
        frame, tokenizer, source=source, most=asked.most, seed=asked.seed, bos=asked.bos
    )


def _tokenizer(checkpoint: Checkpoint, asked: TrackAsked) -> Any:
    return load_tokenizer(
        checkpoint.name,
        revision=checkpoint.revision,
        trust_remote_code=asked.trust_remote_code,
    )


def _load(
    checkpoint: Checkpoint, asked: TrackAsked, vocabulary: str, first: Checkpoint
) -> LanguageModel:
    model = load_model(
        checkpoint.name,
        revision=checkpoint.revision,
        dtype=asked.dtype,
        device=asked.device,
        bos=asked.bos,
        trust_remote_code=asked.trust_remote_code,
    )
    if _vocabulary(model.tokenizer) != vocabulary:
        raise UserError(
            f"track: step {checkpoint.step} ({checkpoint.name}) has another tokenizer than step "
            f"{first.step}. Track checkpoints of one run."
        )
    return model


def _check(model: LanguageModel, windows: WatchedWindows, asked: TrackAsked) -> pl.DataFrame:
    """One check, decoded where that was asked for."""
    check = judge(model, windows, batch_size=asked.batch_size)
    if not asked.decode:
        return check
    decoded = decode(model, windows.tokens, batch_size=asked.batch_size)
    return check.with_columns(decoded["memorization_score"])


def _vocabulary(tokenizer: Any) -> str:
    """A hash of which token has which number."""
    pairs = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(repr(pairs).encode()).hexdigest()


def _looked_at(out: Path) -> dict[str, Any]:
    """What each step's check was made from; nothing where that is not known."""
    try:
        found: dict[str, Any] = json.loads((out / _LOOKED_AT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
