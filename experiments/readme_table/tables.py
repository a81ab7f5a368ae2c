"""The README's table of results: from the results of other experiments, and from the demo."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.pages import number, results_of, table_of
from mnemoscope.localize.grafts import Finding
from mnemoscope.pipeline.causes import TRUTH, finding_of
from mnemoscope.taxonomy import PAPER
from mnemoscope.words import MINUS, part_words, plain_figure

HEAD = ["question", "answer", "figure", "beside it", "more"]


def tables(demo: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Each question with its answer."""
    rows = lines(demo, results_of("grafts"), results_of("small_hubble"))
    return {("README.md", "results"): table_of(HEAD, rows)}


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


def causes(studies: Mapping[str, Any]) -> tuple[str, str]:
    """What the part that breaks Recall most does beside text of the same form, and of another.

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
    most = 100 * max(high for *_, high in natural)
    return (
        f"Take {part_words(first.part)} from the twin. {first.broken} then falls "
        f"{_range([value for value, *_ in natural])} points more than {first.spared} of the same "
        f"form (intervals up to {most:.1f}).",
        f"It falls {_range([one for one, *_ in refrains])} points more than {first.spared} of "
        "another form (refrains that no model read).",
    )


def _range(values: Sequence[float]) -> str:
    return f"{100 * min(values):.0f} to {100 * max(values):.0f}"


def _points(one: Sequence[float]) -> str:
    return plain_figure(*one, unit=" points", minus=MINUS)


def lines(
    demo: Mapping[str, Any], crossed: Mapping[str, Any], hubble: Mapping[str, Any]
) -> list[tuple[str, ...]]:
    """Each question, its answer in a word, a figure, what stands beside it, and the page.

    Raises:
        ValueError: the words do not fit the figures.
    """
    dose = {row["count"]: row["auc"]["perturbed"] for row in hubble["dose"]}
    output = {row["count"]: row["auc"]["ratio"] for row in hubble["likelihood"]}
    _, regression = (row for row in hubble["benchmark"] if row["taxonomy"] == PAPER)
    value, excess = regression["min_f1"][0], regression["excess"]
    gain, left = demo["gain"], demo["least"]
    if not (excess[1] > 0 and gain[2] < left):
        raise ValueError("the readers say something else now: write the README's last rows anew")
    figure, control = causes(crossed)
    return [
        (
            "Do guessed and recalled text need different parts of a model?",
            "**not shown**",
            figure,
            control,
            "[grafts](docs/graft.md)",
        ),
        (
            "Does attention show what was memorized?",
            "**yes, later than the output**",
            f"AUC {number(*dose[16])} for passages inserted 16 times.",
            f"The output, compared with a twin's: {number(*output[1])} after one insertion, "
            f"{number(output[16][0])} after 16.",
            "[a small Hubble](docs/suites/small-hubble.md)",
        ),
        (
            "Does attention tell Recall from Non-Memo better than the text does?",
            "**yes**",
            f"min-F1 {plain_figure(*regression['min_f1'])}.",
            f"The best control reaches {100 * (value - excess[0]):.1f} %. That is "
            f"{_points(excess)} less.",
            "[the same](docs/suites/small-hubble.md)",
        ),
        (
            "Does attention tell all three classes apart better than the text does?",
            "**no**, in the demo",
            "Attention adds "
            f"{plain_figure(*gain, scale=1, unit=' nats', digits=3, minus=MINUS)} a sequence.",
            f"The least that counts is {left:g} nats.",
            "[memory or text?](docs/memory-or-text.md)",
        ),
    ]
