"""Pooled capture against the plain forward, against `output_attentions` twice, and decoding.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_capture.py [--repeats N] [MODEL_FOLDER ...]
     … --decode 16 32 64: only decoding, ours and `generate` each at its best of these batch sizes
     (--model FOLDER, or --only pythia for random weights).

Ratios of processor time (and of the clock, in brackets), medians over repeats; in every repeat
all ways run one after the other, so that a busy machine touches them alike.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from benchmarks.measured import Spent, middle, spent
from mnemoscope.embedded import model_path
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import capture_and_scan, continue_sequences, scan_memorized
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel, implementation, prepend_bos, wrap_model
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.shape import POOLED
from mnemoscope.maps.store import MapWriter
from mnemoscope.maps.triangle import pack_shard

LENGTH = 64
PYTHIA_160M = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 50304,
    "max_position_embeddings": 2048,
}


def plain(lm: LanguageModel, batches: list[torch.Tensor]) -> None:
    """The base model, eager attention, nothing kept."""
    with implementation(lm, "eager"), torch.inference_mode():
        for batch in batches:
            lm.model.base_model(input_ids=prepend_bos(lm, batch), use_cache=False)


def pooled(lm: LanguageModel, tokens: np.ndarray, batch_size: int) -> None:
    """Our capture."""
    for _ in capture_pooled(lm, tokens, batch_size=batch_size):
        pass


def written(lm: LanguageModel, tokens: np.ndarray, batch_size: int) -> None:
    """Our capture with the store, as the stage `capture` does it."""
    with tempfile.TemporaryDirectory() as folder:
        batches = list(capture_pooled(lm, tokens, batch_size=batch_size))
        maps = {name: torch.cat([getattr(one, name) for one in batches]) for name in POOLED}
        writer, ids = MapWriter(folder, StoreMeta(lm.n_layers, LENGTH)), np.arange(len(tokens))
        shard = pack_shard(ids, maps, writer.meta)
        writer.take(shard, ids, "true", sha256=sha256(shard).hexdigest())


@contextmanager
def without_last_layer(lm: LanguageModel) -> Iterator[None]:
    """The base model but for its last layer."""
    base = lm.model.base_model
    layers, n = base.layers, base.config.num_hidden_layers
    base.layers, base.config.num_hidden_layers = layers[:-1], n - 1
    try:
        yield
    finally:
        base.layers, base.config.num_hidden_layers = layers, n


def least(lm: LanguageModel, batches: list[torch.Tensor]) -> None:
    """What no way to the last layer's attention can leave out: all layers before it."""
    with without_last_layer(lm):
        plain(lm, batches)


def together(lm: LanguageModel, tokens: np.ndarray, batch_size: int) -> None:
    """Maps and verdicts of one forward."""
    for _ in capture_and_scan(lm, tokens, batch_size=batch_size):
        pass


def apart(lm: LanguageModel, tokens: np.ndarray, batch_size: int) -> None:
    """The scan, then the capture."""
    for _ in scan_memorized(lm, tokens, batch_size=batch_size):
        pass
    pooled(lm, tokens, batch_size)


def afterwards(lm: LanguageModel, batches: list[torch.Tensor]) -> None:
    """What the published pipeline does: all weights from the whole model, pooled at the end."""
    with implementation(lm, "eager"), torch.inference_mode():
        for batch in batches:
            ids = prepend_bos(lm, batch)
            weights = lm.model(ids, use_cache=False, output_attentions=True).attentions
            stacked = torch.stack(weights, dim=1).float()
            stacked.mean(dim=2), stacked.amax(dim=2)


def layer_by_layer(lm: LanguageModel, batches: list[torch.Tensor]) -> None:
    """What one would write who needs the maps alone: no head, each layer pooled as it is."""
    with implementation(lm, "eager"), torch.inference_mode():
        for batch in batches:
            ids = prepend_bos(lm, batch)
            base = lm.model.base_model
            weights = base(input_ids=ids, use_cache=False, output_attentions=True).attentions
            torch.stack([one.mean(dim=1, dtype=torch.float32) for one in weights], dim=1)
            torch.stack([one.amax(dim=1) for one in weights], dim=1)


def greedy(lm: LanguageModel, tokens: np.ndarray, batch_size: int) -> None:
    """Our greedy continuation, with scores and gaps."""
    for _ in continue_sequences(lm, tokens, batch_size=batch_size):
        pass


def generate(lm: LanguageModel, batches: list[torch.Tensor]) -> None:
    """Transformers' own greedy decoding of as many tokens, with nothing that it could do without.

    Without an end-of-text token it goes on to the end by itself. `min_new_tokens` would do that
    too, but masks the vocabulary at every step.
    """
    half = LENGTH // 2
    settings = GenerationConfig(do_sample=False, max_new_tokens=half, pad_token_id=0)
    before, lm.model.generation_config = lm.model.generation_config, settings
    try:
        with torch.inference_mode():
            for batch in batches:
                prefix = prepend_bos(lm, batch[:, :half])
                decoded = lm.model.generate(prefix, attention_mask=torch.ones_like(prefix))
                assert decoded.shape[1] == prefix.shape[1] + half
    finally:
        lm.model.generation_config = before


Times = dict[str, list[Spent]]
"""What each way took, repeat by repeat."""


def measure(ways: dict[str, Callable[[], None]], repeats: int) -> Times:
    """Every way in every repeat, after one unmeasured round."""
    for function in ways.values():
        function()
    found: Times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, function in ways.items():
            found[name].append(spent(function)[0])
    return found


def ratio(found: Times, above: str, below: str) -> str:
    """Median ratio of two ways, repeat by repeat."""
    pairs = list(zip(found[above], found[below], strict=True))
    cpu, clock = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
    return f"{cpu:.2f} ({clock:.2f})"


def random_pythia() -> LanguageModel:
    """Pythia-160m's shape with random weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", **PYTHIA_160M))
    return wrap_model(model, name="random, Pythia-160m's shape")


def report(lm: LanguageModel, *, n: int, batch_size: int, repeats: int, decode: bool) -> None:
    tokens = np.random.default_rng(0).integers(1, lm.vocab_size, (n, LENGTH))
    batches = list(torch.split(torch.from_numpy(tokens), batch_size))
    ways: dict[str, Callable[[], None]] = {
        "plain": lambda: plain(lm, batches),
        "pooled": lambda: pooled(lm, tokens, batch_size),
        "written": lambda: written(lm, tokens, batch_size),
        "afterwards": lambda: afterwards(lm, batches),
        "layer by layer": lambda: layer_by_layer(lm, batches),
        "least": lambda: least(lm, batches),
        "together": lambda: together(lm, tokens, batch_size),
        "apart": lambda: apart(lm, tokens, batch_size),
    }
    if decode:
        ways["greedy"] = lambda: greedy(lm, tokens, batch_size)
        ways["generate"] = lambda: generate(lm, batches)
    found = measure(ways, repeats)
    seconds = middle(found["pooled"]).seconds
    print(
        f"{lm.name}: {lm.n_layers} layers, {lm.n_heads} heads, {lm.dtype}, {lm.device}, "
        f"batch {batch_size}, {n} sequences, {n / seconds:.0f} a second captured"
    )
    print(f"  capture / plain base forward: {ratio(found, 'pooled', 'plain')}")
    print(f"  capture and store / plain base forward: {ratio(found, 'written', 'plain')}")
    print(f"  output_attentions and head / capture: {ratio(found, 'afterwards', 'pooled')}")
    print(f"  no head, pooled layer by layer / capture: {ratio(found, 'layer by layer', 'pooled')}")
    print(
        f"  output_attentions and head / plain base forward: {ratio(found, 'afterwards', 'plain')}"
    )
    print(
        f"  the same / all layers but the last (the limit): {ratio(found, 'afterwards', 'least')}"
    )
    print(f"  scan, then capture / both in one forward: {ratio(found, 'apart', 'together')}")
    if decode:
        print(f"  generate / our continuation: {ratio(found, 'generate', 'greedy')}")
    more = (f"{name} {middle(each).megabytes:.0f}" for name, each in found.items())
    print(f"  megabytes more than the model at most: {', '.join(more)}")


def report_decoding(lm: LanguageModel, sizes: list[int], repeats: int) -> None:
    """Ours and `generate`, sequences a second of processor time, each at its best batch size."""
    n = max(sizes)
    tokens = np.random.default_rng(0).integers(1, lm.vocab_size, (n, LENGTH))
    ways: dict[str, Callable[[], None]] = {}
    for size in sizes:
        batches = list(torch.split(torch.from_numpy(tokens), size))
        ways[f"ours {size}"] = partial(greedy, lm, tokens, size)
        ways[f"generate {size}"] = partial(generate, lm, batches)
    found = measure(ways, repeats)
    print(f"{lm.name}, {lm.dtype}, {lm.device}, sequences a second of processor time:")
    best = {}
    for way in ("ours", "generate"):
        each = [middle(found[f"{way} {size}"]) for size in sizes]
        rates = [n / one.seconds for one in each]
        best[way] = max(rates)
        said = ", ".join(
            f"{rate:.1f} (batch {size}, {one.megabytes:.0f} MB more)"
            for rate, size, one in zip(rates, sizes, each, strict=True)
        )
        print(f"  {way}: {said}")
    print(f"  best / best: {best['ours'] / best['generate']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=["embedded", "pythia", "folders"])
    parser.add_argument("--batch-size", type=int, default=32, help="of the embedded model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--decode", nargs="+", type=int, metavar="BATCH", default=[])
    parser.add_argument("--model", action="append", type=Path, default=[], help="for --decode")
    parser.add_argument("folders", nargs="*", type=Path)
    arguments = parser.parse_args()
    if arguments.decode:
        if arguments.only == "pythia":
            report_decoding(random_pythia(), arguments.decode, arguments.repeats)
            return
        for folder in arguments.model or [model_path()]:
            lm = load_model(folder, dtype=arguments.dtype)
            report_decoding(lm, arguments.decode, arguments.repeats)
        return
    if arguments.only in (None, "embedded"):
        size = arguments.batch_size
        report(
            load_model(model_path(), dtype=arguments.dtype),
            n=2 * size,
            batch_size=size,
            repeats=arguments.repeats,
            decode=True,
        )
    if arguments.only in (None, "pythia"):
        report(random_pythia(), n=8, batch_size=8, repeats=arguments.repeats, decode=False)
    for folder in arguments.folders:
        lm = load_model(folder, dtype=arguments.dtype)
        report(lm, n=8, batch_size=8, repeats=arguments.repeats, decode=False)


if __name__ == "__main__":
    main()
