"""The tables of `docs/graft.md` and of its appendices, from a study with grafts.

mnemoscope graft STUDY
python benchmarks/graft_page.py STUDY --write docs/graft.md [--name NAME]
"""

import argparse
from pathlib import Path

from pages import show_tables, table_of

import mnemoscope as ms
from mnemoscope.benchmark.published import published_table
from mnemoscope.pipeline.label import samples_of
from mnemoscope.report.content import graft_of
from mnemoscope.stats import Estimate
from mnemoscope.words import interval, percent, points


def parts(study: ms.Study, taxonomy: str) -> str:
    """A line a part: of each class what survives, beside the control, and what is specific."""
    view = graft_of(study, taxonomy)
    if view is None:
        raise SystemExit(f"{study.folder}: no grafts of '{taxonomy}'. Run: mnemoscope graft")
    columns, rows = ["part of the reference"], []
    for name in view["classes"]:
        columns += [f"{name}: kept, %", "any change", "specific, points"]
    for row in view["rows"]:
        cells = []
        for cell in row["cells"]:
            kept = f"{percent(cell['twin'].value, unit=False)} {interval(cell['twin'])}"
            specific = f"{points(cell['specific'].value)} {interval(cell['specific'])}"
            cells += [kept, percent(cell["control"], unit=False), specific]
        losses = [f"{row[name]:+.2f}".replace("-", "−") for name in ("loss", "control_loss")]
        rows.append([f"`{row['part']}`", *cells, *losses])
    return table_of([*columns, "loss elsewhere, nats", "any change"], rows)


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
    """A line a taxonomy, by falling causal score, min-F1 of the paper beside it."""
    printed = dict(published_table().select("tax_name", "min_f1").iter_rows())
    entries = samples_of(study)
    table = study.read("graft_scores.parquet").sort("score", descending=True, nulls_last=True)
    columns = [
        *("taxonomy", "causal score", "by log-probability", "permuted labels, 95 %", "p"),
        *("part", "breaks", "spares", "min-F1 in the paper, %"),
    ]
    rows = []
    for row in table.iter_rows(named=True):
        score = f"{points(row['score'])} {interval((row['score'], row['low'], row['high']))}"
        other = f"{points(row['by_logprob'])} {interval(Estimate.of(row, 'by_logprob'))}"
        cells = [row["taxonomy"], score.strip(), other.strip(), points(row["permuted_high"])]
        cells.append("–" if row["p_value"] is None else f"{row['p_value']:.3f}")
        cells += [row[name] or "–" for name in ("part", "broken", "spared")]
        entry = entries.get(row["taxonomy"])  # none of a taxonomy that a search has found
        own = entry and printed.get(entry["published_name"])
        cells.append("–" if own is None else f"{own:.1f}")
        rows.append(cells)
    return table_of(columns, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--taxonomy", default="Non-Memo, Guess[0.5-0.5], Recall")
    parser.add_argument("--scores", action="store_true", help="the taxonomies in place of parts")
    parser.add_argument("--patches", action="store_true", help="activations in place of weights")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    parser.add_argument("--name", default="", help="which tables of the page")
    options = parser.parse_args()
    study = ms.Study(options.study)
    if options.scores:
        found = scores(study)
    else:
        found = (patches if options.patches else parts)(study, options.taxonomy)
    show_tables(found, options.write, options.name)
