"""The tables of `docs/graft.md` and of its appendices, from a study with grafts.

mnemoscope graft STUDY
python -m experiments.grafts.tables STUDY --write docs/graft.md [--name NAME]
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import mnemoscope as ms
from experiments.pages import show_tables, table_of
from mnemoscope.benchmark.published import published_table
from mnemoscope.data.table import look_up
from mnemoscope.localize.grafts import (
    Finding,
    Part,
    Tried,
    Walk,
    compare_classes,
    kept_by_class,
)
from mnemoscope.pipeline.causes import FINDINGS, GRAFT_SPECIFICITY_FILE, by_weight, finding_of
from mnemoscope.pipeline.graft import INTO_MODEL, SEQUENCES_FILE, specific_row
from mnemoscope.pipeline.label import LABELS_FILE, samples_of
from mnemoscope.report.grafts import graft_of
from mnemoscope.stats import FEWEST_GROUPS, Estimate
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.words import interval, p_figure, percent, points


def parts(study: ms.Study, taxonomy: str) -> str:
    """A line a part: what survives of each class, and its strongest finding."""
    view = graft_of(study, taxonomy)
    if view is None or view["first"] is None:
        raise SystemExit(f"{study.folder}: no grafts of two classes of '{taxonomy}'.")
    rows = []
    for row in view["rows"]:
        kept = [f"{percent(one.value, unit=False)} {interval(one)}".strip() for one in row["cells"]]
        losses = [
            "–" if one is None else f"{one:+.2f}".replace("-", "−")
            for one in (row["loss"], row["random_loss"])
        ]
        rows.append([f"`{row['part']}`", *kept, *_finding(row["found"]), *losses])
    columns = [f"{name} left, %" for name in view["classes"]]
    columns += [*_FINDING, "loss elsewhere, nats", "random changes"]
    return table_of(["part of the reference", *columns], rows)


_FINDING = (
    *("finding", "random changes leave, %", "difference, points", "p"),
    *("where as much of both is left", "crude", "over flip"),
)
LEAST = 40  # sequences of a form


def _finding(row: Mapping[str, Any]) -> list[str]:
    """The cells of a row of `graft_specificity.parquet`."""
    whole, both, crude, flip = (
        f"{points(one.value)} {interval(one)}".strip()
        for one in (
            Estimate.of(row, "specific", ends=""),
            Estimate.of(row, "equal_total"),
            Estimate.of(row, "crude"),
            Estimate.of(row, "over_flip"),
        )
    )
    chance = p_figure(row["p_value"])
    said = f"{row['broken']} beyond {row['spared']}: {FINDINGS[finding_of(row)]}"
    return [said, percent(row["random_broken"], unit=False), whole, chance, both, crude, flip]


def pairs(study: ms.Study, taxonomy: str) -> str:
    """A line a part and pair of classes, in the order that says more, of all kinds of text."""
    frame = study.read(GRAFT_SPECIFICITY_FILE).filter(pl.col("taxonomy") == taxonomy)
    rows = [[f"`{row['part']}`", *_finding(row)] for row in _by_pair(frame.to_dicts())]
    return table_of(["part", *_FINDING], rows)


def kinds(study: ms.Study, taxonomy: str) -> str:
    """What is left in each kind of text, and a line a kind, part and pair of classes within it."""
    left, found = [], []
    for kind, tried, names, grafted in _by_kind(study, taxonomy):
        sizes = np.bincount(tried.classes, minlength=len(names))
        left.append([kind, "sequences", *map(str, sizes)])
        for part in grafted:
            for change, survives in (("", part.twin), (", flipped", part.flip)):
                kept = kept_by_class(survives[:, None], tried, seed=0)
                cells = [
                    f"{percent(one.value, unit=False)} {interval(one)}".strip()
                    for one in map(Estimate, *(each[:, 0].tolist() for each in kept))
                ]
                left.append([kind, f"`{part.name}`{change}", *cells])
        compared = compare_classes(grafted, tried, seed=0)
        rows = [specific_row(one, names) for one in compared]
        found += [[kind, f"`{row['part']}`", *_finding(row)] for row in _by_pair(rows)]
    columns = ["kind of text", "part of the reference", *(f"{one} left, %" for one in names)]
    return f"{table_of(columns, left)}\n{table_of(['kind of text', 'part', *_FINDING], found)}"


def _by_pair(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the two orders of each part's pairs that which says more."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["part"], *sorted((row["broken"], row["spared"]))), []).append(row)
    return [by_weight(orders)[0] for orders in found.values()]


def _by_kind(study: ms.Study, taxonomy: str) -> Iterator[tuple[str, Tried, list[str], list[Part]]]:
    """Of each genre that holds all classes: its sequences, their names, what survives each part."""
    grafted, base, rows, label, groups = _read_grafted(study, taxonomy)
    names = [one for one in taxonomy.split(", ")[1:] if one in label]
    for kind in rows["genre"].unique().sort():
        inside = (base["survives"] & (rows["genre"] == kind) & label.is_in(names)).to_numpy()
        classes = label.filter(pl.Series(inside)).replace_strict(names, range(len(names)))
        if classes.n_unique() < len(names):
            continue
        tried = Tried(classes.to_numpy(), groups[inside], np.zeros(inside.sum(), int), len(names))
        yield kind, tried, names, _parts_of(grafted, inside)


def _read_grafted(
    study: ms.Study, taxonomy: str
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.Series, np.ndarray]:
    """What survives each graft into the model and none; the sequences' rows, classes, groups."""
    grafted = study.read(SEQUENCES_FILE).filter(pl.col("direction") == INTO_MODEL)
    base = grafted.filter(pl.col("part") == "")
    rows = look_up(base.select("sequence_id"), study.sequences)
    label = look_up(rows.select("sequence_id"), study.read(LABELS_FILE))[taxonomy]
    return grafted, base, rows, label, find_groups(rows).rank("dense").to_numpy()


def _parts_of(grafted: pl.DataFrame, inside: np.ndarray) -> list[Part]:
    """What survives each part and its walks, of the sequences that are `inside`."""
    found = []
    for name in grafted["part"].unique(maintain_order=True).to_list()[1:]:
        frame = grafted.filter(pl.col("part") == name)
        twin = frame.filter(pl.col("control") == "twin", pl.col("share") == 1.0)
        flip = frame.filter(pl.col("control") == "flip")
        walks = []
        for _, walk in frame.drop_nulls("scale").group_by("draw", maintain_order=True):
            scales = walk["scale"].unique(maintain_order=True).to_numpy()
            survives = walk["survives"].to_numpy().reshape(len(scales), -1)
            walks.append(Walk(scales, survives[:, inside]))
        one, two = (each["survives"].to_numpy()[inside] for each in (twin, flip))
        found.append(Part(name, one, two, walks))
    return found


def forms(studies: Sequence[ms.Study], taxonomy: str) -> str:
    """What the first class is made of: each form of it, read or not, against the second class.

    A cell says how much of that form is left, and by how many points more of the second class
    breaks where random changes leave as much of that form; kinds of text are not held equal.
    """
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for study in studies:
        grafted, base, rows, label, groups = _read_grafted(study, taxonomy)
        first, second = taxonomy.split(", ")[1:3]
        read = pl.when(pl.col("inserted") > 0).then(pl.lit("read")).otherwise(pl.lit("never read"))
        made_of = rows.select(pl.format("{}, {}", "form", read)).to_series()
        for one in made_of.filter(label == first).unique().sort():
            mine = (label == first) & (made_of == one)
            inside = (base["survives"] & (mine | (label == second))).to_numpy()
            classes = np.where(mine.to_numpy()[inside], 0, 1)
            tried = Tried(classes, groups[inside], np.zeros(inside.sum(), int), 2)
            n = int((classes == 0).sum())
            if n < LEAST or len(np.unique(tried.groups[classes == 0])) < FEWEST_GROUPS:
                continue
            parts = _parts_of(grafted, inside)
            for row in (
                specific_row(each, [first, second])
                for each in compare_classes(parts, tried, seed=0)
            ):
                if row["spared"] == first:
                    whole = Estimate.of(row, "specific", ends="")
                    said = f"{percent(row['kept_spared'], unit=False)} of {n}: "
                    said += f"{points(whole.value)} {interval(whole)}".strip()
                    cells.setdefault((row["part"], one), {})[study.folder.name] = said
    names = [one.folder.name for one in studies]
    head = [f"{name}: left, %; {second} beyond it" for name in names]
    return table_of(
        ["part", f"{first} that is", *head],
        [
            [f"`{part}`", one, *(of.get(name, "–") for name in names)]
            for (part, one), of in cells.items()
        ],
    )


def patches(study: ms.Study, taxonomy: str) -> str:
    """A line a place: of each class and positions what survives, beside the control."""
    view = graft_of(study, taxonomy)
    if view is None or view["patches"] is None:
        raise SystemExit(f"{study.folder}: no patches of '{taxonomy}'. Set graft.patch=true.")
    columns, rows = ["place"], []
    for one in view["patches"]["columns"]:
        columns += [f"{one['class']}, {one['positions']}: kept, %", "other"]
    for row in view["patches"]["rows"]:
        cells = []
        for cell in row["cells"]:
            kept = f"{percent(cell['twin'].value, unit=False)} {interval(cell['twin'])}"
            cells += [kept.strip(), percent(cell["control"], unit=False)]
        rows.append([f"`{row['part']}`", *cells])
    return table_of(columns, rows)


def scores(study: ms.Study) -> str:
    """A line a taxonomy, the strongest finding first, min-F1 of the paper beside it."""
    printed = dict(published_table().select("tax_name", "min_f1").iter_rows())
    entries = samples_of(study)
    groups = study.read(GRAFT_SPECIFICITY_FILE).group_by("taxonomy", maintain_order=True)
    rows = []
    for row in by_weight([by_weight(one.to_dicts())[0] for _, one in groups]):
        entry = entries.get(row["taxonomy"])  # none by truth, none of one that a search has found
        own = entry and printed.get(entry["published_name"])
        cells = [row["taxonomy"], f"`{row['part']}`", *_finding(row)]
        rows.append([*cells, "–" if own is None else f"{own:.1f}"])
    return table_of(["taxonomy", "part", *_FINDING, "min-F1 in the paper, %"], rows)


def trainings(studies: Sequence[ms.Study], taxonomy: str) -> str:
    """A line a part and pair of classes that all have: difference and finding in each training.

    Of both orders of a pair the one whose differences are larger on average.
    """
    keys = ("part", "broken", "spared")
    found = [
        {tuple(row[name] for name in keys): row for row in one.iter_rows(named=True)}
        for one in (
            study.read(GRAFT_SPECIFICITY_FILE).filter(
                pl.col("taxonomy") == taxonomy, pl.col("specific").is_not_null()
            )
            for study in studies
        )
    ]
    shared = [key for key in found[0] if all(key in table for table in found)]
    of_mean = {key: sum(table[key]["specific"] for table in found) for key in shared}
    rows = []
    for key in shared:
        part, broken, spared = key
        if of_mean[key] < of_mean.get((part, spared, broken), -np.inf):
            continue
        own, cells = [table[key] for table in found], list[str]()
        for row in own:
            whole = Estimate.of(row, "specific", ends="")
            cells.append(f"{points(whole.value)} {interval(whole)}".strip())
            cells.append(f"{FINDINGS[finding_of(row)]}, p {p_figure(row['p_value'])}")
        agree = all(finding_of(row) is Finding.SPECIFIC for row in own)
        rows.append([f"`{part}`", f"{broken} beyond {spared}", *cells, "yes" if agree else "no"])
    columns = [name for one in studies for name in (f"{one.folder.name}: points", "finding")]
    return table_of(["part", "classes", *columns, "in every training"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, nargs="+", help="several: a table by training")
    parser.add_argument("--taxonomy", default="Non-Memo, Guess[0.5-0.5], Recall")
    parser.add_argument("--scores", action="store_true", help="the taxonomies in place of parts")
    parser.add_argument("--pairs", action="store_true", help="every pair of classes")
    parser.add_argument("--kinds", action="store_true", help="the same in each genre alone")
    parser.add_argument("--forms", action="store_true", help="what the first class is made of")
    parser.add_argument("--patches", action="store_true", help="activations in place of weights")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    parser.add_argument("--name", default="", help="which tables of the page")
    options = parser.parse_args()
    studies = [ms.Study(one) for one in options.study]
    study = studies[0]
    if options.forms:
        found = forms(studies, options.taxonomy)
    elif len(studies) > 1:
        found = trainings(studies, options.taxonomy)
    elif options.scores:
        found = scores(study)
    else:
        asked = [one for one in (pairs, kinds, patches) if getattr(options, one.__name__)]
        found = (asked or [parts])[0](study, options.taxonomy)
    show_tables(found, options.write, options.name)
