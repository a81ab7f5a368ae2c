"""Plan a run: its counts, bytes, memory and time (`run --dry-run`); nothing is written.

Neither model nor data need be on disk: package data holds published shapes and counts. What a
stage takes is said by the function that `study/stages.py` names beside it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mnemoscope.data.published_split import HUB_NAME
from mnemoscope.pipeline.label import check_match, without_unasked
from mnemoscope.pipeline.need import (
    NO_POWER,
    expected_lines,
    find_need,
    lacking_columns,
    n_unshared,
    power_line,
    taxonomies_said,
    taxonomy_lines,
    training_condition,
)
from mnemoscope.pipeline.sources import find_data
from mnemoscope.pipeline.trainings import check_inputs, check_kernels, controlled_taxonomies
from mnemoscope.study.cost import (
    ASSUMED_FLOPS,
    CNN,
    LANGUAGE_MODEL,
    Cost,
    Counts,
    Need,
    Row,
    bounds,
    control_of,
    device_kind,
    megabytes,
)
from mnemoscope.study.folder import Study, check_free, is_study
from mnemoscope.study.settings import StudySettings, check_corpus
from mnemoscope.study.shapes import find_models
from mnemoscope.study.stages import STAGES, rests_on
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.words import about, plural

UNTRAINED = [
    one.name
    for one in STAGES
    if one.name == "report" or not (one.is_optional or rests_on(one.name, "capture"))
]
"""Stages of a run that finds nothing to train on."""
_TIMES = (LANGUAGE_MODEL, CNN, control_of(LANGUAGE_MODEL), control_of(CNN))


class Plan(NamedTuple):
    """A planned study in `lines`, its costs in `rows`, and how they were computed in `notes`."""

    lines: list[str]
    rows: list[Row]
    notes: list[str]


def plan(
    settings: StudySettings, folder: Path, *, redo: bool = False, earlier: Study | None = None
) -> Plan:
    """Plan what `run` would do; errors as `run` before it starts, if they need no network.

    A new study is taken to spread as the finished benchmark of an `earlier` one.
    """
    taxonomies = load_taxonomies(settings.label.taxonomies)
    check_kernels(settings)
    check_inputs(settings, settings.reference is not None)
    study, lost, todo = None, "", [stage.name for stage in STAGES if not stage.is_optional]
    if is_study(folder):
        study = Study(folder)
        changed = study.changed_stages(settings, redo=redo)
        lost, study.settings = study.lost_with(changed), settings
        todo = [name for name in todo if name in changed or not study.is_done(name)]
    else:
        check_free(folder)
    if not todo:
        return Plan([f"Study {folder} (there already).", "Stages to run: none"], [], [])
    if "features" in todo:
        check_corpus(settings)
    known = find_models(settings)
    checked = None
    if known.models is not None:
        from mnemoscope.pipeline.sequences import check_sources  # with torch

        checked = partial(check_sources, settings, known.models)
    data = find_data(settings, taxonomies, study, checked)
    if data.frame is not None:
        check_match(data.frame, settings.label.match, settings.sequences.source)
    lacking = lacking_columns(data, settings, taxonomies)
    taxonomies = without_unasked(taxonomies, lacking, settings)
    lacking = lacking_columns(data, settings, taxonomies)
    possible = [t for t in taxonomies if not any(t in those for those in lacking.values())]
    need = find_need(settings, possible, data, None if "label" in todo else study)
    wanted = controlled_taxonomies(settings)
    n_sequences = data.n_sequences or 0
    counts = Counts(
        need,
        n_sequences=n_sequences,
        n_memorized=n_sequences if data.n_memorized is None else data.n_memorized,
        n_controlled=sum(wanted is None or name in wanted for name, _ in need.samples),
        n_jobs=len(taxonomies),
        n_unshared=n_unshared(settings, taxonomies),
        shape=known.shape,
        reference=known.reference,
        speed=known.speed,
    )
    costs = [one.load_cost()(settings, counts) for one in STAGES if one.cost]
    beside_paper = settings.sequences.source == HUB_NAME
    published = []
    if beside_paper:
        n_alone = n_unshared(settings, possible)
        published = [
            f"Captured: {need.how}; {need.n_maps:,} are {need.n_maps / max(1, n_alone):.0%} of the "
            f"{n_alone:,} that the taxonomies need without sharing (taxonomies × classes × "
            "sequences a class).",
            *(note for cost in costs for note in cost.published_notes),
        ]
    is_found = study is not None and study.is_done("continue")
    power = power_line(settings, data.n_sequences, possible, need, study or earlier)
    is_told = power.startswith(NO_POWER) or (study or earlier) is not None or beside_paper
    return Plan(
        lines=[
            _summary(settings, counts, costs, training_condition(settings, possible, data)),
            f"Study {folder} ({'there already' if study else 'new'}).",
            *known.lines,
            *data.lines,
            *expected_lines(settings, data, need),
            *([power] if is_told else []),
            *taxonomy_lines(settings, taxonomies, need, lacking, is_found=is_found),
            _stages_said(todo, trains=bool(need.samples)),
            *([lost] if lost else []),
        ],
        rows=_rows(costs, beside_paper=beside_paper),
        notes=[
            taxonomies_said(settings, taxonomies, need),
            *([] if is_told else [power]),
            *_time_notes(settings, counts, costs),
            *[note for cost in costs for note in cost.notes],
            *published,
        ],
    )


def plan_grafts(settings: StudySettings, study: Study, *, redo: bool = False) -> Plan:
    """Plan what `graft` would do in a labelled study; errors as the stage before it loads a model.

    Grafts are kept whatever the settings are, so those of other settings count as there too.
    """
    from mnemoscope.pipeline.graft import count_grafts, counted_words  # with torch
    from mnemoscope.pipeline.passes import graft_cost
    from mnemoscope.study.models import Models

    changed = study.changed_stages(settings, redo=redo)
    is_afresh = redo and study.starts_afresh("graft", changed)
    study.settings = settings
    found = count_grafts(study, Models(settings), is_afresh=is_afresh)
    there = f"; {found.n_there:,} of these are done" if found.n_there else ""
    n_tasks = found.n_grafts + found.n_walks
    counted = counted_words(n_tasks, found.n_parts, found.n_walks, may_decide=not found.no_verdict)
    left = f"About {found.n_scans:,} times {plural(found.n_tried, 'memorized sequence')} are asked "
    left += f"({found.n_scans * found.n_tried:,}, as the progress counts them)"
    if others := found.n_each - found.n_tried:
        left += f", each time with {plural(others, 'other')} for their loss"
    if found.n_there and not found.n_scans:
        left = "Nothing is left to ask"
    said = f"In short: {counted}{there}. {left}"
    cost = partial(graft_cost, n_scans=found.n_scans, n_each=found.n_each)
    further = [found.no_verdict] if found.no_verdict else []
    return _of_stage(said, further, settings, found.n_each, cost)


def plan_knockout(settings: StudySettings, study: Study, *, redo: bool = False) -> Plan:
    """Plan what `knockout` would do in a localized study; errors as `plan_grafts`."""
    from mnemoscope.pipeline.knockout import count_cuts  # with torch
    from mnemoscope.pipeline.passes import knockout_cost

    study.changed_stages(settings, redo=redo)
    study.settings = settings
    found = count_cuts(study)
    said = (
        f"In short: {plural(found.n_cuts, 'cut')} of edges, over {found.n_taxonomies} of the "
        f"taxonomies: {found.n_continued:,} times a sequence is continued"
    )
    decoded = "What breaks is decoded too, so that it takes up to three times as long."
    cost = partial(knockout_cost, n_continued=found.n_continued)
    return _of_stage(said, [decoded], settings, found.n_continued, cost)


def _of_stage(
    said: str,
    notes: list[str],
    settings: StudySettings,
    n_sequences: int,
    cost_of: Callable[[StudySettings, Counts], Cost],
) -> Plan:
    """The plan of one stage: what it does in a sentence, the models, what it takes."""
    known = find_models(settings)
    counts = Counts(
        Need(0, 0, 0, 0, "", [], {}),
        n_sequences=n_sequences,
        shape=known.shape,
        reference=known.reference,
        speed=known.speed,
    )
    cost = cost_of(settings, counts)
    took = f", {about(sum(cost.seconds.values()))} in all" if known.shape else ""
    return Plan(
        lines=[f"{said}{took}.", *known.lines, *notes],
        rows=_rows([cost], beside_paper=False),
        notes=list(_time_notes(settings, counts, [cost])),
    )


def _stages_said(todo: list[str], *, trains: bool) -> str:
    """The stages as the run counts them; a new study has its sequences before the first."""
    first = "sequences, then " if todo[0] == "sequences" else ""
    numbered = todo[1:] if first else todo
    kept = [one for one in numbered if trains or one in UNTRAINED]
    if len(kept) < len(numbered):
        return (
            f"Stages to run: {first}{len(kept)} of {len(numbered)} ({', '.join(kept)}); the others "
            "need a CNN"
        )
    return f"Stages to run: {first}{len(kept)} ({', '.join(kept)})"


def _summary(settings: StudySettings, counts: Counts, costs: Sequence[Cost], condition: str) -> str:
    """The study in short: what, on which condition, how much storage, memory and time."""
    controls = " and their controls" if settings.benchmark.controls else ""
    maps = bounds(f"{counts.need.n_least:,}", f"{counts.need.n_maps:,}")
    n_cnns = sum(cost.n_cnns for cost in costs)
    what = f"attention of {maps} sequences, {plural(n_cnns, 'CNN')}{controls}"
    if not counts.need.samples:
        what = "the sequences are continued and labelled, and nothing is trained"
    elif condition:
        what = f"{condition} At most, it takes {what}"
    if counts.shape is None:
        name = settings.model.name
        return f"In short: {what}; what it takes is not known, for there is no folder {name} here."
    device = device_kind(settings.model.device)
    assumed = " (assumed for processor cores, not measured)"
    if counts.speed is not None:
        assumed = ""
    elif device != "cpu":
        absent = "" if device == device_kind("auto") else ", of which none is here"
        assumed = f" (assumed for a GPU, {device}{absent})"
    memory = "memory" if device == "cpu" else "the GPU's memory"
    low, high = (sum(cost.stored[end] for cost in costs) for end in (0, 1))
    stored = bounds(megabytes(low), megabytes(high)) if high >= 1e6 else "less than 1 MB"
    return (
        f"In short: {what}: {stored} on disk, "
        f"{megabytes(max(cost.memory for cost in costs))} of {memory}, "
        f"{about(sum(sum(cost.seconds.values()) for cost in costs))} in all, beside loading"
        f"{assumed}."
    )


def _rows(costs: Sequence[Cost], *, beside_paper: bool) -> list[Row]:
    """The costs of all stages, then their times; beside the paper's where its data are studied."""
    rows = [row for cost in costs for row in cost.rows]
    seconds, published = Counter[str](), Counter[str]()
    for cost in costs:
        seconds.update(cost.seconds)
        published.update(cost.published)
    for kind in _TIMES:
        if kind in seconds:
            theirs = about(published[kind]) if kind in published else "none"
            rows.append(Row(f"time: {kind}", about(seconds[kind]), theirs))
    return rows if beside_paper else [one._replace(published="") for one in rows]


def _time_notes(settings: StudySettings, counts: Counts, costs: Sequence[Cost]) -> Iterator[str]:
    """How times of the language model were computed."""
    if counts.shape is None:
        return
    n_tokens, device = sum(cost.n_tokens for cost in costs), device_kind(settings.model.device)
    length = settings.sequences.length
    if counts.speed is not None:
        time_ = (
            f"{n_tokens:,} tokens through the model; measured here: "
            f"{1000 * counts.speed * length:.1f} ms a forward pass and sequence with capture"
        )
    else:
        time_ = (
            f"2 × {counts.shape.n_parameters:,} parameters × {n_tokens:,} tokens / "
            f"{ASSUMED_FLOPS[device]:.0e} operations a second, assumed for {device}, not measured"
        )
    yield f"Time: {time_}; decoding counts twice."
    if not counts.n_sequences:
        yield "How many sequences there are is not known, so continuing them is not counted."
