r"""What a study with grafts says, as figures; `tables.py` shows them.

    python -m experiments.grafts.gather STUDY [--taxonomy NAME] [--pairs | --kinds | --scores ...]
    python -m experiments.grafts.gather crossed crossed-1 crossed-2 \\
      crossover/grafts-A crossover/grafts-B small-hubble/grafts --keep

One study: its table is printed, a line a part. Several: all tables of docs/appendix/graft-parts.md.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import mnemoscope as ms
from experiments.grafts import tables
from experiments.pages import publish, show_tables
from mnemoscope.benchmark.published import published_table
from mnemoscope.data.table import look_up
from mnemoscope.localize.grafts import Part, Tried, Walk, compare_classes, kept_by_class
from mnemoscope.pipeline.causes import (
    GRAFT_SPECIFICITY_FILE,
    INTO_MODEL,
    SEQUENCES_FILE,
    TRUTH,
    by_weight,
)
from mnemoscope.pipeline.graft import specific_row
from mnemoscope.pipeline.label import LABELS_FILE, samples_of
from mnemoscope.report.grafts import graft_of
from mnemoscope.stats import FEWEST_GROUPS, rows_of
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.sample import SampleKey

LEAST = 40  # sequences of a form

Row = dict[str, Any]


def specific(study: ms.Study, taxonomy: str) -> list[Row]:
    """Of each part and ordered pair of classes what is found."""
    frame = study.read(GRAFT_SPECIFICITY_FILE).filter(taxonomy=taxonomy)
    return [_plain(row) for row in rows_of(frame)]


def _plain(row: Row) -> Row:
    """What is kept of a row."""
    return {name: row[name] for name in tables.FOUND}


def parts(study: ms.Study, taxonomy: str) -> Row:
    """What survives each part of each class, what the loss elsewhere is, and what is found."""
    view = graft_of(study, taxonomy)
    if view is None or view["first"] is None:
        raise SystemExit(f"{study.folder}: no grafts of two classes of '{taxonomy}'.")
    rows = [
        {name: row[name] for name in ("part", "cells", "loss", "random_loss")}
        for row in view["rows"]
    ]
    return {"classes": view["classes"], "parts": rows, "specific": specific(study, taxonomy)}


def kinds(study: ms.Study, taxonomy: str) -> list[Row]:
    """Of each genre that holds all classes what is left under each change, what is found within."""
    grafted, base, rows, label, groups = _read_grafted(study, taxonomy)
    names = [one for one in taxonomy.split(", ")[1:] if one in label]
    found = []
    for kind in rows["genre"].unique().sort():
        inside = (base["survives"] & (rows["genre"] == kind) & label.is_in(names)).to_numpy()
        classes = label.filter(pl.Series(inside)).replace_strict(names, range(len(names)))
        if classes.n_unique() < len(names):
            continue
        tried = Tried(classes.to_numpy(), groups[inside], np.zeros(inside.sum(), int), len(names))
        parts, left = _parts_of(grafted, inside), []
        for part in parts:
            for change, survives in (("", part.twin), (", flipped", part.flip)):
                kept = np.concatenate(kept_by_class(survives[:, None], tried, seed=0), axis=1)
                left.append({"part": part.name, "change": change, "cells": kept.tolist()})
        compared = [specific_row(one, names) for one in compare_classes(parts, tried, seed=0)]
        specific = [_plain(row) for row in compared]
        n = np.bincount(tried.classes).tolist()
        found.append({"kind": kind, "classes": names, "n": n, "left": left, "specific": specific})
    return found


def _read_grafted(
    study: ms.Study, taxonomy: str
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.Series, np.ndarray]:
    """What survives each graft into the model and none; the sequences' rows, classes, groups."""
    grafted = study.read(SEQUENCES_FILE).filter(pl.col("direction") == INTO_MODEL)
    base = grafted.filter(pl.col("part") == "")
    rows = look_up(base.select("sequence_id"), study.sequences)
    label = look_up(rows.select("sequence_id"), study.read(LABELS_FILE))[taxonomy]
    return grafted, base, rows, label, find_groups(rows).rank("dense").to_numpy()


def _parts_of(grafted: pl.DataFrame, inside: np.ndarray, share: float = 1.0) -> list[Part]:
    """What survives a share of each part, and its walks, of the sequences that are `inside`."""
    found = []
    for name in grafted["part"].unique(maintain_order=True).to_list()[1:]:
        frame = grafted.filter(pl.col("part") == name)
        twin = frame.filter(pl.col("control") == "twin", pl.col("share") == share)
        flip = frame.filter(pl.col("control") == "flip")
        walks = []
        for _, walk in frame.drop_nulls("scale").group_by("draw", maintain_order=True):
            scales = walk["scale"].unique(maintain_order=True).to_numpy()
            survives = walk["survives"].to_numpy().reshape(len(scales), -1)
            walks.append(Walk(scales, survives[:, inside]))
        one, two = (each["survives"].to_numpy()[inside] for each in (twin, flip))
        found.append(Part(name, one, two, walks))
    return found


def forms(study: ms.Study, taxonomy: str, share: float = 1.0) -> list[Row]:
    """What the first class is made of: each form of it, read or not, against the second class.

    How much of that form is left, and by how much more of the second class breaks where random
    changes leave as much of that form; kinds of text are not held equal. The part goes a `share` of
    the way to the twin's.
    """
    found = []
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
        for each in compare_classes(_parts_of(grafted, inside, share), tried, seed=0):
            if each.spared == 0:
                kept = {"part": each.part, "kept_spared": each.kept_spared}
                found.append({"form": one, "n": n, **kept, "beyond": list(each.value)})
    return found


def patches(study: ms.Study, taxonomy: str) -> Row:
    """Of each place what survives of each class and positions, beside the control."""
    view = graft_of(study, taxonomy)
    if view is None or view["patches"] is None:
        raise SystemExit(f"{study.folder}: no patches of '{taxonomy}'. Set graft.patch=true.")
    found: Row = view["patches"]
    return found


def scores(study: ms.Study, _: str) -> list[Row]:
    """Each taxonomy's strongest finding, min-F1 of the paper beside it."""
    printed = dict(published_table().select("tax_name", "min_f1").iter_rows())
    entries = samples_of(study)
    groups = study.read(GRAFT_SPECIFICITY_FILE).group_by("taxonomy", maintain_order=True)
    rows = by_weight([by_weight(list(rows_of(one)))[0] for _, one in groups])
    own = [
        entries.get(SampleKey(row["taxonomy"])) for row in rows
    ]  # none by truth, nor of one found
    return [
        dict(row) | {"printed": entry and printed.get(entry.published_name)}
        for row, entry in zip(rows, own, strict=True)
    ]


TABLES: dict[str, tuple[Callable[[Any], str], Callable[[ms.Study, str], Any]]] = {
    "parts": (tables.parts, parts),
    "pairs": (tables.pairs, specific),
    "kinds": (tables.kinds, kinds),
    "patches": (tables.patches, patches),
    "scores": (tables.scores, scores),
}


def gather(studies: Sequence[ms.Study]) -> Row:
    """All of docs/appendix/graft-parts.md, by the folders' names."""
    found: Row = {}
    for study in studies:
        asked = study.read(GRAFT_SPECIFICITY_FILE)["taxonomy"].unique()
        found[study.folder.name] = {
            taxonomy: parts(study, taxonomy) for taxonomy in (PAPER, TRUTH) if taxonomy in asked
        }
    for study in studies[:3]:
        found[study.folder.name]["forms"] = forms(study, PAPER)
        found[study.folder.name]["forms, half"] = forms(study, PAPER, 0.5)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, nargs="+")
    parser.add_argument("--taxonomy", default="Non-Memo, Guess[0.5-0.5], Recall")
    parser.add_argument("--scores", action="store_true", help="the taxonomies in place of parts")
    parser.add_argument("--pairs", action="store_true", help="every pair of classes")
    parser.add_argument("--kinds", action="store_true", help="the same in each genre alone")
    parser.add_argument("--patches", action="store_true", help="activations in place of weights")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    parser.add_argument("--name", default="", help="which tables of the page")
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    options = parser.parse_args()
    studies = [ms.Study(one) for one in options.study]
    asked = [name for name in ("pairs", "kinds", "patches", "scores") if getattr(options, name)]
    if len(studies) > 1:
        publish("grafts", gather(studies), keep=options.keep)
    else:
        shown, gathered = TABLES[asked[0] if asked else "parts"]
        show_tables(shown(gathered(studies[0], options.taxonomy)), options.write, options.name)
