"""An invented study to render: seeded Δ with structure, figures of the size small models give."""

from dataclasses import replace

import numpy as np
import pytest

from mnemoscope.report import content as c
from mnemoscope.report.content import Example

LENGTH = 64
CLASSES = {
    "Non-Memo": "score below 1: the model does not finish the sequence word for word",
    "Recite": "memorized, and the suffix occurs more than 5 times in training",
    "Reconstruct": "memorized, rarer, and an incrementing or repeating pattern",
    "Recollect": "memorized, rarer, and no such pattern",
    "Guess": "memorized, and the suffix can be foreseen from the prefix "
    "(pattern, or ROUGE-L or ROUGE-3 of at least 0.5)",
    "Recall": "memorized, and nothing in the prefix foretells the suffix",
}


def make_delta(n_classes: int, n_layers: int, seed: int, length: int = LENGTH) -> np.ndarray:
    """Δ (classes, layers, query, key) with near-diagonals, stripes and first-token columns."""
    generator = np.random.default_rng(seed)
    query, key = np.indices((length, length))
    delta = np.zeros((n_classes, n_layers, length, length), np.float32)
    for k in range(n_classes):
        for layer in range(n_layers):
            noise = generator.gamma(0.6, 0.05, (length, length))
            near = np.exp(-(query - key) / (3 + 2 * k))
            stripe = 0.8 * (((query - key) % (9 + 3 * k)) == 1) * (query > 20)
            column = 0.6 * (key < 2) * (query >= length // 2)
            weight = generator.dirichlet([1.5 + (k == 0), 1.0 + (k == 1), 1.0 + (k == 2)])
            level = np.exp(-((layer - n_layers * (0.3 + 0.25 * k)) ** 2) / (0.3 * n_layers**1.4))
            mixed = weight[0] * near + weight[1] * stripe + weight[2] * column
            delta[k, layer] = np.tril(level * (mixed + 0.4 * noise) + 0.02 * noise)
    return delta


def estimate(value: float | None, width: float = 0.04) -> c.Estimate:
    """An interval around a value."""
    if value is None:
        return c.Estimate(None)
    return c.Estimate(value, max(0, value - width), min(1, value + 0.9 * width))


def make_rows(min_f1: dict[str, float], f1: dict[str, list[float]]) -> tuple[c.BenchmarkRow, ...]:
    """One row a source; F1 of a class is at least min-F1."""
    return tuple(
        c.BenchmarkRow(
            source=source,
            min_f1=estimate(value),
            f1=tuple(estimate(each, 0.05) for each in f1[source]),
            n_eval=498,
            n_runs=1 if source in ("ngram", "logits", "statistics") else 6,
            training_min_f1=min(1, value + 0.17),
            precision=tuple(estimate(each - 0.03, 0.05) for each in f1[source]),
            recall=tuple(estimate(min(1, each + 0.03), 0.05) for each in f1[source]),
            seconds=3.2 if source in ("ngram", "logits", "statistics") else 31.7,
        )
        for source, value in min_f1.items()
    )


def make_cnn() -> c.CnnFacts:
    """Two settings, three seeds."""
    runs = tuple(
        c.CnnRun(6, 10, pooling, seed, 0.41 + 0.03 * seed, 0.22 + 0.02 * seed, True, 5.1)
        for pooling in ("mean", "max")
        for seed in range(3)
    )
    settings = {"batch_size": 16, "learning_rate": 0.001, "weight_decay": 0.1, "dropout": 0.2}
    return c.CnnFacts("small", settings | {"schedule": "cosine", "clamp": 8}, runs)


def make_example(
    name: str, prefix: str, suffix: str, other: str | None = None, **facts: object
) -> Example:
    """Words with their leading space stand for tokens."""
    true = tuple(_words(suffix))
    written = tuple(_words(other)) if other else true
    differs = tuple(a != b for a, b in zip(written, true + ("",) * len(written), strict=False))
    return Example(name, prefix, true, written, differs, **facts)  # type: ignore[arg-type]


def _words(text: str) -> list[str]:
    words = text.split(" ")
    return words[:1] + [" " + word for word in words[1:]]


def make_examples(names: tuple[str, ...]) -> tuple[Example, ...]:
    """Several sequences of every class."""
    licence = (
        "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n\n1. This LICENSE AGREEMENT is between the "
        'Python Software Foundation ("PSF"), and the Individual or Organization ("Licensee")'
    )
    recall = make_example(
        names[-1],
        licence,
        " accessing and otherwise using this software in source or binary "
        "form and its associated documentation.",
        sequence_id=1204,
        genre="licence",
        document="LICENSE.txt",
        duplicates=38,
        memorization_score=1.0,
        rouge_l=0.2188,
        rouge_3=0.0,
    )
    guess = make_example(
        names[1],
        "item 11: done\nitem 12: done\nitem 13: done\nitem 14: done\n",
        "item 15: done\nitem 16: done\nitem 17: done\nitem 18: done\n",
        sequence_id=4417,
        genre="template",
        duplicates=3,
        memorization_score=1.0,
        rouge_l=0.8125,
        rouge_3=0.7,
        flags=("incrementing",),
    )
    code = make_example(
        names[1],
        "class Handler:\n\tdef get(self, key):\n\t\treturn self.table[key]\n\n",
        "\tdef set(self, key, value):\n\t\tself.table[key] = value\n",
        sequence_id=310,
        genre="code",
        document="http/handler.py",
        duplicates=7,
        memorization_score=1.0,
        rouge_l=0.5312,
        rouge_3=0.2667,
        flags=("code",),
    )
    other = make_example(
        "Non-Memo",
        "The result of the comparison is cached, so that a second call with the same arguments",
        " returns at once and does not read the files again unless their signature changed.",
        " returns the same object and does not read the same file again unless the object is",
        sequence_id=88,
        genre="prose",
        document="filecmp.rst",
        duplicates=0,
        memorization_score=0.4688,
        rouge_l=0.1875,
        rouge_3=0.0333,
        flags=("held out",),
    )
    rest = tuple(
        replace(guess, class_name=name, sequence_id=5000 + i) for i, name in enumerate(names[2:-1])
    )
    more = replace(other, sequence_id=89, genre="code", flags=())
    third = replace(other, sequence_id=90)
    return (other, more, third, guess, code, *rest, recall, replace(recall, sequence_id=1300))


def make_taxonomy(
    names: tuple[str, ...],
    *,
    title: str = "",
    excess: tuple[float, float, float] = (-0.2, -0.25, -0.157),
    n_layers: int = 4,
    seed: int = 0,
    scores: dict[str, float] | None = None,
    verdict: str = "",
) -> c.TaxonomyResult:
    """A taxonomy with two benchmarks, two attributions and examples."""
    generator = np.random.default_rng(seed)
    scores = scores or {
        "model": 0.231,
        "statistics": 0.384,
        "blind": 0.402,
        "ngram": 0.431,
        "reference": 0.334,
        "control": 0.297,
        "logits": 0.862,
    }
    n = len(names)
    f1 = {
        source: [value] + [min(0.97, value + 0.12 + 0.42 * generator.random()) for _ in names[1:]]
        for source, value in scores.items()
    }
    confusion = generator.integers(40, 160, (n, n)) + np.diag(generator.integers(200, 700, n))
    value, low, high = excess
    say = verdict or (
        f"nothing is left once the text is taken off: {value * 100:.1f} points "
        f"[{low * 100:.1f}, {high * 100:.1f}]".replace("-", "−")
    )
    main = c.Benchmark(
        title="all sequences",
        rows=make_rows(scores, f1),
        excess=c.Excess(c.Estimate(value, low, high), say),
        matched=c.MatchedScores(
            estimate(0.21, 0.07),
            tuple(estimate(0.4, 0.07) for _ in names),
            estimate(0.33, 0.07),
            212,
        ),
        confusion=confusion,
        cnn=make_cnn(),
    )
    lower = {source: value - 0.06 for source, value in scores.items()}
    by_genre = c.Benchmark(
        title="same genres in every class",
        note="Within every class the same number of sequences of each kind of text, so that the "
        "kind of text does not give the class away.",
        rows=make_rows(lower, {s: [v - 0.06 for v in f1[s]] for s in f1}),
        excess=c.Excess(c.Estimate(value + 0.12, low + 0.1, high + 0.16), "Undecided."),
        confusion=confusion // 3,
        cnn=make_cnn(),
    )
    deltas = tuple(
        c.DeltaMaps(
            attribution,
            make_delta(n, n_layers, seed + i),
            n_used=tuple(int(x) for x in generator.integers(40, 140, n)),
            n_skipped=tuple(int(x) for x in generator.integers(0, 4, n)),
            n_wrong=tuple(int(x) for x in generator.integers(20, 90, n)),
        )
        for i, attribution in enumerate(("gradient", "guided"))
    )
    sizes = [2656, *(int(x) for x in generator.integers(900, 2400, n - 1))]
    return c.TaxonomyResult(
        name=", ".join(names),
        title=title,
        classes=tuple(
            c.ClassFacts(name, CLASSES.get(name, "a class"), size, 333, 166)
            for name, size in zip(names, sizes, strict=True)
        ),
        benchmarks=(main, by_genre),
        deltas=deltas,
        published_min_f1=0.647 if n == 4 else 0.89,
        examples=make_examples(names),
    )


def make_content() -> c.ReportContent:
    """The demo as it is expected to come out: a null result with its positive control."""
    return c.ReportContent(
        title="Guess or recall? The embedded model",
        created="3 March 2026",
        model=c.ModelFacts(
            "mnemoscope-demo",
            4,
            8,
            "float32",
            "9f2c41d07be3a6588d1f",
            note="GPT-NeoX of 4.2 "
            "million parameters, trained on text whose duplicates are counted.",
        ),
        reference=c.ModelFacts(
            "mnemoscope-demo-reference",
            4,
            8,
            "float32",
            "51be70aa92c3d4411e0c",
            note="The same network before it saw the study's sequences.",
        ),
        counts=c.Counts(
            6700,
            4044,
            by_genre=(
                c.CountRow("prose", 2900, 1985),
                c.CountRow("code", 1800, 1005),
                c.CountRow("template", 1500, 1031),
                c.CountRow("held-out text", 500, 23),
            ),
            by_duplicates=(
                c.CountRow("0", 1310, 222),
                c.CountRow("1–5", 2480, 1389),
                c.CountRow("6–12", 1760, 1745),
                c.CountRow("13–40", 1150, 688),
            ),
        ),
        taxonomies=(
            make_taxonomy(
                ("Non-Memo", "Recite", "Reconstruct", "Recollect"),
                title="Prashanth et al.",
                excess=(-0.118, -0.162, -0.071),
                seed=3,
                scores={
                    "model": 0.312,
                    "statistics": 0.366,
                    "blind": 0.43,
                    "ngram": 0.391,
                    "reference": 0.341,
                    "control": 0.262,
                    "logits": 0.611,
                },
            ),
            make_taxonomy(("Non-Memo", "Guess", "Recall"), title="Guess or recall", seed=5),
        ),
        checks=(
            c.Table(
                "Ground truth",
                ("Inserted as", "sequences", "counted alike", "memorized"),
                (
                    ("prose ×13–40", 700, 700, 1.0),
                    ("prose ×6–12", 800, 799, 0.9975),
                    ("code ×3–5", 900, 900, 0.713),
                    ("held-out text", 500, 500, 0.046),
                ),
                "Duplicates are counted in the finished training text, every occurrence at any "
                "offset. Here the counts stand beside what the recipe inserted.",
            ),
        ),
        fragile=c.FragileLabels(7, 6700, 1e-4),
        warnings=("The CNNs see 333 training sequences a class; the paper uses 4,000.",),
        settings={
            "versions": {"mnemoscope": "0.1.0", "torch": "2.9.1", "transformers": "5.0.1"},
            "study": {"seed": 0, "length": 64, "device": "cpu", "dtype": "float32"},
            "cnn": {"preset": "small", "grid": {"kernel": [6, 8], "filters": [10, 16]}},
        },
        commands=("mnemoscope demo -o demo", "mnemoscope report demo"),
    )


@pytest.fixture(scope="session")
def content() -> c.ReportContent:
    return make_content()


@pytest.fixture(scope="session")
def build_taxonomy():
    return make_taxonomy


@pytest.fixture(scope="session")
def build_delta():
    return make_delta
