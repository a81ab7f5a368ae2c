"""Verdicts of the benchmark on real models of which it is known what they read.

    python -m experiments.known_truth.run text [--pair OUT/data ...] [--crossover crossover]
    python -m experiments.known_truth.run studies known --hubble small-hubble [--keep]

`text`: three classes that a property of the text alone sets apart (thirds of how many digits,
blanks, different tokens ... it has; its kind; its form), of texts that neither the model nor its
reference read; a property of which a third is too small, as most texts have no digit, is left out.
Nothing can be memory, so a verdict that says "adds" is wrong, and so is one that
says "adds" of the reference over the model. The regression is asked, in folds of documents.

`studies`: ordinary studies made by the command, with CNNs. *Inserted*: the small Hubble's passages,
memorized or not; the text is alike. *Unread kinds*: refrains that both models continue and neither
read, by kind of text: nothing can be memory.
"""

import argparse
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import polars as pl

import mnemoscope as ms
from experiments.grafts.run import as_flags, command
from experiments.memory_in_weights.run import BATCH, documents_of, packed, statistics_of, verdicts
from experiments.pages import publish, results_of
from experiments.verdicts.run import votes_of
from mnemoscope.benchmark.baselines import (
    all_statistics,
    blind_maps,
    classify_statistics,
    ngram_logits,
)
from mnemoscope.benchmark.gain import Gain, measure_gain, pool_folds
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.files import write_parquet
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.load import load_model
from mnemoscope.stats import FEWEST_GROUPS, rows_of

MOST = 480  # sequences of a class
LEAST = 120
NODES = """\
nodes:
  - {name: OfProse, yes_when: "genre = 'prose'", meaning: prose}
  - {name: OfCode, yes_when: "genre = 'code'", meaning: code}
taxonomies:
"""
SETTINGS = {
    "continue.scan": "true",
    "label.n_train": 480,
    "label.minimum": 40,
    "label.split": "folds",
    "label.non_memo_suffix": "true",
    "label.drop_small_classes": "true",
    "train.poolings": "[mean]",
}
READ = ("n_eval", "n_groups", "gain_seen", "verdict_kind", "is_headline")

# -- classes of text that nobody read ----------------------------------------------------------


def _share(asked: str) -> Callable[[str], float]:
    """Share of a text's characters of which `str.asked` is true."""
    return lambda text: sum(getattr(one, asked)() for one in text) / len(text)


OF_TEXT: dict[str, Callable[[str], float]] = {
    "digits": _share("isdigit"),
    "capitals": _share("isupper"),
    "blanks": _share("isspace"),
    "letters": _share("isalpha"),
    "characters": len,
    "compressed size": lambda text: len(zlib.compress(text.encode())) / len(text),
}
OF_TOKENS: dict[str, Callable[[list[int]], float]] = {
    "different tokens": lambda tokens: len(set(tokens)),
    "mean token": fmean,
    "first token": lambda tokens: tokens[0],
}


class Task(NamedTuple):
    """Classes (n,) of rows, -1 for rows that are in none."""

    name: str
    labels: np.ndarray


def tasks_of(table: pl.DataFrame) -> Iterator[Task]:
    """Every way to divide unread texts: by kind, by form, and in thirds of what a text is like."""
    genre, form = table["genre"].to_numpy(), table["form"].to_numpy()
    natural = genre != "template"
    for name, column in (("kind", genre), ("form", form)):
        classes = np.unique(column[natural])
        yield Task(name, np.where(natural, np.searchsorted(classes, column), -1))
    measured = {name: [one(text) for text in table["text"]] for name, one in OF_TEXT.items()}
    every = table["tokens"].to_list()
    measured |= {name: [one(tokens) for tokens in every] for name, one in OF_TOKENS.items()}
    for name, values in measured.items():
        found = np.array(values, dtype=np.float64)
        for scope in ("all", *np.unique(genre[natural])):
            inside = natural if scope == "all" else genre == scope
            low, high = np.quantile(found[inside], [1 / 3, 2 / 3])
            third = (found > low).astype(np.int64) + (found > high)
            yield Task(f"{name}, {scope}", np.where(inside, third, -1))


def draw(task: Task, owners: np.ndarray, seed: int) -> np.ndarray | None:
    """Rows of equally many sequences of each class; None where one is too small."""
    numbers = np.bincount(task.labels[task.labels >= 0], minlength=3)
    n = min(MOST, int(numbers.min()))
    if n < LEAST:
        return None
    rng = np.random.default_rng(seed)
    rows = [rng.choice(np.flatnonzero(task.labels == one), n, replace=False) for one in range(3)]
    found = np.sort(np.concatenate(rows))
    groups = [len(np.unique(owners[found[task.labels[found] == one]])) for one in range(3)]
    return found if min(groups) >= FEWEST_GROUPS else None


class Pair(NamedTuple):
    """Two models, and texts that neither of them read."""

    name: str
    table: pl.DataFrame
    model: Path
    reference: Path


class Texts(NamedTuple):
    """Unread texts, and what each source makes of them."""

    tokens: np.ndarray
    owners: np.ndarray
    tasks: list[Task]
    statistics: dict[str, np.ndarray]


def unread(data: Path) -> pl.DataFrame:
    """The texts of a shipped table that neither of its models read."""
    return read_table(data / "sequences.parquet").filter(pl.col("inserted") == 0)


def pairs_of(folders: list[Path], crossover: Path | None) -> Iterator[Pair]:
    """Model, reference and unread texts.

    Pairs as shipped, each model beside what it was trained on from where that stands beside its
    folder (as `make embedded` leaves it), and A beside B of the crossover.
    """
    for role in ("reference", "../first"):
        for number, data in enumerate(folders):
            if (data / role).is_dir():
                name = f"training {number}" + (", an earlier state" if role != "reference" else "")
                yield Pair(name, unread(data), data / "model", data / role)
    if crossover is not None:
        plain = pl.col("genre").is_in(["prose", "code"]) & (pl.col("form") == "plain")
        texts = unread(model_path().parent).filter(~plain)  # these are what A or B read
        yield Pair("crossover, A beside B", texts, crossover / "model-A", crossover / "model-B")


def read_pair(pair: Pair) -> Texts:
    """The texts of a pair, with statistics of both models' attention and of the text."""
    table = pair.table
    tokens = token_matrix(table)
    seen = {"blind": all_statistics(blind_maps(tokens), tokens)}
    for role, folder in (("model", pair.model), ("reference", pair.reference)):
        maps = packed([*capture_pooled(load_model(folder), tokens, batch_size=BATCH)])
        seen[role] = statistics_of(maps, tokens)
    owners = documents_of(table)
    return Texts(tokens, owners, list(tasks_of(table)), seen)


def gain_of(texts: Texts, task: Task, rows: np.ndarray) -> Gain:
    """What the model's attention adds over the reference's."""
    true, owners = task.labels[rows], texts.owners[rows]
    folds = pool_folds(true, owners, seed=1)
    shares = {name: np.empty((len(rows), 3)) for name in ("ngram", *texts.statistics)}
    for kept, asked in folds:
        known, new = rows[kept], rows[asked]
        fit = ngram_logits(texts.tokens[known], true[kept], texts.tokens[new], 0)
        shares["ngram"][asked] = fit.probabilities
        for name, columns in texts.statistics.items():
            fit = classify_statistics(columns[known], true[kept], columns[new], 0)
            shares[name][asked] = fit.probabilities
    votes = {name: votes_of(np.log(one)[None], true, owners) for name, one in shares.items()}
    model, reference = votes.pop("model"), votes.pop("reference")
    n = float(np.mean([len(kept) for kept, _ in folds]))
    return measure_gain(model, reference, list(votes.values()), n_trained=n)


def text_alone(pairs: Iterator[Pair]) -> dict[str, dict[str, list[float | None]]]:
    """Of each pair, by division: gain, its interval, and what a study would see."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for number, pair in enumerate(pairs):
        texts = read_pair(pair)
        of_pair = found.setdefault(pair.name, {})
        for at, task in enumerate(texts.tasks):
            rows = draw(task, texts.owners, 100 * number + at)
            if rows is not None:
                of_pair[task.name] = [*gain_of(texts, task, rows)[:4]]
                print(pair.name, task.name, of_pair[task.name], flush=True)
    return found


# -- studies by the command --------------------------------------------------------------------


class Case(NamedTuple):
    """A study of known truth: its table, its two models, its classes, and what is true."""

    table: pl.DataFrame
    model: Path
    reference: Path
    taxonomy: str
    truth: str


def cases(hubble: Path | None) -> dict[str, Case]:
    """Those whose models are there."""
    shipped = model_path(), reference_path()
    refrains = read_table(sequences_path()).filter(pl.col("form") == "refrain")
    for path in shipped:
        refrains = refrains.filter(verdicts(load_model(path), token_matrix(refrains)))
    unread = refrains.filter(pl.col("inserted") == 0)
    kinds = "Non-Memo, OfProse, OfCode, Tables"
    found = {}
    if hubble is not None:
        windows = pl.read_parquet(hubble / "grafted.parquet").filter(pl.col("form") == "plain")
        pair = hubble / "perturbed", hubble / "standard"
        found["inserted"] = Case(windows, *pair, "Non-Memo, Memorized", "memorized or not")
    found["unread kinds"] = Case(unread, *shipped, kinds, "text alone")
    return found


def study_of(folder: Path, case: Case) -> ms.Study:
    """Make the study by the command; what is done is not done again."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "table.parquet").is_file():
        (folder / "classes.yaml").write_text(f'{NODES}  - "{case.taxonomy}"\n', encoding="utf-8")
        write_parquet(folder / "table.parquet", case.table)
    own = {
        "model.name": case.model,
        "capture.reference": case.reference,
        "sequences.source": folder / "table.parquet",
        "label.taxonomies": f"[{folder / 'classes.yaml'}]",
    }
    command("run", "-o", folder / "study", *as_flags(own | SETTINGS))
    return ms.Study(folder / "study")


def study_rows(name: str, case: Case, study: ms.Study) -> Iterator[dict[str, Any]]:
    """What either reader says; the study judges by the one that `is_headline`."""
    rows = {row["source"]: row for row in rows_of(study.read("benchmark.parquet"))}
    for words, source in (("CNNs", "model"), ("regression", "statistics")):
        row = rows[source]
        yield {
            "study": name,
            "truth": case.truth,
            "reader": words,
            **{name: row[name] for name in READ},
            **{name: list(row[name]) for name in ("gain", "excess")},
        }


def studies(folder: Path, hubble: Path | None) -> list[dict[str, Any]]:
    """A row a case and reader."""
    return [
        row
        for name, case in cases(hubble).items()
        for row in study_rows(name, case, study_of(folder / name.replace(" ", "-"), case))
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True, dest="verb")
    of_text, of_studies = verbs.add_parser("text"), verbs.add_parser("studies")
    of_text.add_argument("--pair", type=Path, nargs="*", help="folders of table and models")
    of_studies.add_argument("folder", type=Path)
    of_studies.add_argument("--hubble", type=Path, help="folder of experiments.small_hubble.run")
    of_text.add_argument("--crossover", type=Path, help="folder of experiments.crossover.run")
    for verb in (of_text, of_studies):
        verb.add_argument("--keep", action="store_true", help="store the results, write the page")
    options = parser.parse_args()
    found = results_of("known_truth")
    if options.verb == "text":
        folders = options.pair or [model_path().parent]
        found["text"] = text_alone(pairs_of(folders, options.crossover))
    else:
        found["studies"] = studies(options.folder, options.hubble)
    publish("known_truth", found, keep=options.keep)
