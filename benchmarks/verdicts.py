"""How often verdicts are right: simulated studies of which the truth is known.

    python benchmarks/verdicts.py             # 400 studies of each kind, some ten minutes
    python benchmarks/verdicts.py --studies 50

No model and no CNN: votes are drawn. A vote is the class of the largest score: what the class adds,
how hard the sequence's group of near duplicates is (for all sources alike), noise of the source,
noise of the training, and how much a training leans to each class. Prints the tables of
`docs/appendix/verdicts.md`; `tests/benchmark/test_verdicts.py` runs 200 studies.
"""

import argparse
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

import mnemoscope.stats as stats
from mnemoscope.benchmark.excess import (
    BenchmarkFigures,
    Excess,
    Votes,
    give_verdict,
    measure_excess,
)
from mnemoscope.cnn.metrics import (
    confusion_matrix,
    estimate_scores,
    min_f1,
)

CLASSES = ("Non-Memo", "Guess", "Recall")
CNN_CONTROLS, REGRESSION = ("blind", "reference"), "ngram"
SIGNAL = 0.8  # of every source where all are equal: min-F1 of about 56 %
LEAD = 0.07
SHARED, OWN, OF_TRAINING = 0.6, 0.6, 0.5
MANY = 4000  # sequences a class for what is true


@dataclass(frozen=True)
class Design:
    """How studies are made.

    Attributes:
        signal: what the own class adds to the score, by source.
        lean: standard deviation of a training's leaning to each class.
        n_trainings: of each CNN; the n-grams have one.
        n_a_class: evaluation sequences a class.
        sizes: sequences of a group, drawn evenly from these.
    """

    signal: dict[str, float]
    lean: float
    n_trainings: int = 3
    n_a_class: int = 200
    sizes: tuple[int, ...] = (1, 1, 1, 2, 5)


def simulate(design: Design, rng: np.random.Generator) -> dict[str, Votes]:
    """Votes of one study by source; the classes have equally many sequences."""
    n_classes = len(CLASSES)
    n = n_classes * design.n_a_class
    true = np.repeat(np.arange(n_classes), design.n_a_class)
    sizes = rng.choice(design.sizes, (n_classes, design.n_a_class))
    in_class = [np.repeat(np.arange(len(one)), one)[: design.n_a_class] for one in sizes]
    groups = np.concatenate(in_class) + n * true
    numbers = np.unique(groups, return_inverse=True)[1]
    hardness = SHARED * rng.normal(size=(numbers.max() + 1, n_classes))[numbers]
    found = {}
    for source, signal in design.signal.items():
        n_runs, lean = (1, 0.0) if source == REGRESSION else (design.n_trainings, design.lean)
        scores = signal * np.eye(n_classes)[true] + hardness + OWN * rng.normal(size=(n, n_classes))
        scores = scores + OF_TRAINING * rng.normal(size=(n_runs, n, n_classes))
        predicted = (scores + lean * rng.normal(size=(n_runs, 1, n_classes))).argmax(axis=2)
        found[source] = Votes(
            sequence_ids=np.arange(n),
            true=true,
            predicted=predicted,
            seeds=np.arange(n_runs),
            n_classes=n_classes,
            probabilities=np.eye(n_classes)[predicted].mean(axis=0),
            groups=groups,
        )
    return found


def truth(source: str, signal: float, lean: float, n_studies: int) -> float:
    """Min-F1 of a source on very many sequences, the mean over studies."""
    design = Design({source: signal}, lean, n_a_class=MANY)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(n_studies):
        votes = simulate(design, rng)[source]
        values.append(min_f1(confusion_matrix(votes.true, votes.predicted, votes.n_classes)))
    return float(np.mean(values))


def signal_for(source: str, wanted: float, *, lean: float, n_studies: int) -> float:
    """The signal with which a source has this min-F1, by halving."""
    low, high = 0.2, 2.0
    for _ in range(9):
        middle = (low + high) / 2
        is_less = truth(source, middle, lean, n_studies) < wanted
        low, high = (middle, high) if is_less else (low, middle)
    return (low + high) / 2


def designs(lean: float, *, n_studies: int = 40) -> dict[str, tuple[Design, float]]:
    """Kinds of studies with the true excess of each; the n-grams lack a CNN's noise, so less."""
    wanted = partial(signal_for, lean=lean, n_studies=n_studies)
    base = truth("model", SIGNAL, lean, n_studies)
    ngram, leading = wanted("ngram", base), wanted("model", base + LEAD)
    equal = dict.fromkeys(("model", *CNN_CONTROLS), SIGNAL) | {"ngram": ngram}
    weak = {"blind": wanted("blind", base - 0.2), "ngram": 0.6 * ngram}
    return {
        "all sources equal": (Design(equal, lean), 0.0),
        "model leads three equal controls": (Design(equal | {"model": leading}, lean), LEAD),
        "model leads one strong control": (Design(equal | {"model": leading} | weak, lean), LEAD),
    }


def judge(votes: dict[str, Votes], *, n_resamples: int) -> tuple[Excess, str]:
    """The excess of one study, and the kind of its verdict where the reader finds a mark."""
    controls = {name: one for name, one in votes.items() if name != "model"}
    model = votes["model"]
    excess = measure_excess(model, controls, n_resamples=n_resamples, seed=0)
    f1 = estimate_scores(
        model.predicted,
        model.true,
        n_classes=model.n_classes,
        seed=0,
        n_resamples=n_resamples,
        groups=model.groups,
    ).f1
    figures = BenchmarkFigures(
        CLASSES,
        did_train=True,
        f1=tuple(one.value or 0.0 for one in f1),
        f1_low=tuple(one.low or 0.0 for one in f1),
        excess=excess,
        controls=tuple(controls),
        finds_mark=True,
    )
    return excess, give_verdict(figures).kind


def few_groups(n_groups: int, n_studies: int) -> float:
    """How often the interval of a mean of unequal groups holds the truth."""
    rng = np.random.default_rng(n_groups)
    n_held = 0
    for _ in range(n_studies):
        groups = np.repeat(np.arange(n_groups), 1 + rng.poisson(4, n_groups))
        values = rng.normal(size=n_groups)[groups] + rng.normal(size=len(groups))
        low, high = stats.resampled_mean(values, groups)[1:]
        n_held += low is not None and high is not None and low < 0 < high
    return n_held / n_studies


def run(n_studies: int, n_resamples: int) -> None:
    """Print both tables."""
    print("| groups | intervals of a mean that hold it |\n|---|---|")
    fewest, stats.FEWEST_GROUPS = stats.FEWEST_GROUPS, 2
    for n_groups in (5, 10, 20, 40):
        print(f"| {n_groups} | {few_groups(n_groups, 4 * n_studies):.1%} |")
    stats.FEWEST_GROUPS = fewest
    print(f"\n| {' | '.join(_HEADS)} |\n|{'---|' * len(_HEADS)}")
    for lean in (0.1, 0.2, 0.4):
        for kind, (made, excess) in designs(lean).items():
            for n_trainings in (1, 3):
                design = replace(made, n_trainings=n_trainings)
                row = _of_design(design, excess, n_studies=n_studies, n_resamples=n_resamples)
                cells = (kind, f"{lean:g}", str(n_trainings), *row)
                print(f"| {' | '.join(cells)} |", flush=True)


_HEADS = (
    *("studies", "lean", "trainings", "excess", "chance"),
    *("holds it", "low > it", "high < it", "nothing", "adds"),
)


def _of_design(design: Design, excess: float, *, n_studies: int, n_resamples: int) -> list[str]:
    """The cells of one kind of study."""
    rng = np.random.default_rng(1)
    rows, kinds = [], Counter[str]()
    for _ in range(n_studies):
        votes = simulate(design, rng)
        found, verdict = judge(votes, n_resamples=n_resamples)
        rows.append((found.value, found.chance, found.low, found.high))
        kinds[verdict] += 1
    value, chance, low, high = np.array(rows, dtype=np.float64).T
    shares = ((low <= excess) & (excess <= high), low > excess, high < excess)
    return [
        f"{100 * value.mean():.1f} ± {100 * value.std():.1f}",
        f"{100 * chance.mean():.1f}",
        *(f"{share.mean():.1%}" for share in shares),
        *(f"{kinds[kind] / n_studies:.1%}" for kind in ("nothing", "adds")),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=300)
    asked = parser.parse_args()
    run(asked.studies, asked.resamples)
