"""What the templates need beyond the content: charts' rows, pictures of Δ, settings as lines.

Everything here is derived from `ReportContent`; nothing is measured.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mnemoscope.localize.regions import layer_profile
from mnemoscope.report.content import (
    Benchmark,
    BenchmarkRow,
    DeltaMaps,
    Estimate,
    TaxonomyResult,
)
from mnemoscope.report.delta import (
    ZoneShares,
    png_grey,
    png_uri,
    scale_by_layer,
    strongest_layer,
    zone_shares,
)
from mnemoscope.report.standing import SOURCE_GROUPS, SOURCE_WORDS, SourceWords

__all__ = [
    "INPUT_WORDS",
    "ChartGroup",
    "ChartRow",
    "DeltaClass",
    "DeltaView",
    "best_of_class",
    "by_excess",
    "chart_groups",
    "delta_views",
    "profile_points",
    "profile_view",
    "setting_lines",
]

# Above this the further taxonomies keep their layer profile and tables, and the page says so: a
# page of tens of megabytes opens slowly on a phone. Pythia 12b's shape with both attributions
# takes about 1 MB a taxonomy.
PICTURE_BUDGET_BYTES = 12_000_000


INPUT_WORDS = {
    "mean": "weights averaged over the heads",
    "max": "their maximum over the heads",
    "both": "mean and maximum side by side",
    "heads": "every head’s weights",
    "difference": "the model’s means less the reference’s",
}
"""What the CNNs see under each input's name."""


class ChartRow(NamedTuple):
    """One line of the dot chart: who reached it, and its figures."""

    source: str
    words: SourceWords
    row: BenchmarkRow


class ChartGroup(NamedTuple):
    """Lines of the dot chart that belong together."""

    title: str
    rows: list[ChartRow]


class DeltaClass(NamedTuple):
    """Δ of one class: pictures and profile layer by layer, and where it lies.

    Attributes:
        name: the class.
        pictures: one address a layer that holds the picture; empty beyond the budget.
        profile: one fraction a layer.
        peak: the layer with the largest profile, counted from 0.
        shares: share of Δ in each zone, None where Δ is zero.
        n_used: evaluation sequences averaged.
        n_skipped: evaluation sequences without a positive gradient.
        n_wrong: misclassified evaluation sequences, None when not told.
    """

    name: str
    pictures: list[str]
    profile: list[float]
    peak: int
    shares: ZoneShares | None
    n_used: int
    n_skipped: int
    n_wrong: int | None


class DeltaView(NamedTuple):
    """Decisiveness of one attribution, ready to be shown."""

    attribution: str
    n_layers: int
    length: int
    strongest: int
    classes: list[DeltaClass]
    has_pictures: bool


def chart_groups(benchmark: Benchmark) -> list[ChartGroup]:
    """Order the measured rows as every chart shows them, groups without rows left out."""
    groups = []
    for title, sources in SOURCE_GROUPS:
        found = [(source, benchmark.row(source)) for source in sources]
        rows = [ChartRow(source, SOURCE_WORDS[source], row) for source, row in found if row]
        if rows:
            groups.append(ChartGroup(title, rows))
    return groups


def best_of_class(benchmark: Benchmark, index: int) -> float | None:
    """Give the best F1 of one class among the sources without memory."""
    rows = [benchmark.row(source) for source in SOURCE_GROUPS[1][1]]
    estimates: list[Estimate] = [row.f1[index] for row in rows if row and row.f1]
    return max((each.value for each in estimates if each.value is not None), default=None)


def by_excess(taxonomies: tuple[TaxonomyResult, ...]) -> list[tuple[int, TaxonomyResult]]:
    """Number the taxonomies from 1 and order them by falling excess, those without one last."""

    def rank(numbered: tuple[int, TaxonomyResult]) -> float:
        main = numbered[1].main
        value = main.excess.estimate.value if main is not None and main.excess else None
        return float("inf") if value is None else -value

    return sorted(enumerate(taxonomies, 1), key=rank)


def delta_views(
    taxonomies: tuple[TaxonomyResult, ...], *, budget_bytes: int = PICTURE_BUDGET_BYTES
) -> list[list[DeltaView]]:
    """Draw the decisiveness maps of all taxonomies, in order, while the budget lasts.

    Returns:
        For each taxonomy one view an attribution.
    """
    left = budget_bytes
    views: list[list[DeltaView]] = []
    for taxonomy in taxonomies:
        of_taxonomy = []
        for maps in taxonomy.deltas:
            view = _delta_view(maps, taxonomy, with_pictures=left > 0)
            left -= sum(len(picture) for each in view.classes for picture in each.pictures)
            of_taxonomy.append(view)
        views.append(of_taxonomy)
    return views


def profile_view(maps: DeltaMaps, taxonomy: TaxonomyResult) -> DeltaView:
    """Give the view of one attribution without its pictures."""
    return _delta_view(maps, taxonomy, with_pictures=False)


def profile_points(profile: list[float]) -> list[tuple[float, float]]:
    """Place a layer profile on a square of 100 by 100, layers at equal distances, 0 at the foot."""
    step = 100 / len(profile)
    return [(step * (layer + 0.5), 100 - 100 * value) for layer, value in enumerate(profile)]


def setting_lines(settings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Turn nested settings into sections of (dotted name, value) lines, in the order given.

    >>> setting_lines({"seed": 1, "cnn": {"preset": "small", "grid": {"k": [6, 8]}}})
    [('', [('seed', '1')]), ('cnn', [('preset', 'small'), ('grid.k', '6, 8')])]
    """
    loose = [(str(k), _value_text(v)) for k, v in settings.items() if not isinstance(v, Mapping)]
    sections = [("", loose)] if loose else []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            sections.append((str(name), list(_flatten(value))))
    return sections


def _delta_view(maps: DeltaMaps, taxonomy: TaxonomyResult, *, with_pictures: bool) -> DeltaView:
    """Draw one attribution."""
    delta = np.asarray(maps.delta)
    scaled, profile, shares = scale_by_layer(delta), layer_profile(delta), zone_shares(delta)
    classes = [
        DeltaClass(
            name=facts.name,
            pictures=[png_uri(png_grey(layer)) for layer in scaled[index]] if with_pictures else [],
            profile=[float(value) for value in profile[index]],
            peak=int(profile[index].argmax()),
            shares=shares[index],
            n_used=maps.n_used[index],
            n_skipped=maps.n_skipped[index],
            n_wrong=maps.n_wrong[index] if maps.n_wrong else None,
        )
        for index, facts in enumerate(taxonomy.classes)
    ]
    return DeltaView(
        maps.attribution,
        delta.shape[1],
        delta.shape[-1],
        strongest_layer(delta),
        classes,
        with_pictures,
    )


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give (dotted name, value) of a nested mapping."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flatten(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _value_text(inner)


def _value_text(value: Any) -> str:
    """Print a setting: lists with commas, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value_text(each) for each in value)
    return str(value)
