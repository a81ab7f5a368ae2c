"""The tables of `docs/analyses/`: the sentence of each analysis, and what its pages show of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.pages import figure, table_of
from mnemoscope.words import MINUS, UNKNOWN

Rows = list[dict[str, Any]]

WAYS = ("gradient ascent", "sparse ascent", "pruning")
PAGES, OVERVIEW = "docs/analyses", "docs/analyses.md"
GROUPS = {"n": "sequences", "n_groups": "groups"}
"""How many sequences a row is of, and groups of near duplicates among them."""


class Cell(NamedTuple):
    """A column of figures: its heading, and how a figure is printed; per cent has a scale of 100.

    The heading may hold `{}` for the value of the column that stands across.
    """

    heading: str
    scale: float = 1
    digits: int = 3

    def show(self, value: Any) -> str:
        """A figure with its interval (three numbers), a count, or what is no number."""
        if isinstance(value, list):
            return figure(*value, scale=self.scale, digits=self.digits)
        if isinstance(value, float):
            return f"{self.scale * value:.{self.digits}f}".replace("-", MINUS)
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value:,}"
        return UNKNOWN if value is None else str(value)


class Table(NamedTuple):
    """What a page shows of one table of an analysis.

    Attributes:
        frame: its name.
        rows: columns that name a row, with their headings.
        cells: columns of figures.
        only: the rows that are shown: values by column, None for null.
        across: the column whose values stand side by side.
        names: what stands in the place of a value that names a row or stands across.
    """

    frame: str
    rows: Mapping[str, str]
    cells: Mapping[str, Cell]
    only: Mapping[str, tuple[Any, ...]] = {}
    across: str = ""
    names: Mapping[str, str] = {}

    @property
    def columns(self) -> list[str]:
        """What it needs of the frame."""
        return [*self.rows, *([self.across] if self.across else []), *self.cells]

    def render(self, found: Rows) -> str:
        """The table in Markdown; figures that stand across are in the order of `found`."""

        def named(value: Any) -> str:
            return self.names.get(value, Cell("").show(value).replace("_", " "))

        beside = list(dict.fromkeys(named(row.get(self.across)) for row in found))
        lines: dict[tuple[str, ...], dict[str, str]] = {}
        heads = [cell.heading.format(one) for cell in self.cells.values() for one in beside]
        for row in found:
            line = lines.setdefault(tuple(named(row[name]) for name in self.rows), {})
            for name, cell in self.cells.items():
                line[cell.heading.format(named(row.get(self.across)))] = cell.show(row[name])
        return table_of(
            [*self.rows.values(), *heads],
            (
                [*names, *(line.get(head, UNKNOWN) for head in heads)]
                for names, line in lines.items()
            ),
        )


def percent(heading: str, digits: int = 1) -> Cell:
    """A share, in per cent."""
    return Cell(heading, 100, digits)


VALUES = {
    "dimension_gap": "difference of spreads",
    "two_nn_gap": "of TwoNN",
    "entropy_gap": "of entropies",
    "log_ratio": "log-probability ratio",
    "log_model": "log-probability, model",
    "log_reference": "log-probability, reference (low)",
    "reference_right": "right tokens of the reference (few)",
    "guessable": "rule: ROUGE and patterns (low)",
}
"""What may tell Recall from other classes, in the words of the page of `dimension`."""

MODELS = {
    "baseline": "one for all",
    "taxonomic": "one a category",
    "optimal": "one a part of the best partition",
    "no perplexity": "one for all, without perplexities",
}
"""The models of `predict`."""

SHOWN: dict[str, dict[str, Table]] = {
    "boundary": {
        "differences": Table(
            "differences",
            {"group": "group", **GROUPS},
            {"difference": Cell("{}", 1, 2)},
            across="what",
            names={
                "frequency": "frequency, % of tokens",
                "2-gram frequency": "of 2-grams, ‰ of 2-grams",
                "entropy": "entropy, nats",
            },
        ),
        "entropy": Table(
            "curves",
            {"group": "group"},
            {"mean": Cell("entropy at position {}, nats", 1, 2)},
            {"what": ("entropy",), "position": (32, 33)},
            "position",
        ),
    },
    "copying": {
        "shares": Table(
            "shares",
            {"model": "continuations of", "rows": "sequences", "of": "how many"},
            {"share": percent("{}, %")},
            across="kind",
        ),
        "ideas": Table(
            "ideas",
            {"compared": "a cosine of .8", "rows": "sequences", "n": "how many", "of": "of"},
            {"share": percent("share, %"), "median": Cell("median cosine", 1, 2)},
            {"model": ("this model",)},
        ),
        "attention": Table(
            "attention",
            {"measure": "flat attention by", "model": "of", **GROUPS},
            {"auc": Cell("layer {}")},
            across="layer",
        ),
    },
    "dependencies": {
        "coefficients": Table(
            "coefficients",
            {"feature": "feature", "n": "sequences"},
            {"value": Cell("{}", 1, 2)},
            {"kind": ("all",), "category": ("all",)},
            "coefficient",
        ),
        "bands": Table(
            "perplexity_by_duplicates",
            {"duplicates": "duplicates", "n_memorized": "memorized", "n_other": "others"},
            {
                "auc": Cell("AUC of a lower perplexity"),
                "kl": Cell("divergence, nats", 1, 2),
                "shuffled": Cell("labels shuffled", 1, 2),
                "ceiling": Cell("at most", 1, 2),
                "memorized_median": Cell("median perplexity, memorized", 1, 1),
                "other_median": Cell("others", 1, 1),
            },
        ),
        "proportions": Table(
            "proportions",
            {"category": "category", "n": "memorized"},
            {"share": percent("share of the memorized, %")},
        ),
    },
    "dimension": {
        "classes": Table(
            "classes",
            {"class": "class", **GROUPS, "under": "under"},
            {"median": Cell("{}", 1, 1)},
            across="measure",
            names={"dimension": "spread", "two_nn": "TwoNN", "entropy": "entropy, nats"},
        ),
        "kinds": Table(
            "kinds",
            {"class": "class"},
            {"share": percent("{}, %", 0)},
            {"kind": ("OD-Mem", "DD-Mem")},
            "kind",
        ),
        "aucs": Table(
            "aucs",
            {"value": "ROC AUC of Recall by"},
            {"auc": Cell("against {}")},
            {"of": ("Recall",)},
            "against",
            VALUES,
        ),
        "seen": Table(
            "aucs",
            {"value": "all that is reproduced: seen, unseen, by"},
            {"auc": Cell("ROC AUC"), "added": Cell("the spread adds")},
            {"of": ("seen, reproduced",)},
            names=VALUES,
        ),
    },
    "dynamics": {
        "tokens": Table(
            "tokens",
            {"model": "model", "group": "group", **GROUPS},
            {"m": percent("M, %"), "mean_run": Cell("mean run, tokens", 1, 1)},
            {"group": ("all", "memorized", "not memorized, trained on")},
        ),
        "thresholds": Table(
            "thresholds",
            {"model": "taught", "identifier": "identifier"},
            {
                "epochs": Cell("epochs to M = .9"),
                "steps": Cell("steps"),
                "m_there": percent("M when the loss of others is lowest, %"),
            },
        ),
        "floors": Table(
            "floors",
            {"model": "model", "arm": "read", "n": "sequences"},
            {
                "peak": percent("peak of M, %"),
                "floor": percent("lowest M from there on, %"),
                "above_never": percent("above never, points"),
                "above_once": percent("above once, points"),
            },
        ),
        "kinds": Table(
            "kinds",
            {"group": "group"},
            {"right_token": percent("{}, %")},
            {"group": ("not memorized, trained on", "not memorized, not trained on")},
            "kind",
        ),
    },
    "embeddings": {
        "distances": Table(
            "from_top",
            {"level": "right tokens of 16", **GROUPS},
            {
                "freed": Cell("distance at token {}", 1, 1),
                "plain": Cell("as it is at token {}", 1, 1),
                "chance": Cell("levels shuffled, token {}: up to", 1, 1),
            },
            {"metric": ("euclidean",), "step": (1, 16), "level": (0, 4, 8, 12, 15)},
            "step",
        ),
        "order": Table(
            "order",
            {"pairs": "pairs of levels"},
            {
                "correlation": Cell("rank correlation of distances in score and in state", 1, 2),
                "shuffled": Cell("levels shuffled: up to", 1, 2),
            },
        ),
    },
    "ending": {
        "aucs": Table(
            "aucs",
            {"measure": "measure", "on": "on", "n": "sequences"},
            {
                "model": Cell("model"),
                "reference": Cell("reference"),
                "difference": Cell("difference"),
            },
            {"layer": (None,), "of": ("memorized",)},
        ),
        "classes": Table(
            "classes",
            {"on": "attention on", "model": "of"},
            {"mean": percent("{}, %")},
            {
                "measure": ("attention",),
                "on": ("last prefix token", "copy edges"),
                "layer": (None,),
                "class": ("Recall", "Guess", "Non-Memo"),
            },
            "class",
        ),
    },
    "inject": {
        "effect": Table(
            "effect",
            {"insertions": "times put in", "step": "step"},
            {"more": Cell("{}, tokens more than in the control run", 1, 1)},
            {},
            "kind",
        ),
    },
    "length": {
        "shares": Table(
            "shares",
            {"group": "class", **GROUPS},
            {
                "share": percent("16 tokens or more, best prompt, %"),
                "share_with_copies": percent("with copies of the prompt, %"),
                "median": Cell("median, tokens", 1, 0),
                "longest": Cell("longest"),
            },
        ),
        "by_prompt": Table(
            "by_prompt",
            {"group": "16 tokens or more, %"},
            {"share": percent("prompt of {} tokens")},
            across="prompt",
        ),
    },
    "levels": {
        "stays": Table(
            "stays",
            {"what": "stays", "n_before": "sequences of the reference"},
            {"share": percent("stay so in this model, %")},
        ),
        "transitions": Table(
            "transitions",
            {"from": "from level, % go to"},
            {"share": percent("{}")},
            across="to",
        ),
    },
    "neurons": {
        "differences": Table(
            "differences",
            {"measure": "nats", "class": "class", "less": "less"},
            {"difference": Cell("{}")},
            across="of",
        ),
    },
    "perturb": {
        "prompts": Table(
            "prompts",
            {"kind": "prompt"},
            {"whole": percent("{}, come out whole, %", 0), "n": Cell("{}, prompts")},
            {"group": ("Recall", "Guess")},
            "group",
        ),
        "recovery": Table(
            "recovery",
            {"group": "of", **GROUPS},
            {
                "as_it_is": Cell("tokens after the prefix", 1, 1),
                "best": Cell("after the best prompt", 1, 1),
                "recovered": Cell("more", 1, 1),
            },
            {
                "group": (
                    "unseen",
                    *(f"{of}{way}" for way in WAYS for of in ("unlearned, ", "unseen, after ")),
                )
            },
        ),
        "beside": Table(
            "beside",
            {"way": "unlearned by", "group": "not unlearned", **GROUPS},
            {
                "tokens": Cell("tokens in a row before", 1, 1),
                "after_tokens": Cell("after", 1, 1),
                "right": percent("right tokens before, %"),
                "after_right": percent("after, %"),
            },
        ),
    },
    "predict": {
        "models": Table(
            "scores",
            {"model": "model", "n": "sequences", "n_groups": "groups"},
            {"value": percent("{}, %")},
            {"category": ("all",), "figure": ("f1", "roc_auc", "ece")},
            "figure",
            {**MODELS, "f1": "F1", "roc_auc": "ROC AUC", "ece": "ECE"},
        ),
        "categories": Table(
            "scores",
            {"category": "F1 of, %", "n": "sequences", "n_memorized": "memorized"},
            {"value": percent("{}")},
            {"figure": ("f1",)},
            "model",
            MODELS,
        ),
        "weights": Table(
            "weights",
            {"feature": "feature, standardised"},
            {"weight": Cell("weight in {}", 1, 2)},
            {"model": ("baseline", "no perplexity")},
            "model",
            MODELS,
        ),
    },
    "psmi": {
        "layers": Table(
            "layers",
            {"layer": "layer", **GROUPS},
            {"auc": Cell("{}")},
            across="model",
        ),
        "last": Table(
            "layers",
            {"model": "last layer of"},
            {
                "fpr": percent("others flagged where .75 of the memorized are, %"),
                "within": Cell("AUC within one first token"),
                "shuffled": Cell("mean with labels shuffled, nats"),
                "n_directions": Cell("directions"),
            },
            {"layer": (4,)},
        ),
        "classes": Table(
            "classes",
            {"class": "class", "n": "sequences"},
            {"auc": Cell("{}")},
            {"layer": (4,)},
            "model",
        ),
    },
    "tokens": {
        "scores": Table(
            "scores",
            {"predictor": "told by", **GROUPS},
            {"accuracy": percent("{} told rightly, %")},
            across="of",
        ),
    },
    "trigger": {
        "shares": Table(
            "shares",
            {"group": "class", **GROUPS},
            {"share": percent("{}, %")},
            across="tokens",
        ),
        "fewest": Table(
            "fewest",
            {"group": "class", **GROUPS},
            {"share": percent("{} states, %")},
            across="states",
        ),
        "tokens": Table(
            "tokens",
            {"token": "token of the suffix", "n": "sequences"},
            {
                "no_single_state": percent("depend on no single state, %", 0),
                "no_state_at_all": percent("on no state at all, %", 0),
            },
            {"token": (1, 2, 4, 8, 16, 32)},
        ),
        "states": Table(
            "states",
            {"state": "state after so many layers"},
            {"share": percent("of position {}: tokens changed, %")},
            {"position": (8, 16, 24, 32)},
            "position",
        ),
    },
}
"""By analysis, what its page shows, by the name of the table's marks."""

BESIDE = {
    "ending": ("Of the ",),
    "length": ("With what is copied",),
    "levels": ("Of ",),
    "predict": ("The best partition",),
    "tokens": ("ROC AUC", "Levels of fewer"),
}
"""By analysis, how the further lines begin that a page shows under the sentence."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dimension at 0.3": ("dimension", {"temperature": 0.3}),
    "predict with logarithms": ("predict", {"logarithms": True}),
}
"""An analysis that is run with other settings too: its name, and these."""

SHOWN["dimension at 0.3"] = {"kinds": SHOWN["dimension"]["kinds"]}
SHOWN["predict with logarithms"] = {}


def tables(found: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """The study, and the sentence and the tables of every analysis that is stored."""
    study = found["study"]
    made = {
        (OVERVIEW, "study"): (
            "The figures on these pages are of the study that `mnemoscope demo` makes: embedded "
            f"model, {study['sequences']:,} sequences in {study['groups']:,} groups of near "
            f"duplicates, {study['memorized']:,} of them memorized, seed 0.\n"
        )
    }
    for name, tables_of in SHOWN.items():
        if name not in found:
            continue
        analysis, _ = VARIANTS.get(name, (name, {}))
        page, end = f"{PAGES}/{analysis}.md", name.removeprefix(analysis)
        said = [found[name]["sentence"], *found[name]["beside"]]
        made[page, f"finding{end}"] = "\n>\n".join(f"> {one}" for one in said) + "\n"
        for which, table in tables_of.items():
            made[page, f"{which}{end}"] = table.render(found[name]["tables"][which])
    return made
