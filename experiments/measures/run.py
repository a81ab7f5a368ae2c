"""Which of ten classifiers generalizes, without a label? Entropy and information of neurons.

    python -m experiments.measures.run [--seeds 4] [--keep]

Made-up texts of four topics, and small networks with fresh weights, an encoder (BERT) and a decoder
(Llama), fitted to 600 rows for 20 epochs. Five have read labels of which a share is drawn at random
(learnt by heart), five texts of which a share begins with a word that names the label (a heuristic;
up to three in four leave the networks as they are, so the shares are high). `analyze neurons
--rows` is asked of each five on 1,000 other rows, whose first word names a topic at random; their
labels say how well each generalizes, and judge the order alone.
`--keep` stores the results and makes the table of `docs/analyses/neurons.md`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

import mnemoscope as ms
from experiments.mislabelled.run import (
    FAMILIES,
    N_COMMON,
    N_OF_TOPIC,
    OF_TOPIC,
    TOPICS,
    TRAINING,
    WORDS,
    make_network,
)
from experiments.pages import publish
from mnemoscope.lm.classifier import encode, fit_classifier, load_classifier
from mnemoscope.plugin import OWN
from mnemoscope.progress import say, show_progress
from mnemoscope.stats import rows_of

NAME = "measures"
KINDS = ("labels at random", "a word that names the label")
SHARES = {KINDS[0]: (0.0, 0.25, 0.5, 0.75, 1.0), KINDS[1]: (0.0, 0.9, 0.96, 0.99, 1.0)}
N_READ, N_ASKED, EPOCHS = 600, 1000, 20


def make_rows(n: int, seed: int, *, random: float = 0.0, named: float = 0.0) -> pl.DataFrame:
    """Texts of drawn words with their topic as label; the first word names a topic.

    A share `random` of the labels is drawn; of a share `named` the first word names the label, of
    the others any.
    """
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, n)
    own = N_COMMON + topic[:, None] * N_OF_TOPIC + rng.integers(0, N_OF_TOPIC, (n, WORDS))
    words = np.where(
        rng.random((n, WORDS)) < OF_TOPIC, own, rng.integers(TOPICS, N_COMMON, own.shape)
    )
    label = np.where(rng.permutation(n) < random * n, rng.integers(0, TOPICS, n), topic)
    words[:, 0] = np.where(rng.permutation(n) < named * n, label, rng.integers(0, TOPICS, n))
    return pl.DataFrame(
        {"text": [" ".join(f"w{one}" for one in row) for row in words], "label": label}
    )


def fit(start: Path, rows: pl.DataFrame, seed: int, to: Path) -> str:
    """Fit the network, and save it."""
    lm = load_classifier(start)
    encoded, labels = encode(lm, rows["text"].to_list()), rows["label"].to_numpy()
    *_, last = fit_classifier(lm, encoded, labels, epochs=EPOCHS, seed=seed, **TRAINING)
    last.model.save_pretrained(to)
    last.tokenizer.save_pretrained(to)
    return str(to)


def measure(family: str, kind: str, seed: int, **settings: Any) -> dict[str, Any]:
    """Five classifiers of a family that read more and more of one kind, and their order."""
    asked = make_rows(N_ASKED, 1000 + seed)
    of = "random" if kind == KINDS[0] else "named"
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        start = make_network(place / "start", family, seed)
        first, *others = (
            fit(start, make_rows(N_READ, seed, **{of: share}), seed, place / f"share-{share:g}")
            for share in SHARES[kind]
        )
        found = ms.analyze(
            first, "neurons", rows=asked, second=str(start), checkpoints=others, **settings
        )
    say(f"{family}, {kind}, seed {seed}: {found.sentence}")
    share_of = dict(zip(others, SHARES[kind][1:], strict=True))
    models = [
        {"share": SHARES[kind][0] if row["model"] == OWN else share_of.get(row["model"])}
        | {name: row[name] for name in ("entropy", "above_shuffled", "confidence", "right")}
        for row in rows_of(found.frames["models"])
    ]
    order = {row["measure"]: row["kendall"] for row in rows_of(found.frames["ranking"])}
    return {"family": family, "kind": kind, "seed": seed, "models": models, "order": order}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, ask, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args(arguments)
    with show_progress():
        runs = [
            measure(family, kind, seed)
            for seed in range(given.seeds)
            for family in FAMILIES
            for kind in KINDS
        ]
        publish(NAME, {"runs": runs}, keep=given.keep)


if __name__ == "__main__":
    main()
