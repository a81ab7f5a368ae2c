"""The README's table of results: from the pages that other scripts write, and from two studies.

    python benchmarks/readme_table.py demo crossed [crossed-1 ...] [--write README.md]

DEMO is what `mnemoscope demo` makes, CROSSED the studies of docs/appendix/graft-parts.md, the
crossover's and the small Hubble's too.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pages import show_tables, table_of

from mnemoscope.localize.grafts import Finding
from mnemoscope.pipeline.causes import GRAFT_SPECIFICITY_FILE, TRUTH, finding_of
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy import PAPER
from mnemoscope.words import MINUS, part_words, plain_figure

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


def causes(studies: Sequence[Study], taxonomy: str, under: str) -> tuple[str, str]:
    """What grafts say of a taxonomy's classes over all models that were asked, and of which part.

    Of the part that is specific in most models, then of the one whose least difference is largest.
    """
    tables = [
        {
            (row["part"], row["broken"], row["spared"]): row
            for row in one.read(GRAFT_SPECIFICITY_FILE).filter(taxonomy=taxonomy).to_dicts()
            if row["specific"] is not None
        }
        for one in studies
    ]
    tables = [table for table in tables if table]
    asked = [key for key in tables[0] if all(key in table for table in tables)]
    rows = {key: [table[key] for table in tables] for key in asked}
    rows = {key: each for key, each in rows.items() if any(map(_breaks, each))}
    passed = {key: sum(map(_passes, each)) for key, each in rows.items()}
    n_parts = len({part for part, _, _ in asked})
    nearest = max(rows, key=lambda one: (passed[one], min(row["specific"] for row in rows[one])))
    most = passed[nearest]
    if not most:
        return (
            f"{under} under none of {n_parts} parts in any of {len(tables)} models; nearest comes "
            f"{part_words(nearest[0])}: {_beyond(nearest)}, by {_each(rows[nearest])}."
        ), nearest[0]
    shown = " and ".join(
        f"{_beyond(key)} under {part_words(key[0])}, by {_each(rows[key])}"
        for key, count in passed.items()
        if count == most
    )
    models = f"all {len(tables)}" if most == len(tables) else f"{most} of {len(tables)}"
    return f"{under} in {models} models {shown}; {n_parts} parts were tried.", nearest[0]


def _beyond(key: tuple[str, str, str]) -> str:
    return f"{key[1]} breaks more than {key[2]}"


def _passes(row: Mapping[str, Any]) -> bool:
    return finding_of(row) is Finding.SPECIFIC


def _breaks(row: Mapping[str, Any]) -> bool:
    """Whether a part leaves less than 19 of 20 of a class; else it can say nothing."""
    return bool(min(row["kept_broken"], row["kept_spared"]) < 0.95)


def of_forms(part: str) -> str:
    """What Guess is made of, under a part: the table of the page, in words."""
    rows = {
        form: [
            cell.split(": ")[1].replace("+", "")
            for cell in cells("graft-parts", 1, f"`{part}`", form)[2:]
        ]
        for form in ("refrain, never read", "rule, read")
    }
    said = {form: "; ".join(map(gain, each)) for form, each in rows.items()}
    ends = [re.findall(r"[−\d.]+", one.partition("[")[2]) for one in rows["rule, read"]]
    is_shown = any(low[0] != MINUS or high[0] == MINUS for low, high in ends)
    natural = "by" if is_shown else "no difference is shown:"
    return (
        "That comes from text that repeats itself: in the first three models Recall breaks more "
        f"than refrains that nobody read by {said['refrain, never read']}; than natural text that "
        f"the rule calls Guess and that was read {natural} {said['rule, read']}."
    )


def _each(rows: Sequence[Mapping[str, Any]]) -> str:
    """The difference in each training."""
    ends = ((row["specific"], row["low"], row["high"]) for row in rows)
    return "; ".join(plain_figure(*one, unit=" points", minus=MINUS) for one in ends)


def attention(study: Study) -> str:
    """The verdict of the paper's taxonomy in the demo, beside both readers and the best of text."""
    rows = study.benchmark.filter(taxonomy=PAPER).to_dicts()
    of = {row["source"]: row for row in rows}
    headline = next(row for row in rows if row["is_headline"])
    text = max(of[name]["min_f1"] for name in ("blind", "blind_statistics", "ngram"))
    return (
        f"{headline['verdict']}. Min-F1: the paper's CNN {_whole(of['model'])}, a regression "
        f"{_whole(of['statistics'])}, the text alone {100 * text:.1f} %."
    )


def _whole(row: dict[str, float]) -> str:
    ends = [f"{100 * row[name]:.1f}" for name in ("min_f1", "low", "high")]
    return f"{ends[0]} % [{ends[1]}, {ends[2]}]"


def lines(demo: Study, crossed: Sequence[Study]) -> list[tuple[str, str]]:
    """Each question with its answer."""
    dose = {n: cells("small-hubble", 0, n) for n in ("16", "64")}
    output = {n: cells("small-hubble", 1, n) for n in ("1", "16")}
    read = {
        name: cells("small-hubble", 2, PAPER, "Non-Memo, Recall", name)
        for name in ("CNNs", "**regression**")
    }
    by_rule, part = causes(crossed, PAPER, "By the paper's rule,")
    truth = "Of text that both models continue, what was read differs from what was never read"
    by_truth, _ = causes(crossed, TRUTH, truth)
    cnn, regression = read["CNNs"], read["**regression**"]
    page = (DOCS / "suites" / "small-hubble.md").read_text(encoding="utf-8")
    n, often = map(int, re.findall(r"Of the (\d+) memorized windows (\d+) were", page)[0])
    return [
        (
            "Do guessed and recalled text differ in mechanism?",
            "Parts of a model that did not read the text take the place of the model's own, beside "
            "random changes of equal harm. Guess and Recall differ in form by definition. "
            f"{by_rule} {of_forms(part)} {by_truth} ([Grafts](docs/graft.md))",
        ),
        (
            "Does attention show memory?",
            "Yes, but the output shows it sooner. Two models differ only in passages inserted at "
            "random counts. Attention weights tell passages inserted 16 times from those never "
            f"inserted with an AUC of {dose['16'][4]}, 64 times with "
            f"{dose['64'][4].split(' [')[0]}; at 1 and 4 times they do not, and the twin that "
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
            "little Guess to ask about. All three classes on the shipped model: "
            f"{attention(demo)} "
            "([Memory or text?](docs/memory-or-text.md))",
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("crossed", type=Path, nargs="+", help="one a training")
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    rows = lines(Study(options.demo), [Study(one) for one in options.crossed])
    show_tables(table_of(["question", "answer"], rows), options.write, "results")
