"""Which trainings a study makes: sources, CNN settings and seeds, counted without torch.

`train_cost` says what they take; stage `train` makes exactly these.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mnemoscope.benchmark.sources import ATTENTION, BASELINES, CNNS, TABLE
from mnemoscope.benchmark.verdict import FEWEST_TRAININGS
from mnemoscope.cluster.local import n_processes
from mnemoscope.cnn.presets import (
    GRIDS,
    INPUTS,
    OF_TWO_MODELS,
    PRESETS,
    CnnSetting,
    check_kernel,
    cnn_flops,
)
from mnemoscope.errors import UserError
from mnemoscope.maps.shape import POOLED
from mnemoscope.study.cost import CNN, Cost, Counts, Row, control_of, device_kind
from mnemoscope.study.settings import StudySettings
from mnemoscope.study.stages import STAGES
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.names import find_taxonomy
from mnemoscope.taxonomy.sample import N_FOLDS
from mnemoscope.words import operations

CHOICE_FILE = "choice.parquet"
PREDICTIONS_FILE = "predictions.parquet"
RUNS_FILE = "runs.parquet"

ASSUMED_CNN_FLOPS = {"cpu": 5e10, "cuda": 1e12, "mps": 5e11}
"""Operations per second of training CNNs: on one CPU core about half of what
`benchmarks/bench_plan.py` measures for a step alone."""
_SOON = 600
"""Seconds in which a study's CNNs should be trained on a GPU."""
FOLDS = 2
"""Parts of the training rows on which the better reader is chosen: a CNN and a regression each."""


def n_trainings(
    settings: StudySettings, n_samples: int, has_reference: bool, n_controlled: int
) -> dict[str, int]:
    """Count a study's trainings by source, plus `total`; a baseline counts as one, folds each.

    `n_samples` counts every repetition; `n_controlled` are the samples that get controls.
    """
    always = sources_of(settings, has_reference, is_controlled=False)
    counts = {}
    n_folds = N_FOLDS if settings.label.split == "folds" else 1
    for source in sources_of(settings, has_reference, is_controlled=True):
        each = n_folds * len(settings_of(settings, source)) * len(seeds_of(settings, source))
        if found := each * (n_samples if source in always else n_controlled):
            counts[source] = found
    return counts | {"total": sum(counts.values())}


def sources_of(settings: StudySettings, has_reference: bool, *, is_controlled: bool) -> list[str]:
    """List the sources to train for one sample, in order."""
    has_controls = settings.benchmark.controls and is_controlled
    return [
        name
        for name, source in TABLE.items()
        if name in ATTENTION or (has_controls and (has_reference or not source.needs_reference))
    ]


def settings_of(settings: StudySettings, source: str) -> list[CnnSetting | None]:
    """CNN settings of one source, [None] for a baseline.

    Controls use the first `benchmark.control_settings` of the grid. The blind source has no pooling
    and the reference no difference from itself, so these use the mean.
    """
    if source in BASELINES:
        return [None]
    wanted = settings.train
    grid = [
        CnnSetting(kernel=kernel, filters=filters, pooling=pooling)
        for kernel in wanted.kernels
        for filters in wanted.filters
        for pooling in wanted.poolings
    ]
    if source != "model" and settings.benchmark.control_settings:
        grid = grid[: settings.benchmark.control_settings]
    if TABLE[source].reads == "tokens":
        first = wanted.poolings[0] if wanted.poolings[0] in POOLED else "mean"
        grid = [CnnSetting(one.kernel, one.filters, first) for one in grid]
    if TABLE[source].needs_reference:
        grid = [replace(o, pooling="mean") if o.pooling in OF_TWO_MODELS else o for o in grid]
    return list(dict.fromkeys(grid))


def seeds_of(settings: StudySettings, source: str) -> list[int]:
    """Seeds of one source: checks may have fewer, if no excess is over them; a baseline one."""
    seeds = settings.train.seeds
    if source in BASELINES:
        return seeds[:1]
    is_check = TABLE[source].group == "check"
    return seeds[: settings.benchmark.control_seeds] if is_check else seeds


def chooses_reader(settings: StudySettings) -> bool:
    """Whether it is asked which reader is better: CNNs of fewer seeds are never the headline."""
    return len(set(seeds_of(settings, "model"))) >= FEWEST_TRAININGS


def check_wanted(settings: StudySettings, until: str | None) -> None:
    """Refuse what no stage up to `until` could use, before anything is read or loaded.

    Raises UserError: an unknown taxonomy, or a kernel that leaves nothing of a map. What trains
    nothing needs no kernel that fits.
    """
    load_taxonomies(settings.label.taxonomies)
    names = [one.name for one in STAGES]
    if until is None or names.index(until) >= names.index("train"):
        check_kernels(settings)


def check_kernels(settings: StudySettings) -> None:
    """Raise UserError for kernels that do not fit maps of this length."""
    for kernel in settings.train.kernels:
        check_kernel(kernel, settings.sequences.length)


def check_inputs(settings: StudySettings, has_reference: bool) -> None:
    """Raise UserError for CNNs that cannot be trained and controls of unknown taxonomies."""
    poolings = settings.train.poolings
    of_heads = [name for name in poolings if "heads" in INPUTS[name].reads]
    if of_heads and not settings.capture.per_head:
        raise UserError(
            f"train.poolings: {of_heads[0]} needs every head's maps. Set capture.per_head: true as "
            f"well, or leave {of_heads[0]} out."
        )
    of_two = [name for name in poolings if name in OF_TWO_MODELS]
    if of_two and not (has_reference and settings.benchmark.controls):
        raise UserError(
            f"train.poolings: {of_two[0]} needs the maps of a reference model. Give one with "
            f"--reference and leave the controls on, or leave {of_two[0]} out."
        )
    controlled_taxonomies(settings)


def controlled_taxonomies(settings: StudySettings) -> set[str] | None:
    """Names of the taxonomies that get controls, None for all.

    Names may be spelled as in the study, as in the published tables, or as any name of the same
    partition. Raises UserError: `benchmark.control_taxonomies` names one that the study does not
    have.
    """
    wanted = settings.benchmark.control_taxonomies
    if wanted is None:
        return None
    first: dict[str, str] = {}
    names: dict[str, str] = {}
    for one in load_taxonomies(settings.label.taxonomies):
        name = first.setdefault(one.partition_key, one.name)
        names |= {one.published_name: name, one.name: name}
    where = "benchmark.control_taxonomies"
    return {find_taxonomy(name.strip(), names, where=where) for name in wanted}


def train_cost(settings: StudySettings, counts: Counts) -> Cost:
    """CNNs, baselines and the time of stage `train`, on samples as large as there can be."""
    cost, need, preset = Cost(settings, counts), counts.need, settings.train.preset
    has_reference = settings.reference is not None
    made = n_trainings(settings, len(need.samples), has_reference, counts.n_controlled)
    n_choosing = FOLDS * len({name for name, _ in need.samples}) * chooses_reader(settings)
    controls = Counter[str]()  # of both readers
    for name in (*CNNS, *BASELINES):
        if name not in ATTENTION:
            controls[TABLE[name].name] += made.get(name, 0)
    said = ", ".join(f"{name} {n:,}" for name, n in controls.items() if n)
    published = GRIDS["as_run"]
    n_published = counts.n_jobs * len(published.settings) * len(published.seeds)
    cost.n_cnns = made.get("model", 0)
    cost.rows = [
        Row("CNNs for the figures", f"{cost.n_cnns:,}", f"{n_published:,}"),
        Row("CNNs that choose between CNN and regression", f"{n_choosing:,}"),
        Row("trainings for the controls", said or "none"),
    ]
    if counts.shape is None:
        return cost
    rate, shown = _rate(settings)
    operations_ = 0.0
    for source in CNNS:
        grid = [one for one in settings_of(settings, source) if one is not None]
        kind = CNN if source == "model" else control_of(CNN)
        reads_tokens = TABLE[source].reads == "tokens"
        each = _flops(counts, settings, grid, preset, 2 if reads_tokens else None)
        own = made.get(source, 0) * each
        if source == "model":
            own += n_choosing * _flops(counts, settings, grid[:1], preset)
        cost.seconds[kind] += own / rate
        operations_ += own
    if not settings.benchmark.controls:
        del cost.seconds[control_of(CNN)]
    cost.published[CNN] = (
        n_published * _flops(counts, settings, published.settings, "as_run") / rate
    )
    cost.rows.append(Row("operations of all these CNNs", operations(operations_)))
    cost.notes = [
        f"CNNs: their convolutions' operations at {shown}, on samples as large as there can be. "
        "Baselines come on top."
    ]
    if _device(settings) == "cuda":
        cost.notes.append(_grouped(settings, counts, has_reference, operations_))
    return cost


def in_common(source: str, setting: CnnSetting) -> tuple[object, ...]:
    """What CNNs of one sample have in common that a GPU trains as one.

    A mark makes maps of its own; permuted labels do not.
    """
    reads = TABLE[source].reads, source if TABLE[source].mark else ""
    return *reads, setting.kernel, setting.pooling


def group_sizes(
    settings: StudySettings, has_reference: bool, *, is_controlled: bool
) -> Counter[tuple[object, ...]]:
    """How many CNNs of one sample a GPU trains as one, by what they have in common."""
    return Counter(
        in_common(source, one)
        for source in sources_of(settings, has_reference, is_controlled=is_controlled)
        for one in settings_of(settings, source)
        for _ in seeds_of(settings, source)
        if one is not None
    )


def _grouped(
    settings: StudySettings, counts: Counts, has_reference: bool, operations_: float
) -> str:
    """How many groups of CNNs a GPU trains, and how fast it would have to be."""
    n_groups, most = 0, 1
    n_others = len(counts.need.samples) - counts.n_controlled
    for n, is_controlled in ((counts.n_controlled, True), (n_others, False)):
        sizes = group_sizes(settings, has_reference, is_controlled=is_controlled)
        n_groups += n * len(sizes) * (N_FOLDS if settings.label.split == "folds" else 1)
        most = max(most, *sizes.values()) if n else most
    return (
        f"On a GPU those of one sample, input and kernel train as one: {n_groups:,} groups of up "
        f"to {most} CNNs. In {_SOON // 60} minutes that would be {operations_ / _SOON:.1e} "
        "operations a second; no GPU has been measured."
    )


def _flops(
    counts: Counts,
    settings: StudySettings,
    grid: Sequence[CnnSetting],
    preset_name: str,
    n_layers: int | None = None,
) -> float:
    """Mean operations of a CNN: 3 forward passes a training map and epoch, and the evaluation."""
    assert counts.shape is not None
    samples, preset, label = counts.need.samples, PRESETS[preset_name], settings.label
    n_drawn = label.per_class * sum(n for _, n in samples) / max(1, len(samples))
    if counts.n_sequences:
        n_drawn = min(n_drawn, counts.n_sequences)
    n_train, n_eval = (round(n_drawn * n / label.per_class) for n in (label.n_train, label.n_eval))
    epochs = preset.n_epochs(max(n_train, 1))  # of nothing to train, no forward at all
    n_forward = 3 * n_train * epochs + n_train
    n_forward += n_eval * (epochs if preset.scores_every_epoch else 1)
    flops = 0
    for one in grid:
        seen = INPUTS[one.pooling]
        n_channels = seen.channels * (n_layers or counts.shape.n_layers)
        n_channels *= counts.shape.n_heads if "heads" in seen.reads else 1
        length = settings.sequences.length
        flops += cnn_flops(n_channels, length, kernel=one.kernel, filters=one.filters)
    return n_forward * flops / len(grid)


def _device(settings: StudySettings) -> str:
    """Kind of device that CNNs train on."""
    device = device_kind(settings.train.device)
    is_unused = settings.train.device == "auto" and device == "mps"
    return "cpu" if is_unused else device  # as `find_cnn_device`


def _rate(settings: StudySettings) -> tuple[float, str]:
    """Operations per second of all CNNs that train at once, and how that is counted."""
    device = _device(settings)
    rate = ASSUMED_CNN_FLOPS[device]
    if device != "cpu":
        return rate, f"{rate:.0e} a second, assumed for {device}"
    cores = n_processes(settings.train.workers)
    return rate * cores, f"{rate:.0e} a second and core, assumed, on {cores} cores here"
