"""The tables of `docs/letter.md`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from experiments.pages import figure, table_of
from mnemoscope.stats import FEWEST
from mnemoscope.words import UNKNOWN, plural

PAGE = "docs/letter.md"
UNMEASURED = "not measured"
IMPOSSIBLE = "cannot be trained here"
_PAPER = "Non-Memo, Guess, Others"
_PRASHANTH = {
    limit: f"Non-Memo, Recite[{limit}], Reconstruct, Others" for limit in ("5", "50", "1k")
}
_TRAINABLE = "27 (34 names)"  # divisions of the embedded model's sequences, of the 54 names
_Found = Mapping[str, Any]


class _Figures(NamedTuple):
    """A column: figures of a variant, of every CNN or of those that trained."""

    title: str
    variant: str
    counted: str


_AS_RUN = _Figures("as run", "as run", "every")
_TRAINED = _Figures("as run, without CNNs that did not train", "as run", "trained")
_GROUP = _Figures("as run, split by group", "as run, by group", "every")
_WRITTEN = _Figures("as written", "as written", "every")
_OURS = _Figures("ours", "ours", "trained")
_COLUMNS = (_AS_RUN, _TRAINED, _GROUP, _WRITTEN, _OURS)
_PROFILES = {
    "as run, rows as run": ("as run", "as_run"),
    "as run, rows of ours": ("as run", "correct"),
    "as run, split by group, rows as run": ("as run, by group", "as_run"),
    "as written, rows as run": ("as written", "as_run"),
    "ours, rows of ours": ("ours", "correct"),
}
"""Variant and `localize.rows` of each column of the layer profile."""


def tables(found: _Found) -> dict[tuple[str, str], str]:
    """Line by line; findings by choice; the layer profile by rule."""
    variants = found.get("variants")
    lines = [[*row[:4], row[4](found)] for row in _LINES]
    heads = ["", "as run", "as written", "ours", "effect measured here"]
    columns = ["finding of the paper", *(one.title for one in _COLUMNS)]
    return {
        (PAGE, "lines"): table_of(heads, lines),
        (PAGE, "findings"): table_of(columns, _findings(found)),
        (PAGE, "profile"): table_of(["class", *_PROFILES], _profile(variants)),
    }


def _f1(run: _Found, column: _Figures) -> dict[str, float]:
    """Min-F1 by taxonomy."""
    return run[column.counted]["min_f1"]  # type: ignore[no-any-return]


def _spearman(first: dict[str, float], second: dict[str, float]) -> float | None:
    """Rank correlation of min-F1 over the taxonomies that both measured; None of fewer than 4."""
    names = [name for name in first if name in second]
    if len(names) < FEWEST:
        return None
    return float(spearmanr(*([one[name] for name in names] for one in (first, second))).statistic)


def _range(values: Iterable[float | None], *, scale: float = 1, digits: int = 2) -> str:
    """Mean and range of what several seeds gave."""
    known = [one for one in values if one is not None]
    if not known:
        return UNMEASURED
    ends = (min(known), max(known)) if len(known) > 1 else ()
    return figure(float(np.mean(known)), *ends, scale=scale, digits=digits)


def _order(variants: _Found, first: _Figures, second: _Figures) -> str:
    """How alike two columns order the taxonomies, seed by seed.

    A seed that only one of the two has is passed over.
    """
    runs = [[_f1(run, one) for run in variants[one.variant]] for one in (first, second)]
    return _alike(zip(*runs, strict=False))


def _order_by_seed(variants: _Found, column: _Figures) -> str:
    """How alike trainings of a column with two seeds order the taxonomies."""
    return _alike(combinations([_f1(run, column) for run in variants[column.variant]], 2))


def _order_by_pooling(variants: _Found, column: _Figures) -> str:
    """How alike CNNs over the mean and over the maximum order them, where a column has both."""
    pairs = [tuple(run["parts"].values()) for run in variants[column.variant]]
    return _alike(pairs) if all(len(pair) > 1 for pair in pairs) else UNKNOWN


def _alike(pairs: Iterable[Sequence[dict[str, float]]]) -> str:
    """Rank correlations of pairs, and of how many taxonomies they are."""
    known = list(pairs)
    common = {len(one.keys() & other.keys()) for one, other in known}
    sizes = " or ".join(str(n) for n in sorted(common) if n >= FEWEST)
    if not sizes:
        return f"cannot be said: fewer than {FEWEST} taxonomies in common"
    return f"{_range(_spearman(*pair) for pair in known)} of {sizes} taxonomies"


def _difference(variants: _Found, first: _Figures, second: _Figures) -> str:
    """Points of min-F1 that the second column has more, mean over the seeds that both have."""
    runs = [[_f1(run, one) for run in variants[one.variant]] for one in (first, second)]
    more: dict[str, list[float]] = {}
    for own, other in zip(*runs, strict=False):
        for name in own.keys() & other:
            more.setdefault(name, []).append(100 * (other[name] - own[name]))
    known = [float(np.mean(one)) for one in more.values()]
    return f"{_range(known, digits=1)}, mean and range of {len(known)} taxonomies"


def _of_grid(found: _Found) -> str:
    variants = found.get("variants")
    if variants is None:
        return UNMEASURED
    return (
        f"min-F1 as written less as run, points: {_difference(variants, _AS_RUN, _WRITTEN)}; order "
        f"of the taxonomies, Spearman {_order(variants, _AS_RUN, _WRITTEN)}"
    )


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
    counts = []
    for name in dict.fromkeys(one.variant for one in _COLUMNS):
        n, whole = (sum(run[key] for run in variants[name]) for key in ("untrained", "cnns"))
        counts.append(f"{n:,} of {whole:,} {name}")
    without = _difference(variants, _AS_RUN, _TRAINED)
    return f"did not train: {', '.join(counts)}; min-F1 as run without them, points more: {without}"


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


def _said(words: str) -> Callable[[_Found], str]:
    """What stands in place of a figure."""
    return lambda _: words


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
        _said("cannot be measured here: it needs both suites of Pythia"),
    ),
    (
        "Code",
        "`kenhktsui/code-natural-language-fasttext-classifier` says Code, or the text holds "
        r"`\usepackage{` (`patterns/datasets.py:172-189`)",
        "is source code",
        "`nl_scores` or magika; with a column `code_label` as theirs",
        _said("cannot be measured here: it needs the classifier, which does not ship"),
    ),
    (
        "table of ρ",
        "sums 12b, 6.9b and 2.8b (`scripts/optimize_rho.sh:39`; notebook 04, cells 11 to 18: 648 "
        "runs of the group optimize_rho since 25 March 2025, of every size)",
        "the main text names no model",
        "compared as that sum",
        _said("none: arithmetic"),
    ),
    (
        "storage",
        "35.5 TB of taxonomies and 13.9 TB of ρ, counted; its README says 30 and 15",
        "not named",
        "one capture for all: [storage](storage.md)",
        _said("none: arithmetic"),
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
        _said("cannot be measured here: nobody else has labelled what the embedded model holds"),
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
        _said(
            "of the decisive edges, the top hundredth, both name 90 % alike under Prashanth et "
            "al.'s taxonomy and 64 % under Guess or Recall ([the demo](localize.md))"
        ),
    ),
]


def _findings(found: _Found) -> Iterator[list[str]]:
    """One row a finding, its figures by column: mean and range over the seeds."""
    variants, labels = found.get("variants"), found.get("labels")

    def row(words: str, cell: Callable[[_Figures, _Found], str]) -> list[str]:
        return [words, *(cell(one, variants) if variants else UNMEASURED for one in _COLUMNS)]

    def f1_of(taxonomy: str) -> Callable[[_Figures, _Found], str]:
        if taxonomy in found.get("impossible", ()):
            return lambda _, __: IMPOSSIBLE
        return lambda column, variants: _range(
            (_f1(run, column).get(taxonomy) for run in variants[column.variant]),
            scale=100,
            digits=1,
        )

    yield row(
        "order of the taxonomies: Spearman with as run",
        lambda column, variants: (
            UNKNOWN if column == _AS_RUN else _order(variants, _AS_RUN, column)
        ),
    )
    yield row(
        "order: Spearman between trainings with two seeds",
        lambda column, variants: _order_by_seed(variants, column),
    )
    yield row(
        "order: Spearman between CNNs over the mean and over the maximum",
        lambda column, variants: _order_by_pooling(variants, column),
    )
    yield row(
        "min-F1 less that of as run, points",
        lambda column, variants: (
            UNKNOWN if column == _AS_RUN else _difference(variants, _AS_RUN, column)
        ),
    )
    yield row("min-F1 of Guess or Recall, % (published 89.0)", f1_of(_PAPER))
    for limit, name in _PRASHANTH.items():
        published = " (published 64.7)" if limit == "5" else ""
        yield row(f"min-F1 of Prashanth et al. at δ = {limit}, %{published}", f1_of(name))
    for key, words in (
        ("best", "Guess or Recall is the best of all: with how many seeds"),
        ("confused", "Recite and Recollect are confused most: with how many seeds"),
        ("few-shot", "few-shot recollection is no mechanism of its own: with how many seeds"),
    ):
        yield row(words, lambda column, variants, key=key: _holds(column, variants, key))  # type: ignore[misc]
    shares = labels["guessed"] if labels else {}
    own = (figure(shares.get("plain")) for _ in _COLUMNS[3:])
    yield [
        "share of extractable text that is guessed, % (published 28.3)",
        *(figure(shares.get("published")) for _ in _COLUMNS[:3]),
        *own,
    ]
    yield row("taxonomies measured, with how many seeds", _n_taxonomies)
    yield row("CNNs", _n_cnns)


def _holds(column: _Figures, variants: _Found, key: str) -> str:
    """With how many seeds a finding holds, and of how many taxonomies."""
    runs = variants[column.variant]
    sizes: dict[str, list[int]] = {}
    for run in runs:
        word = run[column.counted]["conclusions"][key]
        sizes.setdefault(word, []).append(len(_f1(run, column)))
    return "; ".join(
        f"{word} ({len(ns)} of {len(runs)}; {_joined(ns)} taxonomies)" for word, ns in sizes.items()
    )


def _joined(sizes: Iterable[int]) -> str:
    """Numbers, each once."""
    return " or ".join(map(str, sorted({*sizes}, reverse=True)))


def _n_taxonomies(column: _Figures, variants: _Found) -> str:
    sizes = [len(_f1(run, column)) for run in variants[column.variant]]
    return f"{_joined(sizes)} of {_TRAINABLE}; {plural(len(sizes), 'seed')}"


def _n_cnns(column: _Figures, variants: _Found) -> str:
    runs = variants[column.variant]
    n = sum(run["cnns"] for run in runs)
    return f"{n - sum(run['untrained'] for run in runs if column.counted == 'trained'):,}"


def _profile(variants: _Found | None) -> Iterator[list[str]]:
    """The layer profile of each class, mean over the seeds."""
    if variants is None:
        yield ["Non-Memo, Guess, Recall", *(UNMEASURED for _ in _PROFILES)]
        return
    for index, name in enumerate(variants["as run"][0]["classes"]):
        cells = []
        for variant, rows in _PROFILES.values():
            profiles = [run["profiles"][rows] for run in variants[variant]]
            known = [one[index] for one in profiles if one is not None]
            shown: list[float] = np.mean(known, axis=0).tolist() if known else []
            cells.append(", ".join(f"{value:.2f}" for value in shown) or UNMEASURED)
        yield [name, *cells]
