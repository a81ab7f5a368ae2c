"""Stage `label`: a class for each sequence under each taxonomy, sampled and split."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from mnemoscope.pipeline.published_split import fit_labels
from mnemoscope.progress import say
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import StudySettings
from mnemoscope.study.variants import Variant, variants
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.groups import SHINGLE, SIMILARITY, find_groups
from mnemoscope.taxonomy.labels import count_classes, label_sequences
from mnemoscope.taxonomy.names import Alias, Taxonomy, find_aliases
from mnemoscope.taxonomy.sample import (
    Impossible,
    Ordered,
    Sample,
    SharedNeed,
    draw_sample,
    order_table,
    shared_need,
)

# What the label stage writes of one sample: its rows, and its entry in the manifest.

_SCHEMA = {
    "sample": pl.String,
    "sequence_id": pl.Int64,
    "class": pl.String,
    "class_index": pl.Int64,
    "split": pl.String,
    "group": pl.Int64,
    "suffix": pl.String,
}


def make_entry(
    taxonomy: Taxonomy, variant: Variant, labels: pl.Series, outcome: Sample | Impossible
) -> dict[str, Any]:
    """What the manifest keeps of one sample."""
    entry: dict[str, Any] = {
        "taxonomy": taxonomy.name,
        "published_name": taxonomy.published_name,
        "title": variant.title,
        "note": variant.note,
        "split_by": variant.split,
        "classes": list(taxonomy.classes),
        "meanings": _meanings(taxonomy),
        "counts": count_classes(labels, taxonomy.classes),
        "unlabelled": labels.null_count(),
    }
    if isinstance(outcome, Impossible):
        return entry | {"impossible": str(outcome)}
    return entry | {
        "trained_classes": list(outcome.classes),
        "dropped": list(outcome.dropped),
        "warnings": list(outcome.warnings),
        "n_train": outcome.n_train,
        "n_eval": outcome.n_eval,
        "n_groups_crossing": outcome.n_groups_crossing,
    }


def sample_rows_of(name: str, sample: Sample, non_memo_suffix: str) -> pl.DataFrame:
    """The sample's rows with what each sequence shows after its prefix."""
    shown = pl.when(pl.col("class") == "Non-Memo").then(pl.lit(non_memo_suffix))
    return sample.frame.select(
        pl.lit(name).alias("sample"),
        "sequence_id",
        "class",
        pl.col("class_index").cast(pl.Int64),
        "split",
        pl.col("group").cast(pl.Int64),
        shown.otherwise(pl.lit("true")).alias("suffix"),
    )


def no_rows() -> pl.DataFrame:
    """An empty samples table."""
    return pl.DataFrame(schema=_SCHEMA)


def _meanings(taxonomy: Taxonomy) -> list[str]:
    """Each class in words."""
    return [
        "the model's continuation differs from the text's suffix",
        *[f"memorized, and {node.meaning}" for node in taxonomy.nodes],
        "memorized, and none of the rules before holds",
    ]


# Stage `label`: a class for each sequence under each taxonomy, sampled and split.

LABELS_FILE = "labels.parquet"
SAMPLES_FILE = "samples.parquet"


def label_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all stages are called alike
    """Write `labels.parquet` (a column a taxonomy) and `samples.parquet` (who is trained on what).

    A taxonomy that cannot be trained is kept in the manifest as impossible, with its reason; one
    that divides these sequences as another does is kept as its alias and not trained again.
    """
    study.require("continue")
    study.require("features")
    with study.finishing("label") as counts:
        frame = study.sequences
        frame = frame.with_columns(find_groups(frame).alias("group"))
        taxonomies = load_taxonomies(study.settings.label.taxonomies)
        labels = {taxonomy.name: label_sequences(frame, taxonomy) for taxonomy in taxonomies}
        study.write(LABELS_FILE, frame.select("sequence_id").with_columns(**labels))
        drawn = _Drawn(frame, study.settings)
        aliases = find_aliases(taxonomies, labels)
        for taxonomy in taxonomies:  # an alias comes after what it is an alias of
            alias = aliases.get(taxonomy.name)
            if alias is None or "impossible" in drawn.entries[alias.of]:
                aliases.pop(taxonomy.name, None)  # it says itself why it cannot be trained
                drawn.draw(taxonomy, labels[taxonomy.name])
        samples = pl.concat([no_rows(), *drawn.rows])
        study.write(SAMPLES_FILE, samples)
        need = shared_need(samples, _names(drawn.entries, aliases))
        counts |= _need_counts(need) | _alias_counts(aliases)
        counts["near_duplicates"] = _group_counts(frame["group"])
        counts["samples"] = drawn.entries
        _tell(drawn.entries, need, len(taxonomies), len(aliases))
        study.forget("capture")  # an earlier capture of everything lacks what is sampled now


def samples_of(study: Study) -> dict[str, dict[str, Any]]:
    """What the label stage says of each sample: taxonomy, classes, counts, reason if impossible."""
    entries: dict[str, dict[str, Any]] = _counts_of(study).get("samples", {})
    return entries


def aliases_of(study: Study) -> dict[str, Alias]:
    """Taxonomies that are not trained because another divides these sequences alike, by name."""
    counts = _counts_of(study)
    details = counts.get("alias_details", {})
    return {
        name: Alias(of, details[name]["reason"], tuple(details[name]["classes"]))
        for name, of in counts.get("aliases", {}).items()
        if name in details
    }


def sharing_of(study: Study) -> SharedNeed | None:
    """What all samples need together and apart, None where the stage has not said."""
    counts = _counts_of(study)
    names = ("distinct_sequences", "distinct_maps", "maps_without_sharing")
    return SharedNeed(*(counts[name] for name in names)) if names[0] in counts else None


@dataclass
class _Drawn:
    """Samples of one table, drawn taxonomy by taxonomy."""

    frame: pl.DataFrame
    settings: StudySettings
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[pl.DataFrame] = field(default_factory=list)
    _ordered: dict[tuple[str, str | None], Ordered] = field(default_factory=dict)

    def draw(self, taxonomy: Taxonomy, labels: pl.Series) -> None:
        """Sample one taxonomy in every variant."""
        wanted = self.settings.label
        sizes = (wanted.n_train, wanted.n_eval)
        fit = fit_labels(self.frame, labels, taxonomy, self.settings)
        for variant in variants(wanted):
            name = taxonomy.name + variant.suffix
            outcome = draw_sample(
                self._order(variant),
                fit,
                taxonomy,
                n_train=sizes[0],
                n_eval=sizes[1],
                drop_small_classes=wanted.drop_small_classes,
                minimum=wanted.minimum,
            )
            self.entries[name] = make_entry(taxonomy, variant, labels, outcome)
            if isinstance(outcome, Sample):
                self.rows.append(sample_rows_of(name, outcome, variant.non_memo_suffix))
                if not variant.suffix:  # no repetition trains on more than what it is held against
                    sizes = (outcome.n_train, outcome.n_eval)

    def _order(self, variant: Variant) -> Ordered:
        """The table in the order of its seed, once for all taxonomies."""
        key = (variant.split, variant.match)
        if key not in self._ordered:
            self._ordered[key] = order_table(
                self.frame,
                seed=self.settings.label.seed,
                split=variant.split,
                match=variant.match,
            )
        return self._ordered[key]


def _counts_of(study: Study) -> dict[str, Any]:
    """What the label stage counted, nothing before it has been run."""
    counts: dict[str, Any] = (study.manifest("label") or {"counts": {}})["counts"]
    return counts


def _names(entries: Mapping[str, dict[str, Any]], aliases: Mapping[str, Alias]) -> dict[str, int]:
    """How many names each sample serves."""
    of = [alias.of for alias in aliases.values()]
    return {name: 1 + of.count(entry["taxonomy"]) for name, entry in entries.items()}


def _need_counts(need: SharedNeed) -> dict[str, Any]:
    """What is needed together and apart, as the manifest keeps it."""
    return {
        "distinct_sequences": need.n_sequences,
        "distinct_maps": need.n_maps,
        "maps_without_sharing": need.n_unshared,
    }


def _alias_counts(aliases: Mapping[str, Alias]) -> dict[str, Any]:
    """Later name to earlier name; why, and which class is which."""
    return {
        "aliases": {name: alias.of for name, alias in aliases.items()},
        "alias_details": {
            name: {"reason": alias.reason, "classes": list(alias.classes)}
            for name, alias in aliases.items()
        },
    }


def _group_counts(groups: pl.Series) -> dict[str, Any]:
    """How near duplicates were found, and what was found."""
    sizes = groups.value_counts(sort=True)
    shared = sizes.filter(pl.col("count") > 1)
    return {
        "shingle": SHINGLE,
        "jaccard": SIMILARITY,
        "groups": sizes.height,
        "sequences_with_relatives": int(shared["count"].sum()),
        "largest_group": max(sizes["count"].to_list(), default=0),
    }


def _tell(
    entries: Mapping[str, dict[str, Any]], need: SharedNeed, n_names: int, n_aliases: int
) -> None:
    """Which samples are impossible and why, and what all need together."""
    impossible = [name for name, entry in entries.items() if "impossible" in entry]
    if len(impossible) == len(entries):
        say(f"None of {len(entries):,} samples can be drawn.")  # the next stage says why
        return
    for name in impossible:
        say(f"{name}: impossible. {entries[name]['impossible']}")
    same = f" ({n_aliases} divide these sequences as another does)" if n_aliases else ""
    say(f"{_plural(n_names, entries)}{same}: {need}.")


def _plural(n_names: int, entries: Iterable[str]) -> str:
    """How many taxonomies and samples, in words."""
    n_samples = len(list(entries))
    taxonomies = "1 taxonomy" if n_names == 1 else f"{n_names:,} taxonomies"
    return f"{taxonomies} in {n_samples:,} sample{'' if n_samples == 1 else 's'}"
