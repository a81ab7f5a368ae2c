"""Scan against decoding and against one forward, by dtype and batch size: verdicts, and time.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_scan.py [--dtype D] [--batch-size N …]
     … --model FOLDER --study STUDY: a model's sequences and verdicts out of a study.
     … --random: random weights of Pythia-160m's shape; memorized is what they say themselves.

The table is made of real sequences, 1 % of them (`--memorized`) memorized. Processor time of
one process, all ways one after the other, medians over repeats. Beside our own decoding stands what
one would write with transformers alone: `generate` with a static cache at its best of some batch
sizes (`--generate`), and one teacher-forced forward with `logits_to_keep` at the scan's batch size.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig

from benchmarks.bench_capture import LENGTH, random_pythia
from benchmarks.measured import Spent, middle, spent
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.continue_ import continue_sequences, scan_memorized
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel, prepend_bos, wrap_model
from mnemoscope.study.folder import Study


def known_verdicts(study: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and which sequences are memorized: of a study, or of the embedded model by scan."""
    if study is not None:
        table = Study(study).sequences
        return token_matrix(table), table["is_memorized"].to_numpy()
    tokens = token_matrix(read_table(sequences_path()).sample(2000, seed=0))
    scans = scan_memorized(load_model(model_path()), tokens, batch_size=64)
    return tokens, np.concatenate([one.is_memorized for one in scans])


def own_words(lm: LanguageModel, n: int, share: float) -> np.ndarray:
    """Random tokens, of which a share end as the model itself goes on from their first half."""
    random = np.random.default_rng(0)
    tokens: np.ndarray = random.integers(1, lm.vocab_size, (n, LENGTH))
    chosen = random.choice(n, max(1, round(share * n)), replace=False)
    said = list(continue_sequences(lm, tokens[chosen], batch_size=len(chosen)))
    tokens[chosen, LENGTH // 2 :] = np.concatenate([one.tokens for one in said])
    return tokens


def draw(tokens: np.ndarray, memorized: np.ndarray, n: int, share: float) -> np.ndarray:
    """A table of n sequences with this share memorized, in random order."""
    random = np.random.default_rng(0)
    n_memorized = max(1, round(share * n))
    rows = [
        random.choice(np.flatnonzero(is_wanted), size, replace=False)
        for is_wanted, size in ((memorized, n_memorized), (~memorized, n - n_memorized))
    ]
    drawn: np.ndarray = tokens[random.permutation(np.concatenate(rows))]
    return drawn


def scan(lm: LanguageModel, tokens: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts and smallest gaps by teacher forcing."""
    batches = list(scan_memorized(lm, tokens, batch_size=batch_size))
    verdicts, gaps = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return verdicts, gaps


def decode(lm: LanguageModel, tokens: np.ndarray, batch_size: int) -> np.ndarray:
    """Verdicts by greedy decoding."""
    batches = continue_sequences(lm, tokens, batch_size=batch_size)
    return np.asarray(np.concatenate([one.score for one in batches]) == 1.0)


def forward(lm: LanguageModel, tokens: np.ndarray, batch_size: int) -> np.ndarray:
    """Verdicts of one teacher-forced forward a sequence, with logits of the suffix alone."""
    half, found = LENGTH // 2, []
    with torch.inference_mode():
        for batch in torch.split(torch.from_numpy(tokens.astype(np.int64)), batch_size):
            ids = prepend_bos(lm, batch[:, :-1])
            logits = lm.model(ids, use_cache=False, logits_to_keep=half).logits
            found.append((logits.argmax(dim=-1) == batch[:, half:]).all(dim=1))
    return torch.cat(found).numpy()


def generated(lm: LanguageModel, tokens: np.ndarray, batch_size: int) -> np.ndarray:
    """Verdicts of `generate` with a static cache, with nothing that it could do without."""
    half, found = LENGTH // 2, []
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=half, pad_token_id=0, cache_implementation="static"
    )
    settings.disable_compile = True
    before, lm.model.generation_config = lm.model.generation_config, settings
    try:
        with torch.inference_mode():
            for batch in torch.split(torch.from_numpy(tokens.astype(np.int64)), batch_size):
                ids = prepend_bos(lm, batch[:, :half])
                said = lm.model.generate(ids, attention_mask=torch.ones_like(ids))
                found.append((said[:, -half:] == batch[:, half:]).all(dim=1))
    finally:
        lm.model.generation_config = before
    return torch.cat(found).numpy()


def report(
    lm: LanguageModel, tokens: np.ndarray, batch_size: int, repeats: int, sizes: list[int]
) -> None:
    """Print the times of all ways and count the verdicts that differ."""
    ways: dict[str, Callable[[], np.ndarray]] = {
        "decoding": lambda: decode(lm, tokens, batch_size),
        "one forward": lambda: forward(lm, tokens, batch_size),
        **{f"generate at {size}": partial(generated, lm, tokens, size) for size in sizes},
    }
    scan(lm, tokens[:batch_size], batch_size)
    each: dict[str, list[Spent]] = {"scan": [], **{name: [] for name in ways}}
    said: dict[str, np.ndarray] = {}
    for _ in range(repeats):
        scanning, (verdicts, gaps) = spent(lambda: scan(lm, tokens, batch_size))
        each["scan"].append(scanning)
        for name, way in ways.items():
            passed, said[name] = spent(way)
            each[name].append(passed)
    taken = {name: middle(rounds) for name, rounds in each.items()}
    print(
        f"{lm.name}, {lm.dtype}, {lm.device}, batch {batch_size}: {len(tokens):,} sequences, "
        f"{verdicts.mean():.1%} memorized; scan {taken['scan'].seconds:.1f} s, "
        f"{taken['scan'].megabytes:.0f} MB more",
        flush=True,
    )
    for name, found in said.items():
        differs = verdicts != found
        largest = f", largest gap among them {gaps[differs].max():.2g}" if differs.any() else ""
        pairs = zip(each[name], each["scan"], strict=True)
        times = statistics.median(other.seconds / own.seconds for other, own in pairs)
        said_of = f"{times:.2f} times its time, {taken[name].megabytes:.0f} MB more"
        print(f"  {name}: {said_of}; {differs.sum()} verdicts differ{largest}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("n", nargs="?", type=int, default=600)
    parser.add_argument("--memorized", type=float, default=0.01)
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[64])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--study", type=Path, help="of that model, with the stage continue done")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--generate", nargs="*", type=int, default=[], metavar="BATCH")
    arguments = parser.parse_args()
    if arguments.random:
        for dtype in arguments.dtype:
            model = random_pythia().model.to(getattr(torch, dtype))
            lm = wrap_model(model, name="random, Pythia-160m's shape")
            table = own_words(lm, arguments.n, arguments.memorized)
            for batch_size in arguments.batch_size:
                report(lm, table, batch_size, arguments.repeats, arguments.generate)
        return
    tokens, memorized = known_verdicts(arguments.study)
    table = draw(tokens, memorized, arguments.n, arguments.memorized)
    for dtype in arguments.dtype:
        lm = load_model(arguments.model or model_path(), dtype=dtype)
        for batch_size in arguments.batch_size:
            report(lm, table, batch_size, arguments.repeats, arguments.generate)


if __name__ == "__main__":
    main()
