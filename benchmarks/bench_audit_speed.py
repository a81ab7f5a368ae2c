"""Seconds and memory of an audit, against the naive loop of one `generate` call a window.

    OMP_NUM_THREADS=2 python benchmarks/bench_audit_speed.py [--model FOLDER] [--characters N ...]
    python benchmarks/bench_vocabulary.py --write big       # 262,144 tokens, 270 million weights
    python benchmarks/bench_audit_speed.py --model big --documents 54 --characters 10000 --sample 0
    python benchmarks/bench_audit_speed.py --reference embedded --sample 0    # what `alone` adds

The text is this Python's standard library, in the order of its file names, or with `--new` the
sentences of a grammar, in which nothing is found. The naive loop runs on
a sample of the windows that the audit asked; its results are compared with the audit's there.
"""

import argparse
import random
import sysconfig
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.measured import forget_peak, memory
from experiments.audits.finds import write_new, write_texts
from mnemoscope.audits import alone
from mnemoscope.audits.documents import read_documents
from mnemoscope.audits.local import local_audit
from mnemoscope.audits.passages import passage_table
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.run import ask_questions
from mnemoscope.audits.scan import extend, scan_windows
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.spans import spans_of
from mnemoscope.audits.tokens import Tokens
from mnemoscope.embedded import model_path, place_of
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel

_ENOUGH = 20  # seconds of the plain model


def standard_library(n_characters: int) -> str:
    """The first so many characters of the standard library's modules."""
    found, size = list[str](), 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_bytes().decode("utf-8", "replace")[: n_characters - size]
        found.append(text)
        size += len(text)
        if size >= n_characters:
            break
    return "".join(found)


def measure(
    lm: LanguageModel, text: str, n_documents: int, reference: LanguageModel | None
) -> tuple[Tokens, pl.DataFrame, float, float]:
    """Audit a text; seconds by the clock and of all threads for windows and for the rest."""
    settings = audit_settings()
    with tempfile.TemporaryDirectory() as folder:
        each = -(-len(text) // n_documents)
        parts = (text[number * each : (number + 1) * each] for number in range(n_documents))
        documents = read_documents(write_texts(Path(folder), parts)).documents
        forget_peak()
        before, began = memory("VmRSS"), time.process_time()
        audit = local_audit(lm, documents, settings, reference=reference)
        cut = time.process_time() - began
        audit.kept = Path(folder)
        tokens = [one.tokens for one in audit.texts]
        clocks = [(time.perf_counter(), time.process_time())]
        windows = audit.scanned = scan_windows(audit)
        clocks.append((time.perf_counter(), time.process_time()))
        spans = spans_of(
            audit.tokenizer, audit.texts, windows, settings, lambda places: extend(audit, places)
        )
        audit.passages = passage_table(audit.texts, spans, settings, audit.tokenizer)
        ask_questions(audit)
        clocks.append((time.perf_counter(), time.process_time()))
        if reference is not None:
            table = alone.ask(replace(audit, kept=None)).table
            again = time.process_time() - clocks[-1][1]
            share = again / (clocks[-1][1] - clocks[0][1] - again)
            n_alone = 0 if table is None else table.height
            print(f"alone: {n_alone} passages, {again:.1f} s of CPU, {share:.0%} of all else")
    (scan, scan_cpu), (rest, rest_cpu) = (
        [after - before for before, after in zip(*pair, strict=True)] for pair in pairwise(clocks)
    )
    print(
        f"{len(text):,} characters in {n_documents} documents, "
        f"{sum(len(one.ids) for one in tokens):,} tokens, {windows.height:,} windows, "
        f"{len(spans)} passages: {scan + rest:.1f} s ({scan_cpu + rest_cpu:.1f} s of CPU), of "
        f"which windows {scan:.1f} ({scan_cpu:.1f}), passages, evidence and near copies {rest:.1f} "
        f"({rest_cpu:.1f}); {1000 * scan_cpu / windows.height:.2f} ms of CPU a window; cut into "
        f"tokens {cut:.1f}; memory peak {memory('VmHWM') - before:,.0f} MB above the model's",
        flush=True,
    )
    return max(tokens, key=lambda one: len(one.ids)), windows, scan + rest, scan_cpu + rest_cpu


def plain(lm: LanguageModel, tokens: Tokens, n_windows: int, cpu: float) -> None:
    """Teacher-forced forwards of the plain model over windows, and what the audit takes of them."""
    length, rows = AuditSettings().length, []
    for start in np.linspace(0, len(tokens.ids) - length, 256).astype(int):
        rows.append([*lm.before, *tokens.ids[start : start + length - len(lm.before)]])
    batches = torch.split(torch.tensor(rows, dtype=torch.long), AuditSettings().batch_size)
    seconds = []
    with torch.inference_mode():
        for batch in 3 * batches:
            begun = time.process_time()
            lm.model(input_ids=batch, use_cache=False)
            seconds.append((time.process_time() - begun) / len(batch))
            if sum(seconds) * len(batch) > _ENOUGH:
                break
    one = min(seconds)
    print(
        f"the plain model reads {length / one:,.0f} tokens ({1 / one:,.0f} windows) a second of "
        f"CPU; the audit asks {n_windows / cpu:,.0f} windows, all evidence included: "
        f"{cpu / n_windows / one:.2f} forwards a window",
        flush=True,
    )


def naive(
    lm: LanguageModel, tokens: Tokens, windows: pl.DataFrame, n_sample: int
) -> tuple[float, float]:
    """One `generate` call a window; seconds a window, and whether the results are the audit's."""
    settings = AuditSettings()
    generator = np.random.default_rng(0)
    hits = np.flatnonzero(windows["continuation"].is_not_null().to_numpy())
    others = np.flatnonzero(windows["continuation"].is_null().to_numpy())
    n_hits = min(len(hits), n_sample // 4)
    rows = np.concatenate(
        [
            generator.choice(hits, n_hits, replace=False),
            generator.choice(others, min(n_sample - n_hits, len(others)), replace=False),
        ]
    )
    n_same, start, start_cpu = 0, time.perf_counter(), time.process_time()
    for row in rows:
        found = windows.row(int(row), named=True)
        window = torch.tensor(tokens.ids[found["first"] : found["first"] + settings.length]).long()
        prompt = window[None, : settings.prefix]
        if lm.bos_id is not None:
            prompt = torch.cat([torch.tensor([[lm.bos_id]]), prompt], dim=1)
        made = lm.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=settings.suffix,
            min_new_tokens=settings.suffix,
            do_sample=False,
            pad_token_id=0,
        )[0, -settings.suffix :]
        is_right = (made == window[settings.prefix :]).numpy()
        is_hit = is_right.sum() >= settings.suffix - settings.n_allowed
        same_text = not is_hit or made.tolist() == found["continuation"]
        is_same = is_hit == (found["continuation"] is not None) and same_text
        n_same += is_same and int(np.cumprod(is_right).sum()) == found["common"]
    seconds = (time.perf_counter() - start) / len(rows)
    seconds_cpu = (time.process_time() - start_cpu) / len(rows)
    print(
        f"one generate call a window, {len(rows)} windows, {n_hits} of them hits: "
        f"{1000 * seconds:.1f} ms ({1000 * seconds_cpu:.1f} of CPU) a window; the same result as "
        f"the audit for {n_same} of {len(rows)}",
        flush=True,
    )
    return seconds, seconds_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(model_path()))
    parser.add_argument("--characters", type=int, nargs="+", default=[100_000])
    parser.add_argument("--documents", type=int, default=1, help="the text is cut into so many")
    parser.add_argument("--new", action="store_true", help="sentences of a grammar")
    parser.add_argument("--sample", type=int, default=48, help="0: no naive loop")
    parser.add_argument("--reference", help="a model that is asked too; 'embedded': the shipped")
    wanted = parser.parse_args()
    lm, reference = load_model(wanted.model, device="cpu"), None
    if wanted.reference:
        reference = load_model(place_of(wanted.reference, "reference"), device="cpu")
    print(f"{Path(wanted.model).name}, {torch.get_num_threads()} threads")
    for n_characters in wanted.characters:
        text = standard_library(n_characters)
        if wanted.new:
            text = write_new(random.Random(1), n_characters // 20)[:n_characters]
        tokens, windows, clock, cpu = measure(lm, text, wanted.documents, reference)
        plain(lm, tokens, windows.height, cpu)
        if wanted.sample:
            seconds, seconds_cpu = naive(lm, tokens, windows, wanted.sample)
            n = windows.height
            print(
                f"naive loop over {n:,} windows, extrapolated: {n * seconds:.0f} s "
                f"({n * seconds_cpu:.0f} of CPU) without any evidence; the whole audit is "
                f"{n * seconds / clock:.1f} ({n * seconds_cpu / cpu:.1f} by CPU) times as fast",
                flush=True,
            )


if __name__ == "__main__":
    main()
