"""The tables of `docs/letter.md`."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from experiments.pages import figure, table_of

PAGE = "docs/letter.md"
UNMEASURED = "not measured"
_PAPER = "Non-Memo, Guess, Others"
_PRASHANTH = {
    limit: f"Non-Memo, Recite[{limit}], Reconstruct, Others" for limit in ("5", "50", "1k")
}
_Found = Mapping[str, Any]


def tables(found: _Found) -> dict[tuple[str, str], str]:
    """Line by line; findings by choice; the layer profile by rule."""
    variants = found.get("variants")
    lines = [[*row[:4], row[4](found)] for row in _LINES]
    heads = ["", "as run", "as written", "ours", "effect measured here"]
    return {
        (PAGE, "lines"): table_of(heads, lines),
        (PAGE, "findings"): table_of(
            ["finding of the paper", "as run", "as written", "ours"],
            _findings(variants, found.get("labels")),
        ),
        (PAGE, "profile"): table_of(
            ["class", "Δ of CNNs as run, layer by layer: rows as run", "rows of ours"],
            _profile(variants),
        ),
    }


def _spearman(first: _Found, second: _Found) -> float | None:
    """Rank correlation of min-F1 over the taxonomies that both measured."""
    names = [name for name in first["min_f1"] if name in second["min_f1"]]
    if len(names) < 3:
        return None
    pair = [[one["min_f1"][name] for name in names] for one in (first, second)]
    return float(spearmanr(*pair).statistic)


def _range(values: Sequence[float | None], *, scale: float = 1, digits: int = 2) -> str:
    """Mean and range of what several repeats gave."""
    known = [one for one in values if one is not None]
    if not known:
        return UNMEASURED
    return figure(float(np.mean(known)), min(known), max(known), scale=scale, digits=digits)


def _orders(variants: _Found | None, first: str, second: str) -> str:
    """How alike two variants order the taxonomies; of one, between its repeats."""
    if variants is None:
        return UNMEASURED
    pairs = zip(variants[first], variants[second], strict=True)
    if first == second:
        pairs = combinations(variants[first], 2)  # type: ignore[assignment]
    return _range([_spearman(*pair) for pair in pairs])


def _of_grid(found: _Found) -> str:
    variants = found.get("variants")
    if variants is None:
        return UNMEASURED
    return (
        f"order of the taxonomies, Spearman with as written {_orders(variants, *_BOTH)}; between "
        f"repeats {_orders(variants, 'as run', 'as run')}"
    )


_BOTH = ("as run", "as written")


def _of_rouge(found: _Found) -> str:
    labels = found.get("labels")
    if labels is None:
        return UNMEASURED
    counts = [f"{n:,} at {at}" for at, n in labels["rouge_3"].items() if n]
    return f"of {labels['memorized']:,} memorized sequences another label: {', '.join(counts)}"


def _of_decoding(found: _Found) -> str:
    labels = found.get("labels")
    if labels is None:
        return UNMEASURED
    if not labels["end_in_prefix"] + labels["end_in_suffix"] + labels["rewritten"]:
        return (
            f"none of {labels['sequences']:,} labels and {labels['non_memo']:,} Non-Memo "
            "continuations: the end of text stands in no sequence and is not written"
        )
    return (
        f"of {labels['sequences']:,} sequences ({labels['end_in_prefix']:,} with the end of text "
        f"in the prefix, {labels['end_in_suffix']:,} in the suffix) {labels['verdicts']:,} labels, "
        f"{labels['lost']:,} of them no longer memorized; of {labels['non_memo']:,} Non-Memo "
        f"continuations {labels['rewritten']:,}"
    )


def _of_untrained(found: _Found) -> str:
    variants = found.get("variants")
    if variants is None:
        return UNMEASURED
    runs = variants["as run"]
    n, whole = (sum(one[key] for one in runs) for key in ("untrained", "cnns"))
    return f"{n:,} of {whole:,} CNNs did not train"


def _of_profile(found: _Found) -> str:
    variants = found.get("variants")
    if variants is None:
        return UNMEASURED
    gaps = [_gap(one["profiles"]) for one in variants["as run"]]
    return f"largest difference of a layer's profile {_range(gaps)}"


def _gap(profiles: _Found) -> float | None:
    if any(one is None for one in profiles.values()):
        return None
    as_run, ours = (np.array(profiles[rows]) for rows in ("as_run", "correct"))
    return float(np.abs(as_run - ours).max())


def _unmeasured(found: _Found) -> str:  # noqa: ARG001 - as all effects are called
    return UNMEASURED


def _counted(found: _Found) -> str:  # noqa: ARG001
    return "none: arithmetic"


_LINES = [
    (
        "the eight CNNs of a taxonomy",
        "four settings (kernels 6 and 8, 10 and 16 filters) over the mean of the heads, each twice:"
        " `detect/main.py:99-106` passes no pooling on, `detect/cnn_2d.py:83` takes the mean, and "
        "nothing seeds torch",
        "eight settings, with mean and maximum over the heads",
        "`train.preset`: `as_run`, `as_written`, or `small`",
        _of_grid,
    ),
    (
        "sequences of Δ",
        "the first 200 of a class by position, right or wrong (notebook 05, cells 7, 17, 18); "
        "training sequences come first (`patterns/datasets.py:410-420`)",
        "all samples of the class",
        "evaluation sequences that the CNN gets right; `localize.rows: as_run`",
        _of_profile,
    ),
    (
        "models",
        "`pythia-SIZE-deduped-v0` (`patterns/models.py:43, 51`)",
        "Pythia; the suite is not named",
        "`pythia-SIZE`: `pythia-SIZE-deduped`, a later training; `letter-SIZE`: `-v0`",
        _unmeasured,
    ),
    (
        "Code",
        "`kenhktsui/code-natural-language-fasttext-classifier` says Code, or the text holds "
        r"`\usepackage{` (`patterns/datasets.py:172-189`)",
        "is source code",
        "`nl_scores` or magika; with a column `code_label` as theirs",
        _unmeasured,
    ),
    (
        "table of ρ",
        "sums 12b, 6.9b and 2.8b (`scripts/optimize_rho.sh:39`; notebook 04, cells 11 to 18: 648 "
        "runs of the group optimize_rho since 25 March 2025, of every size)",
        "the main text names no model",
        "compared as that sum",
        _counted,
    ),
    (
        "storage",
        "35.5 TB of taxonomies and 13.9 TB of ρ, counted; its README says 30 and 15",
        "not named",
        "one capture for all: [storage](storage.md)",
        _counted,
    ),
    (
        "one ROUGE alone",
        "2 + γ less 2, in floats (`patterns/datasets.py:265-269`): at γ of .1, .2, .6, .7 more "
        "than γ",
        "at least γ; λ = 1 in place of off",
        "exact; `rho_as_run`",
        _of_rouge,
    ),
    (
        "what Non-Memo shows",
        "`generate` with a least length, which bans the end of text, and a mask that hides token "
        "0 of the prompt (`patterns/generate.py:52-58`)",
        "not named",
        "every token alike; `continue.decoding: published`",
        _of_decoding,
    ),
    (
        "labels",
        "the published score (`patterns/datasets.py:236-281`)",
        "the published 32-extractable samples",
        "the model's own verdict, where the published agrees; `continue.labels: published`",
        _unmeasured,
    ),
    (
        "runs that did not train",
        "summed with the others (notebooks 03 and 04, cell 18)",
        "not named",
        "withheld; `benchmark.untrained: count`",
        _of_untrained,
    ),
    (
        "attribution of Δ",
        "the plain gradient: `detect/guided_grad_cam.py:77-83` hooks ReLU modules, the network "
        "calls functions (`detect/cnn_2d.py:141-154`)",
        "guided backpropagation",
        "both; [what the checks said](localize.md)",
        _unmeasured,
    ),
]


def _findings(variants: _Found | None, labels: _Found | None) -> Iterator[list[str]]:
    """One row a finding, its figures by variant: mean and range of the repeats."""
    names = ("as run", "as written", "ours")

    def row(words: str, cell: Any) -> list[str]:
        cells = [UNMEASURED if variants is None else cell(variants[name]) for name in names]
        return [words, *cells]

    def f1_of(taxonomy: str) -> Any:
        return lambda runs: _range(
            [one["min_f1"].get(taxonomy) for one in runs], scale=100, digits=1
        )

    yield [
        "order of the taxonomies, Spearman with as run",
        *(_orders(variants, "as run", name) for name in names),
    ]
    yield row("min-F1 of Guess or Recall, % (published 89.0)", f1_of(_PAPER))
    for limit, name in _PRASHANTH.items():
        published = " (published 64.7)" if limit == "5" else ""
        yield row(f"min-F1 of Prashanth et al. at δ = {limit}, %{published}", f1_of(name))
    for key, words in (
        ("best", "Guess or Recall is the best of all"),
        ("confused", "Recite and Recollect are confused most"),
        ("few-shot", "few-shot recollection is no mechanism of its own"),
    ):
        yield row(words, lambda runs, key=key: _holds([one["conclusions"][key] for one in runs]))
    shares = labels["guessed"] if labels else {}
    yield [
        "share of extractable text that is guessed, % (published 28.3)",
        *(figure(shares.get(one)) for one in ("published", "plain", "plain")),
    ]
    yield row("taxonomies measured", lambda runs: ", ".join(_counts(runs)))


def _holds(verdicts: Sequence[str]) -> str:
    return ", ".join(f"{verdicts.count(one)} × {one}" for one in dict.fromkeys(verdicts))


def _counts(runs: Sequence[_Found]) -> Iterator[str]:
    return (str(n) for n in dict.fromkeys(len(one["min_f1"]) for one in runs))


def _profile(variants: _Found | None) -> Iterator[list[str]]:
    """The profile of each class by either rule, mean of the repeats."""
    if variants is None:
        yield ["Non-Memo, Guess, Recall", UNMEASURED, UNMEASURED]
        return
    runs = variants["as run"]
    for index, name in enumerate(runs[0]["classes"]):
        cells = []
        for rows in ("as_run", "correct"):
            known = [one["profiles"][rows][index] for one in runs if one["profiles"][rows]]
            shown: list[float] = np.mean(known, axis=0).tolist() if known else []
            cells.append(", ".join(f"{value:.2f}" for value in shown) or UNMEASURED)
        yield [name, *cells]
