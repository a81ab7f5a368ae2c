"""Encoder-decoders of two tasks, one that copies by nature: is memory told from copying, by dose?

    python -m experiments.seq2seq.run [--seeds 1] [--rows 30] [--keep]

Made-up words, a tiny T5 and a tiny BART with fresh weights. `extract`: the answer is a span of the
input, after a mark. `recite`: the answer is a drawn text, which nothing in the input gives. Each
network first learns both tasks on rows that never come back ("before fitting"), then it is fitted
to a table in which planted rows stand 1, 4 or 16 times at random places, in several passes; as many
are kept out. `analyze copying` is asked of the fitted network beside the one before.
`--keep` stores the results and makes the tables of `docs/analyses/copying-tasks.md`.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

import mnemoscope as ms
from experiments.pages import HERE, publish, results_of
from mnemoscope.progress import say, show_progress
from mnemoscope.stats import rows_of, share_true

NAME = "seq2seq"
TASKS = ("extract", "recite")
DOSES = (0, 1, 4, 16)
FAMILIES = ("t5", "bart")
MARK = "here"
N_WORDS, SPAN, AROUND, KEY = 80, 9, 4, 4
BATCH, FEW = 32, 8  # rows in a step, before and when planted rows are fitted
STEPS, LEARNING_RATE = 1500, 3e-3  # of the training before; rates fall to 0 in a line
FITTED = {"t5": 3e-3, "bart": 1e-3}
PASSES = 8  # over the table that the network is fitted to


@cache
def words() -> list[str]:
    """Made-up words of six letters, all different."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    rng = np.random.default_rng(7)
    found = dict.fromkeys("".join(rng.choice(syllables, 3)) for _ in range(2 * N_WORDS))
    return [*found][:N_WORDS]


def make_rows(n: int, task: str, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Input and target of rows of a task; no word stands twice in an input."""
    known, rows = words(), []
    for _ in range(n):
        drawn = [known[one] for one in rng.permutation(N_WORDS)]
        if task == "extract":
            span, before = drawn[:SPAN], rng.integers(0, AROUND + 1)
            around = drawn[SPAN : SPAN + AROUND]
            inputs = [task, *around[:before], MARK, *span, *around[before:]]
        else:
            span = [known[one] for one in rng.permutation(N_WORDS)[:SPAN]]
            inputs = [task, *drawn[:KEY]]
        rows.append((" ".join(inputs), " ".join(span)))
    return rows


def make_planted(n: int, seed: int) -> pl.DataFrame:
    """Rows of both tasks with how often each will be read (`duplicates`), `n` a dose."""
    rng = np.random.default_rng([seed, 1])
    made = [
        {"task": task, "duplicates": dose, "input": one, "target": other}
        for task in TASKS
        for dose in DOSES
        for one, other in make_rows(n, task, rng)
    ]
    return pl.DataFrame(made)


def make_network(folder: Path, family: str, seed: int) -> Path:
    """Save a network with fresh weights, and its tokenizer of whole words."""
    special = ["<pad>", "</s>", "<s>", "<unk>"]
    names = [*special, *TASKS, MARK, *words()]
    backend = Tokenizer(models.WordLevel({one: at for at, one in enumerate(names)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    start = "<s> " if family == "bart" else ""
    backend.post_processor = TemplateProcessing(
        single=f"{start}$A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    size: dict[str, Any] = {"d_model": 64, "vocab_size": len(names)}
    size |= {"pad_token_id": 0, "eos_token_id": 1, "dropout_rate": 0.0, "dropout": 0.0}
    if family == "t5":
        size |= {"d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
        size |= {"decoder_start_token_id": 0}
    else:
        for side in ("encoder", "decoder"):
            size |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 128}
        size |= {"max_position_embeddings": 64, "decoder_start_token_id": 1, "bos_token_id": 2}
        size |= {"forced_eos_token_id": None, "attention_dropout": 0.0}
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(family, **size))
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


class Fit:
    """A network, its tokenizer and its optimizer, a batch of rows at a time."""

    def __init__(self, folder: Path, n_steps: int, learning_rate: float) -> None:
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder).train()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), learning_rate, weight_decay=0, fused=True
        )
        self.rate = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, n_steps)

    def step(self, rows: Sequence[tuple[str, str]]) -> float:
        """Learn from rows; give the share of target tokens that were right."""
        read, said = (
            self.tokenizer([row[side] for row in rows], return_tensors="pt", padding=True)
            for side in (0, 1)
        )
        labels = said["input_ids"].masked_fill(said["attention_mask"] == 0, -100)
        shown = {name: read[name] for name in ("input_ids", "attention_mask")}
        out = self.model(**shown, labels=labels)
        self.optimizer.zero_grad()
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.rate.step()
        is_right = out.logits.argmax(-1) == labels
        return float(is_right[labels >= 0].float().mean())

    def save(self, folder: Path) -> Path:
        """Write the network and its tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder


def learn_tasks(start: Path, to: Path, seed: int) -> None:
    """Train on rows that never come back, so that spans are copied and nothing is remembered."""
    fit, rng, right = Fit(start, STEPS, LEARNING_RATE), np.random.default_rng([seed, 2]), 0.0
    for step in range(1, STEPS + 1):
        # Mostly the task that can be learned; the other shows what its answers look like.
        task = TASKS[step % 4 == 0]
        now = fit.step(make_rows(BATCH, task, rng))
        right = right if task != "extract" else 0.9 * right + 0.1 * now
        if step % 300 == 0:
            say(f"step {step}: {100 * right:.1f} % of the tokens of spans right")
    fit.save(to)


def fit_planted(start: Path, planted: pl.DataFrame, to: Path, seed: int) -> int:
    """Fit to a table in which each planted row stands as often as its dose; give the steps.

    Half as many rows of `extract` stand there once, others in each pass.
    """
    rng = np.random.default_rng([seed, 3])
    table = [
        (row["input"], row["target"]) for row in rows_of(planted) for _ in range(row["duplicates"])
    ]
    n_fresh = len(table) // 2
    n_steps = PASSES * ((len(table) + n_fresh) // FEW)
    fit = Fit(start, n_steps, FITTED[AutoConfig.from_pretrained(start).model_type])
    for _ in range(PASSES):
        rows = [*table, *make_rows(n_fresh, "extract", rng)]
        order = rng.permutation(len(rows))
        for at in range(0, len(rows) // FEW * FEW, FEW):
            fit.step([rows[one] for one in order[at : at + FEW]])
    fit.save(to)
    return n_steps


def ask(fitted: Path, before: Path, planted: pl.DataFrame, seed: int) -> dict[str, Any]:
    """What `analyze copying` says, and its shares by dose."""
    asked: dict[str, Any] = {"second": str(before), "n_tokens": 24, "seed": seed}
    found = ms.analyze(str(fitted), "copying", rows=planted, **asked)
    say(found.sentence)
    for line in found.further:
        say(f"  {line}")
    numbered = planted.with_row_index("sequence_id").select(
        pl.col("sequence_id").cast(pl.Int64), "duplicates"
    )
    rows = found.frames["rows"].join(numbered, on="sequence_id", how="left")
    kept: dict[str, Any] = {"sentence": found.sentence, "doses": [*_by_dose(rows)]}
    kept["disparity"] = [*rows_of(found.frames["disparity"])]
    for table, figure in (("attention", "mean"), ("attention_differences", "difference")):
        kept[table] = [
            {name: one for name, one in row.items() if name != "n_groups"}
            for row in rows_of(found.frames[table].filter(measure="entropy"))
            if row[figure].value is not None
        ]
    return kept


def _by_dose(rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Shares by model, task and dose."""
    kinds = ("own target", "another text", "from the input")
    for (model, task, dose), part in rows.group_by(
        "model", "task", "duplicates", maintain_order=True
    ):
        shares = {kind: share_true((part["kind"] == kind).fill_null(False)) for kind in kinds}
        yield {"model": model, "task": task, "dose": dose, "n": part.height} | shares


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, ask, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=30, help="planted rows of a task and dose")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args(arguments)
    with show_progress():
        found = measure(given.rows, given.seeds, given.families)
        if given.keep and (HERE / NAME / "results.json").exists():  # of other families
            found = results_of(NAME) | found
        publish(NAME, found, keep=given.keep)


def measure(n: int, n_seeds: int, families: Sequence[str]) -> dict[str, Any]:
    """Every family and seed."""
    found: dict[str, Any] = {"n": n}
    for family in families:
        runs = []
        for seed in range(n_seeds):
            planted = make_planted(n, seed)
            with TemporaryDirectory() as temporary:
                place, began = Path(temporary), time.monotonic()
                start = make_network(place / "start", family, seed)
                learn_tasks(start, place / "before", seed)
                more = fit_planted(place / "before", planted, place / "fitted", seed)
                run = {"steps": [STEPS, more], "seconds": round(time.monotonic() - began)}
                runs.append(run | ask(place / "fitted", place / "before", planted, seed))
        found[family] = runs
    return found


if __name__ == "__main__":
    main()
