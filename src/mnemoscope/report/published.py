"""Our figures beside the published ones, as the page and the terminal show them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import polars as pl
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from mnemoscope.benchmark.published import Comparison, Conclusion, published_conclusions
from mnemoscope.stats import RankCorrelation, rows_of
from mnemoscope.words import UNKNOWN, decimal, figure, percent

WHOLES = {"catalogue": "of the 54 published taxonomies", "rho": "of the 27 settings of ρ"}
"""What each kind of row is one of."""

_MODELS = ("12b", "6.9b", "2.8b")
_PREFIX = "Non-Memo, "
_PLAIN_WIDTH = 120
"""Columns where the output is no terminal, whose width would be taken for 80."""
_TITLES = {
    "catalogue": "Published taxonomies, %",
    "rho": "Threshold ρ of Guess, % (published: three models summed)",
}
_BESIDE = {
    "catalogue": "Code here is what the column is_code says; the paper's Code is the label of "
    "kenhktsui/code-natural-language-fasttext-classifier, or \\usepackage{ in the text. Unless the "
    "column is made of that label, the 16 taxonomies with Code divide otherwise than published.",
    "rho": "The published figures sum Pythia 12b, 6.9b and 2.8b: only the same sum compares with "
    "them ('mnemoscope benchmark STUDY STUDY STUDY'), not the figure of one model.",
}


class PublishedPart(NamedTuple):
    """The 54 taxonomies, or the settings of ρ; rows as in `benchmark.Comparison.frame`."""

    kind: str  # a key of `WHOLES`
    measured: pl.DataFrame  # rows with figures, in the order of reading
    missing: pl.DataFrame  # rows that were asked for and have no figure
    absent: str  # how many were not asked for, a sentence
    correlation: str  # of our order and the published, a sentence
    beside: str  # in what published and ours differ, a sentence or none


def published_parts(comparison: Comparison) -> Iterator[PublishedPart]:
    """The parts of a comparison, those left out of which nothing was asked for.

    The 54 stand as published (best first), ρ measure by measure and falling.
    """
    for kind, whole in WHOLES.items():
        rows = comparison.frame.filter(kind=kind)
        if kind == "rho":
            both = pl.col("rouge_l") & pl.col("rouge_3")
            rows = rows.sort([both, "rouge_l", "threshold"], descending=True)
        asked = rows.filter(pl.col("state") != "absent")
        if asked.is_empty():
            continue
        n_absent = rows.height - asked.height
        verb = "is" if n_absent == 1 else "are"
        is_told = kind == "rho" or asked["published_name"].str.contains("Code").any()
        yield PublishedPart(
            kind,
            asked.filter(pl.col("min_f1").is_not_null()),
            asked.filter(pl.col("min_f1").is_null()),
            f"{n_absent} {whole} {verb} not in this study." if n_absent else "",
            correlation_sentence(comparison.correlations[kind], whole),
            _BESIDE[kind] if is_told else "",
        )


def published_view(
    comparison: Comparison, titles: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Arrange a comparison for the page; None where the study has no published taxonomy.

    `titles` are what the page calls a taxonomy, by the study's name of it. Gives `parts`,
    `conclusions` (here and published) and `renamed` (title and published name). Rows of a part have
    a `name`, an `alias_of` (what the partition was trained as, or empty), the published figures
    and, as estimates, ours and the differences.
    """
    titles = titles or {}
    measured = comparison.frame.filter(kind="catalogue", state="measured")
    pairs = measured.select("published_name", "taxonomy").iter_rows()
    renamed = {published: titles[own] for published, own in pairs if own in titles}

    def name_of(row: Mapping[str, Any]) -> str:
        title = renamed.get(row["published_name"]) if row["kind"] == "catalogue" else None
        return title or row_name(row)

    def shown(row: Mapping[str, Any]) -> dict[str, object]:
        return {**row, "name": name_of(row), "alias_of": _alias(row)}

    parts = [
        part._asdict()
        | {
            "rows": [shown(row) for row in rows_of(part.measured)],
            "missing": [
                (row_name(row), row["state"], row["note"] or UNKNOWN)
                for row in part.missing.to_dicts()
            ],
            "models": () if part.kind == "rho" else _MODELS,
        }
        for part in published_parts(comparison)
    ]
    if not parts:
        return None

    def retold(conclusion: Conclusion) -> Conclusion:
        reason = conclusion.reason
        for name, title in renamed.items():
            reason = reason.replace(name, title)
        return replace(conclusion, reason=reason)

    return {
        "parts": parts,
        "conclusions": [tuple(map(retold, pair)) for pair in _conclusions(comparison)],
        "renamed": [(title, short_name(name)) for name, title in renamed.items()],
    }


def correlation_sentence(found: RankCorrelation, whole: str) -> str:
    """Say how far two orders agree, over how many `WHOLES`, and what is not given."""
    if found.spearman.value is None or found.kendall.value is None:
        return f"Rank correlation with the published min-F1: not given ({found.note})."
    shown = []
    for name, estimate in (("Spearman", found.spearman), ("Kendall", found.kendall)):
        value, *ends = (decimal(one) for one in estimate if one is not None)
        shown.append(f"{name} {value}" + (f" [{', '.join(ends)}]" if ends else ""))
    note = "names that share figures count once, with the mean of their published ones"
    if found.spearman.low is not None:
        note += "; 95 % intervals over evaluation sequences"
    return (
        f"Rank correlation with the published min-F1: {', '.join(shown)}, over {found.n} {whole} "
        f"({note})."
    )


def row_name(row: Mapping[str, Any]) -> str:
    """Name a published taxonomy without the class that all begin with, or a setting of ρ.

    >>> row_name({"kind": "rho", "rouge_l": True, "rouge_3": False, "threshold": 0.5})
    'ROUGE-L, ρ = 0.5'
    """
    if row["kind"] != "rho":
        return short_name(row["published_name"])
    used = [name for name, key in (("ROUGE-L", "rouge_l"), ("ROUGE-3", "rouge_3")) if row[key]]
    return f"{' or '.join(used)}, ρ = {row['threshold']:g}"


def short_name(taxonomy: str) -> str:
    """Leave out the class that all taxonomies begin with."""
    return taxonomy.removeprefix(_PREFIX)


def console() -> Console:
    """The terminal, or a plain page wide enough for the tables."""
    found = Console(highlight=False, markup=False)
    if not found.is_terminal:
        found.width = max(found.width, _PLAIN_WIDTH)
    return found


def print_comparison(comparison: Comparison, *, with_reasons: bool = True) -> None:
    """Print ours beside published, correlations, conclusions, and why some have no figure."""
    page = console()
    for part in published_parts(comparison):
        if not part.measured.is_empty():
            page.print(_table(part))
        for row in part.missing.to_dicts() if with_reasons else ():
            page.print(f"{row_name(row)}: {row['state']}. {row['note']}")
        if part.absent:
            page.print(part.absent)
        page.print(part.correlation)
        if part.beside:
            page.print(part.beside)
    page.print("Conclusions of the paper:")
    for ours, theirs in _conclusions(comparison):
        page.print(f"- {ours.claim}")
        for where, one in (("here", ours), ("published", theirs)):
            page.print(Padding(f"{where}: {one.verdict}. {one.reason}", (0, 0, 0, 4)))


def print_together(frame: pl.DataFrame, models: Sequence[str]) -> None:
    """Print, for each taxonomy of a frame as `TOGETHER_SCHEMA`, min-F1 of the models and of all."""
    page = console()
    table = Table(
        "taxonomy", *models, "together", "mean F1", title="min-F1 per model and together, %"
    )
    notes = {}
    for name in frame["taxonomy"].unique(maintain_order=True):
        rows = {row["model"]: row for row in rows_of(frame.filter(taxonomy=name))}
        total = rows["together"]
        cells = [percent(rows[model]["min_f1"].value, unit=False) for model in models]
        table.add_row(short_name(name), *cells, figure(total["min_f1"]), figure(total["mean_f1"]))
        notes[name] = total["note"]
    page.print(table)
    for name, note in notes.items():
        if note:
            page.print(f"{short_name(name)}: {note}")


def _table(part: PublishedPart) -> Table:
    first = "taxonomy" if part.kind == "catalogue" else "used, ρ"
    models = () if part.kind == "rho" else _MODELS
    table = Table(
        *(first, "min-F1", "mean F1", "published", *models, "difference"), title=_TITLES[part.kind]
    )
    for row in rows_of(part.measured):
        alias = _alias(row)
        table.add_row(
            row_name(row) + (f"\n= {alias}" if alias else ""),
            figure(row["min_f1"]),
            figure(row["mean_f1"]),
            " / ".join(percent(row[f"published_{one}_f1"], unit=False) for one in ("min", "mean")),
            *[percent(row[f"published_min_f1_{model}"], unit=False) for model in models],
            figure(row["difference"], signed=True),
        )
    table.caption = (
        "Published: min-F1 / mean F1"
        + ", three models summed"
        + ("; then min-F1 of each. " if models else ". ")
        + "Difference: of min-F1, in points. Every taxonomy begins with Non-Memo."
    )
    return table


def _alias(row: Mapping[str, Any]) -> str:
    """What a partition was trained as, where that is another name."""
    return short_name(row["taxonomy"]) if row["state"] == "alias" else ""


def _conclusions(comparison: Comparison) -> Iterator[tuple[Conclusion, Conclusion]]:
    """Each conclusion of the paper on our figures and on its own."""
    published = {one.key: one for one in published_conclusions()}
    return ((one, published[one.key]) for one in comparison.conclusions if one.key in published)
