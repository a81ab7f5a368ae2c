"""Wrong labels that a classifier has memorized: does PSMI find them, and before it has?

    python -m experiments.mislabelled.run [--seeds 3] [--shadows 16] [--keep]
    python -m experiments.mislabelled.run --more 2000 [--keep]

Made-up texts of four topics, 30 % of whose labels are wrong, and small networks with fresh weights,
an encoder (BERT) and a decoder (Llama), fitted until every label comes out, wrong ones too, or for
60 epochs. A wrong label says nothing that the text says, so a row with one is memorized. `analyze
psmi` is asked of the fitted network, of the same after 1 to 16 epochs, and before it was fitted.
The second truth is the paper's kind: rows whose margin gains most by being read, by shadows of half
of the rows each. With `--more` the decoder is fitted to so many rows, and asked once it has all.
`--keep` stores the results and makes the tables of `docs/analyses/psmi.md`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

import mnemoscope as ms
from experiments.pages import publish, results_of
from mnemoscope.lm.classifier import classified, encode, fit_classifier, load_classifier
from mnemoscope.progress import say, show_progress
from mnemoscope.stats import rows_of

NAME = "mislabelled"
TOPICS, WRONG, WORDS = 4, 0.3, 12
N_COMMON, N_OF_TOPIC, OF_TOPIC = 240, 40, 0.4
FAMILIES = ("bert", "llama")
EARLY = (1, 2, 4, 8, 16)
TRAINING: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 32}
MOST_EPOCHS = 60


def make_rows(n: int, seed: int) -> pl.DataFrame:
    """Texts of drawn words, four in ten of their topic's own; a share has another topic's label."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, n)
    own = N_COMMON + topic[:, None] * N_OF_TOPIC + rng.integers(0, N_OF_TOPIC, (n, WORDS))
    is_own = rng.random((n, WORDS)) < OF_TOPIC
    words = np.where(is_own, own, rng.integers(0, N_COMMON, (n, WORDS)))
    wrong = rng.permutation(n) < WRONG * n
    label = np.where(wrong, (topic + rng.integers(1, TOPICS, n)) % TOPICS, topic)
    texts = [" ".join(f"w{one}" for one in row) for row in words]
    return pl.DataFrame({"text": texts, "label": label, "mislabelled": wrong})


def make_network(folder: Path, family: str, seed: int) -> Path:
    """Save a network with fresh weights, and its tokenizer of whole words."""
    names = ["[PAD]", "[CLS]", *(f"w{one}" for one in range(N_COMMON + TOPICS * N_OF_TOPIC))]
    backend = Tokenizer(models.WordLevel({one: at for at, one in enumerate(names)}, "[PAD]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if family == "bert":
        from tokenizers.processors import TemplateProcessing

        backend.post_processor = TemplateProcessing(
            single="[CLS] $A", special_tokens=[("[CLS]", 1)]
        )
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(names),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        num_labels=TOPICS,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(folder)
    return folder


def fit(start: Path, rows: pl.DataFrame, seed: int, to: Path, early: Sequence[int] = EARLY) -> int:
    """Fit the network until it gives every label, or long; save it on the way and at the end."""
    lm = load_classifier(start)
    encoded, labels = encode(lm, rows["text"].to_list()), rows["label"].to_numpy()
    for epoch, fitted in enumerate(
        fit_classifier(lm, encoded, labels, epochs=MOST_EPOCHS, seed=seed, **TRAINING), 1
    ):
        logits = classified(fitted, encoded.tokens, encoded.mask, batch_size=400).logits
        right = float(np.mean(logits.argmax(1) == labels))
        last = right == 1.0 or epoch == MOST_EPOCHS
        for name, is_it in ((f"epoch-{epoch}", epoch in early), ("fitted", last)):
            if is_it:
                fitted.model.save_pretrained(to / name)
                fitted.tokenizer.save_pretrained(to / name)
        if last:
            break
    return epoch


def ask(place: Path, rows: pl.DataFrame, **settings: Any) -> dict[str, Any]:
    """Figures of the fitted network, of its checkpoints and of the network before."""
    early = [str(place / f"epoch-{one}") for one in EARLY if (place / f"epoch-{one}").is_dir()]
    found = ms.analyze(
        str(place / "fitted"),
        "psmi",
        rows=rows,
        second=str(place / "start"),
        checkpoints=early,
        **settings,
    )
    say(found.sentence)
    for line in found.further:
        say(f"  {line}")
    moments = {"this model": "fitted"} | {one: Path(one).name for one in early}
    right = {
        moments.get(name, name): float(np.mean(found.frames["rows"][f"{name}, right"].to_numpy()))
        for name in found.frames["scores"]["model"].unique(maintain_order=True)
    }
    kept: dict[str, Any] = {"said": [one for one in found.further if "shadows" in one]}
    kept["right"] = right
    for table, columns in (("layers", "layer auc beyond"), ("scores", "score auc psmi_beyond")):
        kept[table] = [
            {"moment": moments.get(row["model"], row["model"])}
            | {name: row[name] for name in columns.split()}
            for row in rows_of(found.frames[table])
        ]
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, ask, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shadows", type=int, default=16)
    parser.add_argument("--more", type=int, help="Rows of the decoder; the others' results stay.")
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args(arguments)
    with show_progress():
        if given.more is None:
            found = measure(given.rows, given.seeds, given.shadows)
        else:
            found = results_of(NAME) | {"more": {"n": given.more} | measure_fitted(given.more)}
        publish(NAME, found, keep=given.keep)


def measure_fitted(n: int) -> dict[str, Any]:
    """The decoder that has all of n rows right, and the network before it was fitted."""
    rows = make_rows(n, 0)
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        start = make_network(place / "start", "llama", 0)
        epochs = fit(start, rows, 0, place, early=())
        return {"epochs": epochs, "column": ask(place, rows, truth="mislabelled", seed=0)}


def measure(n: int, n_seeds: int, n_shadows: int) -> dict[str, Any]:
    """Every family and seed; shadows of one."""
    found: dict[str, Any] = {"n": n, "wrong": WRONG}
    for family in FAMILIES:
        runs = []
        for seed in range(n_seeds):
            rows = make_rows(n, seed)
            with TemporaryDirectory() as temporary:
                place = Path(temporary)
                start = make_network(place / "start", family, seed)
                epochs = fit(start, rows, seed, place)
                run = {"epochs": epochs, "column": ask(place, rows, truth="mislabelled", seed=seed)}
                if family == "llama" and seed == 0 and n_shadows:  # the quicker one
                    shadows = {"shadows": n_shadows, "epochs": epochs}
                    training = {"learning_rate": TRAINING["learning_rate"], "batch": 32}
                    run["shadows"] = ask(place, rows, **shadows, **training)
                runs.append(run)
        found[family] = runs
    return found


if __name__ == "__main__":
    main()
