"""A ladder of difficulty on the embedded model: how much of each figure is left on likelier text.

    python -m experiments.ladder.run FOLDER [--seeds 3] [--write docs/appendix/ladder.md]

Makes four studies in FOLDER (each goes on where it was stopped) and prints the tables of the page.
Rungs: classes as sampled; the row split; Non-Memo with its true suffix; the same genre; sequences
matched by the blind baseline; Recite against Recollect in one genre; Non-Memo against Recall of the
same documents. Then the same taxonomy by each input of the CNN.
"""

import argparse
from pathlib import Path
from typing import Any

import polars as pl

import mnemoscope as ms
from experiments.catalogue.run import best_of
from experiments.pages import figure, show_tables, table_of
from mnemoscope import stats
from mnemoscope.benchmark.sources import ATTENTION, TABLE
from mnemoscope.pipeline.label import samples_of
from mnemoscope.study.settings import parse_settings
from mnemoscope.taxonomy.sample import SampleKey

PAPER = "Non-Memo, Guess, Recall"
PRASHANTH = "Non-Memo, Recite[16], Reconstruct, Recollect"
RECITE = "Non-Memo, Recite[16], Recollect"
INPUTS = ["mean", "max", "both", "heads", "difference"]


def settings(n_seeds: int, source: str = "embedded", **label: object) -> ms.StudySettings:
    """400 + 200 sequences a class, all controls; a verdict takes a side on three seeds."""
    values = {
        "sequences": {"source": source},
        "label": {"n_train": 400, "n_eval": 200, **label},
        "train": {"poolings": ["mean"], "seeds": list(range(n_seeds))},
        "benchmark": {"control_seeds": n_seeds},
        "localize": {"attributions": ["gradient"]},
    }
    return parse_settings(values, where="ladder")


def run_all(folder: Path, n_seeds: int) -> dict[str, ms.Study]:
    """The four studies, in the order in which they need each other."""
    folder.mkdir(parents=True, exist_ok=True)
    studies = {}
    rungs = settings(
        n_seeds, taxonomies=[PAPER, PRASHANTH], match="genre", both_suffixes=True, both_splits=True
    )
    studies["rungs"] = ms.run(rungs, folder / "rungs")
    table = studies["rungs"].sequences.join(
        studies["rungs"].labels.select("sequence_id", pl.col(PAPER).alias("class")),
        on="sequence_id",
    )
    chosen = {
        "recite": (table.filter(genre="prose", form="plain"), [RECITE]),
        "documents": (same_documents(table), [PAPER]),
    }
    for name, (rows, taxonomies) in chosen.items():
        path = folder / f"{name}.parquet"
        if not path.exists():
            columns = ["sequence_id", "text", "tokens", "document", "start", "end", "genre"]
            rows.select(*columns, "group", "held_out", "duplicates", "is_code").write_parquet(path)
        wanted = settings(n_seeds, str(path), taxonomies=taxonomies, drop_small_classes=True)
        wanted.capture.reference = "embedded"
        studies[name] = ms.run(wanted, folder / name)
    inputs = settings(n_seeds, taxonomies=[PAPER])
    inputs.train.poolings = INPUTS
    inputs.capture.per_head = True
    inputs.benchmark.control_settings = 0
    studies["inputs"] = ms.run(inputs, folder / "inputs")
    return studies


def same_documents(table: pl.DataFrame) -> pl.DataFrame:
    """As many Non-Memo as Recall sequences of each document of prose or code; no Guess."""
    is_source = pl.col("genre").is_in(["prose", "code"]) & (pl.col("form") == "plain")
    text = table.filter(is_source, pl.col("class") != "Guess")
    place = pl.int_range(pl.len()).over("document", "class")
    smaller = (pl.col("class") == "Recall").sum().over("document")
    smaller = pl.min_horizontal(smaller, (pl.col("class") == "Non-Memo").sum().over("document"))
    return text.filter(place < smaller)


def rows_of(study: ms.Study, name: str) -> list[list[str]]:
    """A line of the page a sample and reader: min-F1, what stands beside it, the verdict."""
    table, lines = study.benchmark, []
    for key, entry in samples_of(study).items():
        sources = {row["source"]: row for row in stats.rows_of(table.filter(**key._asdict()))}
        if not sources:
            continue
        for reader in (one for one in ATTENTION if one in sources):
            lines.append(reader_line(f"{name} {entry.shown}".strip(), sources, reader))
        model = sources["model"]
        if model["matched_min_f1"].value is not None:
            left = figure(*model["matched_min_f1"])
            text = figure(model["matched_blind_min_f1"].value)
            title = f"{name} {entry.shown}, matched ({model['matched_n_per_class']} a class)"
            text += f" ({model['matched_by']})"
            lines.append([title.strip(), "CNNs", left, "–", text, *["–"] * 5])
    return lines


def reader_line(title: str, sources: dict[str, dict[str, Any]], reader: str) -> list[str]:
    """Min-F1 of one reader of the attention beside the sources that it is held against."""
    row = sources[reader]
    columns = ("best blind", "reference", "control", "logits")
    beside = [figure(best_of(sources, reader, column)) for column in columns]
    scores = [figure(*row["min_f1"]), figure(row["mean_f1"].value)]
    excess = figure(*row["excess"])
    mark = " *" if row["is_headline"] else ""
    return [title, TABLE[reader].name + mark, *scores, *beside, excess, row["verdict"] or "–"]


def auc_lines(study: ms.Study, name: str) -> list[list[str]]:
    """One line a sample and pair of classes: AUC by source, excess of the model."""
    table, lines = study.benchmark, []
    for row in stats.rows_of(table.filter(source="model")):
        key = SampleKey(row["taxonomy"], row["variant"])
        others = {one["source"]: one for one in stats.rows_of(table.filter(**key._asdict()))}
        for index, pair in enumerate(row["auc_pairs"] or []):
            cells = [
                figure(others[one]["auc"][index].value) if others.get(one, {}).get("auc") else "–"
                for one in ("model", "blind", "ngram", "reference", "logits")
            ]
            excess = figure(*row["auc_excess"][index]) if row["auc_excess"] else "–"
            title = f"{name} {samples_of(study)[key].shown}".strip()
            lines.append([title, pair.replace(" | ", " and "), *cells, excess])
    return lines


def input_lines(study: ms.Study) -> list[list[str]]:
    """One line an input."""
    table = study.read("inputs.parquet")
    lines = []
    for name in table["input"].unique(maintain_order=True):
        sources = {row["source"]: row for row in stats.rows_of(table.filter(input=name))}
        model, beside = sources["model"], ("reference", "control")
        cells = [
            figure(*model["min_f1"]),
            figure(model["mean_f1"].value),
            *(figure(sources[one]["min_f1"].value if one in sources else None) for one in beside),
            figure(*model["excess"]),
        ]
        lines.append([name, *cells])
    return lines


def page(studies: dict[str, ms.Study]) -> str:
    """The tables of `docs/appendix/ladder.md`."""
    names = {"rungs": "", "recite": "Prose alone:", "documents": "Same documents, Guess left out:"}
    figures = [line for key, name in names.items() for line in rows_of(studies[key], name)]
    pairs = [line for key, name in names.items() for line in auc_lines(studies[key], name)]
    read = (
        "classes",
        "reader",
        "min-F1",
        "mean F1",
        "best blind",
        "reference",
        "control",
        "logits",
    )
    told = ("classes", "pair", "model", "blind", "n-grams", "reference", "logits", "excess")
    seen = ("input", "min-F1", "mean F1", "reference", "control", "excess")
    return "\n".join(
        [
            table_of([*read, "excess", "verdict"], figures),
            table_of(told, pairs),
            table_of(seen, input_lines(studies["inputs"])),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="of every source")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    with ms.show_progress():
        made = run_all(options.folder, options.seeds)
    show_tables(page(made), options.write)
