"""Plan a run: its counts, bytes, memory and time (`run --dry-run`); nothing is written.

Neither model nor data need be on disk: package data holds published shapes and counts.
"""

import platform
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import yaml

from mnemoscope.benchmark.gain import POWER, SPREAD, expected_seen
from mnemoscope.benchmark.sources import ATTENTION, BASELINES, CNNS, TABLE
from mnemoscope.benchmark.verdict import EFFECT
from mnemoscope.cluster.local import n_processes
from mnemoscope.cnn.presets import INPUTS, PAPER_GRID, PRESETS, CnnSetting
from mnemoscope.data.features import add_features, is_available
from mnemoscope.data.hub import parse_hub_name
from mnemoscope.data.published_split import HUB_NAME, SPLITS, find_split, list_splits
from mnemoscope.data.read import ReadResult, join_results, read_sequences
from mnemoscope.data.table import has_values, read_table
from mnemoscope.embedded import place_of, sequences_path
from mnemoscope.errors import UserError
from mnemoscope.parse import read_json
from mnemoscope.pipeline.label import SAMPLES_FILE, check_match, draw_samples, samples_of
from mnemoscope.pipeline.published_split import read_published, take_published_patterns
from mnemoscope.pipeline.trainings import (
    check_inputs,
    check_kernels,
    controlled_taxonomies,
    n_choosing,
    n_trainings,
    settings_of,
)
from mnemoscope.stats import FEWEST_GROUPS
from mnemoscope.study.folder import Study, check_free, is_study
from mnemoscope.study.settings import (
    EMBEDDED,
    PATCH_DRAWS,
    SCANS_OF_A_WALK,
    StudySettings,
    check_corpus,
    variants,
)
from mnemoscope.study.stages import STAGES
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.names import Taxonomy, find_partition
from mnemoscope.taxonomy.nodes import Node, first_yes
from mnemoscope.taxonomy.sample import N_FOLDS
from mnemoscope.words import about, nats, plural, size

if TYPE_CHECKING:
    from mnemoscope.study.models import Models

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per weight; `auto` counts as 2."""
ASSUMED_FLOPS = {"cuda": 1e14, "mps": 5e12, "cpu": 1e11}
"""Operations per second of a forward pass: cuda is a third of what an A100's data sheet gives for
half precision (312e12); mps is a laptop's GPU; cpu is a few cores."""
ASSUMED_CNN_FLOPS = {"cpu": 5e10, "cuda": 1e12, "mps": 5e11}
"""The same for training CNNs: on one CPU core about half of what `benchmarks/bench_plan.py`
measures for a step alone."""
_SCANNED_AT_ONCE = 4  # suffix tokens that the scan checks first
_TIMED_SEQUENCES = 64
_VERDICTS = ("is_memorized", "published_is_memorized", "memorization_score")
_SPELLINGS = (
    ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    ("hidden_size", "n_embd", "d_model"),
    ("vocab_size",),
)  # in a config.json, of layers, heads, width and vocabulary
_PYTHIA = re.compile(r"(?:EleutherAI/)?pythia-([\d.]+[mb])(?:-deduped)?(?:-v0)?", re.IGNORECASE)


class Plan(NamedTuple):
    """A planned study in `lines`, its costs in `rows`, and how they were computed in `notes`.

    Each row is a cost, its amount for this study, and for the published pipeline.
    """

    lines: list[str]
    rows: list[tuple[str, str, str]]
    notes: list[str]


class ModelShape(NamedTuple):
    """What a model's cost depends on; `source` says where it was found."""

    n_layers: int
    n_heads: int
    hidden: int
    vocabulary: int
    n_parameters: int
    source: str


class PlannedData(NamedTuple):
    """What is known of the sequences; counts are upper bounds, None if unknown."""

    frame: pl.DataFrame | None
    n_sequences: int | None
    n_memorized: int | None
    lines: list[str]


class Need(NamedTuple):
    """What the samples of all taxonomies need together."""

    n_least: int  # distinct maps at least, if every class is large enough to be drawn in full
    n_maps: int  # distinct maps at most; equal to `n_least` if they are counted
    n_texts: int  # distinct sequences among them, at most
    n_own: int  # those of Non-Memo sequences with their own continuation, at most
    how: str  # this was found, in words
    samples: list[tuple[str, int]]  # that are trained: name and number of classes
    impossible: dict[str, str]  # samples that cannot be trained, with the reason


class Passes(NamedTuple):
    """Forward passes of one kind; `n_tokens` counts a sequence's tokens over all its passes."""

    name: str
    n_sequences: int
    n_passes: int
    n_tokens: int
    is_control: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return self.n_sequences * self.n_tokens


class Cost(NamedTuple):
    """Bytes of a map, on disk, on the device; seconds of study and controls."""

    map_bytes: int
    stored: str
    weights: int
    activations: int
    passing: float
    training: float
    control_passing: float
    control_training: float


class _Known(NamedTuple):
    """What decides the cost of a study; `speed` is the measured seconds per token, if any."""

    settings: StudySettings
    need: Need
    passes: list[Passes]
    trainings: Mapping[str, int]
    speed: float | None


class Published(NamedTuple):
    """What the published pipeline needs for the same taxonomies, each captured for itself.

    It stores all heads as float16. Bytes and seconds are 0 if the model's shape is unknown.
    """

    n_jobs: int
    n_sequences: int
    n_trainings: int
    map_bytes: int = 0
    passing: float = 0
    training: float = 0


def plan(settings: StudySettings, folder: Path, *, redo: bool = False) -> Plan:
    """Plan what `run` would do; errors as `run` before it starts, if they need no network."""
    taxonomies = load_taxonomies(settings.label.taxonomies)
    has_reference = settings.capture.reference is not None or settings.model.name == EMBEDDED
    check_kernels(settings)
    check_inputs(settings, has_reference)
    study, todo = None, [stage.name for stage in STAGES if not stage.is_optional]
    if is_study(folder):
        study = Study(folder)
        changed = study.changed_stages(settings, redo=redo)
        study.settings = settings
        todo = [name for name in todo if name in changed or not study.is_done(name)]
    else:
        check_free(folder)
    if "features" in todo:
        check_corpus(settings)
    models, shape, model_line = _find_model(settings, study, is_needed=bool(todo))
    data = find_data(settings, taxonomies, study, models=models)
    if data.frame is not None:
        check_match(data.frame, settings.label.match, settings.sequences.source)
    lacking = lacking_columns(data, settings, taxonomies)
    possible = [t for t in taxonomies if not any(t in those for those in lacking.values())]
    need = _find_need(settings, possible, data, None if "label" in todo else study)
    passes = count_passes(
        settings,
        n_sequences=data.n_sequences or 0,
        n_memorized=data.n_sequences or 0 if data.n_memorized is None else data.n_memorized,
        n_maps=need.n_maps,
        n_texts=need.n_texts,
        n_own=need.n_own,
        has_reference=has_reference,
    )
    wanted = controlled_taxonomies(settings)
    n_controlled = sum(wanted is None or name in wanted for name, _ in need.samples)
    trainings = n_trainings(settings, len(need.samples), has_reference, n_controlled)
    speed = None if models is None else _time_capture(models, settings)
    known = _Known(settings, need, passes, trainings, speed)
    cost = None if shape is None else _find_cost(known, shape)
    published = _find_published(known, taxonomies, shape)
    rows = [*_rows(known, cost, published)]
    if has_reference and shape is not None:
        rows += _graft_rows(known, shape, data)
    n_unshared = _n_unshared(settings, possible)
    share = need.n_maps / max(1, n_unshared)
    return Plan(
        lines=[
            _summary(known, cost),
            f"Study {folder} ({'there already' if study else 'new'}).",
            model_line,
            *data.lines,
            *_power_lines(settings, data, possible),
            *_taxonomy_lines(
                settings,
                taxonomies,
                need,
                lacking,
                is_found=study is not None and study.is_done("continue"),
            ),
            _stages_said(todo),
        ],
        rows=rows,
        notes=[
            f"Captured: {need.how}; {need.n_maps:,} are {share:.0%} of the {n_unshared:,} that "
            "the taxonomies need without sharing (taxonomies × classes × sequences a class).",
            *([] if shape is None else _notes(known, shape, published)),
        ],
    )


def _stages_said(todo: list[str]) -> str:
    """The stages as the run counts them; a new study has its sequences before the first."""
    if todo and todo[0] == "sequences":
        return f"Stages to run: sequences, then {len(todo) - 1} more ({', '.join(todo[1:])})"
    return f"Stages to run: {len(todo)} ({', '.join(todo)})" if todo else "Stages to run: none"


# The model: loaded if it is on disk and needed, else only its shape.


def _find_model(
    settings: StudySettings, study: Study | None, *, is_needed: bool
) -> tuple["Models | None", ModelShape | None, str]:
    """The models if loaded, the shape if known, and a line that describes both."""
    wanted = settings.model
    shape = find_shape(wanted.name, wanted.revision)
    facts = study.record["models"].get("model") if study else None
    if facts and not is_needed:
        shown = f"{facts['n_layers']} layers, {facts['n_heads']} heads, {facts['dtype']}"
        return None, shape, f"Model {wanted.name}: {shown} on {facts['device']}."
    if is_on_disk(wanted.name, wanted.revision):
        from mnemoscope.study.models import Models

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
        return models, shape, f"Model {wanted.name}: {shown}, on disk."
    if shape is None:
        unknown = "not on disk and its shape is not known, so bytes, memory and time are left out"
        return None, None, f"Model {wanted.name}: {unknown}."
    shown = f"{shape.n_layers} layers, {shape.n_heads} heads, {shape.n_parameters:,} parameters"
    where = f"not on disk; from {shape.source}"
    planned = f"planned in {wanted.dtype} on {wanted.device}"
    return None, shape, f"Model {wanted.name}: {shown} ({where}), {planned}."


@cache
def shape_facts(name: str) -> dict[str, Any]:
    """Package data of `pythia` or `suites`: `models`, `data`, and `splits` or `rates` by name."""
    text = resources.files("mnemoscope").joinpath(f"studies/shapes/{name}.yaml").read_text("utf-8")
    facts: dict[str, Any] = yaml.safe_load(text)
    return facts


def find_shape(name: str, revision: str | None = None) -> ModelShape | None:
    """A model's shape from its files (of the hub: in the local cache), else from package data."""
    folder = Path(place_of(name)).expanduser()
    if name.startswith(("./", "../", "/", "~")) and not folder.exists():
        raise UserError(f"{name}: no such model folder or file. Check the path.")
    config = folder / "config.json" if folder.exists() else _cached(name, revision, "config.json")
    found = _read_config(config) if config is not None and config.is_file() else None
    match = _PYTHIA.fullmatch(name)
    known = shape_facts("pythia")["models"].get(match[1].lower()) if match else None
    source = "the Pythia suite's published table"
    if known is None:
        shapes, source = shape_facts("suites")["models"], "its configuration as published"
        known = next((shapes[one] for one in shapes if name.startswith(one)), None)
    if found is not None or known is None:
        return found
    return ModelShape(**known, source=source)


def is_on_disk(name: str, revision: str | None = None) -> bool:
    """True if the weights can be loaded without a network."""
    if name == EMBEDDED or Path(name).expanduser().exists():
        return True
    files = ("model.safetensors", "model.safetensors.index.json")
    return any(_cached(name, revision, file) is not None for file in files)


def _cached(name: str, revision: str | None, file: str) -> Path | None:
    """A hub model's file in the local cache, without using the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _read_config(path: Path) -> ModelShape | None:
    """The shape from config.json; None if its keys are unknown."""
    try:
        values = read_json(path)
        n_layers, n_heads, hidden, vocabulary = (
            next((values[key] for key in keys if isinstance(values.get(key), int)), 0)
            for keys in _SPELLINGS
        )
    except (OSError, ValueError, AttributeError):
        return None
    if not (n_layers and n_heads and hidden and vocabulary):
        return None
    stored = _count_weights(path.parent)
    source = "config.json and weights on disk" if stored else "config.json, parameters about"
    about = n_layers * 12 * hidden**2 + 2 * vocabulary * hidden
    return ModelShape(n_layers, n_heads, hidden, vocabulary, stored or about, source)


def _count_weights(folder: Path) -> int:
    """Number of weights in a folder's safetensors files; 0 if there are none or one is damaged."""
    from safetensors import SafetensorError, safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="np") as file:
                total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError):
            return 0
    return total


def _time_capture(models: "Models", settings: StudySettings) -> float:
    """Seconds per token of a forward pass with capture, measured here."""
    from mnemoscope.lm.attention import capture_pooled

    lm = models.model()
    n = min(settings.model.batch_size, _TIMED_SEQUENCES)
    length = settings.sequences.length
    sample = np.random.default_rng(0).integers(0, lm.vocab_size, (n, length))
    for _ in range(2):  # the first pass warms up
        started = time.perf_counter()
        for _ in capture_pooled(lm, sample, batch_size=settings.model.batch_size):
            pass
        seconds = (time.perf_counter() - started) / n
    return seconds / length


# The sequences: from the data on disk, else from published counts.


def find_data(
    settings: StudySettings,
    taxonomies: list[Taxonomy],
    study: Study | None,
    *,
    models: "Models | None",
) -> PlannedData:
    """Find what is known of the sequences without downloading anything; errors as `run`."""
    wanted = settings.sequences
    if study is not None:
        return _of_frame(study.sequences, settings, study)
    if wanted.source == HUB_NAME and not Path(wanted.source).exists():
        cached = _from_cache(settings)
        if cached is None:
            return _published(settings, taxonomies)
        settings = cached
    if wanted.split is not None:
        return _of_frame(read_published(settings).frame, settings)
    named = (wanted.source, *wanted.also)
    if not all(_is_here(one) for one in named):
        return _of_suite(settings, named)
    if models is not None:
        from mnemoscope.pipeline.sequences import check_sources

        return _of_frame(check_sources(settings, models).frame, settings)
    if wanted.source == EMBEDDED:
        shipped = ReadResult(read_table(sequences_path()), 0)
        return _of_frame(shipped.limited(wanted.limit, wanted.seed).frame, settings)
    try:
        found = [
            read_sequences(
                one,
                None,
                length=wanted.length,
                prefix=wanted.n_prefix,
                pad=wanted.pad,
                columns=wanted.columns,
            )
            for one in named
        ]
        joined = join_results(found, named).limited(wanted.limit, wanted.seed)
        return _of_frame(joined.frame, settings)
    except UserError as error:
        if "tokenizer" not in str(error):
            raise
        why = "texts; how many sequences they give is known with the tokenizer"
        return PlannedData(None, None, None, [f"Sequences: {wanted.source}: {why}."])


def _is_here(source: str) -> bool:
    """Whether a source can be read without a network."""
    from huggingface_hub.constants import HF_HUB_CACHE

    hub = parse_hub_name(source)
    if hub is None:
        return source == EMBEDDED or Path(source).exists()
    return (Path(HF_HUB_CACHE) / f"datasets--{hub.name.replace('/', '--')}").is_dir()


def _of_suite(settings: StudySettings, named: Sequence[str]) -> PlannedData:
    """Sources that are not on disk: their published rows, and how many sequences they can give."""
    known, limit = shape_facts("suites")["data"], settings.sequences.limit
    facts = [known.get(re.sub(r"[@#].*", "", one)) for one in named]
    for one, fact in zip(named, facts, strict=True):
        if fact is None and parse_hub_name(one) is None:
            raise UserError(f"{one}: no such file or folder.")
    lines = []
    for one, fact in zip(named, facts, strict=True):
        rows = f"{fact['rows']:,} rows ({fact['of']})" if fact else "rows not known"
        lines.append(f"Sequences: {one}: {rows}, not on disk.")
    n_sequences = limit
    if all(fact and fact.get("is_cut") for fact in facts):
        n_rows = sum(fact["rows"] for fact in facts if fact)
        n_sequences = n_rows if limit is None else min(n_rows, limit)
        lines.append(f"A row is a sequence: {n_sequences:,}.")
    elif limit is not None:
        lines.append(f"Kept of their windows: at most {limit:,} (sequences.limit).")
    rate, n_memorized = shape_facts("suites")["rates"].get(settings.model.name), None
    if rate is not None and n_sequences is not None:
        n_memorized = round(rate["share"] * n_sequences)
    return PlannedData(None, n_sequences, n_memorized, lines)


def _power_lines(
    settings: StudySettings, data: PlannedData, taxonomies: Sequence[Taxonomy]
) -> Iterator[str]:
    """How many sequences of a class to expect, and the smallest gain that they should show."""
    label, rate = settings.label, shape_facts("suites")["rates"].get(settings.model.name)
    per_class = label.per_class
    is_folds = label.split == "folds"
    asked_of = (
        f"{per_class:,} are asked, in folds"
        if is_folds
        else f"{label.n_train:,} train and {label.n_eval:,} are asked"
    )
    wants = f"of each class up to {asked_of}; it must have at least {label.minimum:,}."
    split = (settings.sequences.split or "").removeprefix("memories_")
    published = shape_facts("pythia")["splits"].get(split, {}).get("memories")
    if data.frame is None and rate is not None and data.n_memorized is not None:
        yield (
            f"Expected: about {data.n_memorized:,} memorized ({rate['share']:.0%}: {rate['of']}), "
            f"the others Non-Memo; {wants}"
        )
    elif data.frame is None and published is not None:
        yield (
            f"Expected: {published:,} memorized sequences are published; a class of "
            f"{per_class / published:.1%} of them or more can be drawn in full: {wants}"
        )
    elif data.n_memorized is None:
        yield (
            "Expected: what this model reproduces of these sequences is not published; "
            f"'mnemoscope continue' finds it first: {wants}"
        )
    n_classes = min((len(one.classes) for one in taxonomies), default=2)
    n_most = per_class if data.n_sequences is None else data.n_sequences // n_classes
    if n_most < label.minimum:
        yield (
            f"Power: none. {data.n_sequences:,} sequences cannot give {n_classes} classes of "
            f"{label.minimum:,} each (label.minimum), so nothing can be trained. Take more, or a "
            "larger sequences.limit."
        )
        return
    drawn = [min(n, per_class) for n in (n_most, label.minimum)]
    most, few = (n if is_folds else max(2, n * label.n_eval // per_class) for n in drawn)
    if most < FEWEST_GROUPS:
        yield (
            f"Power: none. A verdict needs {FEWEST_GROUPS} evaluation sequences of each class at "
            f"least, and here are {most:,}. Take more sequences."
        )
        return
    trained = [
        n * (1 - 1 / N_FOLDS) if is_folds else n - asked
        for n, asked in zip(drawn, (most, few), strict=True)
    ]
    sees, least = (
        f"about {nats(expected_seen(asked, n, n_classes))}"
        if asked >= FEWEST_GROUPS
        else f"nothing, for a verdict needs {FEWEST_GROUPS}"
        for asked, n in zip((most, few), trained, strict=True)
    )
    yield (
        f"Power: the verdict rests on a gain in nats a sequence; {EFFECT:g} is the least that "
        f"counts. With {most:,} evaluation sequences of each class a study sees {sees} in "
        f"{100 * POWER:g} % of cases; with {few:,}, the fewest it takes, {least}. That is if "
        f"gains differ by {SPREAD:g} nats (standard deviation) from sequence to sequence; what "
        "they do is known only afterwards. Near duplicates count once."
    )


def lacking_columns(
    data: PlannedData, settings: StudySettings, taxonomies: list[Taxonomy]
) -> dict[str, list[Taxonomy]]:
    """Columns that taxonomies need and a table on disk will lack, with those taxonomies."""
    frame = data.frame
    if frame is None:
        return {}
    will_have = {"rouge_l", "rouge_3"}  # from the tokens, which every sequence has
    if has_values(frame, "tokens") or has_values(frame, "text"):
        will_have |= {"is_incrementing", "is_repeating"}
    will_have |= {"duplicates"} if settings.features.corpus is not None else set()
    will_have |= {"is_code"} if is_available() else set()
    found: dict[str, list[Taxonomy]] = {}
    for taxonomy in taxonomies:
        for column in taxonomy.columns:
            given = has_values(frame, column) or has_values(frame, f"published_{column}")
            if column not in will_have and not given:
                found.setdefault(column, []).append(taxonomy)
    return found


def _with_verdicts(data: PlannedData, settings: StudySettings) -> pl.DataFrame | None:
    """The table with verdicts and features, as stage `label` will see it; None without verdicts."""
    frame = data.frame
    verdict = _verdict(frame) if frame is not None else None
    if frame is None or verdict is None:
        return None
    if verdict == "published_is_memorized":
        frame = frame.with_columns(pl.col(verdict).alias("is_memorized"))
    if has_values(frame, "rouge_l"):
        return frame
    if settings.features.corpus is not None:
        return None  # counting duplicates takes as long as the stage
    patterns, length = settings.features.patterns, settings.sequences.length
    frame = add_features(
        frame, patterns=patterns, length=length, prefix=settings.sequences.n_prefix, code="off"
    )
    return take_published_patterns(frame) if patterns == "published" else frame


def _verdict(frame: pl.DataFrame) -> str | None:
    """The column that says which sequences are memorized."""
    return next((name for name in _VERDICTS if has_values(frame, name)), None)


def _of_frame(
    frame: pl.DataFrame, settings: StudySettings, study: Study | None = None
) -> PlannedData:
    n_suffix = settings.sequences.length - settings.sequences.n_prefix
    how = "scanned" if settings.continue_.scan else f"continued by {n_suffix} tokens"
    lines = [f"Sequences: {frame.height:,}, each {how}."]
    verdict, n_memorized = _verdict(frame), None
    if verdict is not None:
        n_memorized = int((frame[verdict].cast(pl.Float64) == 1).sum())
        is_found = verdict == "is_memorized" and study is not None
        source = "found by the model" if is_found else "as the table says; the run asks the model"
        lines.append(f"Memorized: {n_memorized:,}, {source}.")
    return PlannedData(frame, frame.height, n_memorized, lines)


def _from_cache(settings: StudySettings) -> StudySettings | None:
    """The settings with the data set's local copy as source; None if there is no copy."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder, split = Path(HF_HUB_CACHE), settings.sequences.split
    if split is None or not folder.is_dir() or not {*_parts(split)} <= {*list_splits(folder)}:
        return None
    wanted = settings.sequences.model_copy(update={"source": str(folder)})
    return settings.model_copy(update={"sequences": wanted})


def _parts(split: str) -> list[str]:
    return [split] if split in SPLITS else [f"pile_{split}", f"memories_{split}"]


def _published(settings: StudySettings, taxonomies: list[Taxonomy]) -> PlannedData:
    """The paper's data set, not on disk, from the published counts."""
    split, label = settings.sequences.split, settings.label
    if split is None:
        raise UserError(
            f"{HUB_NAME}: which split? Name it with --split, for example --split deduped_12b."
        )
    if not all(name in SPLITS for name in _parts(split)):
        find_split(HUB_NAME, split)  # raises, with the nearest name
    facts = shape_facts("pythia")["splits"][split.partition("_")[2] if split in SPLITS else split]
    parts = {name.partition("_")[0]: facts[name.partition("_")[0]] for name in _parts(split)}
    kept = round(settings.sequences.margin * label.per_class)
    # One more than the taxonomies' classes: all memorized sequences, to check the labels.
    n_at_most = min(sum(parts.values()), kept * (count_class_sets(taxonomies) + 1))
    if settings.sequences.limit is not None:
        n_at_most = min(n_at_most, settings.sequences.limit)
    counted = " + ".join(f"{name} {n:,}" for name, n in parts.items())
    where = "as published (not on disk; run fetches them)"
    lines = [
        f"Sequences: {HUB_NAME}, {split}: {counted} rows, {where}.",
        f"Kept of them: at most {n_at_most:,} ({kept:,} of each different class).",
    ]
    return PlannedData(None, n_at_most, n_at_most - (kept if "pile" in parts else 0), lines)


# The samples: already drawn, drawn from labels on disk, or bounded.


def _find_need(
    settings: StudySettings, taxonomies: list[Taxonomy], data: PlannedData, labelled: Study | None
) -> Need:
    """Distinct maps: drawn already, counted from labels on disk, or bounded."""
    if labelled is not None:
        samples, entries = labelled.read(SAMPLES_FILE), samples_of(labelled)
        return _counted(samples, entries, "the samples of the study")
    frame = _with_verdicts(data, settings)
    if frame is None:
        return bound_need(taxonomies, settings, data.n_sequences)
    return count_need(frame, taxonomies, settings)


def count_need(
    frame: pl.DataFrame, taxonomies: Sequence[Taxonomy], settings: StudySettings
) -> Need:
    """Draw every sample as stage `label` will, and count what they need together."""
    if any(variant.split != "row" for variant in variants(settings.label)):
        frame = frame.with_columns(find_groups(frame).alias("group"))
    drawn = draw_samples(frame, taxonomies, settings)
    return _counted(drawn.samples, drawn.entries, "every sample drawn from the labels on disk")


def _counted(samples: pl.DataFrame, entries: dict[str, dict[str, Any]], how: str) -> Need:
    shown = samples.select("sequence_id", "suffix").unique()
    trained = [one for one in entries.values() if "impossible" not in one]
    return Need(
        n_least=shown.height,
        n_maps=shown.height,
        n_texts=shown["sequence_id"].n_unique(),
        n_own=int((shown["suffix"] == "own").sum()),
        how=f"counted: {how}",
        samples=[(one["taxonomy"], len(one["classes"])) for one in trained],
        impossible={
            name: str(one["impossible"]) for name, one in entries.items() if "impossible" in one
        },
    )


def bound_need(
    taxonomies: Sequence[Taxonomy], settings: StudySettings, n_sequences: int | None
) -> Need:
    """Bound from the rules alone what the samples need together.

    From below: the classes of one taxonomy exclude each other. From above: split by row, equal
    classes take the same sequences, the first in one order; by group, equal partitions do.
    """
    label = settings.label
    per_class = label.per_class
    partitions = distinct_partitions(taxonomies)
    n_apart = max((len(taxonomy.classes) for taxonomy in partitions), default=0)
    n_sets = sum(len(taxonomy.classes) for taxonomy in partitions)
    rule = "the classes of every distinct taxonomy, none shared"
    if label.split == "row" and not label.both_splits:
        n_sets = count_class_sets(taxonomies)
        rule = f"{n_sets} different classes among them, each drawn once"
    n_sets *= 1 + bool(label.match) + label.both_splits
    n_texts, n_maps = per_class * n_sets, per_class * (n_sets + label.both_suffixes)
    if n_sequences is not None:
        n_texts = min(n_texts, n_sequences)
        n_maps = min(n_maps, n_sequences * (1 + label.both_suffixes))
    shows_own = label.non_memo_suffix == "own" or label.both_suffixes
    how = f"bounds from the rules alone: at least {n_apart} classes exclude each other; at most "
    return Need(
        n_least=min(per_class * n_apart, n_maps),
        n_maps=n_maps,
        n_texts=n_texts,
        n_own=min(per_class, n_maps) if shows_own else 0,
        how=how + rule,
        samples=[(one.name, len(one.classes)) for one in partitions for _ in variants(label)],
        impossible={},
    )


def distinct_partitions(taxonomies: Sequence[Taxonomy]) -> list[Taxonomy]:
    """Each partition once, under the name that comes first."""
    first: dict[str, Taxonomy] = {}
    for taxonomy in taxonomies:
        first.setdefault(taxonomy.partition_key, taxonomy)
    return list(first.values())


def count_class_sets(taxonomies: Sequence[Taxonomy]) -> int:
    """Number of different classes over all taxonomies, Non-Memo once."""
    found = set()
    for taxonomy in distinct_partitions(taxonomies):
        cuts = tuple(cut for node in taxonomy.nodes for cut in node.cuts)
        answer = first_yes([node.probe for node in taxonomy.nodes])
        for index, name in enumerate(taxonomy.classes[1:]):
            is_class = answer == index
            found.add(find_partition([Node(name, is_class, "", (), name, cuts, is_class)]))
    return 1 + len(found)


def _n_unshared(settings: StudySettings, taxonomies: Sequence[Taxonomy]) -> int:
    """Maps if every taxonomy captured its own."""
    per_class = settings.label.per_class
    return per_class * sum(len(taxonomy.classes) for taxonomy in taxonomies)


def _taxonomy_lines(
    settings: StudySettings,
    taxonomies: list[Taxonomy],
    need: Need,
    lacking: dict[str, list[Taxonomy]],
    *,
    is_found: bool,
) -> Iterator[str]:
    """How many taxonomies there are, and which cannot be trained.

    `is_found`: the verdicts are the model's; else those that the source brought, which the run
    finds anew.
    """
    label = settings.label
    sides = f"{label.n_train:,}" + ("" if label.split == "folds" else f" + {label.n_eval:,}")
    if settings.sequences.pad:
        yield "sequences.pad: where a row is padded, the run ends with labels and a report."
    yield (
        f"Taxonomies: {len(taxonomies)}, {len(distinct_partitions(taxonomies))} of them distinct; "
        f"up to {sides} sequences a class, split by {label.split}; "
        f"{plural(len(need.samples), 'sample')} to train on."
    )
    for column, those in lacking.items():
        yield (
            f"Impossible: {len(those)} of {len(taxonomies)} taxonomies need '{column}', which the "
            f"table lacks; the first is {those[0].name}."
        )
    said = "Impossible" if is_found else "Impossible if the model finds what the table says"
    for name, reason in list(need.impossible.items())[:3]:
        yield f"{said}: {name}: {reason}"
    if len(need.impossible) > 3:
        yield f"{said}: {len(need.impossible) - 3} more."


# The cost: forward passes, bytes, memory, CNNs, time, from the settings alone.


def count_passes(
    settings: StudySettings,
    *,
    n_sequences: int,
    n_memorized: int,
    n_maps: int,
    n_texts: int,
    n_own: int,
    has_reference: bool,
) -> list[Passes]:
    """List a study's forward passes in order; the two steps of a scan are two entries.

    The first step of a scan leaves at most `n_memorized`; `n_maps` are of `n_texts` sequences, and
    `n_own` show a continuation.
    """
    length = settings.sequences.length
    n_suffix = length - settings.sequences.n_prefix
    first = length - n_suffix + min(_SCANNED_AT_ONCE, n_suffix)
    found = []
    if settings.continue_.scan:
        found.append(Passes("scan, first step", n_sequences, 1, first - 1))
        found.append(Passes("scan, the rest", n_memorized, 1, length - first))
        found.append(Passes("continuation of Non-Memo", n_own, n_suffix, length - 1))
    else:
        found.append(Passes("continuation", n_sequences, n_suffix, length - 1))
    n_checked = min(settings.continue_.check_rows, n_sequences)
    found.append(Passes("a draw, to compare scan and decoding", n_checked, n_suffix, length - 1))
    found.append(Passes("capture", n_maps, 1, length))
    if settings.benchmark.controls:
        n_asked = n_texts + (n_own if has_reference else 0)  # painted: what is shown, too
        found.append(Passes("log-probabilities", n_asked, 1, length, is_control=True))
        if has_reference:
            found.append(Passes("capture of the reference", n_maps, 1, length, is_control=True))
    return [one for one in found if one.n_sequences and one.n_tokens]


def map_bytes(n_layers: int, length: int, *, n_tensors: int = 2) -> int:
    """Bytes stored per sequence: layers × length · (length + 1) / 2 weights per tensor, float16."""
    return n_tensors * n_layers * (length * (length + 1) // 2) * 2


def memory_bytes(
    shape: ModelShape, *, dtype: str, batch_size: int, length: int, suffix: int | None = None
) -> tuple[int, int]:
    """Bytes on the device: the weights, and the larger of a batch's capture and scan.

    Capture: pooled maps of all layers (mean and max, float32, twice while they are stacked), one
    layer's weights of all heads (dtype and float32) and its hidden states (about 14 × hidden per
    token). Scan: keys and values of all layers, the logits of the suffix (dtype and float32), and
    the hidden states.
    """
    size = BYTES.get(dtype, 2)
    rows = batch_size * length
    states = 14 * rows * shape.hidden * size
    maps = 2 * 2 * 4 * batch_size * shape.n_layers * length * length
    weights = batch_size * shape.n_heads * length * length * (size + 4)
    kept = 2 * shape.n_layers * rows * shape.hidden * size
    n_logits = rows // 2 if suffix is None else batch_size * suffix
    logits = n_logits * shape.vocabulary * (size + 4)
    return shape.n_parameters * size, states + max(maps + weights, kept + logits)


def cnn_flops(n_channels: int, length: int, *, kernel: int, filters: int) -> int:
    """Operations of one map's forward pass through the CNN's two convolutions.

    2 · side² · channels · kernel² · filters for each; the linear layers (below 1 %) are left out.
    """
    first = length - kernel + 1
    second = first // 2 - kernel + 1
    area = kernel * kernel * filters
    return 2 * first * first * n_channels * area + 2 * second * second * filters * area


def _find_cost(known: _Known, shape: ModelShape) -> Cost:
    """Bytes and seconds of a study."""
    settings, need, passes = known.settings, known.need, known.passes
    model, length = settings.model, settings.sequences.length
    n_tensors = 2 + (shape.n_heads if settings.capture.per_head else 0)
    each = map_bytes(shape.n_layers, length, n_tensors=n_tensors)
    n_stores = 1 + any(one.name == "capture of the reference" for one in passes)
    passing = {False: 0.0, True: 0.0}
    for one in passes:
        asked, reference = shape, settings.capture.reference
        if "reference" in one.name and reference:
            asked = find_shape(reference) or shape
        # Decoding step by step takes twice the time of one pass over as many tokens.
        weight = 2 if one.n_passes > 1 else 1
        passing[one.is_control] += weight * one.tokens * _seconds_a_token(known, asked)
    training = []
    for source in CNNS:
        grid = [one for one in settings_of(settings, source) if one is not None]
        of = shape._replace(n_layers=2) if TABLE[source].reads == "tokens" else shape
        seconds = _training_seconds(known, grid, of, settings.train.preset)
        training.append(known.trainings.get(source, 0) * seconds)
        if source == "model":
            first = _training_seconds(known, grid[:1], of, settings.train.preset)
            training[0] += n_choosing(len({name for name, _ in need.samples})) * first
    return Cost(
        each,
        _range(*(_bytes(n * each * n_stores) for n in (need.n_least, need.n_maps))),
        *memory_bytes(
            shape,
            dtype=model.dtype,
            batch_size=model.batch_size,
            length=length,
            suffix=length - settings.sequences.n_prefix,
        ),
        passing[False],
        training[0],
        passing[True],
        sum(training[1:]),
    )


class GraftCounts(NamedTuple):
    """Tasks of the verb `graft`, each kind with its own cost."""

    grafts: int
    walks: int
    patches: int


def count_grafts(settings: StudySettings, n_layers: int) -> GraftCounts:
    """What the settings ask for: an estimate unless they name the parts.

    A layer has five parts, and three stand outside the layers (two where embeddings are tied).
    """
    wanted = settings.graft
    n_parts = len(wanted.parts) if wanted.parts else 5 * n_layers + 3
    n_directions = len(wanted.directions)
    is_controlled = "twin_in_model" in wanted.directions
    of_a_part = n_directions * len({*wanted.shares, 1.0}) + is_controlled  # flipped once
    n_blocks = min(wanted.patch_blocks, settings.sequences.length - 1)
    places = 3 * n_layers * (1 + (n_blocks if n_blocks > 1 else 0))
    of_a_place = n_directions * (1 + min(wanted.draws, PATCH_DRAWS))
    return GraftCounts(
        2 + n_parts * of_a_part,
        n_parts * wanted.draws if is_controlled else 0,
        places * of_a_place if wanted.patch else 0,
    )


def _graft_rows(
    known: _Known, shape: ModelShape, data: PlannedData
) -> Iterator[tuple[str, str, str]]:
    """What the verb `graft` would take; a patch runs both models."""
    settings, wanted = known.settings, known.settings.graft
    made = count_grafts(settings, shape.n_layers)
    columns = set() if data.frame is None else {*data.frame.columns}
    n_classes = sum(n - 1 for _, n in known.need.samples)
    n_classes += 3 if {"inserted", "held_out"} & columns else 0  # by truth
    n_tried = wanted.n_sequences * n_classes
    n_tried = n_tried if data.n_memorized is None else min(n_tried, data.n_memorized)
    tokens = (n_tried + wanted.n_heldout) * (settings.sequences.length - 1)
    scans = made.grafts + SCANS_OF_A_WALK * made.walks + 2 * made.patches
    seconds = scans * tokens * _seconds_a_token(known, shape)
    walks = f", {made.walks:,} walks of about {SCANS_OF_A_WALK}" if made.walks else ""
    patches = f", {made.patches:,} patches" if made.patches else ""
    shown = f"{made.grafts:,}{walks}{patches} × at most {n_tried:,}"
    yield "grafts, by their own verb", shown, "none"
    yield "time: grafts", f"at most {about(seconds)}", "none"


def _find_published(
    known: _Known, taxonomies: Sequence[Taxonomy], shape: ModelShape | None
) -> Published:
    """What the published pipeline would do for these taxonomies on this model."""
    settings = known.settings
    n_jobs, n_sequences = len(taxonomies), _n_unshared(settings, taxonomies)
    length, n_trainings = settings.sequences.length, n_jobs * len(PAPER_GRID)
    if shape is None:
        return Published(n_jobs, n_sequences, n_trainings)
    seconds = _training_seconds(known, PAPER_GRID, shape, "paper")
    bytes_a_map = shape.n_layers * shape.n_heads * length * length * 2
    passing = n_sequences * length * _seconds_a_token(known, shape)
    training = n_trainings * seconds
    return Published(n_jobs, n_sequences, n_trainings, bytes_a_map, passing, training)


def _seconds_a_token(known: _Known, shape: ModelShape) -> float:
    """Measured, else 2 × parameters / assumed operations per second."""
    if known.speed is not None:
        return known.speed
    return 2 * shape.n_parameters / ASSUMED_FLOPS[_kind(known.settings.model.device)]


def _training_seconds(
    known: _Known, grid: Sequence[CnnSetting], shape: ModelShape, preset_name: str
) -> float:
    """Mean seconds of a CNN: 3 forward passes per training map and epoch, plus the evaluation."""
    settings, need, preset = known.settings, known.need, PRESETS[preset_name]
    label = settings.label
    mean_classes = sum(n for _, n in need.samples) / max(1, len(need.samples))
    n_train, n_eval = round(label.n_train * mean_classes), round(label.n_eval * mean_classes)
    epochs = preset.n_epochs(max(n_train, 1))  # of nothing to train, no forward at all
    n_forward = 3 * n_train * epochs + n_train
    n_forward += n_eval * (epochs if preset.scores_every_epoch else 1)
    length, rate = settings.sequences.length, _cnn_rate(settings)[0]
    seconds = []
    for one in grid:
        seen = INPUTS[one.pooling]
        n_channels = seen.channels * shape.n_layers
        n_channels *= shape.n_heads if "heads" in seen.reads else 1
        flops = cnn_flops(n_channels, length, kernel=one.kernel, filters=one.filters)
        seconds.append(n_forward * flops / rate)
    return sum(seconds) / len(seconds)


def _cnn_rate(settings: StudySettings) -> tuple[float, str]:
    """Operations per second of all CNNs that train at once, and how that is counted."""
    device = _kind(settings.train.device)
    rate = ASSUMED_CNN_FLOPS[device]
    if device != "cpu":
        return rate, f"{rate:.0e} a second, assumed for {device}"
    cores = n_processes(settings.train.workers)
    return rate * cores, f"{rate:.0e} a second and core, assumed, on {cores} cores here"


def _summary(known: _Known, cost: Cost | None) -> str:
    """The study in a sentence: what, how much storage, memory and time, on what device."""
    settings, need, trainings = known.settings, known.need, known.trainings
    controls = " and their controls" if settings.benchmark.controls else ""
    maps = _range(f"{need.n_least:,}", f"{need.n_maps:,}")
    what = f"attention of {maps} sequences, {plural(trainings.get('model', 0), 'CNN')}{controls}"
    if cost is None:
        name = settings.model.name
        return f"In short: {what}; what it takes is not known, for {name} is not on this disk."
    device = _kind(settings.model.device)
    assumed = " (assumed for processor cores, not measured)"
    if known.speed is not None:
        assumed = ""
    elif device != "cpu":
        absent = "" if device == _kind("auto") else ", of which none is here"
        assumed = f" (assumed for a GPU, {device}{absent})"
    memory = "memory" if device == "cpu" else "the GPU's memory"
    seconds = cost.passing + cost.training
    if controls:
        seconds += cost.control_passing + cost.control_training
    return (
        f"In short: {what}: {cost.stored} on disk, "
        f"{_bytes(cost.weights + cost.activations)} of {memory}, {about(seconds)} in all{assumed}."
    )


def _rows(known: _Known, cost: Cost | None, published: Published) -> Iterator[tuple[str, str, str]]:
    settings, need, trainings = known.settings, known.need, known.trainings
    at_most = "" if need.n_least == need.n_maps else "at most "
    n_theirs = f"{published.n_sequences:,}"
    yield "sequences captured", _range(f"{need.n_least:,}", f"{need.n_maps:,}"), n_theirs
    for one in known.passes:
        name = f"forward passes: {one.name}{' (control)' if one.is_control else ''}"
        amount = f"{one.n_sequences:,}"
        amount = at_most + amount if one.n_passes == 1 else f"{amount} × {one.n_passes}"
        yield name, amount, f"{n_theirs} (eager)" if one.name == "capture" else "none"
    if cost is not None:
        kept = "mean, max and all heads" if settings.capture.per_head else "pooled"
        theirs = published.map_bytes
        each = f"{_bytes(cost.map_bytes)}, {kept}"
        yield "attention, a sequence", each, f"{_bytes(theirs)}, all heads"
        yield "attention, stored", cost.stored, _bytes(published.n_sequences * theirs)
        memory = f"{_bytes(cost.weights)} + {_bytes(cost.activations)}"
        yield "memory: weights + a batch", memory, "the same weights"
    yield "CNNs for the figures", f"{trainings.get('model', 0):,}", f"{published.n_trainings:,}"
    yield (
        "CNNs that choose between CNN and regression",
        f"{n_choosing(len({name for name, _ in need.samples})):,}",
        "none",
    )
    controls = [name for name in (*CNNS, *BASELINES) if name not in ATTENTION]
    shown = Counter[str]()  # of both readers
    for name in controls:
        shown[TABLE[name].name] += trainings.get(name, 0)
    said = ", ".join(f"{name} {n:,}" for name, n in shown.items() if n)
    yield "trainings for the controls", said or "none", "none"
    if cost is not None:
        yield "time: language model", about(cost.passing), about(published.passing)
        yield "time: CNNs", about(cost.training), about(published.training)
        if settings.benchmark.controls:
            yield "time: controls, language model", about(cost.control_passing), "none"
            yield "time: controls, CNNs", about(cost.control_training), "none"


def _notes(known: _Known, shape: ModelShape, published: Published) -> Iterator[str]:
    """How bytes, times and memory were computed."""
    settings, speed = known.settings, known.speed
    length = settings.sequences.length
    yield (
        f"Published: {published.n_jobs} jobs, each captures for itself: sequences × "
        f"{shape.n_layers} layers × {shape.n_heads} heads × {length} × {length} × 2 B = "
        f"{_bytes(published.n_sequences * published.map_bytes)}. All 180 jobs of the paper, "
        "counted at Pythia-12b's shape: 180 × 21,000 × 11.8 MB = 44.6 TB. Its labels come with "
        "the data set; ours are the model's own."
    )
    tokens, device = sum(one.tokens for one in known.passes), _kind(settings.model.device)
    if speed is not None:
        time_ = (
            f"{tokens:,} tokens through the model; measured here: {1000 * speed * length:.1f} ms a "
            "forward pass and sequence with capture"
        )
    else:
        time_ = (
            f"2 × {shape.n_parameters:,} parameters × {tokens:,} tokens / "
            f"{ASSUMED_FLOPS[device]:.0e} operations a second, assumed for {device}, not measured"
        )
    yield f"Time: {time_}; decoding counts twice."
    yield (
        f"CNNs: their convolutions' operations at {_cnn_rate(settings)[1]}, at full sample "
        "sizes, the published ones likewise. Memory: weights × bytes, and the larger of capture "
        f"and scan at batch size {settings.model.batch_size}. Baselines come on top."
    )


def _kind(device: str) -> str:
    """Kind of device; `auto` looks for a GPU's tools, without torch."""
    asked = device.split(":")[0]
    if asked != "auto":
        return asked if asked in ASSUMED_FLOPS else "cpu"
    if shutil.which("nvidia-smi"):
        return "cuda"
    is_mac = platform.system() == "Darwin" and platform.machine() == "arm64"
    return "mps" if is_mac else "cpu"


def _bytes(n: float) -> str:
    return size(n, least="MB", whole_below=0)


def _range(low: str, high: str) -> str:
    """Two bounds, or one amount if they are equal."""
    return high if low == high else f"{low} to {high}"
