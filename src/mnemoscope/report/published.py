"""Our figures beside the published ones, as the page and the terminal show them.

Everything here is arranged from a `benchmark.Comparison`; nothing is measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import polars as pl
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from mnemoscope.benchmark.published import Comparison, Conclusion, published_conclusions
from mnemoscope.stats import Estimate, RankCorrelation
from mnemoscope.words import UNKNOWN, interval, percent, points

# Our figures beside the published ones, as the page and the terminal show them.

WHOLES = {"catalogue": "of the 54 published taxonomies", "rho": "of the 27 settings of ρ"}
"""What each kind of row is one of."""

_MODELS = ("12b", "6.9b", "2.8b")
_PREFIX = "Non-Memo, "
_MINUS = "\N{MINUS SIGN}"


class PublishedRow(NamedTuple):
    """A published taxonomy (or setting of ρ) that we have measured; fractions.

    Attributes:
        name: without Non-Memo, or the setting in words.
        alias_of: the name that the partition was trained under, empty for its own.
        n_classes: of the taxonomy.
        min_f1: ours.
        mean_f1: ours.
        published_min_f1: three models together; for ρ Pythia 12b.
        published_mean_f1: likewise.
        by_model: min-F1 of each model by its name, empty for ρ.
        difference: ours minus published, min-F1.
        mean_f1_difference: ours minus published, mean F1.
    """

    name: str
    alias_of: str
    n_classes: int
    min_f1: Estimate
    mean_f1: Estimate
    published_min_f1: float
    published_mean_f1: float
    by_model: tuple[tuple[str, float], ...]
    difference: Estimate
    mean_f1_difference: Estimate


class MissingRow(NamedTuple):
    """A published taxonomy that was asked for and has no figure, and why."""

    name: str
    state: str
    note: str


@dataclass(frozen=True)
class PublishedPart:
    """The 54 taxonomies, or the settings of ρ.

    Attributes:
        kind: `catalogue` or `rho`.
        rows: measured, in the order of `in_reading_order`.
        missing: asked for, without a figure.
        n_absent: not asked for.
        correlation: of our order and the published, a sentence.
    """

    kind: str
    rows: tuple[PublishedRow, ...]
    missing: tuple[MissingRow, ...]
    n_absent: int
    correlation: str

    @property
    def whole(self) -> str:
        """What a row is one of, in words."""
        return WHOLES[self.kind]


class ConclusionPair(NamedTuple):
    """One conclusion of the paper on our figures and on its own."""

    ours: Conclusion
    published: Conclusion


@dataclass(frozen=True)
class PublishedView:
    """The section of the report; parts without a taxonomy that was asked for are left out.

    Attributes:
        parts: the tables.
        conclusions: of the paper, here and published.
        renamed: title and published name of each taxonomy that the page calls by a title.
    """

    parts: tuple[PublishedPart, ...]
    conclusions: tuple[ConclusionPair, ...]
    renamed: tuple[tuple[str, str], ...] = ()


def published_view(
    comparison: Comparison, titles: Mapping[str, str] | None = None
) -> PublishedView | None:
    """Arrange a comparison for the page; None where the study has no published taxonomy.

    Args:
        comparison: from the study.
        titles: what the page calls a taxonomy, by the study's name of it.
    """
    parts = []
    titles = _published_titles(comparison.frame, titles or {})
    for kind in WHOLES:
        rows = in_reading_order(comparison.frame, kind)
        asked = rows.filter(pl.col("state") != "absent")
        if asked.is_empty():
            continue
        correlation = correlation_sentence(comparison.correlations[kind], WHOLES[kind])
        measured = asked.filter(pl.col("min_f1").is_not_null())
        parts.append(
            PublishedPart(
                kind,
                tuple(_measured_rows(measured, titles)),
                tuple(_missing_rows(asked.filter(pl.col("min_f1").is_null()))),
                rows.height - asked.height,
                correlation,
            )
        )
    if not parts:
        return None
    pairs = zip(comparison.conclusions, published_conclusions(), strict=True)
    conclusions = tuple(ConclusionPair(*(_retold(one, titles) for one in pair)) for pair in pairs)
    renamed = tuple((title, short_name(name)) for name, title in titles.items())
    return PublishedView(tuple(parts), conclusions, renamed)


def _published_titles(frame: pl.DataFrame, titles: Mapping[str, str]) -> dict[str, str]:
    """Titles by the published name of the taxonomies that were measured."""
    rows = frame.filter(pl.col("kind") == "catalogue", pl.col("state") == "measured")
    pairs = rows.select("published_name", "taxonomy").iter_rows()
    return {published: titles[own] for published, own in pairs if own in titles}


def _retold(conclusion: Conclusion, titles: Mapping[str, str]) -> Conclusion:
    """A conclusion with titles in place of published names."""
    reason = conclusion.reason
    for name, title in titles.items():
        reason = reason.replace(name, title)
    return replace(conclusion, reason=reason)


def in_reading_order(frame: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Rows of one kind: the 54 as published (best first), ρ measure by measure and falling."""
    rows = frame.filter(pl.col("kind") == kind)
    if kind == "catalogue":
        return rows
    keys = [pl.col("rouge_l") & pl.col("rouge_3"), pl.col("rouge_l"), pl.col("threshold")]
    return rows.sort(keys, descending=True)


def correlation_sentence(found: RankCorrelation, whole: str) -> str:
    """Say how far two orders agree, over how many, and what is not given.

    Args:
        found: the correlations.
        whole: what they are over, one of `WHOLES`.
    """
    if found.spearman is None or found.kendall is None:
        return f"Rank correlation with the published min-F1: not given ({found.note})."
    shown = ", ".join(
        f"{name} {_coefficient(value)}{_coefficient_ends(low, high)}"
        for name, value, low, high in (
            ("Spearman", found.spearman, found.spearman_low, found.spearman_high),
            ("Kendall", found.kendall, found.kendall_low, found.kendall_high),
        )
    )
    note = "names that share figures count once, with the mean of their published ones"
    if found.spearman_low is not None:
        note += "; 95 % intervals over evaluation sequences"
    return f"Rank correlation with the published min-F1: {shown}, over {found.n} {whole} ({note})."


def rho_words(row: Mapping[str, Any]) -> str:
    """Name a setting of ρ.

    >>> rho_words({"rouge_l": True, "rouge_3": False, "threshold": 0.5})
    'ROUGE-L, ρ = 0.5'
    """
    used = [name for name, key in (("ROUGE-L", "rouge_l"), ("ROUGE-3", "rouge_3")) if row[key]]
    return f"{' or '.join(used)}, ρ = {row['threshold']:g}"


def short_name(taxonomy: str) -> str:
    """Leave out the class that all taxonomies begin with."""
    return taxonomy.removeprefix(_PREFIX)


def _measured_rows(frame: pl.DataFrame, titles: Mapping[str, str]) -> Iterator[PublishedRow]:
    """Rows with figures."""
    for row in frame.iter_rows(named=True):
        is_rho = row["kind"] == "rho"
        yield PublishedRow(
            name=rho_words(row)
            if is_rho
            else titles.get(row["published_name"]) or short_name(row["published_name"]),
            alias_of=short_name(row["taxonomy"]) if row["state"] == "alias" else "",
            n_classes=row["n_classes"],
            min_f1=Estimate(row["min_f1"], row["low"], row["high"]),
            mean_f1=_estimate(row, "mean_f1"),
            published_min_f1=row["published_min_f1"],
            published_mean_f1=row["published_mean_f1"],
            by_model=()
            if is_rho
            else tuple((model, row[f"published_min_f1_{model}"]) for model in _MODELS),
            difference=_estimate(row, "difference"),
            mean_f1_difference=_estimate(row, "mean_f1_difference"),
        )


def _missing_rows(frame: pl.DataFrame) -> Iterator[MissingRow]:
    """Rows without figures."""
    for row in frame.iter_rows(named=True):
        name = rho_words(row) if row["kind"] == "rho" else short_name(row["published_name"])
        yield MissingRow(name, row["state"], row["note"] or UNKNOWN)


def _estimate(row: Mapping[str, Any], name: str) -> Estimate:
    """A figure and its interval."""
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _coefficient(value: float) -> str:
    """A correlation with two decimals, never a negative zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", _MINUS)


def _coefficient_ends(low: float | None, high: float | None) -> str:
    """Its interval."""
    if low is None or high is None:
        return ""
    return f" [{_coefficient(low)}, {_coefficient(high)}]"


# Tables on the terminal: our figures beside the published ones, and several models as one.

_PLAIN_WIDTH = 120
"""Columns where the output is no terminal, whose width would be taken for 80."""
_TITLES = {
    "catalogue": "Published taxonomies, %",
    "rho": "Threshold ρ of Guess, % (published: Pythia 12b)",
}


def console() -> Console:
    """The terminal, or a plain page wide enough for the tables."""
    found = Console(highlight=False, markup=False)
    if not found.is_terminal:
        found.width = max(found.width, _PLAIN_WIDTH)
    return found


def difference_text(value: float | None, low: float | None, high: float | None) -> str:
    """A difference in points and its interval."""
    return f"{points(value)} {interval(Estimate(value, low, high))}".strip()


def print_comparison(comparison: Comparison, *, with_reasons: bool = True) -> None:
    """Print, for the 54 and for ρ, ours beside published; then correlations and conclusions.

    Args:
        comparison: of a study, or of several together.
        with_reasons: say of each taxonomy that was asked for why it has no figure.
    """
    page = console()
    for kind, whole in WHOLES.items():
        rows = in_reading_order(comparison.frame, kind)
        asked = rows.filter(pl.col("state") != "absent")
        if asked.is_empty():
            continue
        shown = asked.filter(pl.col("min_f1").is_not_null())
        if not shown.is_empty():
            page.print(_table(shown, kind))
        if with_reasons:
            _print_missing(page, asked.filter(pl.col("min_f1").is_null()))
        n_absent = rows.height - asked.height
        if n_absent:
            page.print(f"{n_absent} {whole} {'is' if n_absent == 1 else 'are'} not in this study.")
        page.print(correlation_sentence(comparison.correlations[kind], whole))
    _print_conclusions(page, comparison)


def print_together(frame: pl.DataFrame, models: Sequence[str]) -> None:
    """Print, for each taxonomy, min-F1 of every model and of all together.

    Args:
        frame: columns as in `TOGETHER_SCHEMA`.
        models: names of the models in order.
    """
    page = console()
    table = Table(
        "taxonomy", *models, "together", "mean F1", title="min-F1 per model and together, %"
    )
    notes = []
    for name in frame["taxonomy"].unique(maintain_order=True):
        own = frame.filter(pl.col("taxonomy") == name)
        rows = {row["model"]: row for row in own.iter_rows(named=True)}
        total = rows["together"]
        cells = [percent(rows[model]["min_f1"], unit=False) for model in models]
        ends = ("min_f1", "low", "high"), ("mean_f1", "mean_f1_low", "mean_f1_high")
        table.add_row(short_name(name), *cells, *[_cell(total, *one) for one in ends])
        if total["note"]:
            notes.append(f"{short_name(name)}: {total['note']}")
    page.print(table)
    for note in notes:
        page.print(note)


def _table(rows: pl.DataFrame, kind: str) -> Table:
    """Ours, published and the difference."""
    names = ["taxonomy" if kind == "catalogue" else "used, ρ", "min-F1", "mean F1", "published"]
    models = [] if kind == "rho" else ["12b", "6.9b", "2.8b"]
    table = Table(*names, *models, "difference", title=_TITLES[kind])
    for row in rows.iter_rows(named=True):
        table.add_row(
            _name(row),
            _cell(row, "min_f1", "low", "high"),
            _cell(row, "mean_f1", "mean_f1_low", "mean_f1_high"),
            " / ".join(
                percent(row[f"published_{figure}"], unit=False) for figure in ("min_f1", "mean_f1")
            ),
            *[percent(row[f"published_min_f1_{model}"], unit=False) for model in models],
            _cell(row, "difference", "difference_low", "difference_high", signed=True),
        )
    table.caption = (
        "Published: min-F1 / mean F1"
        + (", three models summed; then min-F1 of each. " if models else ". ")
        + "Difference: of min-F1, in points. Every taxonomy begins with Non-Memo."
    )
    return table


def _name(row: dict[str, Any]) -> str:
    """A published taxonomy or setting of ρ; under an alias the name that was trained."""
    if row["kind"] == "rho":
        return rho_words(row)
    alias = f"\n= {short_name(row['taxonomy'])}" if row["state"] == "alias" else ""
    return short_name(row["published_name"]) + alias


def _print_missing(page: Console, rows: pl.DataFrame) -> None:
    """Name what has no figure, with its reason."""
    for row in rows.iter_rows(named=True):
        name = rho_words(row) if row["kind"] == "rho" else short_name(row["published_name"])
        page.print(f"{name}: {row['state']}. {row['note']}")


def _print_conclusions(page: Console, comparison: Comparison) -> None:
    """The paper's conclusions on its own figures and on ours."""
    page.print("Conclusions of the paper:")
    for ours, theirs in zip(comparison.conclusions, published_conclusions(), strict=True):
        page.print(f"- {ours.claim}")
        for where, one in (("here", ours), ("published", theirs)):
            page.print(Padding(f"{where}: {one.verdict}. {one.reason}", (0, 0, 0, 4)))


def _cell(row: dict[str, Any], value: str, low: str, high: str, *, signed: bool = False) -> str:
    """A figure in per cent, its interval below it."""
    if row[value] is None:
        return "–"
    shown = points(row[value]) if signed else percent(row[value], unit=False)
    ends = interval(Estimate(row[value], row[low], row[high]))
    return f"{shown}\n{ends}".strip()
