"""Capture at long windows against the forward that a user would run, and its memory.

Run: OMP_NUM_THREADS=1 python benchmarks/bench_windows.py [--windows 64 256 512 1024 2048]
     [--shape pythia|smollm2] [--repeats 3] [--tokens 1024]

Against the base model's forward with sdpa, which keeps no weight at all. `whole` is the capture as
it was: every head's weights of a layer at once, float32 squares of all layers. Ratios of processor
time, medians over repeats; every repeat runs all ways one after the other. Memory is the most that
a process grows by, each way in a process of its own that has the model loaded.
"""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.bench_capture import random_pythia
from benchmarks.given import parser_of
from mnemoscope.lm import attention
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.model import LanguageModel, implementation, wrap_model
from mnemoscope.maps.triangle import pack_layer

SMOLLM2_135M = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
}


def random_smollm2() -> LanguageModel:
    """SmolLM2-135M's shape (three heads share their keys) with random weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMOLLM2_135M))
    return wrap_model(model, name="random, SmolLM2-135M's shape")


def sdpa(lm: LanguageModel, tokens: np.ndarray) -> None:
    """The base model alone."""
    with implementation(lm, "sdpa"), torch.inference_mode():
        lm.model.base_model(input_ids=torch.from_numpy(tokens), use_cache=False)


def ours(lm: LanguageModel, tokens: np.ndarray) -> None:
    """The capture as a study runs it."""
    for _ in capture_pooled(lm, tokens, batch_size=len(tokens), pack=pack_layer):
        pass


def whole(lm: LanguageModel, tokens: np.ndarray) -> None:
    """The capture without blocks, layers not packed."""
    before, attention.WHOLE_QUERIES = attention.WHOLE_QUERIES, 1 << 30
    try:
        for _ in capture_pooled(lm, tokens, batch_size=len(tokens)):
            pass
    finally:
        attention.WHOLE_QUERIES = before


def seconds(work: Callable[[], None]) -> float:
    """Processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def megabytes(work: Callable[[], None]) -> float:
    """What a process grows by at most."""
    reading, writing = os.pipe()
    if not os.fork():
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        work()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        os.write(writing, str((most - resident) / 1e6).encode())
        os._exit(0)
    os.wait()
    return float(os.read(reading, 64))


def processor() -> str:
    """The processor's name, and how busy it is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((one.split(":")[1].strip() for one in lines if "model name" in one), "")
    return f"{name or platform.processor()}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()}"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--windows", type=int, nargs="+", default=[64, 256, 512, 1024, 2048])
    parser.add_argument("--shape", choices=["pythia", "smollm2"], default="pythia")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1024, help="of a batch, at least one window")
    given = parser.parse_args()
    lm = random_pythia() if given.shape == "pythia" else random_smollm2()
    print(f"{lm.name}; {processor()}; {torch.get_num_threads()} thread")
    print("| window | batch | capture / sdpa | whole / sdpa | MB: sdpa | capture | whole |")
    print("|---|---|---|---|---|---|---|")
    for window in given.windows:
        n = max(1, given.tokens // window)
        tokens = np.random.default_rng(0).integers(1, lm.vocab_size, (n, window))
        ways = {way.__name__: partial(way, lm, tokens) for way in (sdpa, ours, whole)}
        for work in ways.values():
            work()
        times = [{name: seconds(work) for name, work in ways.items()} for _ in range(given.repeats)]
        ratios = [
            statistics.median(one[name] / one["sdpa"] for one in times)
            for name in ("ours", "whole")
        ]
        most = [megabytes(work) for work in ways.values()]
        said = [f"{one:.2f}" for one in ratios] + [f"{one:.0f}" for one in most]
        print(f"| {window} | {n} | {' | '.join(said)} |", flush=True)


if __name__ == "__main__":
    main()
