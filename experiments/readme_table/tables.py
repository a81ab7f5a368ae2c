"""The README's table of results: from the results of other experiments, and from the demo."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.pages import number, results_of, table_of
from mnemoscope.localize.grafts import Finding
from mnemoscope.pipeline.causes import TRUTH, finding_of
from mnemoscope.taxonomy import PAPER
from mnemoscope.words import MINUS, p_figure, part_words, plain_figure


def tables(demo: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Each question with its answer."""
    rows = lines(demo, results_of("grafts"), results_of("small_hubble"))
    return {("README.md", "results"): table_of(["question", "answer"], rows)}


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


def tried(studies: Mapping[str, Any], taxonomy: str) -> list[Tried]:
    """What grafts say of a taxonomy's classes, of the parts that all models were asked about."""
    tables = [
        {
            (row["part"], row["broken"], row["spared"]): row
            for row in one[taxonomy]["specific"]
            if row["specific"][0] is not None
        }
        for one in studies.values()
        if taxonomy in one
    ]
    asked = [key for key in tables[0] if all(key in table for table in tables)]
    return [Tried(*key, [table[key] for table in tables]) for key in asked]


def causes(studies: Mapping[str, Any]) -> str:
    """What grafts say, by the paper's rule and by truth.

    Raises:
        ValueError: the words do not fit what the grafts say.
    """
    by_rule, by_truth = tried(studies, PAPER), tried(studies, TRUTH)
    first = max(by_rule, key=lambda one: (len(one.passed), min(x["specific"][0] for x in one.rows)))
    refrains, natural = (
        [
            row["beyond"]
            for one in studies.values()
            for row in one.get("forms", ())
            if (row["part"], row["form"]) == (first.part, form)
        ]
        for form in ("refrain, never read", "rule, read")
    )
    is_copying = all(low > 0 for _, low, _ in refrains) and all(low <= 0 for _, low, _ in natural)
    if not (first.passed and is_copying) or any(one.passed for one in by_truth):
        raise ValueError("the grafts say something else now: write the README's first row anew")
    rest = "".join(
        f" In another it is {_difference(row)}, p = {p_figure(row['p_value'])}."
        for row in first.rows
        if row not in first.passed
    )
    rows = [row for one in by_truth for row in one.rows]
    least = min(min(row["kept_broken"], row["kept_spared"]) for row in rows)
    return (
        "Plain text and text that repeats itself do; nothing shows that memory makes the "
        "difference. One part of a model is replaced by its twin's, beside random changes that do "
        f"as much harm. By the paper's rule {part_words(first.part)} break more of {first.broken} "
        f"than of {first.spared} in {len(first.passed)} of {len(first.rows)} models, by "
        f"{_range([row['specific'][0] for row in first.passed])} points.{rest} But the two "
        "classes differ in form by definition. In the three shipped trainings it is beside "
        f"refrains that nobody read {_range([value for value, *_ in refrains])} points, beside "
        f"natural text that the rule calls {first.spared} "
        f"{_range([value for value, *_ in natural])} points (at most "
        f"{100 * max(high for *_, high in natural):.1f}), so no difference is shown. Of text that "
        "model and twin both continue no difference is shown between what was read and what was "
        f"never read, under any of {len({one.part for one in by_truth})} parts in "
        f"{len(by_truth[0].rows)} models; these parts leave {100 * least:.0f} % or more of both, "
        "so little could show."
    )


def _range(values: Sequence[float]) -> str:
    return f"{100 * min(values):.0f} to {100 * max(values):.0f}"


def _points(one: Sequence[float]) -> str:
    return plain_figure(*one, unit=" points", minus=MINUS)


def _difference(row: Mapping[str, Any]) -> str:
    return _points(row["specific"])


def _above(row: Mapping[str, Any]) -> str:
    return f"{plain_figure(*row['min_f1'])}, {_points(row['excess'])} above its"


def _attention(demo: Mapping[str, Any]) -> str:
    """The verdict of the paper's taxonomy in the demo, beside both readers and the best of text."""
    cnn, regression = (plain_figure(*demo[name]) for name in ("CNN", "regression"))
    return (
        f"{demo['verdict']}. Min-F1: the paper's CNN {cnn}, a regression {regression}; on the "
        f"reference's attention {' and '.join(f'{100 * one:.1f}' for one in demo['reference'])} %, "
        f"on the text alone {100 * demo['text']:.1f} %."
    )


def lines(
    demo: Mapping[str, Any], crossed: Mapping[str, Any], hubble: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Each question with its answer."""
    dose = {row["count"]: row["auc"]["perturbed"] for row in hubble["dose"]}
    output = {row["count"]: row["auc"]["ratio"] for row in hubble["likelihood"]}
    out = {row["count"]: row["windows"] * row["out"]["perturbed"][0] for row in hubble["dose"]}
    often = (out[64] + out[256]) / sum(out.values())
    cnn, regression = (row for row in hubble["benchmark"] if row["taxonomy"] == PAPER)
    return [
        (
            "Do guessed and recalled text need different parts of a model?",
            f"{causes(crossed)} ([Grafts](docs/graft.md))",
        ),
        (
            "Does attention show what was memorized?",
            "Yes, but the output shows it sooner. Two models differ only in passages inserted at "
            "random counts. Attention weights tell passages inserted 16 times from those never "
            f"inserted with an AUC of {number(*dose[16])}, 64 times with "
            f"{number(dose[64][0])}; at 1 and 4 times they do not, and the twin that "
            "never read them stays at chance. "
            f"The log-probability beside the twin's has {number(*output[1])} at one insertion and "
            f"{number(output[16][0])} at 16, and attention adds nothing to it. "
            "([A small Hubble](docs/suites/small-hubble.md), [the crossover](docs/crossover.md))",
        ),
        (
            "Does attention tell the paper's classes apart better than the text does?",
            f"Recall against Non-Memo: yes, on the small Hubble, where {100 * often:.0f} % of "
            "what is memorized was read 64 times or more. A regression tells the two with a min-F1 "
            f"of {_above(regression)} best control; the paper's CNN with {_above(cnn)} own. "
            "There was too little Guess to ask about. All three classes, in the demo (one "
            f"training): {_attention(demo)} "
            "([Memory or text?](docs/memory-or-text.md))",
        ),
    ]
