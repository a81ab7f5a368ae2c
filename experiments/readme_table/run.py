"""The README's table of results: from the pages that other scripts write, and from two studies.

    python -m experiments.readme_table.run demo crossed [crossed-1 ...] [--write README.md]

DEMO is what `mnemoscope demo` makes, CROSSED the studies of docs/appendix/graft-parts.md, the
crossover's and the small Hubble's too.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from experiments.pages import show_tables, table_of
from mnemoscope.localize.grafts import Finding
from mnemoscope.pipeline.causes import GRAFT_SPECIFICITY_FILE, TRUTH, finding_of
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy import PAPER
from mnemoscope.words import MINUS, p_figure, part_words, plain_figure

DOCS = Path(__file__).parents[2] / "docs"


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


class Tried(NamedTuple):
    """A part and two classes in every model that was asked: the rows of what was found."""

    part: str
    broken: str
    spared: str
    rows: list[dict[str, Any]]

    @property
    def passed(self) -> list[dict[str, Any]]:
        """Of the models in which the part is specific."""
        return [row for row in self.rows if finding_of(row) is Finding.SPECIFIC]


def tried(studies: Sequence[Study], taxonomy: str) -> list[Tried]:
    """What grafts say of a taxonomy's classes, of the parts that all models were asked about."""
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
    return [Tried(*key, [table[key] for table in tables]) for key in asked]


def causes(studies: Sequence[Study]) -> str:
    """What grafts say, by the paper's rule and by truth.

    Raises:
        ValueError: the words do not fit what the grafts say.
    """
    by_rule, by_truth = tried(studies, PAPER), tried(studies, TRUTH)
    first = max(by_rule, key=lambda one: (len(one.passed), min(x["specific"] for x in one.rows)))
    refrains, natural = (of_form(first.part, one) for one in ("refrain, never read", "rule, read"))
    is_copying = all(low > 0 for _, low, _ in refrains) and all(low <= 0 for _, low, _ in natural)
    if not (first.passed and is_copying) or any(one.passed for one in by_truth):
        raise ValueError("the grafts say something else now: write the README's first row anew")
    rest = "".join(
        f" In another it is {_difference(row)}, p = {p_figure(row['p_value'])}."
        for row in first.rows
        if row not in first.passed
    )
    rows = [row for one in by_truth for row in one.rows]
    largest = max(rows, key=lambda row: float(row["specific"]))
    least = min(min(row["kept_broken"], row["kept_spared"]) for row in rows)
    return (
        "Plain text and text that repeats itself do; nothing shows that memory makes the "
        "difference. One part of a model is replaced by its twin's, beside random changes that do "
        f"as much harm. By the paper's rule {part_words(first.part)} break more of {first.broken} "
        f"than of {first.spared} in {len(first.passed)} of {len(first.rows)} models, by "
        f"{_range([100 * row['specific'] for row in first.passed])} points.{rest} But the two "
        "classes differ in form by definition. In the three shipped trainings it is beside "
        f"refrains that nobody read {_range([value for value, *_ in refrains])} points, beside "
        f"natural text that the rule calls {first.spared} "
        f"{_range([value for value, *_ in natural])} points (at most "
        f"{max(high for *_, high in natural):.1f}), so no difference is shown. Of text that model "
        "and twin both continue, what was read breaks no more than what was never read, under any "
        f"of {len({one.part for one in by_truth})} parts in {len(by_truth[0].rows)} models; the "
        f"largest difference is {_difference(largest)}. But these parts leave "
        f"{100 * least:.0f} % or more of both, so little could show."
    )


def of_form(part: str, form: str) -> list[tuple[float, ...]]:
    """How much more of Recall breaks than of one form of Guess, in points with its interval."""
    found = cells("graft-parts", 1, f"`{part}`", form)[2:]
    numbers = (re.findall(r"-?[\d.]+", one.replace(MINUS, "-").split(": ")[1]) for one in found)
    return [tuple(map(float, each)) for each in numbers]


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"


def _difference(row: Mapping[str, Any]) -> str:
    ends = row["specific"], row["low"], row["high"]
    return plain_figure(*ends, unit=" points", minus=MINUS)


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
    cnn, regression = read["CNNs"], read["**regression**"]
    page = (DOCS / "suites" / "small-hubble.md").read_text(encoding="utf-8")
    n, often = map(int, re.findall(r"Of the (\d+) memorized windows (\d+) were", page)[0])
    return [
        (
            "Do guessed and recalled text need different parts of a model?",
            f"{causes(crossed)} ([Grafts](docs/graft.md))",
        ),
        (
            "Does attention show what was memorized?",
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
            "little Guess to ask about. All three classes, in the demo (one training): "
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
