"""The tables of `docs/graft.md` and of its appendices, from a study with grafts.

mnemoscope graft STUDY
python benchmarks/graft_page.py STUDY --write docs/graft.md [--name NAME]
"""

import argparse
from pathlib import Path

from pages import write_tables

import mnemoscope as ms
from mnemoscope.benchmark.published import published_table
from mnemoscope.pipeline.label import samples_of
from mnemoscope.report.content import graft_of
from mnemoscope.stats import Estimate
from mnemoscope.words import interval, percent, points


def part_lines(study: ms.Study, taxonomy: str) -> list[str]:
    """A line a part: of each class what survives, beside the control, and what is specific."""
    view = graft_of(study, taxonomy)
    if view is None:
        raise SystemExit(f"{study.folder}: no grafts of '{taxonomy}'. Run: mnemoscope graft")
    heads = [f"{name}: kept, % | any change | specific, points" for name in view["classes"]]
    lines = [
        f"| part of the reference | {' | '.join(heads)} | loss elsewhere, nats | any change |",
        "|---" * (3 + 3 * len(heads)) + "|",
    ]
    for row in view["rows"]:
        cells = []
        for cell in row["cells"]:
            kept = f"{percent(cell['twin'].value, unit=False)} {interval(cell['twin'])}"
            specific = f"{points(cell['specific'].value)} {interval(cell['specific'])}"
            cells += [kept, percent(cell["control"], unit=False), specific]
        losses = [f"{row[name]:+.2f}".replace("-", "−") for name in ("loss", "control_loss")]
        lines.append(f"| `{row['part']}` | {' | '.join([*cells, *losses])} |")
    return lines


def patch_lines(study: ms.Study, taxonomy: str) -> list[str]:
    """A line a place: of each class and positions what survives, beside the control."""
    view = graft_of(study, taxonomy)
    if view is None or view["patches"] is None:
        raise SystemExit(f"{study.folder}: no patches of '{taxonomy}'. Set graft.patch=true.")
    columns = view["patches"]["columns"]
    heads = [f"{one['class']}, {one['positions']}: kept, % | other" for one in columns]
    lines = [f"| place | {' | '.join(heads)} |", "|---" * (1 + 2 * len(columns)) + "|"]
    for row in view["patches"]["rows"]:
        cells = [
            f"{percent(cell['twin'].value, unit=False)} {interval(cell['twin'])}".strip()
            + f" | {percent(cell['control'], unit=False)}"
            for cell in row["cells"]
        ]
        lines.append(f"| `{row['part']}` | {' | '.join(cells)} |")
    return lines


def score_lines(study: ms.Study) -> list[str]:
    """A line a taxonomy, by falling causal score, min-F1 of the paper beside it."""
    printed = dict(published_table().select("tax_name", "min_f1").iter_rows())
    entries = samples_of(study)
    scores = study.read("graft_scores.parquet").sort("score", descending=True, nulls_last=True)
    lines = [
        "| taxonomy | causal score | by log-probability | permuted labels, 95 % | p | part "
        "| breaks | spares | min-F1 in the paper, % |",
        "|---" * 9 + "|",
    ]
    for row in scores.iter_rows(named=True):
        score = f"{points(row['score'])} {interval((row['score'], row['low'], row['high']))}"
        other = f"{points(row['by_logprob'])} {interval(Estimate.of(row, 'by_logprob'))}"
        cells = [row["taxonomy"], score.strip(), other.strip(), points(row["permuted_high"])]
        cells.append("–" if row["p_value"] is None else f"{row['p_value']:.3f}")
        cells += [row[name] or "–" for name in ("part", "broken", "spared")]
        entry = entries.get(row["taxonomy"])  # none of a taxonomy that a search has found
        own = entry and printed.get(entry["published_name"])
        cells.append("–" if own is None else f"{own:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


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
        lines = score_lines(study)
    else:
        lines = (patch_lines if options.patches else part_lines)(study, options.taxonomy)
    print("\n".join(lines))
    if options.write:
        write_tables(options.write, "\n".join([*lines, ""]), options.name)
