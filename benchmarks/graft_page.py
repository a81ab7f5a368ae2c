"""The tables of `docs/graft.md` and of its appendices, from a study with grafts.

mnemoscope graft STUDY
python benchmarks/graft_page.py STUDY --write docs/graft.md [--name NAME]
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pages import show_tables, table_of

import mnemoscope as ms
from mnemoscope.benchmark.published import published_table
from mnemoscope.localize.grafts import Finding
from mnemoscope.pipeline.causes import FINDINGS, GRAFT_SPECIFICITY_FILE, by_weight, finding_of
from mnemoscope.pipeline.label import samples_of
from mnemoscope.report.grafts import graft_of
from mnemoscope.stats import Estimate
from mnemoscope.words import interval, percent, points


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


_FINDING = ("finding", "random changes leave, %", "difference, points", "p", "crude", "over flip")


def _finding(row: Mapping[str, Any]) -> list[str]:
    """The cells of a row of `graft_specificity.parquet`."""
    whole, crude, flip = (
        f"{points(one.value)} {interval(one)}".strip()
        for one in (
            Estimate.of(row, "specific", ends=""),
            Estimate.of(row, "crude"),
            Estimate.of(row, "over_flip"),
        )
    )
    chance = "–" if row["p_value"] is None else f"{row['p_value']:.3f}"
    said = f"{row['broken']} beyond {row['spared']}: {FINDINGS[finding_of(row)]}"
    return [said, percent(row["random_broken"], unit=False), whole, chance, crude, flip]


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
    """A line a part and ordered pair that all have: difference and finding in each training."""
    frames = [
        one.read(GRAFT_SPECIFICITY_FILE).filter(pl.col("taxonomy") == taxonomy) for one in studies
    ]
    keys = ("part", "broken", "spared")
    found = [{tuple(row[name] for name in keys): row for row in one.to_dicts()} for one in frames]
    rows = []
    for key in (one for one in found[0] if all(one in table for table in found)):
        own, cells = [table[key] for table in found], list[str]()
        for row in own:
            whole = Estimate.of(row, "specific", ends="")
            cells.append(f"{points(whole.value)} {interval(whole)}".strip())
            cells.append(FINDINGS[finding_of(row)])
        agree = all(finding_of(row) is Finding.SPECIFIC for row in own)
        part, broken, spared = key
        rows.append([f"`{part}`", f"{broken} beyond {spared}", *cells, "yes" if agree else "no"])
    columns = [name for one in studies for name in (f"{one.folder.name}: points", "finding")]
    return table_of(["part", "classes", *columns, "in every training"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, nargs="+", help="several: a table by training")
    parser.add_argument("--taxonomy", default="Non-Memo, Guess[0.5-0.5], Recall")
    parser.add_argument("--scores", action="store_true", help="the taxonomies in place of parts")
    parser.add_argument("--patches", action="store_true", help="activations in place of weights")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    parser.add_argument("--name", default="", help="which tables of the page")
    options = parser.parse_args()
    studies = [ms.Study(one) for one in options.study]
    study = studies[0]
    if len(studies) > 1:
        found = trainings(studies, options.taxonomy)
    elif options.scores:
        found = scores(study)
    else:
        found = (patches if options.patches else parts)(study, options.taxonomy)
    show_tables(found, options.write, options.name)
