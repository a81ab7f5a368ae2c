"""An invented study to render: seeded Δ with structure, figures of the size small models give."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest

from mnemoscope.benchmark.sources import TABLE
from mnemoscope.benchmark.table import BENCHMARK_SCHEMA
from mnemoscope.pipeline.deltas import StoredDelta
from mnemoscope.report import content as c
from mnemoscope.report.page import render_report
from mnemoscope.report.tables import Table
from mnemoscope.stats import Estimate, rows_of
from mnemoscope.store import Facts
from mnemoscope.taxonomy.sample import SampleKey

NAMES = ("Non-Memo", "Guess", "Recall")
FOUR = ("Non-Memo", "Recite", "Reconstruct", "Recollect")
SOURCES = ("model", "statistics", "blind", "ngram", "reference", "control", "logits")
SCORES = dict(zip(SOURCES, (0.231, 0.384, 0.402, 0.431, 0.334, 0.297, 0.862), strict=True))
FOUR_SCORES = dict(zip(SOURCES, (0.312, 0.366, 0.43, 0.391, 0.341, 0.262, 0.611), strict=True))


def make_delta(n_classes: int, n_layers: int, seed: int, length: int = 64) -> np.ndarray:
    """Δ (classes, layers, query, key): noise, and a near-diagonal of another strength each."""
    generator = np.random.default_rng(seed)
    query, key = np.indices((length, length))
    strength = generator.random((n_classes, n_layers, 1, 1))
    noise = generator.gamma(0.6, 0.05, (n_classes, n_layers, length, length))
    return np.tril(strength * np.exp((key - query) / 5) + noise).astype(np.float32)


def estimate(value: float, width: float = 0.04) -> Estimate:
    return Estimate(value, max(0, value - width), min(1, value + 0.9 * width))


def make_row(source: str, value: float | None, f1: list[float], **more) -> Facts:
    """A row of the benchmark table; without a value its CNNs did not train."""
    blank = pl.DataFrame({name: [None] for name in BENCHMARK_SCHEMA}, schema=BENCHMARK_SCHEMA)
    (row,) = rows_of(blank)
    row |= {"source": source, "did_train": value is not None, "n_runs": 6, "seconds": 31.7}
    row |= {"name": TABLE[source].name, "detail": TABLE[source].detail}
    if value is not None:
        row |= {"min_f1": estimate(value), "f1": [estimate(one, 0.05) for one in f1]}
        row |= {"n_eval": 498, "training_min_f1": min(1, value + 0.17)}
        row |= {"precision": row["f1"], "recall": row["f1"]}
    return row | more


def make_benchmark(
    names: tuple[str, ...] = NAMES,
    *,
    excess: tuple[float, float, float] = (-0.2, -0.25, -0.157),
    scores: dict[str, float | None] = SCORES,
    title: str = "all sequences",
    seed: int = 0,
    **model,
) -> c.Benchmark:
    """A benchmark with these min-F1 and this excess; `model` goes into the model's row."""
    generator = np.random.default_rng(seed)
    n, low, high = len(names), *excess[1:]
    kind = "adds" if low > 0 else "nothing" if high < 0 else "unclear"
    ends = ", ".join(f"{100 * one:.1f}".replace("-", "−") for one in excess[1:])
    brief = {"adds": "attention adds to the text", "nothing": "attention did worse than the text"}
    say = f"{brief.get(kind, 'undecided')}: {100 * excess[0]:.1f} points [{ends}]"
    confusion = generator.integers(40, 160, (n, n)) + np.diag(generator.integers(200, 700, n))
    of_model = {
        "excess": Estimate(*excess),
        "verdict": say.replace("-", "−"),
        "verdict_kind": kind,
        "confusion": confusion.tolist(),
        "matched_by": "ngram",
        "matched_min_f1": estimate(0.21, 0.07),
        "matched_f1": [estimate(0.4, 0.07)] * n,
        "matched_blind_min_f1": estimate(0.33, 0.07),
        "matched_n_per_class": 40,
        "difference_before": 1.234,
        "difference_after": 0.04,
    }
    rows = {
        source: make_row(
            source,
            value,
            [value or 0.0, *(min(0.97, (value or 0.0) + 0.3 + 0.1 * one) for one in range(n - 1))],
            **(of_model | model if source == "model" else {}),
        )
        for source, value in scores.items()
    }
    runs = [
        {"words": f"6, 10, {pooling}", "seed": number, "did_train": True, "seconds": 5.1}
        | {"training_min_f1": 0.41 + 0.03 * number, "eval_min_f1": 0.22 + 0.02 * number}
        for pooling in ("mean", "max")
        for number in range(3)
    ]
    settings = {"batch_size": 16, "learning_rate": 0.001, "schedule": "cosine", "clamp": 8}
    return c.Benchmark(title, rows=rows, runs=runs, preset="small", settings=settings)


def make_example(name: str, prefix: str, suffix: str, other: str | None = None, **facts):
    """Words with their leading space stand for tokens."""
    true, written = (one.replace(" ", "\0 ").split("\0") for one in (suffix, other or suffix))
    differs = [a != b for a, b in zip(written, true + [""] * len(written), strict=False)]
    row = {"class": name, "prefix": prefix, "suffix": true, "flags": []}
    row |= {"written": list(zip(written, differs, strict=True)), "sequence_id": 1204}
    row |= {"memorization_score": 1.0, "rouge_l": 0.2188, "rouge_3": 0.0}
    return row | facts


def make_examples(names: tuple[str, ...]) -> list[Facts]:
    """Sequences of every class, among them code, a template, and one that is not memorized."""
    code = "class Handler:\n\tdef get(self, key):\n\t\treturn self.table[key]\n\n"
    method = "\tdef set(self, key, value):\n\t\tself.table[key] = value\n"
    prose = "The result of the comparison is cached, so that a second call with the same arguments"
    true = " returns at once and does not read the files again unless their signature changed."
    other = " returns the same object and does not read the same file again unless the object is"
    facts = {"genre": "prose", "document": "filecmp.rst", "duplicates": 0, "flags": ["held out"]}
    found = [make_example("Non-Memo", prose, true, other, **facts) for _ in range(3)]
    return found + [make_example(name, code, method, flags=["code"]) for name in names[1:]]


def make_taxonomy(
    names: tuple[str, ...] = NAMES,
    *,
    n_layers: int = 4,
    seed: int = 0,
    benchmarks: tuple[c.Benchmark, ...] = (),
    **facts,
) -> c.TaxonomyResult:
    """A taxonomy with two attributions and examples; without benchmarks it has one."""
    n = len(names)
    deltas = [
        StoredDelta(
            sample=SampleKey(", ".join(names)),
            shown=", ".join(names),
            attribution=attribution,
            classes=names,
            delta=make_delta(n, n_layers, seed + index),
            n_used=tuple(range(90, 90 + n)),
            n_skipped=(2,) * n,
            n_wrong=(40,) * n,
            n_cnns=6,
            source="model",
            n_says=(6,) * n,
        )
        for index, attribution in enumerate(("gradient", "guided"))
    ]
    classes = [
        {"name": name, "meaning": "a rule", "n_sequences": 900, "n_train": 333, "n_eval": 166}
        for name in names
    ]
    known = {"published_min_f1": 0.647 if n == 4 else 0.89, "examples": make_examples(names)}
    return c.TaxonomyResult(
        ", ".join(names),
        classes,
        benchmarks=benchmarks or (make_benchmark(names, seed=seed),),
        deltas=deltas,
        **(known | facts),
    )


@cache
def make_content() -> c.ReportContent:
    """The demo as it is expected to come out: a null result with its positive control."""
    model = {"name": "mnemoscope-demo", "n_layers": 4, "n_heads": 8, "dtype": "float32"}
    model |= {"fingerprint": "9f2c41d07be3a6588d1f", "revision": None}
    model |= {"note": "GPT-NeoX of 4.2 million parameters."}
    by_genre = [
        {"name": name, "n_sequences": n, "n_memorized": n_memorized}
        for name, n, n_memorized in (("prose", 2900, 1985), ("code", 1800, 1005))
    ]
    counts = {"n_sequences": 6700, "n_memorized": 4044, "by_genre": by_genre, "by_duplicates": []}
    lower = {source: value - 0.06 for source, value in SCORES.items()}
    four = make_benchmark(FOUR, excess=(-0.118, -0.162, -0.071), scores=FOUR_SCORES, seed=3)
    both = make_benchmark(seed=5), make_benchmark(scores=lower, title="same genres in every class")
    return c.ReportContent(
        title="Guess or recall? The embedded model",
        model=model,
        reference=model | {"name": "mnemoscope-demo-reference", "note": "Trained on other text."},
        counts=counts,
        taxonomies=[
            make_taxonomy(FOUR, title="Prashanth et al.", seed=3, benchmarks=(four,)),
            make_taxonomy(title="Guess or recall", seed=5, benchmarks=both),
        ],
        checks=[
            Table(
                "Ground truth",
                ("Inserted as", "sequences", "memorized"),
                [("prose ×13–40", 700, 1.0), ("held-out text", 500, 0.046)],
                "Duplicates are counted in the finished training text.",
            )
        ],
        fragile={"n_fragile": 7, "n_labels": 6700, "gap_tolerance": 1e-4}
        | {"n_checked": 50, "n_disagree": 0, "disagree_gap": None},
        warnings=["The CNNs see 333 training sequences a class; the paper uses 4,000."],
        settings={
            "versions": {"mnemoscope": "0.1.0", "torch": "2.9.1"},
            "cnn": {"preset": "small", "grid": {"kernel": [6, 8], "filters": [10, 16]}},
        },
        commands=("mnemoscope demo -o demo", "mnemoscope report demo"),
    )


@pytest.fixture(scope="session")
def content() -> c.ReportContent:
    return make_content()


def page_of(*taxonomies: c.TaxonomyResult, **facts) -> str:
    """The page of these taxonomies, in the invented study or with some facts changed."""
    shown = {"taxonomies": taxonomies} if taxonomies else {}
    return render_report(replace(make_content(), **shown, **facts))


@pytest.fixture(scope="session")
def build_delta():
    return make_delta
