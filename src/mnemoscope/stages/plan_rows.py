"""The cost of a study in words, beside the published pipeline's, and the formulas behind it."""

import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from mnemoscope.cnn.presets import PAPER_GRID, CnnSetting
from mnemoscope.config import StudySettings
from mnemoscope.engine.local import n_workers
from mnemoscope.stages.model_shape import ModelShape, find_shape
from mnemoscope.stages.plan_cost import (
    ASSUMED_CNN_FLOPS,
    ASSUMED_FLOPS,
    Passes,
    map_bytes,
    memory_bytes,
    training_flops,
)
from mnemoscope.stages.plan_overlap import Overlap
from mnemoscope.stages.published_cost import (
    PAPER_JOBS,
    PublishedCost,
    bytes_a_sequence,
    paper_bytes,
    published_cost,
)
from mnemoscope.stages.training_count import settings_of
from mnemoscope.taxonomy.names import Taxonomy

__all__ = ["CostRow", "Facts", "Speed", "cost_rows", "explain", "summarize"]

_UNKNOWN = "not known"
_CONTROL_SOURCES = ("control", "blind", "reference", "ngram", "logits")
_PAPER_EPOCHS = 3


@dataclass(frozen=True)
class Speed:
    """What was measured here: seconds a token of a forward pass with capture, and where."""

    seconds_a_token: float
    device: str


@dataclass(frozen=True)
class CostRow:
    """One line of the comparison: what, for this study, for the published pipeline."""

    what: str
    ours: str
    published: str


@dataclass(frozen=True)
class Facts:
    """All that the table is made of.

    Attributes:
        settings: of the study.
        shape: of the model, None where it is not known.
        speed: measured here, None where the model is not on disk.
        taxonomies: as asked for.
        overlap: distinct maps.
        passes: forward passes.
        trainings: CNNs and baselines by source.
        mean_classes: classes of the mean sample.
        has_reference: whether a reference model is captured.
    """

    settings: StudySettings
    shape: ModelShape | None
    speed: Speed | None
    taxonomies: list[Taxonomy]
    overlap: Overlap
    passes: list[Passes]
    trainings: Mapping[str, int]
    mean_classes: float
    has_reference: bool

    @property
    def published(self) -> PublishedCost:
        """The published pipeline for the same taxonomies, model and sizes."""
        label = self.settings.label
        return published_cost(
            self.taxonomies,
            self.shape,
            per_class=label.n_train + label.n_eval,
            length=self.settings.sequences.length,
        )


def cost_rows(facts: Facts) -> list[CostRow]:
    """The comparison, a line a cost."""
    theirs, overlap = facts.published, facts.overlap
    rows = [
        CostRow("sequences captured", _range(overlap), f"{theirs.n_sequences:,}"),
        *_pass_rows(facts),
        *(_byte_rows(facts, facts.shape) if facts.shape is not None else []),
        CostRow("CNNs for the figures", f"{facts.trainings['model']:,}", f"{theirs.n_trainings:,}"),
    ]
    controls = {name: facts.trainings.get(name, 0) for name in _CONTROL_SOURCES}
    shown = ", ".join(f"{name} {n:,}" for name, n in controls.items() if n)
    rows.append(CostRow("trainings for the controls", shown or "none", "none"))
    if facts.shape is not None:
        rows += _time_rows(facts, facts.shape)
    return rows


def summarize(facts: Facts) -> str:
    """The whole study in a sentence: what, how much storage, memory and time, on what."""
    model, shape = facts.settings.model, facts.shape
    has_controls = facts.settings.benchmark.controls
    what = f"attention of {_range(facts.overlap)} sequences, {facts.trainings['model']:,} CNNs"
    what += " and their controls" if has_controls else ""
    if shape is None:
        return f"In short: {what}; storage, memory and time are not known without the model."
    own, control = _language_model_seconds(facts, shape)
    trained, judged, _ = _training_seconds(facts, shape)
    seconds = own + trained + ((control + judged) if has_controls else 0)
    length = facts.settings.sequences.length
    memory = memory_bytes(shape, dtype=model.dtype, batch_size=model.batch_size, length=length)
    needed = _size(memory.weights + memory.activations)
    where = "of memory" if _kind(model.device) == "cpu" else "of the GPU's memory"
    return (
        f"In short: {what}: {_stored(facts, shape)} on disk, {needed} {where}, "
        f"{_about(seconds)} in all{_assumption(facts)}."
    )


def _assumption(facts: Facts) -> str:
    """Say of the times what they rest on: an assumed speed, an assumed device."""
    if facts.speed is not None:
        return ""
    device = _kind(facts.settings.model.device)
    if device == "cpu":
        return " (assumed for processor cores, not measured)"
    is_there = device == _kind("auto")
    return f" (assumed for a GPU, {device}{'' if is_there else ', of which none is here'})"


def _stored(facts: Facts, shape: ModelShape) -> str:
    """Bytes of the maps, or their bounds."""
    overlap, controls = facts.overlap, facts.settings.benchmark.controls
    n_stores = 2 if facts.has_reference and controls else 1
    each = _bytes_each(facts, shape) * n_stores
    low, high = (_size(n * each) for n in (overlap.at_least, overlap.at_most))
    return high if low == high else f"{low} to {high}"


def _bytes_each(facts: Facts, shape: ModelShape) -> int:
    """Bytes stored a sequence."""
    n_tensors = 2 + (shape.n_heads if facts.settings.capture.per_head else 0)
    return map_bytes(shape.n_layers, facts.settings.sequences.length, n_tensors=n_tensors)


def _pass_rows(facts: Facts) -> list[CostRow]:
    """Forward passes by kind; the published labels come with its data set."""
    rows = []
    for one in facts.passes:
        each = f" × {one.n_passes}" if one.n_passes > 1 else ""
        theirs = f"{facts.published.n_sequences:,} (eager)" if one.name == "capture" else "none"
        name = f"forward passes: {one.name}{' (control)' if one.is_control else ''}"
        at_most = "at most " if _is_bound(one, facts) else ""
        rows.append(CostRow(name, f"{at_most}{one.n_sequences:,}{each}", theirs))
    return rows


def _is_bound(one: Passes, facts: Facts) -> bool:
    """Whether the count of these passes is an upper bound."""
    is_counted = facts.overlap.at_least == facts.overlap.at_most
    return not is_counted and one.n_passes == 1


def _byte_rows(facts: Facts, shape: ModelShape) -> list[CostRow]:
    """Bytes on disk and on the device."""
    model, length = facts.settings.model, facts.settings.sequences.length
    each = _bytes_each(facts, shape)
    heads = bytes_a_sequence(shape, length)
    kept = "mean, max and all heads" if facts.settings.capture.per_head else "pooled"
    memory = memory_bytes(shape, dtype=model.dtype, batch_size=model.batch_size, length=length)
    needed = f"{_size(memory.weights)} + {_size(memory.activations)}"
    return [
        CostRow("attention, a sequence", f"{_size(each)}, {kept}", f"{_size(heads)}, all heads"),
        CostRow("attention, stored", _stored(facts, shape), _size(facts.published.n_bytes)),
        CostRow("memory: weights + a batch", needed, "the same weights"),
    ]


def _time_rows(facts: Facts, shape: ModelShape) -> list[CostRow]:
    """Time of the language model and of the CNNs; controls apart."""
    length = facts.settings.sequences.length
    own, control = _language_model_seconds(facts, shape)
    theirs = facts.published.n_sequences * length * _seconds_a_token(facts, shape)
    rows = [CostRow("time: language model", _about(own), _about(theirs))]
    trained, judged, published = _training_seconds(facts, shape)
    rows.append(CostRow("time: CNNs", _about(trained), _about(published)))
    if facts.settings.benchmark.controls:
        rows.append(CostRow("time: controls, language model", _about(control), "none"))
        rows.append(CostRow("time: controls, CNNs", _about(judged), "none"))
    return rows


def _language_model_seconds(facts: Facts, shape: ModelShape) -> tuple[float, float]:
    """Forward passes of the study itself, and of its controls."""
    own, control = (
        sum(_seconds(one, facts, shape) for one in facts.passes if one.is_control == is_control)
        for is_control in (False, True)
    )
    return own, control


def _seconds(one: Passes, facts: Facts, shape: ModelShape) -> float:
    """Time of one kind of passes; the reference's shape is its own where it is known."""
    if "reference" in one.name and facts.settings.capture.reference:
        shape = find_shape(facts.settings.capture.reference) or shape
    # Decoding step by step takes twice the time of one pass over as many tokens (bench_scan.py).
    weight = 2 if one.n_passes > 1 else 1
    return weight * one.tokens * _seconds_a_token(facts, shape)


def _seconds_a_token(facts: Facts, shape: ModelShape) -> float:
    """Measured here, else 2 × parameters / assumed operations a second."""
    if facts.speed is not None:
        return facts.speed.seconds_a_token
    return 2 * shape.n_parameters / ASSUMED_FLOPS[_kind(facts.settings.model.device)]


def _training_seconds(facts: Facts, shape: ModelShape) -> tuple[float, float, float]:
    """CNNs for the figures, for the controls, and the published ones (on as many cores)."""
    settings = facts.settings
    seconds = {"model": 0.0, "control": 0.0, "blind": 0.0, "reference": 0.0}
    for source in seconds:
        count = facts.trainings.get(source, 0)
        grid = [one for one in settings_of(settings, source) if one is not None]
        channels = 2 if source == "blind" else shape.n_layers
        each = [_training(facts, one, channels, settings.train.preset) for one in grid]
        seconds[source] = count * sum(each) / len(each)
    paper = [_training(facts, one, shape.n_layers, "paper") for one in PAPER_GRID]
    theirs = facts.published.n_trainings * sum(paper) / len(paper)
    return seconds.pop("model"), sum(seconds.values()), theirs


def _training(facts: Facts, setting: CnnSetting, channels: int, preset: str) -> float:
    """Seconds of one CNN at the assumed rate."""
    operations = training_flops(
        facts.settings, setting, facts.mean_classes, channels=channels, preset=preset
    )
    return operations / _cnn_rate(facts.settings)[0]


def _cnn_rate(settings: StudySettings) -> tuple[float, str]:
    """Operations a second of all CNNs that train at once, and in words how that is counted."""
    device = _kind(settings.train.device)
    rate = ASSUMED_CNN_FLOPS[device]
    if device != "cpu":
        return rate, f"{rate:.0e} a second, assumed for {device}"
    cores = n_workers(settings.train.workers)
    return rate * cores, f"{rate:.0e} a second and core, assumed, on {cores} cores here"


def explain(facts: Facts) -> list[str]:
    """How the figures come about, a sentence each."""
    overlap, shape = facts.overlap, facts.shape
    share = overlap.at_most / max(1, overlap.without_sharing)
    notes = [
        f"Captured: {overlap.how}; {overlap.at_most:,} are {share:.0%} of the "
        f"{overlap.without_sharing:,} that the taxonomies need without sharing "
        "(taxonomies × classes × sequences a class)."
    ]
    if shape is None:
        return notes
    length = facts.settings.sequences.length
    notes.append(
        f"Published: {facts.published.n_jobs} jobs, each captures for itself: sequences × "
        f"{shape.n_layers} layers × {shape.n_heads} heads × {length} × {length} × 2 B "
        f"= {_size(facts.published.n_bytes)}. All {PAPER_JOBS} jobs of the paper, counted at "
        f"Pythia-12b's shape: {PAPER_JOBS} × 21,000 × 11.8 MB = {_size(_paper_total())}. Its "
        "labels come with the data set; ours are the model's own."
    )
    tokens = sum(one.tokens for one in facts.passes)
    if facts.speed is not None:
        milliseconds = 1000 * facts.speed.seconds_a_token * length
        notes.append(
            f"Time: {tokens:,} tokens through the model; measured here: {milliseconds:.1f} ms a "
            "forward pass and sequence with capture; decoding counts twice."
        )
    else:
        device = _kind(facts.settings.model.device)
        notes.append(
            f"Time: 2 × {shape.n_parameters:,} parameters × {tokens:,} tokens / "
            f"{ASSUMED_FLOPS[device]:.0e} operations a second, assumed for {device}, not measured; "
            "decoding counts twice."
        )
    notes.append(
        f"CNNs: their convolutions' operations at {_cnn_rate(facts.settings)[1]}, at full sample "
        "sizes, the published ones likewise. Memory: weights × bytes, and the larger of capture "
        f"and scan at batch size {facts.settings.model.batch_size}. Baselines come on top."
    )
    return notes


def _paper_total() -> int:
    """The paper's 45 TB, computed."""
    shape = find_shape("EleutherAI/pythia-12b")
    assert shape is not None
    return paper_bytes(shape)


def _kind(device: str) -> str:
    """Kind of device; `auto` looks for the tools of a graphics processor, without torch."""
    asked = device.split(":")[0]
    if asked != "auto":
        return asked if asked in ASSUMED_FLOPS else "cpu"
    if shutil.which("nvidia-smi"):
        return "cuda"
    is_mac = platform.system() == "Darwin" and platform.machine() == "arm64"
    return "mps" if is_mac else "cpu"


def _range(overlap: Overlap) -> str:
    """A count, or its bounds."""
    if overlap.at_least == overlap.at_most:
        return f"{overlap.at_most:,}"
    return f"{overlap.at_least:,} to {overlap.at_most:,}"


def _size(n_bytes: float) -> str:
    """Decimal units: 0.30 MB, 11.8 MB, 19.1 TB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    digits = 1 if n_bytes >= 1e6 else 2
    return f"{n_bytes / 1e6:.{digits}f} MB"


def _about(seconds: float) -> str:
    """Time in one unit."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {seconds:.0f} s"
