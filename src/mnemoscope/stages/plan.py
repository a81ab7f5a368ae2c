"""What a run would do, said before it does it, with the published pipeline beside it.

Works without the model and the data on disk: from tables of published shapes and counts, which it
then says. Nothing is written.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mnemoscope.config import EMBEDDED, StudySettings
from mnemoscope.stages.model_shape import ModelShape, find_shape, is_on_disk
from mnemoscope.stages.plan_cost import count_passes
from mnemoscope.stages.plan_data import PlannedData, find_data, lacking_columns, with_verdicts
from mnemoscope.stages.plan_overlap import (
    Overlap,
    bound_overlap,
    count_overlap,
    distinct_partitions,
    known_classes,
)
from mnemoscope.stages.plan_rows import CostRow, Facts, Speed, cost_rows, explain, summarize
from mnemoscope.stages.training_count import check_inputs, controlled_taxonomies, n_trainings
from mnemoscope.stages.variants import variants
from mnemoscope.study import STAGES, Study, check_free, is_study
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.names import Taxonomy

if TYPE_CHECKING:
    from mnemoscope.stages.models import Models

__all__ = ["Plan", "plan"]

_TIMED_SEQUENCES = 64


@dataclass(frozen=True)
class Plan:
    """What would be done.

    Attributes:
        lines: what the study is: model, sequences, taxonomies, stages.
        rows: its cost beside that of the published pipeline.
        notes: how the figures come about.
    """

    lines: list[str]
    rows: list[CostRow]
    notes: list[str]


def plan(settings: StudySettings, folder: Path, *, redo: bool = False) -> Plan:
    """Say what `run` would do; nothing is written.

    Args:
        settings: of the study.
        folder: where it is, or would be.
        redo: as `run` takes it.

    Raises:
        UserError: whatever `run` would refuse before it begins, as far as it can be known without
            a network.
    """
    taxonomies = load_taxonomies(settings.label.taxonomies)
    has_reference = settings.capture.reference is not None or settings.model.name == EMBEDDED
    check_inputs(settings, has_reference)
    study, todo = _existing(settings, folder, redo)
    model = _model(settings, study, is_needed=bool(todo))
    data = find_data(settings, taxonomies, study, models=model.models)
    lacking = lacking_columns(data, settings, taxonomies)
    possible = [t for t in taxonomies if not any(t in those for those in lacking.values())]
    overlap = _overlap(settings, possible, data, study, todo)
    samples = _samples(settings, possible, overlap)
    passes = count_passes(
        settings,
        n_sequences=data.n_sequences or 0,
        n_memorized=data.n_sequences or 0 if data.n_memorized is None else data.n_memorized,
        n_maps=overlap.at_most,
        n_own=overlap.own if settings.continue_.scan else 0,
        has_reference=has_reference,
    )
    facts = Facts(
        settings=settings,
        shape=model.shape,
        speed=_speed(model.models, settings),
        taxonomies=taxonomies,
        overlap=overlap,
        passes=passes,
        trainings=n_trainings(
            settings, len(samples), has_reference, _count_controlled(settings, samples)
        ),
        mean_classes=sum(len(s.classes) for s in samples) / max(1, len(samples)),
        has_reference=has_reference,
    )
    lines = [
        summarize(facts),
        f"Study {folder} ({'there already' if study else 'new'}).",
        model.line,
        *_data_lines(settings, data),
        *_taxonomy_lines(settings, taxonomies, samples, data, overlap, lacking),
        "Stages to run: " + (", ".join(todo) or "none"),
    ]
    return Plan(lines, cost_rows(facts), explain(facts))


class _Model(NamedTuple):
    """The model as far as it is known: loaded, or its shape alone."""

    models: "Models | None"
    shape: ModelShape | None
    line: str


def _existing(settings: StudySettings, folder: Path, redo: bool) -> tuple[Study | None, list[str]]:
    """The study that is there, and the stages that would run."""
    names = [stage.name for stage in STAGES if not stage.optional]
    if not is_study(folder):
        check_free(folder)
        return None, names
    study = Study(folder)
    changed = study.changed_stages(settings, redo=redo)
    study.settings = settings
    done = {name for name in names if name not in changed and study.is_done(name)}
    return study, [name for name in names if name not in done]


def _model(settings: StudySettings, study: Study | None, *, is_needed: bool) -> _Model:
    """Load the model where it is on disk and work is left for it, else find its shape."""
    wanted = settings.model
    shape = find_shape(wanted.name, wanted.revision)
    facts = study.record["models"].get("model") if study else None
    if facts and not is_needed:
        shown = f"{facts['n_layers']} layers, {facts['n_heads']} heads, {facts['dtype']}"
        return _Model(None, shape, f"Model {wanted.name}: {shown} on {facts['device']}.")
    if is_on_disk(wanted.name, wanted.revision):
        from mnemoscope.stages.models import Models

        models = Models(settings)
        lm = models.model()
        shape = ModelShape(
            lm.n_layers,
            lm.n_heads,
            getattr(lm.model.config, "hidden_size", shape.hidden if shape else 0),
            lm.vocab_size,
            sum(weights.numel() for weights in lm.model.parameters()),
            "the model itself",
        )
        shown = f"{shape.n_layers} layers, {shape.n_heads} heads, {lm.dtype} on {lm.device}"
        return _Model(models, shape, f"Model {wanted.name}: {shown}, on disk.")
    if shape is None:
        return _Model(
            None,
            None,
            f"Model {wanted.name}: not on disk and its shape is not known, so bytes, memory and "
            "time are left out.",
        )
    shown = f"{shape.n_layers} layers, {shape.n_heads} heads, {shape.n_parameters:,} parameters"
    return _Model(
        None,
        shape,
        f"Model {wanted.name}: {shown} (not on disk; from {shape.source}), "
        f"planned in {wanted.dtype} on {wanted.device}.",
    )


def _data_lines(settings: StudySettings, data: PlannedData) -> list[str]:
    """What is known of the sequences."""
    half = settings.sequences.length // 2
    if data.frame is None:
        return ["Sequences: " + data.lines[0], *data.lines[1:]]
    how = "scanned" if settings.continue_.scan else f"continued by {half} tokens"
    return [f"Sequences: {data.frame.height:,}, each {how}.", *data.lines[1:]]


def _overlap(
    settings: StudySettings,
    taxonomies: list[Taxonomy],
    data: PlannedData,
    study: Study | None,
    todo: list[str],
) -> Overlap:
    """Distinct maps: drawn already, counted from labels on disk, or bounded."""
    bounds = bound_overlap(taxonomies, settings.label, data.n_sequences)
    if study is not None and "label" not in todo:
        return _drawn(study, bounds)
    frame = with_verdicts(data, settings)
    if frame is None:
        return bounds
    how = "counted: every sample drawn from the labels on disk"
    return count_overlap(frame, taxonomies, settings, how=how)


def _drawn(study: Study, bounds: Overlap) -> Overlap:
    """What the samples of a labelled study need."""
    from mnemoscope.stages.labels import SAMPLES_FILE, samples_of

    rows = study.read(SAMPLES_FILE).select("sequence_id", "suffix").unique()
    entries = samples_of(study)
    impossible = {
        name: str(entry["impossible"]) for name, entry in entries.items() if "impossible" in entry
    }
    n_own = int((rows["suffix"] == "own").sum())
    how = "counted: the samples of the study"
    total = bounds.without_sharing
    return Overlap(rows.height, rows.height, n_own, total, how, impossible, frozenset(entries))


def _samples(
    settings: StudySettings, taxonomies: list[Taxonomy], overlap: Overlap
) -> list[Taxonomy]:
    """The taxonomy of every sample that is trained: each partition in every variant."""
    return [
        taxonomy
        for taxonomy in distinct_partitions(taxonomies)
        for variant in variants(settings.label)
        if taxonomy.name + variant.suffix not in overlap.impossible
        and (overlap.sampled is None or taxonomy.name + variant.suffix in overlap.sampled)
    ]


def _count_controlled(settings: StudySettings, samples: list[Taxonomy]) -> int:
    """Samples that get controls."""
    wanted = controlled_taxonomies(settings)
    return sum(wanted is None or sample.name in wanted for sample in samples)


def _taxonomy_lines(
    settings: StudySettings,
    taxonomies: list[Taxonomy],
    samples: list[Taxonomy],
    data: PlannedData,
    overlap: Overlap,
    lacking: dict[str, list[Taxonomy]],
) -> Iterator[str]:
    """How many taxonomies, how large their classes, and which cannot be trained."""
    label = settings.label
    yield (
        f"Taxonomies: {len(taxonomies)}, {len(distinct_partitions(taxonomies))} of them distinct; "
        f"up to {label.n_train:,} + {label.n_eval:,} sequences a class, split by {label.split}; "
        f"{len(samples)} samples to train on."
    )
    for column, those in lacking.items():
        yield (
            f"Impossible: {len(those)} need '{column}', which the table lacks, "
            f"{those[0].name} first."
        )
    for name, reason in list(overlap.impossible.items())[:3]:
        yield f"Impossible: {name}: {reason}"
    if len(overlap.impossible) > 3:
        yield f"Impossible: {len(overlap.impossible) - 3} more."
    if data.classes:
        yield from _class_lines(taxonomies, data.classes, label.n_train + label.n_eval)


def _class_lines(
    taxonomies: list[Taxonomy], counts: dict[str, int], per_class: int
) -> Iterator[str]:
    """Sizes of the classes that the published tables tell."""
    sizes: dict[str, int] = {}
    n_known = n_all = 0
    for taxonomy in taxonomies:
        found = known_classes(taxonomy, counts)
        n_known += len(found)
        n_all += len(taxonomy.classes) - 1
        if len(found) == len(taxonomy.classes) - 1:
            sizes |= {name: n for name, n in found.items() if name != "Others"}
    listed = ", ".join(f"{name} {n:,}" for name, n in sizes.items())
    yield (
        f"Class sizes: {n_known} of {n_all} memorized classes follow from published counts"
        f"{f' ({listed})' if listed else ''}; the others are known when the data is read, and "
        f"{per_class:,} are assumed of each."
    )


def _speed(models: "Models | None", settings: StudySettings) -> Speed | None:
    """Time one forward pass with capture here, where the model is loaded."""
    if models is None:
        return None
    import numpy as np

    from mnemoscope.lm.capture import capture_pooled

    lm = models.model()
    n = min(settings.model.batch_size, _TIMED_SEQUENCES)
    length = settings.sequences.length
    sample = np.random.default_rng(0).integers(0, lm.vocab_size, (n, length))
    for _ in range(2):  # the first pass warms up
        started = time.perf_counter()
        for _ in capture_pooled(lm, sample, batch_size=settings.model.batch_size):
            pass
        seconds = (time.perf_counter() - started) / n
    return Speed(seconds / length, lm.device.split(":")[0])
