"""What the report says of the checks of Δ: stable or not, attributions alike, of the CNN or not."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.localize.attribution import COSTLY
from mnemoscope.localize.regions import Region, region_sentence
from mnemoscope.maps.shape import SHAPES
from mnemoscope.pipeline.benchmark import BENCHMARK_FILE
from mnemoscope.pipeline.label import aliases_of, sharing_of
from mnemoscope.pipeline.localize import AGREEMENT_FILE, REGIONS_FILE, SHAPES_FILE
from mnemoscope.report.content import Table
from mnemoscope.search.climb import SEARCH_FILE, chosen_figure, final_figure, search_words
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import LocalizeSettings
from mnemoscope.words import points

# What the report says of the checks of Δ: stable or not, attributions alike, of the CNN or not.

_HALF = 0.5
_NOTHING = 0.1  # of what an attribution has beyond a random CNN
_STABLE = ("halves", "seeds", "attributions", "reference", "attention")
_STABLE_WORDS = {
    "halves": "other half of the sequences",
    "seeds": "other CNN seeds",
    "reference": "Δ of the reference model",
    "attention": "the mean attention itself",
}
_SANE = ("randomized", "permuted")


def check_tables(checks: pl.DataFrame, settings: LocalizeSettings) -> Iterator[Table]:
    """The two tables of one sample, each where the study has its checks.

    Args:
        checks: rows of `agreement.parquet`.
        settings: under which they were made.
    """
    stable = checks.filter(pl.col("check").is_in(_STABLE))
    if not stable.is_empty():
        yield _stability_table(stable, settings)
    sane = checks.filter(pl.col("check").is_in(_SANE))
    if not sane.is_empty():
        yield _sanity_table(sane, settings)


def _stability_table(checks: pl.DataFrame, settings: LocalizeSettings) -> Table:
    """How alike Δ is between halves, seeds, attributions, models, and to the attention."""
    keys = checks.select("check", "against").unique(maintain_order=True).rows()
    columns = {}
    for check, against in keys:
        columns[check, against] = _STABLE_WORDS.get(check, f"Δ by {against}")
    rows = []
    for attribution in checks["attribution"].unique(maintain_order=True):
        for name in checks["class"].unique(maintain_order=True):
            own = checks.filter((pl.col("attribution") == attribution) & (pl.col("class") == name))
            cells = [_correlations(own, check, against, "Δ") for check, against in columns]
            rows.append((f"{name}, {attribution}", *cells))
    return Table(
        title="Is Δ stable, and do the attributions agree?",
        columns=("Δ of", *columns.values()),
        rows=tuple(rows),
        summary=(
            f"{_disagreement(checks)}Pearson and Spearman correlation over all causal edges of all "
            "layers, then the overlap of the top 1 % of edges. Halves are of the evaluation "
            "sequences, near duplicates on one side; a dash: a single seed, or no sequence that "
            "counts. "
            f"{_few_read(checks, settings)}Attributions are compared on what all of them read. "
            + (
                "Correctly classified sequences alone count."
                if settings.correct_only
                else "All evaluation sequences count, rightly classified or not."
            )
        ),
        gist=_stability_gist(checks),
    )


def _stability_gist(checks: pl.DataFrame) -> str:
    """Mean correlations over classes and attributions, and where attributions part."""
    words = {"halves": "halves", "seeds": "seeds", "attributions": "attributions"}
    means = {word: _mean(checks.filter(check=check)["pearson"]) for check, word in words.items()}
    known = [f"{word} {mean:.2f}" for word, mean in means.items() if mean is not None]
    said = [f"mean correlation between {', '.join(known)}"] if known else []
    apart = _apart(checks.filter(check="attributions"))
    if apart:
        said.append(f"other edges by {', '.join(f'{one} and {two}' for one, two, _ in apart)}")
    return "; ".join(said)


def _disagreement(checks: pl.DataFrame) -> str:
    """Name the pair of attributions whose Δ agrees least, and all pairs that name other edges."""
    pairs = checks.filter(pl.col("check") == "attributions").drop_nulls("spearman")
    if pairs.is_empty():
        return ""
    worst = pairs.sort("overlap", maintain_order=True).row(0, named=True)
    rank = _signed(f" {worst['spearman']:.2f}")
    apart = [f"{one} and {other} ({overlap:.0%})" for one, other, overlap in _apart(pairs)]
    return (
        f"The attributions disagree most on {worst['class']}: of the top 1 % of edges by "
        f"{worst['attribution']} and by {worst['against']}, {worst['overlap']:.0%} are the same "
        f"(rank correlation{rank}). "
        + (
            f"Less than half of the top 1 % in common, mean over the classes: {', '.join(apart)}. "
            if apart
            else "Every two have half of the top 1 % or more in common, mean over the classes. "
        )
    )


def _apart(pairs: pl.DataFrame) -> list[tuple[str, str, float]]:
    """Pairs of attributions with less than half of their top edges in common, over the classes."""
    names = pairs["attribution"].unique(maintain_order=True).to_list()
    found = []
    for one, other in combinations(names, 2):
        overlap = _mean(pairs.filter(attribution=one, against=other)["overlap"])
        if overlap is not None and overlap < _HALF:
            found.append((one, other, overlap))
    return found


def _few_read(checks: pl.DataFrame, settings: LocalizeSettings) -> str:
    """Say which attributions read a few sequences alone, and how many."""
    few = [one for one in checks["attribution"].unique(maintain_order=True) if one in COSTLY]
    if not few or settings.attribution_sequences is None:
        return ""
    verb = "read" if len(few) > 1 else "reads"
    return (
        f"{' and '.join(few).capitalize()} {verb} up to {settings.attribution_sequences} sequences "
        "of each class (localize.attribution_sequences). "
    )


def _sanity_table(checks: pl.DataFrame, settings: LocalizeSettings) -> Table:
    """What is left of D and Δ when the CNN did not learn this."""
    keys = checks.select("check", "against").unique(maintain_order=True).rows()
    random = [against for check, against in keys if check == "randomized"]
    words = [f"random from {one} up" for one in random[:-1]] + ["all layers random"]
    words += [against for check, against in keys if check == "permuted"]
    rows = []
    for attribution in checks["attribution"].unique(maintain_order=True):
        for name in checks["class"].unique(maintain_order=True):
            own = checks.filter((pl.col("attribution") == attribution) & (pl.col("class") == name))
            for of in ("D", "Δ"):
                cells = [_correlations(own, check, against, of) for check, against in keys]
                rows.append((f"{name}, {attribution}: {of}", *cells))
    return Table(
        title="Does Δ depend on what the CNN learned?",
        columns=("correlation with the trained CNN’s", *words),
        rows=tuple(rows),
        summary=" ".join(_sanity_sentences(checks))
        + f" One CNN, up to 64 sequences a class, all of them counted. "
        f"{_few_read(checks, settings)}D is the attribution alone, "
        "Δ the mean of D times the attention, which stays the same and keeps Δ alike whatever the "
        "CNN is. Pearson, Spearman, overlap of the top 1 %. Checks after Adebayo et al., arXiv "
        "1810.03292.",
        gist=_sanity_gist(checks),
    )


class _Sanity(NamedTuple):
    """Mean correlations of one attribution's D with the trained CNN's; None where unknown."""

    attribution: str
    top: float  # the top layer is random
    floor: float  # all are
    permuted: float | None

    @property
    def kept(self) -> float:
        """Share of what D has beyond a wholly random CNN's that stays when the top is random."""
        return max(0.0, (self.top - self.floor) / (1 - self.floor)) if self.floor < 1 else 1.0

    @property
    def verdict(self) -> str:
        """`fails` where most of it stays, `passes` where about nothing does."""
        if self.kept > _HALF:
            return "fails"
        return "passes" if self.kept <= _NOTHING else "passes in part"


def _sanity(checks: pl.DataFrame) -> Iterator[_Sanity]:
    """What is left of each attribution's D."""
    random = checks.filter(check="randomized")["against"].unique(maintain_order=True).to_list()
    for attribution in checks["attribution"].unique(maintain_order=True):
        own = checks.filter((pl.col("attribution") == attribution) & (pl.col("of") == "D"))
        top, floor = (
            _mean(own.filter(against=layer)["pearson"]) for layer in (random[0], random[-1])
        )
        if top is not None and floor is not None:
            permuted = _mean(own.filter(check="permuted")["pearson"])
            yield _Sanity(attribution, top, floor, permuted)


def _sanity_sentences(checks: pl.DataFrame) -> Iterator[str]:
    """Say for each attribution whether D loses its structure with the CNN's top layer."""
    beyond = "of what it has beyond a random CNN does not come from what the top learned."
    for one in _sanity(checks):
        told = f"{one.attribution}: with random weights in the top layer D keeps a correlation of "
        told += f"{one.top:.2f}, with all layers random {one.floor:.2f}"
        if one.permuted is not None:
            told += f", with a CNN of permuted labels {one.permuted:.2f}"
        ends = {
            "fails": f"it fails the check, most {beyond}",
            "passes in part": f"it passes in part, {one.kept:.0%} {beyond}",
            "passes": "what it had beyond the floor of a random CNN is lost with the top layer.",
        }
        yield f"{_signed(told)}: {ends[one.verdict]}"


def _sanity_gist(checks: pl.DataFrame) -> str:
    """Which attributions pass."""
    return ", ".join(f"{one.attribution} {one.verdict}" for one in _sanity(checks))


def _signed(text: str) -> str:
    """With true minus signs."""
    return text.replace(" -", " −")


def _mean(values: pl.Series) -> float | None:
    known = values.drop_nulls()
    return None if known.is_empty() else float(np.mean(known.to_numpy()))


def _correlations(rows: pl.DataFrame, check: str, against: str, of: str) -> str:
    """`.83 · .75 · 61 %`, or a dash."""
    found = rows.filter(check=check, against=against, of=of).to_dicts()
    if not found or found[0]["pearson"] is None:
        return "–"
    one = found[0]
    cells = f" {one['pearson']:.2f} · {one['spearman']:.2f} · {one['overlap']:.0%}"
    return _signed(cells).lstrip()


# What the report says of Δ beyond its maps: regions, memory or text, the attention itself.

_MUCH = 1.5  # times an even spread
_MORE = 0.05  # of ΣΔ, a fraction


def localize_tables(study: Study, sample: str) -> Iterator[Table]:
    """Tables below the decisiveness maps of one sample.

    Args:
        study: with the localize stage done; one made before these checks gives none.
        sample: its name.
    """
    if not (study.folder / REGIONS_FILE).is_file():
        return
    regions = study.read(REGIONS_FILE).filter(pl.col("sample") == sample)
    if regions.is_empty():
        return
    first = regions["attribution"][0]
    shown = regions.filter(pl.col("attribution") == first)
    yield _region_table(shown, first)
    if "reference" in shown["source"]:
        yield _layer_table(shown, first)
    checks = study.read(AGREEMENT_FILE).filter(pl.col("sample") == sample)
    yield from check_tables(checks, study.settings.localize)
    if (study.folder / SHAPES_FILE).is_file():
        yield _shape_table(study.read(SHAPES_FILE).filter(pl.col("sample") == sample))


def _region_table(regions: pl.DataFrame, attribution: str) -> Table:
    """Shares by region, the reference's and the tokens' beside them."""
    named = regions.filter(~pl.col("region").str.starts_with("layer "))
    shares = {
        (row["source"], row["class"], row["region"]): row["share"] for row in named.to_dicts()
    }
    rows, said = [], []
    for name in named["class"].unique(maintain_order=True):
        own = named.filter((pl.col("class") == name) & (pl.col("source") == "model")).to_dicts()
        found = [Region(row["region"], row["share"] or 0.0, row["even"]) for row in own]
        beside = [shares.get(("reference", name, one.name)) for one in found]
        said.append(region_sentence(name, found))
        said += _of_the_text(name, found, beside)
        for one, row, other in zip(found, own, beside, strict=True):
            gap = None if other is None or row["share"] is None else row["share"] - other
            times = "–" if row["ratio"] is None else f"{row['ratio']:.1f}×"
            blind = shares.get(("blind", name, one.name))
            label = f"{name}: {one.name}"
            rows.append((label, row["share"], one.even, times, other, points(gap), blind))
        rows += [
            (f"{name}: channel “{row['region']}”", None, row["even"], "–", None, "–", row["share"])
            for row in named.filter(
                (pl.col("class") == name)
                & (pl.col("source") == "blind")
                & ~pl.col("region").is_in([one.name for one in found])
            ).to_dicts()
        ]
    return Table(
        title=f"Where Δ lies, by name ({attribution})",
        columns=(
            "class and region",
            "share of Δ",
            "even spread",
            "times even",
            "reference model’s Δ",
            "model − reference, points",
            "Δ from the tokens alone",
        ),
        rows=tuple(rows),
        summary=" ".join(said)
        + " Copy diagonals: the key one past an earlier occurrence of the query’s token, averaged "
        "over the evaluation sequences as Δ is. The tokens alone are the blind baseline’s maps: "
        "two channels in place of layers. A region that the reference model shows as strongly "
        "belongs to the text.",
        gist=_strongest_regions(named.filter(pl.col("source") == "model")),
    )


def _strongest_regions(regions: pl.DataFrame) -> str:
    """Name for each class the region that is furthest above an even spread."""
    best = regions.drop_nulls("ratio").sort("ratio", descending=True, maintain_order=True)
    best = best.unique("class", keep="first", maintain_order=True)
    ratios = {
        row["class"]: f"{row['region'].partition(' (')[0]} {row['ratio']:.1f}×"
        for row in best.to_dicts()
    }
    names = [one for one in regions["class"].unique(maintain_order=True) if one in ratios]
    return "; ".join(f"{name}: {ratios[name]}" for name in names)


def _of_the_text(
    name: str, found: Sequence[Region], beside: Sequence[float | None]
) -> Iterator[str]:
    """Say which strong regions the reference shows as strongly, and which it does not."""
    strong = [
        (one, other)
        for one, other in zip(found, beside, strict=True)
        if other is not None and (one.ratio or 0.0) >= _MUCH
    ]
    text = [one.name for one, other in strong if one.share - other <= 0]
    more = [one.name for one, other in strong if one.share - other >= _MORE]
    if text:
        yield (
            f"The reference model, which never saw the sequences, shows as much of {name} in "
            f"{', '.join(text)}: that belongs to the text."
        )
    if more:
        yield f"The model shows more of {name} than the reference in {', '.join(more)}."


def _layer_table(regions: pl.DataFrame, attribution: str) -> Table:
    """Share of Δ in each layer: model, reference, difference."""
    layers = regions.filter(pl.col("region").str.starts_with("layer "))
    names = layers["region"].unique(maintain_order=True).to_list()
    rows: list[tuple[str | float | None, ...]] = []
    for name in layers["class"].unique(maintain_order=True):
        values = {
            source: dict(
                layers.filter((pl.col("class") == name) & (pl.col("source") == source))
                .select("region", "share")
                .rows()
            )
            for source in ("model", "reference")
        }
        for source, shares in values.items():
            rows.append((f"{name}: {source}", *(shares.get(layer) for layer in names)))
        gaps = [_gap(values["model"].get(one), values["reference"].get(one)) for one in names]
        rows.append((f"{name}: model − reference, points", *map(points, gaps)))
    return Table(
        title=f"Layers of the model beside those of the reference ({attribution})",
        columns=("share of Δ", *names),
        rows=tuple(rows),
        summary="Each row of model or reference adds up to 100 %.",
        gist=f"strongest layer, model / reference: {_strongest_layers(layers)}",
    )


def _strongest_layers(layers: pl.DataFrame) -> str:
    """For each class the layer with the largest share, of the model and of the reference."""
    said = []
    for name in layers["class"].unique(maintain_order=True):
        own = layers.filter(pl.col("class") == name).drop_nulls("share")
        best = [
            own.filter(source=source).sort("share").tail(1)["region"].to_list()
            for source in ("model", "reference")
        ]
        shown = " / ".join(one[0].removeprefix("layer ") if one else "–" for one in best)
        said.append(f"{name} {shown}")
    return ", ".join(said)


def _shape_table(shapes: pl.DataFrame) -> Table:
    """The attention of each class and layer in a few numbers; masses are fractions."""
    rows = [
        (
            f"{row['class']}: layer {row['layer']}",
            *(row[name] if "mass" in name else f"{row[name]:.2f}" for name in SHAPES),
        )
        for row in shapes.to_dicts()
    ]
    return Table(
        title="The attention itself, without a CNN",
        columns=("class and layer", *SHAPES),
        rows=tuple(rows),
        summary="Means over the evaluation sequences of each class, weights averaged over the "
        "heads. A Gini coefficient of 0 is attention spread evenly over the keys, near 1 one key "
        "that draws all. What a logistic regression on these and further numbers reaches stands "
        "beside the CNNs in the chart above (“Regression, on pooled statistics”).",
        gist="entropy, Gini coefficient and where the mass lies, by class and layer",
    )


def _gap(own: float | None, other: float | None) -> float | None:
    return None if own is None or other is None else own - other


# What the report says of a search: the found taxonomies beside those that were only tried.


def search_tables(study: Study) -> tuple[Table, ...]:
    """One table where the study holds a finished search, none else.

    Args:
        study: the study.
    """
    if not study.is_done("search") or not (study.folder / SEARCH_FILE).is_file():
        return ()
    objective = study.settings.search.objective
    rows = study.read(SEARCH_FILE).filter(
        pl.col("place").is_not_null() | (pl.col("kind") == "beside")
    )
    return (
        Table(
            title="Taxonomies found by search",
            columns=("taxonomy", "how", "where it was chosen", "final part", "min-F1", "excess"),
            rows=tuple(_row(row, objective) for row in rows.iter_rows(named=True)),
            summary=" ".join(search_words(study)),
        ),
    )


def _row(row: dict[str, Any], objective: str) -> tuple[str, ...]:
    """One taxonomy: the objective where it was chosen and on the final part, then both figures."""
    how = "beside" if row["place"] is None else f"found, {row['place']}"
    return (
        row["taxonomy"],
        how,
        chosen_figure(row, objective),
        *(final_figure(row, name) for name in (objective, "min_f1", "excess")),
    )


# What the report says of sharing: near duplicates, needs of all samples, names of one division.


def sharing_tables(study: Study) -> Iterator[Table]:
    """Tables of how the samples were drawn.

    Args:
        study: with the benchmark stage done; one labelled before this was counted gives none.
    """
    need = sharing_of(study)
    if need is None:
        return
    facts = study.manifest("label")["counts"]["near_duplicates"]  # type: ignore[index]
    yield Table(
        title="What the samples share",
        columns=("all samples together", "number"),
        rows=(
            ("distinct sequences", need.n_sequences),
            ("distinct maps, each captured once", need.n_maps),
            ("maps if every taxonomy were captured for itself", need.n_unshared),
            ("groups of near duplicates and single sequences in the table", facts["groups"]),
            ("sequences with a near duplicate", facts["sequences_with_relatives"]),
            ("sequences in the largest group", facts["largest_group"]),
        ),
        summary=(
            f"{need}. Near duplicates are sequences whose sets of {facts['shingle']}-token "
            f"shingles have a Jaccard similarity of {facts['jaccard']} or more (all pairs, found "
            "exactly), overlapping windows of one document, and what the table's column group "
            "joins."
        ),
    )
    yield from _alias_table(study)


def _alias_table(study: Study) -> Iterator[Table]:
    """Taxonomies that were not trained, because another divides these sequences alike."""
    aliases = aliases_of(study)
    if not aliases:
        return
    table = study.read(BENCHMARK_FILE).filter(source="model")
    figures = dict(zip(table["taxonomy"], table["min_f1"], strict=True))
    yield Table(
        title="Taxonomies with the figures of another",
        columns=("taxonomy", "trained as", "why", "min-F1"),
        rows=tuple(
            (name, alias.of, alias.reason, figures.get(alias.of)) for name, alias in aliases.items()
        ),
        summary=(
            "Same rule: the two divide any sequences alike. Same labels here: they divide these "
            "sequences alike, for instance where no sequence lies between two thresholds."
        ),
    )
