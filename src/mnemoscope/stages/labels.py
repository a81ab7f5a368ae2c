"""Stage `label`: a class for each sequence under each taxonomy, sampled and split."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from mnemoscope.progress import say
from mnemoscope.stages.models import Models
from mnemoscope.study import Study
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.labels import count_classes, label_sequences
from mnemoscope.taxonomy.names import Taxonomy
from mnemoscope.taxonomy.sampling import Impossible, Sample, sample_classes
from mnemoscope.taxonomy.splitting import find_groups

__all__ = ["label_stage", "sample_name", "samples_of"]

LABELS_FILE = "labels.parquet"
SAMPLES_FILE = "samples.parquet"


def sample_name(taxonomy: str, match: str | None) -> str:
    """How a sample of a taxonomy is called in every table of the study."""
    return f"{taxonomy} (same {match})" if match else taxonomy


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
        for taxonomy, match in _wanted(taxonomies, settings.match):
            name = sample_name(taxonomy.name, match)
            outcome = _sample(frame, labels[taxonomy.name], taxonomy, match, study)
            entries[name] = _entry(taxonomy, match, labels[taxonomy.name], outcome)
            if isinstance(outcome, Sample):
                sampled.append(_rows(name, outcome, settings.non_memo_suffix))
            else:
                say(f"{name}: impossible. {outcome.reason}")
        study.write(SAMPLES_FILE, pl.concat(sampled) if sampled else _no_rows())
        counts["samples"] = entries
        counts["aliases"] = _aliases(taxonomies)
        study.forget("capture")  # an earlier capture of everything lacks what is sampled now


def samples_of(study: Study) -> dict[str, dict[str, Any]]:
    """What the label stage says of each sample: taxonomy, classes, counts, reason if impossible."""
    manifest = study.manifest("label") or {"counts": {"samples": {}}}
    entries: dict[str, dict[str, Any]] = manifest["counts"]["samples"]
    return entries


def _wanted(taxonomies: list[Taxonomy], match: str | None) -> Iterator[tuple[Taxonomy, str | None]]:
    """Each distinct partition once as sampled, then once more matched when that is asked for."""
    seen: set[Any] = set()
    for taxonomy in taxonomies:
        if taxonomy.partition_key not in seen:
            seen.add(taxonomy.partition_key)
            yield taxonomy, None
            if match:
                yield taxonomy, match


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
    taxonomy: Taxonomy, match: str | None, labels: pl.Series, outcome: Sample | Impossible
) -> dict[str, Any]:
    """What the manifest keeps of one sample."""
    entry: dict[str, Any] = {
        "taxonomy": taxonomy.name,
        "match": match,
        "classes": list(taxonomy.classes),
        "counts": count_classes(labels),
        "unlabelled": labels.null_count(),
    }
    if isinstance(outcome, Impossible):
        return entry | {"impossible": outcome.reason}
    per_split = outcome.frame.group_by("split").len()
    sizes = dict(zip(per_split["split"], per_split["len"], strict=True))
    trained = [name for name in taxonomy.classes if name not in outcome.dropped]
    return entry | {
        "trained_classes": trained,
        "dropped": list(outcome.dropped),
        "warnings": list(outcome.warnings),
        "n_train": sizes.get("train", 0) // len(trained),
        "n_eval": sizes.get("eval", 0) // len(trained),
    }


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
