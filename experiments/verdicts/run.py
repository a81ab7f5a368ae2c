"""How often verdicts are right: simulated studies of which the truth is known.

    python -m experiments.verdicts.run            # 150 studies of each kind, a quarter of an hour
    python -m experiments.verdicts.run --seed 77 --of-training 0.5  # others, another `OF_TRAINING`

No language model: texts are latent vectors, drawn with heavy tails (Student's t, 4 degrees of
freedom) and in groups of near duplicates, which share most of the noise of the text and half of
that of each source; one class has half as many groups. Each source is a noisy linear view of the
text; the model's also shows memory, by its class, more of one text than of another. Readers are
ridge regressions on these views, fitted to other groups than they are asked of; a CNN is one on
random features, drawn anew in each training.

Makes `docs/appendix/verdicts.md`; `tests/benchmark/test_gain.py` has its readers.
"""

import argparse
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

import mnemoscope.stats as stats
from experiments.pages import publish
from mnemoscope.benchmark import gain
from mnemoscope.benchmark.excess import Votes, measure_excess
from mnemoscope.benchmark.gain import Gain, Pool, measure_gain, pool_folds
from mnemoscope.benchmark.verdict import EFFECT
from mnemoscope.cnn.metrics import confusion_matrix, min_f1

N_CLASSES = 3
SIZES = (1, 1, 1, 2, 5)  # sequences of a group, drawn evenly; twice these in the last class
LATENT, TEXT_COLUMNS, HIDDEN = 6, 40, 60
OF_TEXT, OF_GROUP, SHARED = 1.2, 0.7, 0.5
TEXT_STRENGTH = 0.7
PENALTY, SCALE = 20.0, 4.0
NAMES = {  # reader: model, reference and readers of the text
    "regression": ("statistics", "reference_statistics", ("ngram", "blind_statistics")),
    "CNN": ("model", "reference", ("ngram", "blind")),
}
LEADS = {"regression": 0.23, "CNN": 0.4}  # memory that is worth some 5 points of min-F1


@dataclass(frozen=True)
class Design:
    """How studies are made.

    Attributes:
        reader: "regression", fitted once, or "CNN", with three trainings.
        memory: what the model's views show beside the text; 0 for none.
        split: "folds" asks all sequences, "sides" a third, of readers fitted to the others.
        n_asked: sequences a class that are asked.
        columns: of each view of attention.
        reference: how well the reference shows the text beside the model, 1 as well.
        tails: degrees of freedom of the noise.
    """

    reader: str = "regression"
    memory: float = 0.0
    split: str = "folds"
    n_asked: int = 480
    columns: int = 80
    reference: float = 1.0
    tails: float = 4.0


@dataclass(frozen=True)
class Studied:
    """One study: votes of all sources, and training sequences of each fit."""

    model: Votes
    reference: Votes
    text: dict[str, Votes]
    n_trained: float

    def gain(self) -> Gain:
        """What the verdict rests on."""
        text = list(self.text.values())
        return measure_gain(self.model, self.reference, text, n_trained=self.n_trained)


def simulate(design: Design, rng: np.random.Generator) -> Studied:
    """Draw the texts of one study, their views, and what readers make of them."""
    n = design.n_asked * (1 if design.split == "folds" else 3)
    true, groups = _texts(n, rng)
    own, other, text = NAMES[design.reader]

    def noise(columns: int, share: float) -> np.ndarray:
        """Of unit variance; its groups have a share in common."""
        scale = np.sqrt((design.tails - 2) / design.tails)
        of_groups = rng.standard_t(design.tails, (groups.max() + 1, columns))[groups]
        alone = rng.standard_t(design.tails, (len(true), columns))
        return np.asarray(scale * (np.sqrt(share) * of_groups + np.sqrt(1 - share) * alone))

    shown = OF_TEXT * np.eye(N_CLASSES, LATENT)[true] + noise(LATENT, OF_GROUP)
    firmness = rng.exponential(size=(groups.max() + 1, 1))[groups]  # of a text's memory
    memory = design.memory * firmness * np.eye(N_CLASSES)[true]

    def view(columns: int, strength: float, of_memory: float = 0.0) -> np.ndarray:
        mixing = np.random.default_rng(columns).normal(size=(LATENT + N_CLASSES, columns))
        mixed = np.hstack([strength * shown, of_memory * memory]) @ mixing
        return np.asarray(mixed * 3 / np.sqrt(columns) + noise(columns, SHARED))

    views = {one: view(TEXT_COLUMNS + place, TEXT_STRENGTH) for place, one in enumerate(text)}
    views[own] = view(design.columns, 1.0, 1.0)
    views[other] = view(design.columns, design.reference)
    n_splits = 5 if design.split == "folds" else 3
    folds = pool_folds(true, groups, seed=int(rng.integers(1 << 30)), n_folds=n_splits)
    sides = folds if design.split == "folds" else folds[:1]
    asked = np.sort(np.concatenate([one for _, one in sides]))
    votes = {}
    for name, columns in views.items():
        is_cnn = design.reader == "CNN" and name != "ngram"
        scores = []
        for _ in range(3 if is_cnn else 1):
            read = _random_features(columns, rng) if is_cnn else columns
            found = np.full((len(true), N_CLASSES), np.nan)
            for kept, out in sides:
                found[out] = _ridge(read[kept], true[kept], read[out])
            scores.append(found[asked])
        votes[name] = votes_of(np.stack(scores), true[asked], groups[asked])
    n_trained = float(np.mean([len(kept) for kept, _ in sides]))
    return Studied(votes[own], votes[other], {one: votes[one] for one in text}, n_trained)


def _texts(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Classes of equally many sequences and their groups."""
    true, groups = np.repeat(np.arange(N_CLASSES), n), []
    for label in range(N_CLASSES):
        sizes = rng.choice(SIZES, n) * (2 if label == N_CLASSES - 1 else 1)
        groups.append(np.repeat(np.arange(n), sizes)[:n] + n * label)
    return true, np.unique(np.concatenate(groups), return_inverse=True)[1]


def _random_features(columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a CNN with other first weights makes of its input."""
    scaled = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    mixing = rng.normal(size=(scaled.shape[1], HIDDEN)) / np.sqrt(scaled.shape[1])
    return np.asarray(np.maximum(scaled @ mixing + 0.3 * rng.normal(size=HIDDEN), 0.0))


def _ridge(kept: np.ndarray, true: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Scores of the classes, by least squares on their indicators."""
    mean, scale = kept.mean(axis=0), kept.std(axis=0)
    inputs, targets = (kept - mean) / scale, np.eye(N_CLASSES)[true]
    gram = inputs.T @ inputs + PENALTY * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs.T @ (targets - targets.mean(axis=0)))
    return np.asarray(SCALE * ((asked - mean) / scale) @ weights)


def votes_of(scores: np.ndarray, true: np.ndarray, groups: np.ndarray) -> Votes:
    """Votes of trainings that give these logits (trainings, n, classes); groups (n,)."""
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = shares / shares.sum(axis=-1, keepdims=True)
    seeds = np.arange(len(scores))
    return Votes(
        sequence_ids=np.arange(len(true)),
        true=true,
        predicted=scores.argmax(axis=-1),
        seeds=seeds,
        n_classes=N_CLASSES,
        probabilities=shares.mean(axis=0),
        scores=shares.astype(np.float32),
        score_seeds=seeds,
        groups=groups,
    )


def nested_gain(studied: Studied) -> tuple[float, float]:
    """What the model adds to text and reference in one pool, with its lower end.

    Not what a verdict rests on: it shows why.
    """
    true, owners = studied.model.true, studied.model.owners
    text, folds = [*studied.text.values(), studied.reference], pool_folds(true, owners)
    with_it, without = (
        Pool(true, folds, readers).predict() for readers in ([*text, studied.model], text)
    )
    apart = (with_it - without)[np.arange(len(true)), true]
    reach = stats.Z * np.sqrt(float(stats.grouped_variance(apart, owners)))
    return float(apart.mean()), float(apart.mean() - reach)


def excess_low(studied: Studied, reader: str, n_resamples: int) -> float:
    """The lower end of the excess of min-F1, for comparison."""
    own, other, _ = NAMES[reader]
    controls = {other: studied.reference, **studied.text}
    found = measure_excess(studied.model, controls, n_resamples=n_resamples, seed=0, reader=own)
    return found.low or 0.0


@cache
def kinds() -> dict[str, Design]:
    """Every kind of study in the table."""
    made: dict[str, Design] = {}
    for reader, memory in LEADS.items():
        for split in ("folds", "sides"):
            equal = Design(reader, split=split)
            made |= {
                f"{reader}, {split}: equal": equal,
                f"{reader}, {split}: model leads": replace(equal, memory=memory),
            }
    plain = Design()
    lead = LEADS["regression"]
    return made | {
        "regression, folds, 200 a class: equal": replace(plain, n_asked=200),
        "regression, folds, 200 a class: model leads": replace(plain, n_asked=200, memory=lead),
        "regression, sides, 120 a class: equal": replace(plain, split="sides", n_asked=120),
        "regression, sides, 120 a class: model leads": replace(
            plain, split="sides", n_asked=120, memory=lead
        ),
        "regression, folds, 250 columns: equal": replace(plain, columns=250),
        "regression, folds, 250 columns: model leads": replace(plain, columns=250, memory=lead),
        "regression, sides, 250 columns: equal": replace(plain, split="sides", columns=250),
        "regression, folds, light tails: equal": replace(plain, tails=100.0),
        "regression, folds: the reference shows less of the text": replace(plain, reference=0.8),
    }


def few_groups(n_groups: int, n_studies: int) -> float:
    """How often the interval of a mean of unequal groups holds the truth."""
    rng = np.random.default_rng(n_groups)
    fewest, stats.FEWEST_GROUPS = stats.FEWEST_GROUPS, 2
    n_held = 0
    for _ in range(n_studies):
        groups = np.repeat(np.arange(n_groups), 1 + rng.poisson(4, n_groups))
        values = rng.normal(size=n_groups)[groups] + rng.normal(size=len(groups))
        low, high = stats.resampled_mean(values, groups)[1:]
        n_held += low is not None and high is not None and low < 0 < high
    stats.FEWEST_GROUPS = fewest
    return n_held / n_studies


def run(
    n_studies: int, n_resamples: int, *, seed: int, n_skipped: int, only: str
) -> dict[str, dict[str, float]]:
    """What each kind of study whose name holds `only` says."""
    found = {}
    for kind, design in kinds().items():
        if only not in kind:
            continue
        rng = np.random.default_rng(seed)
        for _ in range(n_skipped):
            simulate(design, rng)
        found[kind] = _of_design(design, rng, n_studies=n_studies, n_resamples=n_resamples)
        print(kind, found[kind], flush=True)
    return found


def _of_design(
    design: Design, rng: np.random.Generator, *, n_studies: int, n_resamples: int
) -> dict[str, float]:
    """Means over studies of one kind, and shares of them."""
    rows, figures = [], []
    for _ in range(n_studies):
        one = simulate(design, rng)
        figures.append([_min_f1(votes) for votes in (one.model, one.reference, *one.text.values())])
        found = one.gain()
        others = excess_low(one, design.reader, n_resamples) > 0, nested_gain(one)[1] > 0
        rows.append((*found[:4], *others))
    value, low, high, seen, excess, nested = np.array(rows, dtype=np.float64).T
    own, *controls = np.mean(figures, axis=0)
    mean = value.mean()
    of_studies = {
        **{"holds it": (low <= mean) & (mean <= high), "low > it": low > mean},
        **{"high < it": high < mean, "adds": low > 0, "nothing": (low <= 0) & (high < EFFECT)},
        **{"80 % see": seen, "excess > 0": excess, "nested > 0": nested},
    }
    over_all = {"lead": 100 * (own - max(controls)), "gain": mean, "deviation": value.std()}
    return {name: float(np.mean(one)) for name, one in (over_all | of_studies).items()}


def _min_f1(votes: Votes) -> float:
    """The mean over trainings."""
    every = [confusion_matrix(votes.true, row, N_CLASSES) for row in votes.predicted]
    return float(np.mean([min_f1(one) for one in every]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=150)
    parser.add_argument("--resamples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--skip", type=int, default=0, help="studies drawn and passed over")
    parser.add_argument("--only", default="", help="kinds of study whose name holds this")
    parser.add_argument("--of-training", type=float, default=gain.OF_TRAINING)
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    asked = parser.parse_args()
    gain.OF_TRAINING = asked.of_training
    choice = {"seed": asked.seed, "n_skipped": asked.skip, "only": asked.only}
    groups = {str(n_groups): few_groups(n_groups, 1600) for n_groups in (5, 10, 20, 40)}
    found = {"groups": groups, "kinds": run(asked.studies, asked.resamples, **choice)}
    publish("verdicts", found, keep=asked.keep)
