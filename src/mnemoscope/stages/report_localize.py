"""What the report says of Δ beyond its maps: regions, memory or text, the attention itself."""

from collections.abc import Iterator, Sequence

import polars as pl

from mnemoscope.localize.regions import Region, region_sentence
from mnemoscope.maps.shape import SHAPES
from mnemoscope.report.content import Table
from mnemoscope.report.numbers import points
from mnemoscope.stages.localize import AGREEMENT_FILE, REGIONS_FILE, SHAPES_FILE
from mnemoscope.stages.report_checks import check_tables
from mnemoscope.study import Study

__all__ = ["localize_tables"]

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
