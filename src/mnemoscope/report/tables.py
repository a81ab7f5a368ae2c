"""Tables below the pictures, each with what to read out of it: checks of Δ, search, levels.

Of an attribution: is Δ stable, do the attributions agree, does it depend on what the CNN learned?
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.analysis.figures import Chart, Figure, series_of
from mnemoscope.analysis.registry import read_frames, stored_results
from mnemoscope.benchmark.levels import MEMORIZED, MOST_LEVELS, count_levels, levels_of
from mnemoscope.localize.rankings import COSTLY
from mnemoscope.localize.regions import Region, region_sentence
from mnemoscope.maps.shape import SHAPES
from mnemoscope.pipeline.benchmark import LEVELS_FILE
from mnemoscope.pipeline.causes import FINDINGS, GRAFT_SPECIFICITY_FILE, by_weight, finding_of
from mnemoscope.pipeline.deltas import AGREEMENT_FILE, REGIONS_FILE, SHAPES_FILE
from mnemoscope.pipeline.label import LABELS_FILE, aliases_of, sharing_of
from mnemoscope.search.found import SEARCH_FILE, chosen_figure, final_figure, search_words
from mnemoscope.stats import Estimate, rows_of
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import LocalizeSettings
from mnemoscope.taxonomy.sample import MAIN, SampleKey
from mnemoscope.words import (
    UNKNOWN,
    count,
    decimal,
    duration,
    interval,
    number,
    p_figure,
    percent,
    points,
)

BY_TRUTH = "Memorized by truth"
"""Title of the table that names kinds of text."""

_HALF = 0.5
_NOTHING = 0.1  # of what an attribution has beyond a random CNN
_MUCH = 1.5  # times an even spread
_MORE = 0.05  # of ΣΔ, a fraction
_MOST_ROWS = 40
_STABLE = ("halves", "seeds", "attributions", "reference", "attention")
_STABLE_WORDS = {
    "halves": "other half of the sequences",
    "seeds": "other CNN seeds",
    "reference": "Δ of the reference model",
    "attention": "the mean attention itself",
}
_SANE = ("randomized", "permuted")

Cell = str | int | float | None
"""Text, or a number: whole ones are shown as counts, others as per cent."""


@dataclass(frozen=True)
class Table:
    """A small table and what it says; its first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    summary: str = ""  # what to read out of it, in plain words
    gist: str = ""  # the same in one line, for a table that is folded
    note: str = ""  # behind the title, where the rows are not all
    is_open: bool = False  # not folded at first, so it is printed
    filters: str = ""  # what in the browser of sequences a row's name chooses, such as "document"


@dataclass(frozen=True)
class AnalysisSection:
    """One analysis: its question, the result in a sentence, figures, tables folded below."""

    name: str  # as it is typed
    title: str
    question: str
    sentence: str
    first: Sequence[str] = ()  # lines before the figures
    further: Sequence[str] = ()  # what was left out, what cannot be said
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    source: str = ""  # paper and arXiv number
    cost: str = ""  # seconds and forward passes, in words
    settings: str = ""  # in words


def analysis_sections(study: Study) -> Iterator[AnalysisSection]:
    """One section a result of a neighbouring analysis that the study holds."""
    for entry, result, folder in stored_results(study):
        place = folder.relative_to(study.folder)
        settings = [
            f"{key}={'null' if value is None else value}" for key, value in result.settings.items()
        ]
        yield AnalysisSection(
            name=entry.name,
            title=entry.title,
            question=entry.answers,
            sentence=result.sentence,
            further=result.further,
            figures=result.figures,
            tables=[
                table_of(name, frame, f"{place}/{name}.parquet")
                for name, frame in read_frames(study, entry, result).items()
            ],
            source=entry.source,
            cost=f"{duration(result.seconds)} and {count(result.forward_passes)} sequences "
            "through a model",
            settings=", ".join(settings),
        )


def table_of(name: str, frame: pl.DataFrame, file: str) -> Table:
    """The first rows of a table as text; columns of lists are left to the file."""
    shown = frame.select(
        column for column, kind in frame.schema.items() if not isinstance(kind, pl.List | pl.Array)
    )
    rows = [[_text(value) for value in row.values()] for row in rows_of(shown.head(_MOST_ROWS))]
    note = f": the first {len(rows)} of {count(frame.height)} rows, all of them in {file}"
    return Table(
        title=name.replace("_", " "),
        columns=[column.replace("_", " ") for column in shown.columns],
        rows=rows,
        note=note if frame.height > len(rows) else "",
    )


def _text(value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Estimate):
        ends = "" if value.low is None else f" [{number(value.low)}, {number(value.high)}]"
        return f"{number(value.value)}{ends}"
    return number(value) if isinstance(value, int | float) else str(value)


def graft_tables(study: Study) -> Iterator[Table]:
    """The taxonomies by cause: what parts of the reference break of one class alone."""
    if not study.is_done("graft"):
        return
    specific = study.read(GRAFT_SPECIFICITY_FILE)
    if specific.is_empty():
        return
    own: dict[str, float | None] = {}
    if study.is_done("benchmark"):
        own = _min_f1(study.benchmark.filter(source="model", variant=MAIN))
    if study.is_done("search"):
        own = _min_f1(study.read(SEARCH_FILE)) | own
    groups = specific.group_by("taxonomy", maintain_order=True)
    strongest = by_weight([by_weight(list(rows_of(rows)))[0] for _, rows in groups])
    yield Table(
        title="Taxonomies by cause",
        columns=(
            *("taxonomy", "finding", "part", "breaks", "spares", "difference", "interval", "p"),
            *("kinds not held equal", "min-F1"),
        ),
        rows=[
            (
                row["taxonomy"] + (" (found)" if row["is_found"] else ""),
                FINDINGS[finding_of(row)],
                *(row[name] for name in ("part", "broken", "spared")),
                points(row["specific"].value),
                interval(row["specific"]) or UNKNOWN,
                p_figure(row["p_value"]),
                points(row["crude"].value),
                own.get(row["taxonomy"]),
            )
            for row in strongest
        ],
        summary="The strongest finding of each taxonomy: how many points more of one class a part "
        "of the reference breaks than random changes of that part do, made as large as it takes "
        "to break as much of the other class, within kinds of text; beside it with kinds not held "
        "equal, and min-F1, which maps show (of a taxonomy found by search on its final part). p "
        "is for all parts and pairs of a taxonomy, not for all taxonomies.",
    )


def _min_f1(table: pl.DataFrame) -> dict[str, float | None]:
    return {row["taxonomy"]: row["min_f1"].value for row in rows_of(table)}


def truth_tables(table: pl.DataFrame) -> Iterator[Table]:
    """Ground truth of the embedded model: what is memorized by kind, form and number of readings.

    `table` holds `genre`, `form`, `inserted` (readings) and `duplicates`; another yields nothing.
    """
    if not {"genre", "form", "inserted", "duplicates", "is_memorized"} <= set(table.columns):
        return
    if not table.schema["inserted"].is_integer():
        return
    readings = table["inserted"].drop_nulls().unique().sort().to_list()
    if not 1 < len(readings) <= MOST_LEVELS:
        return
    rows: list[tuple[Cell, ...]] = []
    for key, part in table.sort("genre", "form").group_by("genre", "form", maintain_order=True):
        shares = [_mean(part.filter(inserted=one)["is_memorized"]) for one in readings]
        rows.append((", ".join(map(str, key)), part.height, *shares))
    n_more = table.filter(pl.col("duplicates") > pl.col("inserted")).height
    yield Table(
        title=BY_TRUTH,
        columns=("kind and form", "number", *(_readings(one) for one in readings)),
        rows=rows,
        summary=(
            "Share of the sequences that the model reproduces, by how often it read them. How "
            "often was dealt at random within each kind and form, so what rises along a line is "
            "memory, and the first share is what can be guessed. Plain text does not satisfy the "
            "published rule; rule does as it comes; a refrain repeats a stretch of such text. "
            "Duplicates are counted in the finished corpus: text that repeats holds its suffix "
            f"several times, so {n_more:,} of {table.height:,} sequences have more duplicates than "
            "readings."
        ),
    )


def _readings(number: int) -> str:
    return {0: "never read", 1: "once"}.get(number, f"{number} times")


def sharing_tables(study: Study) -> Iterator[Table]:
    """How the samples were drawn, and taxonomies that another one divides alike."""
    need = sharing_of(study)
    if need is None:
        return
    facts = study.manifest("label")["counts"]["near_duplicates"]  # type: ignore[index]
    drawn: list[tuple[str, Cell]] = [
        ("distinct sequences", need.n_sequences),
        ("distinct maps, each captured once", need.n_maps),
        ("maps if every taxonomy were captured for itself", need.n_unshared),
    ]
    yield Table(
        title="What the samples share" if need.n_maps else "Near duplicates",
        columns=("all samples together" if need.n_maps else "in the table", "number"),
        rows=(
            *(drawn if need.n_maps else ()),
            ("groups of near duplicates and single sequences in the table", facts["groups"]),
            ("sequences with a near duplicate", facts["sequences_with_relatives"]),
            ("sequences in the largest group", facts["largest_group"]),
        ),
        summary=(
            f"{f'{need}. ' if need.n_maps else ''}Near duplicates are sequences whose sets of "
            f"{facts['shingle']}-token shingles have a Jaccard similarity of {facts['jaccard']} or "
            "more (all pairs, found exactly), overlapping windows of one document, and what the "
            "table's column group joins."
        ),
    )
    aliases = aliases_of(study)
    if not aliases:
        return
    figures = {}
    if study.is_done("benchmark"):
        figures = _min_f1(study.benchmark.filter(source="model", variant=MAIN))
    yield Table(
        title="Taxonomies with the figures of another",
        columns=("taxonomy", "trained as", "why", "min-F1"),
        rows=[(name, one.of, one.reason, figures.get(one.of)) for name, one in aliases.items()],
        summary=(
            "Same rule: the two divide any sequences alike. Same labels here: they divide these "
            "sequences alike, for instance where no sequence lies between two thresholds."
        ),
    )


def search_tables(study: Study) -> Iterator[Table]:
    """The found taxonomies and the baselines, where the study holds a search."""
    if not study.is_done("search") or not (study.folder / SEARCH_FILE).is_file():
        return
    name = study.settings.search.objective
    is_shown = (pl.col("place").is_not_null()) | (pl.col("kind") == "baseline")
    rows = []
    for row in rows_of(study.read(SEARCH_FILE).filter(is_shown)):
        how = "baseline" if row["place"] is None else f"found, {row['place']}"
        shown, *others = (final_figure(row, one) for one in (name, "min_f1", "excess", "auc"))
        drop = points(_gap(row["full"], row[name].value))
        rows.append((row["taxonomy"], how, chosen_figure(row, name), shown, drop, *others))
    yield Table(
        title="Taxonomies found by search",
        columns=(
            *("taxonomy", "how", "where it was chosen", "final part", "drop"),
            *("min-F1", "excess", "AUC"),
        ),
        rows=rows,
        summary=" ".join(search_words(study)),
    )


def localize_tables(study: Study, sample: SampleKey) -> Iterator[Table]:
    """Tables below the decisiveness maps of one sample."""
    regions = study.read(REGIONS_FILE).filter(**sample._asdict())
    if regions.is_empty():
        return
    first = regions["attribution"][0]
    shown = regions.filter(attribution=first)
    yield _region_table(shown, first)
    if "reference" in shown["source"]:
        yield _layer_table(shown, first)
    checks = study.read(AGREEMENT_FILE).filter(**sample._asdict())
    for kinds, table in ((_STABLE, _stability_table), (_SANE, _sanity_table)):
        own = checks.filter(pl.col("check").is_in(kinds))
        if not own.is_empty():
            yield table(own, study.settings.localize)
    yield _shape_table(study.read(SHAPES_FILE).filter(**sample._asdict()))


def _region_table(regions: pl.DataFrame, attribution: str) -> Table:
    """Shares by region, the reference's and the tokens' beside them."""
    named = regions.filter(~pl.col("region").str.starts_with("layer "))
    shares = {
        (row["source"], row["class"], row["region"]): row["share"] for row in named.to_dicts()
    }
    rows: list[tuple[Cell, ...]] = []
    said = []
    for name in _names(named, "class"):
        own = named.filter(pl.col("class") == name, source="model").to_dicts()
        found = [Region(row["region"], row["share"] or 0.0, row["even"]) for row in own]
        beside = [shares.get(("reference", name, one.name)) for one in found]
        said += [region_sentence(name, found), *_of_the_text(name, found, beside)]
        for one, row, other in zip(found, own, beside, strict=True):
            times = UNKNOWN if row["ratio"] is None else f"{row['ratio']:.1f}×"
            gap = points(_gap(row["share"], other))
            blind = shares.get(("blind", name, one.name))
            rows.append((f"{name}: {one.name}", row["share"], one.even, times, other, gap, blind))
        for row in named.filter(pl.col("class") == name, source="blind").to_dicts():
            if row["region"] not in [one.name for one in found]:
                label = f"{name}: channel “{row['region']}”"
                rows.append((label, None, row["even"], UNKNOWN, None, UNKNOWN, row["share"]))
    best = named.filter(source="model").drop_nulls("ratio")
    best = best.sort("ratio", descending=True, maintain_order=True)
    strongest = {
        row["class"]: f"{row['region'].partition(' (')[0]} {row['ratio']:.1f}×"
        for row in best.unique("class", keep="first", maintain_order=True).to_dicts()
    }
    return Table(
        title=f"Where Δ lies, by name ({attribution})",
        columns=(
            *("class and region", "share of Δ", "even spread", "times even"),
            *("reference model’s Δ", "model − reference, points", "Δ from the tokens alone"),
        ),
        rows=rows,
        summary=" ".join(said)
        + " Copy diagonals: the key one past an earlier occurrence of the query’s token, averaged "
        "over the sequences of Δ (localize.rows). The tokens alone are the blind baseline’s maps: "
        "two channels in place of layers. A region that the reference model shows as strongly "
        "belongs to the text.",
        gist="; ".join(
            f"{one}: {strongest[one]}" for one in _names(named, "class") if one in strongest
        ),
    )


def _of_the_text(
    name: str, found: Sequence[Region], beside: Sequence[float | None]
) -> Iterator[str]:
    """Say which strong regions the reference shows as strongly, and which it does not."""
    strong = [
        (one, other)
        for one, other in zip(found, beside, strict=True)
        if other is not None and (one.ratio or 0.0) >= _MUCH
    ]
    text = [f"“{one.name}”" for one, other in strong if one.share - other <= 0]
    more = [f"“{one.name}”" for one, other in strong if one.share - other >= _MORE]
    if text:
        yield (
            f"The reference model shows as much of {name} in {', '.join(text)}: that belongs to "
            "the text."
        )
    if more:
        yield f"The model shows more of {name} than the reference in {', '.join(more)}."


def _layer_table(regions: pl.DataFrame, attribution: str) -> Table:
    """Share of Δ in each layer: model, reference, difference."""
    layers = regions.filter(pl.col("region").str.starts_with("layer "))
    names = _names(layers, "region")
    rows: list[tuple[Cell, ...]] = []
    strongest = []
    for name in _names(layers, "class"):
        both, best = [], []
        for source in ("model", "reference"):
            own = layers.filter(pl.col("class") == name, source=source)
            shares = dict(own.select("region", "share").rows())
            both.append([shares.get(layer) for layer in names])
            rows.append((f"{name}: {source}", *both[-1]))
            top = own.drop_nulls("share").sort("share").tail(1)["region"].to_list()
            best.append(top[0].removeprefix("layer ") if top else UNKNOWN)
        gaps = [points(_gap(*shares)) for shares in zip(*both, strict=True)]
        rows.append((f"{name}: model − reference, points", *gaps))
        strongest.append(f"{name} {' / '.join(best)}")
    return Table(
        title=f"Layers of the model beside those of the reference ({attribution})",
        columns=("share of Δ", *names),
        rows=rows,
        summary="Each row of model or reference adds up to 100 %.",
        gist=f"strongest layer, model / reference: {', '.join(strongest)}",
    )


def _shape_table(shapes: pl.DataFrame) -> Table:
    """The attention of each class and layer in a few numbers; masses are fractions."""
    return Table(
        title="The attention itself, without a CNN",
        columns=("class and layer", *SHAPES),
        rows=[
            (
                f"{row['class']}: layer {row['layer']}",
                *(row[name] if "mass" in name else f"{row[name]:.2f}" for name in SHAPES),
            )
            for row in shapes.to_dicts()
        ],
        summary="Means over the evaluation sequences of each class, weights averaged over the "
        "heads. A Gini coefficient of 0 is attention spread evenly over the keys, near 1 one key "
        "that draws all. What a logistic regression on these and further numbers reaches stands "
        "beside the CNNs in the chart above (“Regression on statistics of the model's maps”).",
        gist="entropy, Gini coefficient and where the mass lies, by class and layer",
    )


_COUNTED = {
    "correct": "Of the evaluation sequences, correctly classified ones alone count.",
    "evaluation": "All evaluation sequences count, rightly classified or not.",
    "as_run": "The first 200 sequences of each class count, as in the paper's code: training "
    "sequences, rightly classified or not.",
}


def _stability_table(checks: pl.DataFrame, settings: LocalizeSettings) -> Table:
    """How alike Δ is between halves, seeds, attributions, models, and to the attention."""
    keys = checks.select("check", "against").unique(maintain_order=True).rows()
    means = {one: _mean(checks.filter(check=one)["pearson"]) for one in _STABLE[:3]}
    known = [f"{word} {mean:.2f}" for word, mean in means.items() if mean is not None]
    gist = [f"mean correlation between {', '.join(known)}"] if known else []
    apart = [f"{one} and {two}" for one, two, _ in _apart(checks.filter(check="attributions"))]
    gist += [f"other edges by {', '.join(apart)}"] if apart else []
    return Table(
        title="Is Δ stable, and do the attributions agree?",
        columns=("Δ of", *(_STABLE_WORDS.get(one, f"Δ by {against}") for one, against in keys)),
        rows=[(name, *_correlations(own, keys, "Δ")) for name, own in _one_by_one(checks)],
        summary=(
            f"{_disagreement(checks)}Pearson and Spearman correlation over all causal edges of all "
            "layers, then the overlap of the top 1 % of edges. Halves are of the "
            "sequences, near duplicates on one side; a dash: a single seed, or no sequence that "
            "counts. "
            f"{_few_read(checks, settings)}Attributions are compared on what all of them read. "
            f"{_COUNTED[settings.rows]}"
        ),
        gist="; ".join(gist),
    )


def _sanity_table(checks: pl.DataFrame, settings: LocalizeSettings) -> Table:
    """What is left of D and Δ when the CNN did not learn this."""
    keys = checks.select("check", "against").unique(maintain_order=True).rows()
    random = [against for check, against in keys if check == "randomized"]
    words = [f"random from {one} up" for one in random[:-1]] + ["all layers random"]
    words += [against for check, against in keys if check == "permuted"]
    found = list(_sanity(checks))
    return Table(
        title="Does Δ depend on what the CNN learned?",
        columns=("correlation with the trained CNN’s", *words),
        rows=[
            (f"{name}: {of}", *_correlations(own, keys, of))
            for name, own in _one_by_one(checks)
            for of in ("D", "Δ")
        ],
        summary=" ".join(one.sentence for one in found)
        + f" One CNN, up to 64 sequences a class, all of them counted. "
        f"{_few_read(checks, settings)}D is the attribution alone, "
        "Δ the mean of D times the attention, which stays the same and keeps Δ alike whatever the "
        "CNN is. Pearson, Spearman, overlap of the top 1 %. Checks after Adebayo et al., arXiv "
        "1810.03292.",
        gist=", ".join(f"{one.attribution} {one.verdict}" for one in found),
    )


def _one_by_one(checks: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """The rows of each attribution and class, under a name."""
    for attribution in _names(checks, "attribution"):
        for name in _names(checks, "class"):
            own = checks.filter(pl.col("class") == name, attribution=attribution)
            yield f"{name}, {attribution}", own


def _correlations(rows: pl.DataFrame, keys: list[tuple[str, str]], of: str) -> list[str]:
    """`.83 · .75 · 61 %` for each check and what it is against, or a dash."""
    cells = []
    for check, against in keys:
        found = rows.filter(check=check, against=against, of=of).drop_nulls("pearson").to_dicts()
        cells += [
            f"{decimal(one['pearson'])} · {decimal(one['spearman'])} · {one['overlap']:.0%}"
            for one in found[:1]
        ] or [UNKNOWN]
    return cells


def _disagreement(checks: pl.DataFrame) -> str:
    """Name the pair of attributions whose Δ agrees least, and all pairs that name other edges."""
    pairs = checks.filter(check="attributions").drop_nulls("spearman")
    if pairs.is_empty():
        return ""
    worst = pairs.sort("overlap", maintain_order=True).row(0, named=True)
    apart = [f"{one} and {other} ({overlap:.0%})" for one, other, overlap in _apart(pairs)]
    others = "Every two have half of the top 1 % or more in common, mean over the classes. "
    if apart:
        few = "Less than half of the top 1 % in common, mean over the classes"
        others = f"{few}: {', '.join(apart)}. "
    return (
        f"The attributions disagree most on {worst['class']}: of the top 1 % of edges by "
        f"{worst['attribution']} and by {worst['against']}, {worst['overlap']:.0%} are the same "
        f"(rank correlation {decimal(worst['spearman'])}). {others}"
    )


def _apart(pairs: pl.DataFrame) -> list[tuple[str, str, float]]:
    """Pairs of attributions with less than half of their top edges in common, over the classes."""
    found = []
    for one, other in combinations(_names(pairs, "attribution"), 2):
        overlap = _mean(pairs.filter(attribution=one, against=other)["overlap"])
        if overlap is not None and overlap < _HALF:
            found.append((one, other, overlap))
    return found


def _few_read(checks: pl.DataFrame, settings: LocalizeSettings) -> str:
    """Say which attributions read a few sequences alone, and how many."""
    few = [one for one in _names(checks, "attribution") if one in COSTLY]
    if not few or settings.attribution_sequences is None:
        return ""
    verb = "read" if len(few) > 1 else "reads"
    return (
        f"{' and '.join(few).capitalize()} {verb} up to {settings.attribution_sequences} sequences "
        "of each class (localize.attribution_sequences). "
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

    @property
    def sentence(self) -> str:
        """Whether D loses its structure with the CNN's top layer."""
        beyond = "of what it has beyond a random CNN does not come from what the top learned."
        told = f"{self.attribution}: with random weights in the top layer D keeps a correlation of "
        told += f"{decimal(self.top)}, with all layers random {decimal(self.floor)}"
        if self.permuted is not None:
            told += f", with a CNN of permuted labels {decimal(self.permuted)}"
        ends = {
            "fails": f"it fails the check, most {beyond}",
            "passes in part": f"it passes in part, {self.kept:.0%} {beyond}",
            "passes": "what it had beyond the floor of a random CNN is lost with the top layer.",
        }
        return f"{told}: {ends[self.verdict]}"


def _sanity(checks: pl.DataFrame) -> Iterator[_Sanity]:
    """What is left of each attribution's D."""
    random = _names(checks.filter(check="randomized"), "against")
    for attribution in _names(checks, "attribution"):
        own = checks.filter(attribution=attribution, of="D")
        top, floor = (_mean(own.filter(against=one)["pearson"]) for one in (random[0], random[-1]))
        if top is not None and floor is not None:
            permuted = _mean(own.filter(check="permuted")["pearson"])
            yield _Sanity(attribution, top, floor, permuted)


def _names(frame: pl.DataFrame, column: str) -> list[str]:
    """The values of a column in the order of coming."""
    return frame[column].unique(maintain_order=True).to_list()


def _mean(values: pl.Series) -> float | None:
    known = values.drop_nulls()
    return None if known.is_empty() else float(np.mean(known.to_numpy()))


def _gap(own: float | None, other: float | None) -> float | None:
    return None if own is None or other is None else own - other


def level_section(study: Study) -> AnalysisSection | None:
    """Shares and figures by level; None where duplicates are no few set levels."""
    table = study.sequences
    levels = levels_of(table)
    if not levels or not (study.folder / LEVELS_FILE).is_file():
        return None
    shares = count_levels(table, study.read(LABELS_FILE), levels)
    figures = study.read(LEVELS_FILE)
    dose = shares.filter(pl.col("class") == MEMORIZED, pl.col("taxonomy").is_null())
    return AnalysisSection(
        name="levels of duplicates",
        title="How memory grows with the number of times a text was trained on",
        question="Levels are few and set, 0 among them: where they were drawn at random, texts of "
        "all levels are alike, and what differs between them is memory.",
        sentence=_sentence(dose, figures),
        further=(
            "A level is told from level 0 by how likely the reader holds Non-Memo, whatever the "
            "class. Within a level each training is asked which of the classes that occur there, "
            "in 10 passages or more, a sequence is of. Intervals are 95 %, over passages.",
            "Asked are the sequences drawn for the taxonomy, equally many of each class, so a "
            "level holds more memorized ones here than in the table; and Non-Memo is shown with "
            "the model's own continuation, unless label.non_memo_suffix is 'true'. The tokens "
            "alone may tell a level for both reasons: read the excess, not the AUC.",
        ),
        figures=tuple(_charts(dose, figures, levels)),
        tables=[
            _share_table(shares),
            *_figure_tables(figures),
        ],
    )


def _sentence(dose: pl.DataFrame, figures: pl.DataFrame) -> str:
    first, *_, last = rows_of(dose)
    said = (
        f"Memorized are {first['share']} of the sequences that were never "
        f"trained on, and {last['share']} of those trained on "
        f"{count(last['duplicates'])} times."
    )
    known = figures.drop_nulls("dose_excess")
    if known.is_empty():
        return f"{said} No level has an excess over level 0: too few passages, or no control."
    own = known.filter(taxonomy=known["taxonomy"][0])
    shown = "; ".join(
        f"{count(row['duplicates'])}: {_points(row['dose_excess'])}" for row in rows_of(own)
    )
    return (
        f"{said} How much better attention tells a level from level 0 than the best control does, "
        f"by its probability of Non-Memo under “{own['taxonomy'][0]}”, in points of AUC: {shown}."
    )


def _points(found: Estimate) -> str:
    ends = "" if found.low is None else f" [{points(found.low)}, {points(found.high)}]"
    return f"{points(found.value)}{ends}"


def _charts(dose: pl.DataFrame, figures: pl.DataFrame, levels: list[int]) -> Iterator[Chart]:
    names = tuple(count(one) for one in levels)
    yield Chart(
        title="Memorized, per cent of the sequences of a level (95 %)",
        x_names=names,
        x_label="times trained on",
        percent=True,
        series=(series_of("memorized", dose, "share"),),
    )
    for name, title in (
        ("dose_excess", "A level told from level 0: excess, points of AUC (95 %)"),
        ("excess", "Classes told apart within a level: excess, points of min-F1 (95 %)"),
    ):
        places = [levels.index(one) for one in figures["duplicates"]]
        known = figures.with_columns(place=pl.Series(places, dtype=pl.Int64)).drop_nulls(name)
        if not known.is_empty():
            yield Chart(
                title=title,
                x_names=names,
                x_label="times trained on",
                percent=True,
                form="points",
                series=tuple(
                    series_of(str(taxonomy), rows, name, x="place")
                    for (taxonomy,), rows in known.group_by("taxonomy", maintain_order=True)
                ),
            )


def _share_table(shares: pl.DataFrame) -> Table:
    rows = [
        (
            f"{count(row['duplicates'])}: {row['class']}"
            + (f" ({row['taxonomy']})" if row["taxonomy"] else ""),
            count(row["n"]),
            count(row["n_groups"]),
            str(row["share"]),
        )
        for row in rows_of(shares)
    ]
    return Table(
        title="memorized and classes by level",
        columns=("level and class", "of sequences", "passages", "share"),
        rows=rows,
    )


def _figure_tables(figures: pl.DataFrame) -> Iterator[Table]:
    for (name,), own in figures.group_by("taxonomy", maintain_order=True):
        rows = []
        for row in rows_of(own):
            auc = "; ".join(
                f"{pair} {percent(found.value)}"
                for pair, found in zip(row["auc_pairs"] or (), row["auc"], strict=False)
            )
            dose, min_f1 = row["dose_auc"], row["min_f1"]
            rows.append(
                (
                    count(row["duplicates"]),
                    UNKNOWN if dose.value is None else str(dose),
                    _points(row["dose_excess"]),
                    ", ".join(row["classes"] or ()) or UNKNOWN,
                    count(row["n_eval"]) if row["n_eval"] else UNKNOWN,
                    count(row["n_groups"]) if row["n_groups"] else UNKNOWN,
                    UNKNOWN if min_f1.value is None else str(min_f1),
                    auc or UNKNOWN,
                    _points(row["excess"]),
                    row["note"] or "",
                )
            )
        yield Table(
            title=f"figures of {name} by level",
            columns=(
                *("level", "AUC against level 0", "its excess, points", "classes within the level"),
                *("sequences", "passages", "min-F1", "AUC", "excess, points", "note"),
            ),
            rows=rows,
        )
