"""What a run would do, said before it does it, with the published pipeline beside it.

Works without the model and the data on disk: from tables of published shapes and counts, which it
then says. Nothing is written.
"""

import json
import math
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from importlib import resources
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import yaml

from mnemoscope.benchmark.sources import ATTENTION, BASELINES, CNNS, TABLE
from mnemoscope.cluster.engine import n_workers
from mnemoscope.cnn.presets import PAPER_GRID, CnnSetting, get_preset
from mnemoscope.data.features import add_features, is_available
from mnemoscope.data.published_split import HUB_NAME, SPLITS, list_splits
from mnemoscope.data.read import has_values
from mnemoscope.errors import UserError
from mnemoscope.pipeline.published_split import fit_labels, read_published
from mnemoscope.pipeline.trainings import (
    check_inputs,
    controlled_taxonomies,
    n_trainings,
    settings_of,
)
from mnemoscope.study.folder import STAGES, Study, check_free, is_study
from mnemoscope.study.settings import EMBEDDED, LabelSettings, StudySettings
from mnemoscope.study.variants import variants
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import NON_MEMO, Taxonomy, parse_taxonomy
from mnemoscope.taxonomy.nodes import first_yes
from mnemoscope.taxonomy.sample import Impossible, draw_sample, order_table

if TYPE_CHECKING:
    from mnemoscope.study.models import Models


# How many distinct sequences a list of taxonomies needs: exact with labels, else bounds.

_LARGEST_GRID = 200_000


@dataclass(frozen=True)
class Overlap:
    """Distinct maps that the samples of all taxonomies need together.

    Attributes:
        at_least: a lower bound.
        at_most: an upper bound; equal to `at_least` where it was counted.
        own: of these, maps of a Non-Memo sequence with its continuation, at most.
        without_sharing: maps if each of the named taxonomies captured for itself.
        how: how it was found, in words.
        impossible: taxonomies that cannot be trained, with the reason.
        sampled: names of the samples that are drawn already; None where none are.
    """

    at_least: int
    at_most: int
    own: int
    without_sharing: int
    how: str
    impossible: dict[str, str]
    sampled: frozenset[str] | None = None


def distinct_partitions(taxonomies: Sequence[Taxonomy]) -> list[Taxonomy]:
    """Each partition once, under the name that comes first."""
    first: dict[str, Taxonomy] = {}
    for taxonomy in taxonomies:
        first.setdefault(taxonomy.partition_key, taxonomy)
    return list(first.values())


def count_overlap(
    frame: pl.DataFrame, taxonomies: Sequence[Taxonomy], whole: StudySettings, *, how: str
) -> Overlap:
    """Draw every sample as the stage `label` will, and count what they need together.

    Args:
        frame: table with labels of memorization and the features that the taxonomies need;
            `tokens` where the split is by group.
        taxonomies: as asked for.
        whole: settings of the study.
        how: where the labels are from, in words.

    Returns:
        Exact counts (both bounds are equal).

    Raises:
        UserError: a column is missing.
    """
    settings = whole.label
    choices = variants(settings)
    if any(choice.split == "group" for choice in choices):
        frame = frame.with_columns(find_groups(frame).alias("group"))
    tables = {
        choice: order_table(frame, seed=settings.seed, split=choice.split, match=choice.match)
        for choice in choices
    }
    drawn: set[tuple[int, str]] = set()
    impossible: dict[str, str] = {}
    for taxonomy in distinct_partitions(taxonomies):
        labels = fit_labels(frame, label_sequences(frame, taxonomy), taxonomy, whole)
        for choice, table in tables.items():
            outcome = draw_sample(
                table,
                labels,
                taxonomy,
                n_train=settings.n_train,
                n_eval=settings.n_eval,
                drop_small_classes=settings.drop_small_classes,
                minimum=settings.minimum,
            )
            if isinstance(outcome, Impossible):
                impossible[taxonomy.name + choice.suffix] = str(outcome)
                continue
            for sequence_id, name in outcome.frame.select("sequence_id", "class").iter_rows():
                shown = choice.non_memo_suffix if name == NON_MEMO else "true"
                drawn.add((sequence_id, shown))
    n_own = sum(shown == "own" for _, shown in drawn)
    total = _without_sharing(taxonomies, settings)
    return Overlap(len(drawn), len(drawn), n_own, total, how, impossible)


def bound_overlap(
    taxonomies: Sequence[Taxonomy], settings: LabelSettings, n_sequences: int | None
) -> Overlap:
    """Bound what the samples need together, from the nodes alone.

    At least: classes that exclude each other share nothing. At most, by row: every class takes
    its first sequences in one order, so equal classes take the same ones; by group, equal
    partitions do.

    Args:
        taxonomies: as asked for.
        settings: sizes and split.
        n_sequences: sequences in the table, None where that is not known.

    Returns:
        Bounds, for classes that are large enough to be sampled in full.
    """
    per_class = settings.n_train + settings.n_eval
    partitions = distinct_partitions(taxonomies)
    classes = _class_sets(partitions)
    n_sets = sum(len(taxonomy.classes) for taxonomy in partitions)
    n_apart = max((len(taxonomy.classes) for taxonomy in partitions), default=0)
    rule = "the classes of every distinct taxonomy, none shared"
    if classes is not None:
        n_apart = max(n_apart, 1 + _count_apart(classes))
        if settings.split == "row" and not settings.both_splits:
            n_sets = 1 + len(classes)
            rule = f"{n_sets} different classes among them, each drawn once"
    n_sets *= 1 + bool(settings.match) + settings.both_splits
    at_most = per_class * (n_sets + (1 if settings.both_suffixes else 0))
    at_least = per_class * n_apart
    if n_sequences is not None:
        at_most = min(at_most, 2 * n_sequences if settings.both_suffixes else n_sequences)
        at_least = min(at_least, at_most)
    own = per_class if settings.non_memo_suffix == "own" or settings.both_suffixes else 0
    how = f"bounds from the rules alone: at least {n_apart} classes exclude each other; at most "
    how += rule
    total = _without_sharing(taxonomies, settings)
    return Overlap(at_least, max(at_least, at_most), min(own, at_most), total, how, {})


def count_class_sets(taxonomies: Sequence[Taxonomy]) -> int:
    """Different classes of all taxonomies together, Non-Memo once."""
    partitions = distinct_partitions(taxonomies)
    classes = _class_sets(partitions)
    if classes is None:
        return 1 + sum(len(taxonomy.classes) - 1 for taxonomy in partitions)
    return 1 + len(classes)


def known_classes(taxonomy: Taxonomy, counts: dict[str, int]) -> dict[str, int]:
    """Sizes of those classes that are made of Prashanth et al.'s three.

    Args:
        taxonomy: any.
        counts: `recite` (more than 5 duplicates), `reconstruct` (else a pattern), `recollect`.

    Returns:
        Memorized sequences by class, for the classes that can be told.
    """
    several, pattern = pl.col("duplicates") > 5, pl.col("is_incrementing") | pl.col("is_repeating")
    atoms = {"recite": several, "reconstruct": ~several & pattern, "recollect": ~several & ~pattern}
    reference = parse_taxonomy("Non-Memo, Recite[5], Reconstruct, Others")
    grid = _grid([taxonomy, reference])
    if grid is None:
        return {}
    answers = _ask(grid, taxonomy)
    found: dict[str, int] = dict.fromkeys(taxonomy.classes[1:], 0)
    for name, rule in atoms.items():
        inside = np.unique(answers[grid.select(rule).to_series().to_numpy()])
        if len(inside) == 1:
            key = taxonomy.classes[1 + int(inside[0])]
            if key in found:
                found[key] += counts[name]
        else:
            for index in inside:
                found.pop(taxonomy.classes[1 + int(index)], None)
    return found


def _without_sharing(taxonomies: Sequence[Taxonomy], settings: LabelSettings) -> int:
    """Maps if every taxonomy captured for itself."""
    per_class = settings.n_train + settings.n_eval
    return per_class * sum(len(taxonomy.classes) for taxonomy in taxonomies)


def _grid(taxonomies: Sequence[Taxonomy]) -> pl.DataFrame | None:
    """Made-up sequences on both sides of every threshold; None where they would be too many."""
    axes: dict[str, set[float | bool]] = {}
    for taxonomy in taxonomies:
        for node in taxonomy.nodes:
            for cut in node.cuts:
                axes.setdefault(cut.column, set()).update(cut.values)
    if prod(len(values) for values in axes.values()) > _LARGEST_GRID:
        return None
    columns = [pl.DataFrame({name: sorted(values)}) for name, values in axes.items()]
    return reduce(lambda left, right: left.join(right, how="cross"), columns)


def _ask(grid: pl.DataFrame, taxonomy: Taxonomy) -> np.ndarray:
    """Index of the first yes for every made-up sequence."""
    answers = grid.select(first_yes([node.probe for node in taxonomy.nodes])).to_series()
    found: np.ndarray = answers.to_numpy()
    if len(found) == 1:  # a taxonomy without nodes answers with one literal
        return np.repeat(found, grid.height)
    return found


def _class_sets(taxonomies: Sequence[Taxonomy]) -> list[np.ndarray] | None:
    """The different classes of memorized sequences, each as a mask over the grid."""
    grid = _grid(taxonomies)
    if grid is None or not grid.width:
        return None
    found: dict[bytes, np.ndarray] = {}
    for taxonomy in taxonomies:
        answers = _ask(grid, taxonomy)
        for index in range(len(taxonomy.classes) - 1):
            mask = answers == index
            found.setdefault(np.packbits(mask).tobytes(), mask)
    return list(found.values())


def _count_apart(classes: list[np.ndarray]) -> int:
    """Most classes found that exclude each other: from each class on, the small ones first."""
    order = sorted((mask for mask in classes if mask.any()), key=lambda one: int(one.sum()))
    best = 0
    for start in order:
        taken, count = start.copy(), 1
        for mask in order:
            if not (mask & taken).any():
                taken |= mask
                count += 1
        best = max(best, count)
    return best


# What shape has a model: from its files where they are on disk, else from a small table.

_PYTHIA = re.compile(r"(?:EleutherAI/)?pythia-([\d.]+[mb])(?:-deduped)?(?:-v0)?", re.IGNORECASE)
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_HIDDEN = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class ModelShape:
    """What decides the cost of a model.

    Attributes:
        n_layers: layers with attention.
        n_heads: attention heads (of queries) a layer.
        hidden: width of the hidden state.
        vocabulary: width of the output.
        n_parameters: weights, embeddings included.
        source: where this is known from, in words.
    """

    n_layers: int
    n_heads: int
    hidden: int
    vocabulary: int
    n_parameters: int
    source: str


@cache
def pythia_facts() -> dict[str, Any]:
    """The table of package data: `models` and `splits` by name, `data` the data set's hub name."""
    text = resources.files("mnemoscope").joinpath("studies/shapes/pythia.yaml").read_text("utf-8")
    facts: dict[str, Any] = yaml.safe_load(text)
    return facts


def find_shape(name: str, revision: str | None = None) -> ModelShape | None:
    """Find a model's shape without loading it.

    Args:
        name: folder, hub name, .gguf file or 'embedded'.
        revision: hub revision.

    Returns:
        The shape: from the model's files where they are on disk (hub names: in the local cache),
        else from the table of the Pythia suite; None where neither knows it.
    """
    config = _config_file(name, revision)
    found = _read_config(config) if config is not None else None
    return found or _known_shape(name)


def is_on_disk(name: str, revision: str | None = None) -> bool:
    """True where the weights can be loaded without a network."""
    if name == EMBEDDED or Path(name).expanduser().exists():
        return True
    files = ("model.safetensors", "model.safetensors.index.json")
    return any(_cached(name, revision, file) is not None for file in files)


def _known_shape(name: str) -> ModelShape | None:
    """The Pythia suite's shapes by hub name."""
    match = _PYTHIA.fullmatch(name)
    known = pythia_facts()["models"].get(match[1].lower()) if match else None
    if known is None:
        return None
    return ModelShape(
        n_layers=known["layers"],
        n_heads=known["heads"],
        hidden=known["hidden"],
        vocabulary=known["vocabulary"],
        n_parameters=known["parameters"],
        source="the Pythia suite's published table",
    )


def _config_file(name: str, revision: str | None) -> Path | None:
    """The model's config.json, where it is on disk."""
    if name == EMBEDDED:
        from mnemoscope.embedded import model_path

        return model_path() / "config.json"
    folder = Path(name).expanduser()
    if folder.exists():
        config = folder / "config.json"
        return config if config.is_file() else None
    return _cached(name, revision, "config.json")


def _cached(name: str, revision: str | None, file: str) -> Path | None:
    """A file of a hub model in the local cache; no network is asked."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _read_config(path: Path) -> ModelShape | None:
    """The shape as config.json has it; None where the keys are not those that we know."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    n_layers, n_heads, hidden = (_first(values, keys) for keys in (_LAYERS, _HEADS, _HIDDEN))
    vocabulary = _first(values, ("vocab_size",))
    if not (n_layers and n_heads and hidden and vocabulary):
        return None
    stored = _count_stored(path.parent.glob("*.safetensors"))
    source = "config.json and weights on disk" if stored else "config.json, parameters about"
    about = n_layers * 12 * hidden**2 + 2 * vocabulary * hidden
    return ModelShape(n_layers, n_heads, hidden, vocabulary, stored or about, source)


def _first(values: Any, keys: Iterable[str]) -> int | None:
    """The first of some keys that is there."""
    if not isinstance(values, dict):
        return None
    return next((values[key] for key in keys if isinstance(values.get(key), int)), None)


def _count_stored(paths: Iterable[Path]) -> int:
    """Weights in safetensors files, from their headers alone; 0 where there are none."""
    total = 0
    for path in paths:
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        except (OSError, ValueError, OverflowError, MemoryError):
            return 0
        tensors = (one for key, one in header.items() if key != "__metadata__")
        total += sum(math.prod(one["shape"]) for one in tensors)
    return total


# What is known of a study's sequences before it runs: from the data on disk, else from tables.

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
        from mnemoscope.pipeline.sequences import check_sources

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
    from mnemoscope.data.read import read_sequences
    from mnemoscope.data.table import read_table

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
        from mnemoscope.data.published_split import find_split

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


# What a study will cost: forward passes, bytes, memory, CNNs, time; arithmetic on settings alone.

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes a weight; `auto` is counted as 2."""
ASSUMED_FLOPS = {"cuda": 1e14, "mps": 5e12, "cpu": 1e11}
"""Floating-point operations a second of a forward pass, assumed: a third of the 312e12 that an
A100's data sheet gives for half precision; a laptop's graphics processor; a few processor cores."""
ASSUMED_CNN_FLOPS = {"cpu": 5e10, "cuda": 1e12, "mps": 5e11}
"""The same of the training of CNNs: on one processor core, about half of what
`benchmarks/bench_plan.py` measures for a step alone; on an accelerator in all, assumed."""
_SCANNED_AT_ONCE = 4  # suffix tokens that the scan asks of every sequence first


@dataclass(frozen=True)
class Passes:
    """Forward passes of one kind.

    Attributes:
        name: what they are for.
        n_sequences: sequences.
        n_passes: passes a sequence.
        n_tokens: tokens a sequence that go through the model, over all its passes.
        is_control: asked for by the controls.
    """

    name: str
    n_sequences: int
    n_passes: int
    n_tokens: int
    is_control: bool = False

    @property
    def tokens(self) -> int:
        """Tokens through the model in all."""
        return self.n_sequences * self.n_tokens


@dataclass(frozen=True)
class Memory:
    """Bytes on the device: the weights, and the most that a batch needs beside them."""

    weights: int
    activations: int


def count_passes(
    settings: StudySettings,
    *,
    n_sequences: int,
    n_memorized: int,
    n_maps: int,
    n_own: int,
    has_reference: bool,
) -> list[Passes]:
    """List the forward passes of a study in their order.

    Args:
        settings: of the study.
        n_sequences: rows of the table.
        n_memorized: of these, those that the scan's first step leaves, at most.
        n_maps: maps captured.
        n_own: of these, Non-Memo sequences shown with their continuation.
        has_reference: whether a reference model is captured too.

    Returns:
        One entry a kind; a scan's two steps are two entries.
    """
    length = settings.sequences.length
    half = length // 2
    first = half + min(_SCANNED_AT_ONCE, half)
    found = []
    if settings.continue_.scan:
        found.append(Passes("scan, first step", n_sequences, 1, first - 1))
        found.append(Passes("scan, the rest", n_memorized, 1, length - first))
        found.append(Passes("continuation of Non-Memo", n_own, half, length - 1))
    else:
        found.append(Passes("continuation", n_sequences, half, length - 1))
    n_checked = min(settings.continue_.check_rows, n_sequences)
    found.append(Passes("scan against decoding, a draw", n_checked, half, length - 1))
    found.append(Passes("capture", n_maps, 1, length))
    if settings.benchmark.controls:
        found.append(Passes("log-probabilities", n_maps, 1, length, is_control=True))
        if has_reference:
            found.append(Passes("capture of the reference", n_maps, 1, length, is_control=True))
    return [one for one in found if one.n_sequences and one.n_tokens]


def map_bytes(n_layers: int, length: int, *, n_tensors: int = 2) -> int:
    """Bytes stored a sequence: mean and max, layers × length · (length + 1) / 2 weights, float16.

    Args:
        n_layers: of the model.
        length: tokens a sequence.
        n_tensors: mean and max, and one more a head where every head is stored.

    >>> map_bytes(36, 64)
    299520
    """
    return n_tensors * n_layers * (length * (length + 1) // 2) * 2


def memory_bytes(shape: ModelShape, *, dtype: str, batch_size: int, length: int) -> Memory:
    """Memory on the device, for the larger of capture and scan.

    Weights: parameters × bytes. Capture: pooled maps of all layers (mean and max, float32, twice
    while they are stacked), one layer's weights of all heads (dtype and float32) and its hidden
    states (about 14 × hidden a token). Scan: keys and values of all layers, the logits of the
    suffix (dtype and float32), and the hidden states.

    Args:
        shape: of the model.
        dtype: of its weights.
        batch_size: sequences a forward pass.
        length: tokens a sequence.
    """
    size = BYTES.get(dtype, 2)
    rows = batch_size * length
    states = 14 * rows * shape.hidden * size
    maps = 2 * 2 * 4 * batch_size * shape.n_layers * length * length
    weights = batch_size * shape.n_heads * length * length * (size + 4)
    kept = 2 * shape.n_layers * rows * shape.hidden * size
    logits = (rows // 2) * shape.vocabulary * (size + 4)
    return Memory(shape.n_parameters * size, states + max(maps + weights, kept + logits))


def cnn_flops(n_layers: int, length: int, *, kernel: int, filters: int) -> int:
    """Operations of one map's forward pass through the CNN's two convolutions.

    2 · side² · channels · kernel² · filters for each; the linear layers are left out (below 1 %).
    """
    first = length - kernel + 1
    second = first // 2 - kernel + 1
    area = kernel * kernel * filters
    return 2 * first * first * n_layers * area + 2 * second * second * filters * area


def training_flops(
    settings: StudySettings, setting: CnnSetting, n_classes: float, *, channels: int, preset: str
) -> float:
    """Operations of one CNN: 3 forward passes a training map and epoch, and those that judge it.

    Args:
        settings: sizes a class and length.
        setting: kernel and filters.
        n_classes: of the taxonomy, or their mean over taxonomies.
        channels: of a map: layers, or 2 for the tokens alone.
        preset: of the training.
    """
    chosen, label = get_preset(preset), settings.label
    n_train, n_eval = round(label.n_train * n_classes), round(label.n_eval * n_classes)
    epochs = chosen.n_epochs(n_train)
    scored = epochs if chosen.scores_every_epoch else 1
    n_forward = 3 * n_train * epochs + n_eval * scored + n_train
    length = settings.sequences.length
    return n_forward * cnn_flops(channels, length, kernel=setting.kernel, filters=setting.filters)


# What the published pipeline needs for the same question: every job captures for itself.

PAPER_JOBS = 180
"""Jobs of the published pipeline (arXiv 2508.02573), on three models."""
_SEQUENCES_A_CLASS = 6000
_FAMILIES = {3: 27, 4: 27}
"""Published taxonomies by their number of classes."""
_SETTINGS = 8
_BYTES = 2  # float16


@dataclass(frozen=True)
class PublishedCost:
    """The published pipeline for one study's taxonomies.

    Attributes:
        n_jobs: taxonomies, each captured for itself.
        n_sequences: sequences captured, in all jobs.
        n_bytes: stored, in all jobs.
        n_trainings: CNNs.
    """

    n_jobs: int
    n_sequences: int
    n_bytes: int
    n_trainings: int


def bytes_a_sequence(shape: ModelShape, length: int = 64) -> int:
    """Attention weights of one sequence with all heads: layers × heads × length² × 2 bytes.

    >>> round(bytes_a_sequence(ModelShape(36, 40, 5120, 50688, 0, "")) / 1e6, 1)
    11.8
    """
    return shape.n_layers * shape.n_heads * length * length * _BYTES


def published_cost(
    taxonomies: Sequence[Taxonomy], shape: ModelShape | None, *, per_class: int, length: int
) -> PublishedCost:
    """Count what the published pipeline would do for these taxonomies on this model.

    Args:
        taxonomies: one job each.
        shape: of the model; None leaves the bytes 0.
        per_class: training and evaluation sequences a class.
        length: tokens a sequence.
    """
    n_sequences = per_class * sum(len(taxonomy.classes) for taxonomy in taxonomies)
    size = bytes_a_sequence(shape, length) if shape is not None else 0
    return PublishedCost(
        len(taxonomies), n_sequences, n_sequences * size, _SETTINGS * len(taxonomies)
    )


def paper_bytes(shape: ModelShape) -> int:
    """All that the paper's 180 jobs store, each counted at this shape.

    The mean published taxonomy has (27 · 3 + 27 · 4) / 54 = 3.5 classes of 6,000 sequences. At
    Pythia-12b's shape: 180 × 21,000 × 11.8 MB = 44.6 TB, the 45 TB that it is known to need.
    """
    n_classes = sum(classes * count for classes, count in _FAMILIES.items())
    a_job = _SEQUENCES_A_CLASS * n_classes // sum(_FAMILIES.values())
    return PAPER_JOBS * a_job * bytes_a_sequence(shape)


# The cost of a study in words, beside the published pipeline's, and the formulas behind it.

_UNKNOWN = "not known"
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
    sources = [name for name in (*CNNS, *BASELINES) if name not in ATTENTION]
    controls = {name: facts.trainings.get(name, 0) for name in sources}
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
    seconds = dict.fromkeys(CNNS, 0.0)
    for source in seconds:
        count = facts.trainings.get(source, 0)
        grid = [one for one in settings_of(settings, source) if one is not None]
        channels = 2 if TABLE[source].reads == "tokens" else shape.n_layers
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


# What a run would do, said before it does it, with the published pipeline beside it.

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
    from mnemoscope.pipeline.label import SAMPLES_FILE, samples_of

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
    return Speed(seconds / length, lm.device.split(":")[0])


# What a store takes at the shapes of the Pythia suite, beside the published layout, as a table.

PAPER_MODELS = ("2.8b", "6.9b", "12b")
"""The three models of the paper (arXiv 2508.02573)."""
_LENGTH = 64


def storage_table() -> str:
    """Bytes a sequence of both layouts at every shape of the suite, as a Markdown table."""
    lines = [
        "| Pythia | layers × heads | published layout | here | times smaller |",
        "|---|---|---|---|---|",
    ]
    for name in pythia_facts()["models"]:
        shape = _shape(name)
        theirs, ours = bytes_a_sequence(shape, _LENGTH), map_bytes(shape.n_layers, _LENGTH)
        lines.append(
            f"| {name} | {shape.n_layers} × {shape.n_heads} | {theirs / 1e6:.2f} MB | "
            f"{ours / 1e6:.3f} MB | {theirs / ours:.0f} |"
        )
    return "\n".join(lines) + "\n"


def benchmark_bytes(n_maps: int) -> int:
    """Bytes of the three paper models' stores, each with so many maps.

    >>> round(benchmark_bytes(30_000) / 1e9, 1)
    25.0
    """
    return n_maps * sum(map_bytes(_shape(name).n_layers, _LENGTH) for name in PAPER_MODELS)


def most_maps(n_bytes: float) -> int:
    """How many maps a model the three stores may hold to take so many bytes together.

    >>> most_maps(60e9)
    72115
    """
    return int(n_bytes // benchmark_bytes(1))


def published_bytes() -> int:
    """What the paper's 180 jobs store, each counted at the shape of the largest model."""
    return paper_bytes(_shape("12b"))


def _shape(name: str) -> ModelShape:
    """A shape of the suite."""
    shape = find_shape(f"EleutherAI/pythia-{name}")
    assert shape is not None
    return shape
