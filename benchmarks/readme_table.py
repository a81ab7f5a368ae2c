"""The README's table of results: from the pages that other scripts write, and from the demo.

    python benchmarks/readme_table.py demos [--seeds 3] [--write README.md]

DEMOS is a folder for the demo's study with each seed of its samples and trainings, without grafts;
what is there is not made again. The first seed is what `mnemoscope demo` shows.
"""

import argparse
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import polars as pl
from pages import show_tables, table_of

from mnemoscope.flow.run import demo_settings, run
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy import PAPER

DOCS = Path(__file__).parents[1] / "docs"


def cells(page: str, number: int, *first: str) -> list[str]:
    """The cells of the one row of a page's table, counted from 0, that begins with these.

    Raises:
        ValueError: no row begins so, or several do.
    """
    lines = (DOCS / "appendix" / f"{page}.md").read_text(encoding="utf-8").splitlines()
    parts = groupby(lines, key=lambda line: line.startswith("|"))
    rows = [list(table) for is_table, table in parts if is_table][number]
    found = [line.strip("| ").split(" | ") for line in rows]
    (row,) = (one for one in found if tuple(one[: len(first)]) == first)
    return row


def percent(text: str, digits: int = 1) -> str:
    """Write `16.7 [8.3, 26.7]` as `16.7 % [8.3, 26.7]`."""
    value, *ends = (f"{float(one):.{digits}f}" for one in re.findall(r"[\d.]+", text))
    return f"{value} %" + (f" [{', '.join(ends)}]" if ends else "")


def gain(text: str) -> str:
    """Write `33.4 [23.0, 46.3]` as `33.4 points [23.0, 46.3]`."""
    return text.replace(" [", " points [")


def demo_studies(folder: Path, n_seeds: int) -> list[Study]:
    """The demo's studies, one a seed; made where they are not there."""
    studies = []
    for seed in range(n_seeds):
        settings = demo_settings()
        settings.label.seed = seed
        settings.train.seeds = [seed]
        studies.append(run(settings, folder / f"seed-{seed}"))
    return studies


def reached(studies: Sequence[Study], sources: Sequence[str]) -> tuple[str, str]:
    """The best of these readers: its min-F1, with interval, in the first study; range over all."""
    of = (pl.col("taxonomy") == PAPER) & pl.col("source").is_in(sources)
    best = [study.benchmark.filter(of).sort("min_f1").row(-1, named=True) for study in studies]
    ends = [f"{100 * best[0][name]:.1f}" for name in ("min_f1", "low", "high")]
    values = [100 * row["min_f1"] for row in best]
    return f"{ends[0]} [{ends[1]}, {ends[2]}]", f"{min(values):.0f} to {max(values):.0f} %"


def lines(studies: Sequence[Study]) -> list[tuple[str, str]]:
    """Each question with its answer."""
    qk, mlp = (
        cells("graft-parts", 0, "`layers.0.qk`"),
        cells("graft-planted", 0, "`layers.20-29.mlp`"),
    )
    dose = {n: cells("small-hubble", 0, n) for n in ("16", "64")}
    output = {n: cells("small-hubble", 1, n) for n in ("1", "16")}
    read = {
        name: cells("small-hubble", 3, PAPER, "Non-Memo, Recall", name)
        for name in ("CNNs", "**regression**")
    }
    cnn, regression = read["CNNs"], read["**regression**"]
    page = (DOCS / "suites" / "small-hubble.md").read_text(encoding="utf-8")
    n, often = map(int, re.findall(r"Of the (\d+) memorized windows (\d+) were", page)[0])
    model, of_model = reached(studies, ["model"])
    blind, of_blind = reached(studies, ["blind", "ngram"])
    return [
        (
            "Do guessed and recalled text differ in mechanism?",
            f"Under the queries and keys of layer 0: {qk[3]}. With those of a twin that never saw "
            f"the texts, the shipped model still completes {percent(qk[1], 0)} of Guess and "
            f"{percent(qk[2])} of Recall; random changes that do as much harm to the other class "
            f"differ from that by {qk[5]} points, within kinds of text "
            "([Grafts](docs/graft.md)). On SmolLM2 the untouched model's MLPs of "
            f"layers 20 to 29 leave {percent(mlp[1], 0).split(' [')[0]} of templates and "
            f"{percent(mlp[4], 0)} of planted passages; the templates are what both models "
            "complete, so this shows no difference in mechanism either. "
            "([SmolLM2](docs/appendix/graft-planted.md))",
        ),
        (
            "Does attention show memory?",
            "Yes, but the output shows it sooner. Two models differ only in passages inserted at "
            "random counts. Attention weights tell passages inserted 16 times from those never "
            f"inserted with an AUC of {dose['16'][4]}, 64 times with "
            f"{dose['64'][4].split(' [')[0]}; at 1 and 4 times nothing shows, and the twin that "
            "never read them stays at chance. "
            f"The log-probability beside the twin's has {output['1'][3]} at one insertion and "
            f"{output['16'][3].split(' [')[0]} at 16, and attention adds nothing to it. "
            "([A small Hubble](docs/suites/small-hubble.md), [the crossover](docs/crossover.md))",
        ),
        (
            "Does attention tell the paper's classes apart better than the text does?",
            f"Recall against Non-Memo: yes, on the small Hubble, where {100 * often / n:.0f} % of "
            "what is memorized was read 64 times or more. A regression tells the two with a min-F1 "
            f"of {percent(regression[3])}, {gain(regression[6])} above its best control; the "
            f"paper's CNN with {percent(cnn[3])}, {gain(cnn[6])} above its own. There was too "
            "little Guess to ask about. All three classes on the shipped model: not shown. The CNN "
            f"reaches {percent(model)}, the tokens alone {percent(blind).split(' [')[0]}; over "
            f"{len(studies)} seeds {of_model} and {of_blind}. "
            "([Memory or text?](docs/memory-or-text.md))",
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demos", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    rows = lines(demo_studies(options.demos, options.seeds))
    show_tables(table_of(["question", "answer"], rows), options.write, "results")
