"""Stage `label`: a class for each sequence under each taxonomy, sampled and split."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import polars as pl

from mnemoscope.config import LabelSettings
from mnemoscope.progress import say
from mnemoscope.stages.models import Models
from mnemoscope.study import Study
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.labels import count_classes, label_sequences
from mnemoscope.taxonomy.names import Taxonomy
from mnemoscope.taxonomy.sampling import Impossible, Sample, sample_classes
from mnemoscope.taxonomy.splitting import find_groups

__all__ = ["LABELS_FILE", "SAMPLES_FILE", "Variant", "label_stage", "samples_of", "variants"]

LABELS_FILE = "labels.parquet"
SAMPLES_FILE = "samples.parquet"
_SHOWN = {"own": "Non-Memo with its continuation", "true": "Non-Memo with its true suffix"}
_SHOWN_NOTE = (
    "The same sequences; what Non-Memo shows after the prefix is exchanged, since greedy text "
    "loops and can give the class away."
)


@dataclass(frozen=True)
class Variant:
    """One choice of sequences on which every taxonomy is measured.

    Attributes:
        suffix: appended to the taxonomy's name in every table of the study.
        title: which sequences, in a few words.
        note: what is special about them, empty for the main one.
        match: column whose values are equally frequent in every class, None for none.
        non_memo_suffix: what Non-Memo sequences show after the prefix: `own` or `true`.
    """

    suffix: str
    title: str
    note: str
    match: str | None
    non_memo_suffix: str


def variants(settings: LabelSettings) -> list[Variant]:
    """The main choice of sequences, then the repetitions that the settings ask for."""
    own = settings.non_memo_suffix
    found = [Variant("", "all sequences", "", None, own)]
    if settings.both_suffixes:
        other = "true" if own == "own" else "own"
        found.append(Variant(f" ({other} suffix)", _SHOWN[other], _SHOWN_NOTE, None, other))
    if settings.match:
        column = settings.match
        note = f"Every class has the same number of sequences of each {column}."
        found.append(Variant(f" (same {column})", f"same {column}", note, column, own))
    return found


def label_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all stages are called alike
    """Write `labels.parquet` (a column a taxonomy) and `samples.parquet` (who is trained on what).

    A taxonomy that cannot be trained is kept in the manifest as impossible, with its reason.
    """
    study.require("continue")
    study.require("features")
    settings = study.settings.label
    with study.finishing("label") as counts:
        frame = study.sequences
        frame = frame.with_columns(find_groups(frame).alias("group"))
        taxonomies = load_taxonomies(settings.taxonomies)
        labels = {taxonomy.name: label_sequences(frame, taxonomy) for taxonomy in taxonomies}
        study.write(LABELS_FILE, frame.select("sequence_id").with_columns(**labels))
        sampled, entries = [], {}
        for taxonomy, variant in product(_distinct(taxonomies), variants(settings)):
            name = taxonomy.name + variant.suffix
            outcome = _sample(frame, labels[taxonomy.name], taxonomy, variant.match, study)
            entries[name] = _entry(taxonomy, variant, labels[taxonomy.name], outcome)
            if isinstance(outcome, Sample):
                sampled.append(_rows(name, outcome, variant.non_memo_suffix))
            else:
                say(f"{name}: impossible. {outcome}")
        study.write(SAMPLES_FILE, pl.concat(sampled) if sampled else _no_rows())
        counts["samples"] = entries
        counts["aliases"] = _aliases(taxonomies)
        study.forget("capture")  # an earlier capture of everything lacks what is sampled now


def samples_of(study: Study) -> dict[str, dict[str, Any]]:
    """What the label stage says of each sample: taxonomy, classes, counts, reason if impossible."""
    manifest = study.manifest("label") or {"counts": {"samples": {}}}
    entries: dict[str, dict[str, Any]] = manifest["counts"]["samples"]
    return entries


def _distinct(taxonomies: list[Taxonomy]) -> list[Taxonomy]:
    """Each partition once, under the name that comes first."""
    first: dict[Any, Taxonomy] = {}
    for taxonomy in taxonomies:
        first.setdefault(taxonomy.partition_key, taxonomy)
    return list(first.values())


def _aliases(taxonomies: list[Taxonomy]) -> dict[str, str]:
    """Names that mean the same partition as an earlier one: later name to earlier name."""
    first: dict[Any, str] = {}
    return {
        taxonomy.name: first[taxonomy.partition_key]
        for taxonomy in taxonomies
        if first.setdefault(taxonomy.partition_key, taxonomy.name) != taxonomy.name
    }


def _sample(
    frame: pl.DataFrame, labels: pl.Series, taxonomy: Taxonomy, match: str | None, study: Study
) -> Sample | Impossible:
    """Draw and split one taxonomy as the settings say."""
    settings = study.settings.label
    return sample_classes(
        frame,
        labels,
        taxonomy,
        n_train=settings.n_train,
        n_eval=settings.n_eval,
        seed=settings.seed,
        split=settings.split,
        match=match,
        drop_small_classes=settings.drop_small_classes,
        minimum=settings.minimum,
    )


def _entry(
    taxonomy: Taxonomy, variant: Variant, labels: pl.Series, outcome: Sample | Impossible
) -> dict[str, Any]:
    """What the manifest keeps of one sample."""
    entry: dict[str, Any] = {
        "taxonomy": taxonomy.name,
        "published_name": taxonomy.published_name,
        "title": variant.title,
        "note": variant.note,
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


def _meanings(taxonomy: Taxonomy) -> list[str]:
    """Each class in words."""
    return [
        "the model's continuation differs from the text's suffix",
        *[f"memorized, and {node.meaning}" for node in taxonomy.nodes],
        "memorized, and none of the rules before holds",
    ]


def _rows(name: str, sample: Sample, non_memo_suffix: str) -> pl.DataFrame:
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


def _no_rows() -> pl.DataFrame:
    """An empty samples table."""
    text, number = pl.String, pl.Int64
    return pl.DataFrame(
        schema={
            "sample": text,
            "sequence_id": number,
            "class": text,
            "class_index": number,
            "split": text,
            "group": number,
            "suffix": text,
        }
    )
