"""Stage `label`: a class for each sequence under each taxonomy, sampled and split."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from mnemoscope.config import StudySettings
from mnemoscope.progress import say
from mnemoscope.stages.models import Models
from mnemoscope.stages.published_split import fit_labels
from mnemoscope.stages.sample_entries import make_entry, no_rows, sample_rows_of
from mnemoscope.stages.variants import Variant, variants
from mnemoscope.study import Study
from mnemoscope.taxonomy.aliases import Alias, find_aliases
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import Taxonomy
from mnemoscope.taxonomy.near_duplicates import SHINGLE, SIMILARITY
from mnemoscope.taxonomy.sampling import Ordered, Sample, draw_sample, order_table
from mnemoscope.taxonomy.sharing import SharedNeed, shared_need
from mnemoscope.taxonomy.splitting import find_groups

__all__ = [
    "LABELS_FILE",
    "SAMPLES_FILE",
    "Variant",
    "aliases_of",
    "label_stage",
    "samples_of",
    "sharing_of",
    "variants",
]

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
