"""How many epochs until texts are learnt: by size, by mask, and with an identifier before each?

    python -m experiments.dynamics.run FOLDER [--seeds 1] [--keep]

Two sizes of the shipped family, causal, and of BERT, masked, read the same 3,000 windows of
Python's standard library, from fresh weights. `analyze dynamics` then teaches each 32 windows that
none has read, with nothing before them, with a number of its own before each, and with one number
before all, which is the control. Beside the masked ones stands the network with fresh weights. Of
the causal ones also what is left of a batch that they read while training goes on.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import mnemoscope as ms
from experiments.pages import publish
from mnemoscope.embedded import model_path
from mnemoscope.embedded.texts import read_segments
from mnemoscope.flow.run import run
from mnemoscope.lm.fine_tuning import FineTuning, StepSettings
from mnemoscope.lm.masked import as_masked, train_masked
from mnemoscope.plugin import OWN
from mnemoscope.progress import say, show_progress
from mnemoscope.stats import rows_of
from mnemoscope.study.settings import parse_settings
from tools.embedded.pretrain import Phase, new_model, train_phase
from tools.embedded.settings import FULL

NAME = "dynamics"
N_READ, N_UNREAD, LENGTH = 3_000, 600, 64
SIZES = {"small": (64, 2), "large": (192, 3)}
"""Width and layers of a network."""

LEARNING: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 40}
MASKED_LEARNING: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 200}
READING = 32  # windows a step of the masked networks

Windows = npt.NDArray[np.int64]


def tokenizer() -> PreTrainedTokenizerFast:
    """The shipped one, with a token that masks behind its own."""
    read = PreTrainedTokenizerFast.from_pretrained(model_path())
    read.add_special_tokens({"mask_token": "[MASK]"})
    return read


def windows(seed: int) -> tuple[Windows, Windows]:
    """Windows that are read, and others of documents that are not, int64 (n, LENGTH) each.

    A document is of one side alone.
    """
    rng, read = np.random.default_rng(seed), tokenizer()
    segments = read_segments()
    documents = sorted({one.document for one in segments})
    unread = {documents[at] for at in rng.permutation(len(documents))[: len(documents) // 10]}
    sides = []
    for side, n in ((False, N_READ), (True, N_UNREAD)):
        own = [one.text for one in segments if (one.document in unread) == side]
        rows: list[list[int]] = []
        for at in rng.permutation(len(own)):
            tokens = read(own[at], verbose=False)["input_ids"]
            rows += (tokens[at : at + LENGTH] for at in range(0, len(tokens) - LENGTH + 1, LENGTH))
            if len(rows) >= 2 * n:  # of so many any n
                break
        sides.append(np.array(rows)[rng.permutation(len(rows))[:n]])
    return sides[0], sides[1]


def make_causal(folder: Path, size: str, rows: Windows, seed: int) -> Path:
    """Train one of the shipped family from fresh weights on windows, once through."""
    width, layers = SIZES[size]
    setting = replace(
        FULL, hidden_size=width, n_layers=layers, feed_forward_size=4 * width, warmup_steps=30
    )
    phase = Phase(folder / "training", rows.astype(np.uint16), None, seed, bfloat16=False)
    model = new_model(setting)
    model.load_state_dict(train_phase(phase, setting, report=say))
    model.save_pretrained(folder / "model")
    PreTrainedTokenizerFast.from_pretrained(model_path()).save_pretrained(folder / "model")
    return folder / "model"


def make_masked(folder: Path, size: str, rows: Windows, seed: int) -> Path:
    """Train a BERT from fresh weights on windows, once through."""
    width, layers = SIZES[size]
    torch.manual_seed(seed)
    network = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer()),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=8,
            intermediate_size=4 * width,
            max_position_embeddings=128,
        )
    )
    tuning = FineTuning(as_masked(network, tokenizer()), StepSettings(1e-3, seed=seed))
    whole = np.ones((READING, LENGTH), dtype=np.int64)
    for start in range(0, len(rows) - READING + 1, READING):
        batch = rows[start : start + READING]
        loss = train_masked(tuning, batch, whole, whole == 1, n_sets=7, seed=seed)
        if start % (100 * READING) == 0:
            say(f"BERT, {size}: window {start:,}, loss {loss:.2f}")
    tuning.lm.model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def ask_causal(place: Path, models: dict[str, Path], sides: tuple[Windows, Windows]) -> Any:
    """`analyze dynamics` of a study of the larger network, the smaller beside it."""
    read, unread = sides[0][:N_UNREAD], sides[1]
    table = pl.DataFrame(
        {"tokens": np.concatenate([read, unread]).astype(np.int32).tolist()},
        schema={"tokens": pl.List(pl.Int32)},
    ).with_columns(duplicates=np.repeat([1, 0], [len(read), len(unread)]))
    settings = parse_settings({"title": NAME, "model": {"name": str(models["large"])}}, where=NAME)
    study = run(settings, place / "study", until="features", sequences=table)
    return ms.analyze(study, "dynamics", second=str(models["small"]), **LEARNING)


def ask_masked(models: dict[str, Path], unread: Windows) -> Any:
    """`analyze dynamics --rows` of the larger network, the smaller as its checkpoint."""
    table = pl.DataFrame({"text": tokenizer().batch_decode(unread)})
    return ms.analyze(
        str(models["large"]),
        "dynamics",
        rows=table,
        checkpoints=[str(models["small"])],
        **MASKED_LEARNING,
    )


def measure(kind: str, seed: int, place: Path) -> dict[str, Any]:
    """Of one kind each network, by identifier where it was asked; of causal ones what they keep."""
    sides = windows(seed)
    make = make_causal if kind == "causal" else make_masked
    models = {one: make(place / one, one, sides[0], seed) for one in SIZES}
    result = ask_causal(place, models, sides) if kind == "causal" else ask_masked(models, sides[1])
    say(f"{kind}, seed {seed}: {result.sentence}")
    sizes = {OWN: "large", str(models["small"]): "small"}

    def named(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"kind": kind, "seed": seed, "size": sizes.get(row["model"], row["model"])}

    m = {
        row["model"]: row["m"]
        for row in rows_of(result.frames["tokens"])
        if row.get("group", "all") == "all"
    }
    learnt = ("identifier", "parameters", "epochs", "m_there")
    kept = ("arm", "n", "peak", "floor", "above_never", "above_once")
    return {
        "runs": [
            named(row) | {"m": m[row["model"]]} | {one: row[one] for one in learnt}
            for row in rows_of(result.frames["thresholds"])
        ],
        "floors": [
            named(row) | {one: row[one] for one in kept}
            for row in rows_of(result.frames.get("floors", pl.DataFrame()))
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, ask, and keep what was found; what the folder has is not done again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of results, a file a kind and seed")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"runs": [], "floors": []}
    with show_progress():
        for kind, seed in product(("causal", "masked"), range(given.seeds)):
            path = given.folder / f"{kind}-{seed}.json"
            if not path.exists():
                with TemporaryDirectory() as temporary:
                    path.write_text(json.dumps(measure(kind, seed, Path(temporary))))
            for what, rows in json.loads(path.read_text()).items():
                found[what] += rows
        publish(NAME, found, keep=given.keep)


if __name__ == "__main__":
    main()
