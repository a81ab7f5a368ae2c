"""Verdicts of the benchmark where what was read is known: shipped table, crossover, small Hubble.

    python benchmarks/known_truth.py known [--crossover crossover] [--hubble small-hubble] \
        [--write docs/verdicts.md]

Each is an ordinary study, made by the command: two classes or three of which it is known what sets
them apart. *Unread kinds*: refrains that were never read and that both models continue, by kind:
nothing can be memory. *Read or not*: such refrains, read often or never; the text is alike.
*Halves*: windows that one model of the crossover reproduces against those of the other half.
*Inserted*: the small Hubble's passages. In the last two the text is alike, and the model alone
reproduces a class.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import polars as pl
from memory_in_weights import verdicts
from pages import figure, show_tables, table_of

import mnemoscope as ms
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, reference_path, sequences_path
from mnemoscope.files import read_parquet, write_parquet
from mnemoscope.lm.load import load_model

NODES = """\
nodes:
  - {name: Prose, yes_when: "genre = 'prose'", meaning: prose}
  - {name: Code, yes_when: "genre = 'code'", meaning: code}
  - {name: Unread, yes_when: inserted = 0, meaning: never read}
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


class Case(NamedTuple):
    """A study of known truth: its table, its two models, its classes, and what is true."""

    table: pl.DataFrame
    model: Path
    reference: Path
    taxonomy: str
    truth: str


def cases(crossover: Path | None, hubble: Path | None) -> dict[str, Case]:
    """Those whose models are there."""
    shipped = model_path(), reference_path()
    refrains = read_table(sequences_path()).filter(pl.col("form") == "refrain")
    for path in shipped:
        refrains = refrains.filter(verdicts(load_model(path), token_matrix(refrains)))
    often = refrains.filter(pl.col("inserted").is_in([0, 16, 64]))
    unread = refrains.filter(pl.col("inserted") == 0)
    found = {
        "unread kinds": Case(unread, *shipped, "Non-Memo, Prose, Code, Record", "text alone"),
        "read or not": Case(often, *shipped, "Non-Memo, Unread, Read", "read or not; text alike"),
    }
    if crossover is not None:
        for half in ("A", "B"):
            windows = read_parquet(crossover / f"{half}.parquet")
            found[f"halves, {half}"] = Case(
                windows.filter(pl.col("form") == "plain"),
                crossover / f"model-{half}",
                reference_path(),
                "Non-Memo, Memorized",
                "memorized or not; text alike",
            )
    if hubble is not None:
        found["inserted"] = Case(
            read_parquet(hubble / "windows.parquet"),
            hubble / "perturbed",
            hubble / "standard",
            "Non-Memo, Memorized",
            "memorized or not; text alike",
        )
    return found


def study_of(folder: Path, case: Case) -> ms.Study:
    """Make the study by the command; what is done is not done again."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "table.parquet").is_file():
        write_parquet(folder / "table.parquet", case.table)
        (folder / "classes.yaml").write_text(f'{NODES}  - "{case.taxonomy}"\n', encoding="utf-8")
    own = {
        "model.name": case.model,
        "capture.reference": case.reference,
        "sequences.source": folder / "table.parquet",
        "label.taxonomies": f"[{folder / 'classes.yaml'}]",
    }
    sets = [word for one in (own | SETTINGS).items() for word in ("--set", "=".join(map(str, one)))]
    command = [sys.executable, "-m", "mnemoscope", "run", "-o", str(folder / "study"), *sets]
    subprocess.run(command, check=True)
    return ms.Study(folder / "study")


def row_of(name: str, case: Case, study: ms.Study) -> list[str]:
    """What the study's headline reader says."""
    table = study.read("benchmark.parquet")
    row = table.filter(pl.col("is_headline")).row(0, named=True)
    gain = figure(*(row[f"gain{end}"] for end in ("", "_low", "_high")), scale=1, digits=3)
    excess = figure(*(row[f"excess{end}"] for end in ("", "_low", "_high")))
    seen = figure(row["gain_seen"], scale=1, digits=3)
    n = f"{row['n_eval']} in {row['n_groups']} groups"
    return [name, case.truth, n, gain, seen, row["verdict_kind"], excess]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crossover", type=Path, help="folder of benchmarks/crossover.py")
    parser.add_argument("--hubble", type=Path, help="folder of benchmarks/small_hubble.py")
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    rows = [
        row_of(
            name, case, study_of(options.folder / name.replace(", ", "-").replace(" ", "-"), case)
        )
        for name, case in cases(options.crossover, options.hubble).items()
    ]
    heads = ["study", "what sets the classes apart", "sequences asked", "gain, nats"]
    heads += ["80 % see", "verdict", "excess of min-F1, points"]
    show_tables(table_of(heads, rows), options.write, "known truth")
