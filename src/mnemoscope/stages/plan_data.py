"""What is known of a study's sequences before it runs: from the data on disk, else from tables."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from mnemoscope.config import EMBEDDED, StudySettings
from mnemoscope.errors import UserError
from mnemoscope.sequences.code import is_available
from mnemoscope.sequences.features import add_features
from mnemoscope.sequences.split_files import HUB_NAME, SPLITS, list_splits
from mnemoscope.sequences.table_rows import has_values
from mnemoscope.stages.model_shape import pythia_facts
from mnemoscope.stages.plan_overlap import count_class_sets
from mnemoscope.stages.published_split import read_published
from mnemoscope.study import Study
from mnemoscope.taxonomy.names import Taxonomy

if TYPE_CHECKING:
    from mnemoscope.stages.models import Models

__all__ = ["PlannedData", "find_data", "lacking_columns", "with_verdicts"]

_VERDICTS = ("is_memorized", "published_is_memorized", "memorization_score")


@dataclass(frozen=True)
class PlannedData:
    """A study's sequences, as far as they are known.

    Attributes:
        frame: the table; None where it is not on disk.
        n_sequences: sequences that the model will be asked about, at most; None: not known.
        n_memorized: of these memorized, at most; None: not known.
        lines: what is known and where it is from, in words.
        classes: published counts `recite`, `reconstruct`, `recollect`; empty where not known.
    """

    frame: pl.DataFrame | None
    n_sequences: int | None
    n_memorized: int | None
    lines: list[str]
    classes: dict[str, int] = field(default_factory=dict)


def find_data(
    settings: StudySettings,
    taxonomies: list[Taxonomy],
    study: Study | None,
    *,
    models: "Models | None",
) -> PlannedData:
    """Find out what can be known of the sequences; nothing is downloaded or written.

    Args:
        settings: of the study.
        taxonomies: as asked for.
        study: the study, where it is there already.
        models: the study's models, None where the model is not on disk.

    Raises:
        UserError: what `run` would refuse: nothing there, no such split, an unreadable table.
    """
    wanted = settings.sequences
    if study is not None:
        return _of_frame(study.sequences, "in the study")
    if wanted.source == HUB_NAME and not Path(wanted.source).exists():
        settings = _from_cache(settings) or settings
        if settings.sequences.source == HUB_NAME:
            return _published(settings, taxonomies)
    if settings.sequences.split is not None:
        return _of_frame(read_published(settings).frame, f"kept of {wanted.split}, on disk")
    if models is not None:
        from mnemoscope.stages.sequences import check_sources

        return _of_frame(check_sources(settings, models).frame, "on disk")
    return _without_tokenizer(settings)


def lacking_columns(
    data: PlannedData, settings: StudySettings, taxonomies: list[Taxonomy]
) -> dict[str, list[Taxonomy]]:
    """Columns that taxonomies need and the table will not have, with those taxonomies.

    Empty where the table is not on disk (the published data set has all columns).
    """
    frame = data.frame
    if frame is None:
        return {}
    found: dict[str, list[Taxonomy]] = {}
    for taxonomy in taxonomies:
        for column in taxonomy.columns:
            if not _will_have(frame, column, settings):
                found.setdefault(column, []).append(taxonomy)
    return found


def with_verdicts(data: PlannedData, settings: StudySettings) -> pl.DataFrame | None:
    """The table with labels of memorization and features, as the stage `label` will see it.

    Returns:
        None where the labels or the duplicates are not known before the study runs.
    """
    frame = data.frame
    if frame is None:
        return None
    verdict = next((name for name in _VERDICTS if has_values(frame, name)), None)
    if verdict is None:
        return None
    if verdict == "published_is_memorized":
        frame = frame.with_columns(pl.col(verdict).alias("is_memorized"))
    if has_values(frame, "rouge_l"):
        return frame
    if settings.features.corpus is not None:
        return None  # counting duplicates takes as long as the stage itself
    frame = add_features(
        frame, patterns=settings.features.patterns, length=settings.sequences.length, code="off"
    )
    if settings.features.patterns == "published":
        for name in ("is_incrementing", "is_repeating"):
            if f"published_{name}" in frame.columns:
                frame = frame.with_columns(pl.coalesce(f"published_{name}", name).alias(name))
    return frame


def _of_frame(frame: pl.DataFrame, where: str) -> PlannedData:
    """A table that is on disk."""
    verdict = next((name for name in _VERDICTS if has_values(frame, name)), None)
    n_memorized = None
    lines = []
    if verdict is not None:
        n_memorized = int((frame[verdict].cast(pl.Float64) == 1).sum())
        source = "found by the model" if verdict == "is_memorized" else "as the table says"
        lines.append(f"Memorized: {n_memorized:,}, {source}.")
    lines.insert(0, f"{frame.height:,} sequences {where}.")
    return PlannedData(frame, frame.height, n_memorized, lines)


def _without_tokenizer(settings: StudySettings) -> PlannedData:
    """A source that is on disk while the model is not."""
    from mnemoscope.sequences.readers import read_sequences
    from mnemoscope.sequences.schema import read_table

    wanted = settings.sequences
    if wanted.source == EMBEDDED:
        from mnemoscope.embedded import sequences_path

        return _of_frame(read_table(sequences_path()), "on disk")
    if not Path(wanted.source).exists():
        raise UserError(f"{wanted.source}: no such file or folder.")
    try:
        frame = read_sequences(wanted.source, None, length=wanted.length).frame
    except UserError as error:
        if "tokenizer" not in str(error):
            raise
        line = f"{wanted.source}: texts; how many sequences they give is known with the tokenizer."
        return PlannedData(None, None, None, [line])
    return _of_frame(frame, "on disk")


def _from_cache(settings: StudySettings) -> StudySettings | None:
    """The settings with the local copy of the data set as source, where there is one."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    split = settings.sequences.split
    if split is None or not folder.is_dir():
        return None
    held = list_splits(folder)
    if not all(name in held for name in _parts(split)):
        return None
    wanted = settings.sequences.model_copy(update={"source": str(folder)})
    return settings.model_copy(update={"sequences": wanted})


def _parts(split: str) -> list[str]:
    """Full names of what a split stands for."""
    return [split] if split in SPLITS else [f"pile_{split}", f"memories_{split}"]


def _published(settings: StudySettings, taxonomies: list[Taxonomy]) -> PlannedData:
    """The paper's data set, not on disk: what its tables say."""
    split = settings.sequences.split
    if split is None or not all(name in SPLITS for name in _parts(split)):
        from mnemoscope.sequences.split_files import find_split

        if split is None:
            raise UserError(
                f"{HUB_NAME}: which split? Name it with --split, for example --split deduped_12b."
            )
        find_split(HUB_NAME, split)  # refuses, with the nearest name
    assert split is not None
    whole = split.partition("_")[2] if split in SPLITS else split
    facts = pythia_facts()["splits"][whole]
    parts = {name.partition("_")[0]: facts[name.partition("_")[0]] for name in _parts(split)}
    label = settings.label
    kept = round(settings.sequences.margin * (label.n_train + label.n_eval))
    # One more than the classes of the taxonomies: all memorized ones, to check the labels by.
    n_at_most = min(sum(parts.values()), kept * (count_class_sets(taxonomies) + 1))
    if settings.sequences.limit is not None:
        n_at_most = min(n_at_most, settings.sequences.limit)
    counted = " + ".join(f"{name} {n:,}" for name, n in parts.items())
    lines = [
        f"{HUB_NAME}, {split}: {counted} rows, as published (not on disk; run fetches them).",
        f"Kept of them: at most {n_at_most:,} ({kept:,} of each different class).",
    ]
    classes = {key: facts[key] for key in ("recite", "reconstruct", "recollect") if key in facts}
    n_memorized = n_at_most - (kept if "pile" in parts else 0)
    return PlannedData(None, n_at_most, n_memorized, lines, classes if "memories" in parts else {})


def _will_have(frame: pl.DataFrame, column: str, settings: StudySettings) -> bool:
    """Whether a feature will be known of any sequence."""
    if column in ("rouge_l", "rouge_3"):
        return True  # from the tokens, which every sequence has
    if column in ("is_incrementing", "is_repeating"):
        return any(
            has_values(frame, name) for name in (column, "text", "tokens", f"published_{column}")
        )
    if column == "duplicates" and settings.features.corpus is not None:
        return True
    if column == "is_code" and is_available():
        return True
    return has_values(frame, column)
