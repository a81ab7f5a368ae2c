"""Stage `graft`: put parts of the twin into the model and see which classes it still reproduces.

The twin is the study's reference model, where it has the model's shape: the same network without
the memories. A graft is one scan of the memorized sequences. A walk makes one random change of a
part larger and larger, until it breaks as much of every class as the twin's part does. Both are
kept in `graft/`, never made twice, and run side by side like trainings. Patches do the same with
the twin's activations.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.cluster.run import current_executor, run_units
from mnemoscope.cluster.units import ALL, Needs, Opened, Share, UnitStore
from mnemoscope.columns import Column, schema_of
from mnemoscope.data.table import look_up, refuse_padding, token_matrix
from mnemoscope.errors import UserError
from mnemoscope.files import digest
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.graft import (
    KINDS,
    OUTSIDE,
    PLACES,
    WHOLE,
    Control,
    Pair,
    Place,
    module_at,
    scan_patched,
)
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import suffix_logprobs
from mnemoscope.lm.resume import KeptStates, keep_states
from mnemoscope.localize.grafts import Part, Specific, Tried, compare_classes, kept_by_class
from mnemoscope.localize.grafts import Walk as Walked
from mnemoscope.pipeline.causes import (
    CURVES_FILE,
    FEWEST_GRAFTED,
    GRAFT_FILE,
    GRAFT_SPECIFICITY_FILE,
    INTO_MODEL,
    INTO_TWIN,
    PATCHES_FILE,
    SAME_SIZE,
    SEQUENCES_FILE,
    TRUTH,
)
from mnemoscope.pipeline.label import LABELS_FILE, samples_of
from mnemoscope.pipeline.reference import ask_reference, how_to_give
from mnemoscope.progress import SILENT, Progress, say
from mnemoscope.stats import FEWEST_GROUPS, FIGURE, Estimate, frame_of
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models, facts_of, identity_of
from mnemoscope.study.records import Model
from mnemoscope.study.settings import DRAWS_BESIDE, GraftSettings, StudySettings
from mnemoscope.study.stages import stage_named
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.draw import order_keys
from mnemoscope.taxonomy.groups import find_groups, other_rows
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import NON_MEMO, Taxonomy
from mnemoscope.words import plural

WALK_STEP = 1.4
"""From one scale of a walk to the next."""
_SMALLEST_SCALE = 1 / 8
_UNHARMED = 0.99  # a part that leaves so much of every class breaks nothing to compare with
_VERSION = 5  # of what a graft does and keeps; another makes all grafts anew
_OPPOSITE = {INTO_MODEL: INTO_TWIN, INTO_TWIN: INTO_MODEL}
_N_WHOLE = 2  # grafts of nothing, into each of the models
_HELD_OUT_EACH = 10  # held out for each that is tried, at most
_SCANS_OF_A_WALK = 6  # scales that a random change is tried at, about; 6.1 in the small demo
_WORTH_WORKERS = 2_000  # sequences scanned, below which workers take longer to start than to work


@dataclass(frozen=True)
class Graft:
    """Which part is put into which model, from the twin or flipped; part "" is none."""

    part: str
    direction: str = INTO_MODEL
    control: Literal["twin", "flip", "same size"] = "twin"  # `SAME_SIZE` in tables alone
    share: float = 1.0


@dataclass(frozen=True)
class Walk:
    """One random change of a part of the model, at growing scales."""

    part: str
    control: Control
    draw: int


@dataclass(frozen=True)
class Patch:
    """Activations put in at one place, of all positions or some."""

    part: str  # such as `layers.2.residual`; the places are those of `patched`
    positions: str  # `all`, or such as `16-31`, counted from 0
    direction: str = INTO_MODEL  # into which of the two
    # `twin` is what the other model has there on the same tokens, `other` what it has there on
    # those of a sequence of another group.
    control: Literal["twin", "other"] = "twin"
    draw: int = 0  # of the control

    @property
    def where(self) -> tuple[Place, int, list[int] | None]:
        """Place, layer and positions as `patched` takes them."""
        _, layer, name = self.part.split(".")
        place = next(one for one in PLACES if one == name)
        if self.positions == "all":
            return place, int(layer), None
        first, last = map(int, self.positions.split("-"))
        return place, int(layer), list(range(first, last + 1))


@dataclass(frozen=True)
class Task:
    """What is to be made, a unit of work on a `Loaded`; `basis` is what decides all of a study."""

    graft: Graft | Walk | Patch
    basis: str
    key: str
    n_tried: int = 1  # sequences of a scan
    is_walked: bool = True  # whether a random change is tried at growing scales

    @property
    def size(self) -> int:
        """Sequences that are scanned for it, about."""
        n_scales = _SCANS_OF_A_WALK if self.is_walked else 1
        n_scans = {Graft: 1, Walk: n_scales, Patch: 2}  # a patch runs both
        return n_scans[type(self.graft)] * self.n_tried

    def beside(self, graft: Graft) -> "Task":
        """The task of a graft of the same study."""
        return replace(self, graft=graft, key=_key(self.basis, graft))

    def run(self, loaded: "Loaded", progress: Progress) -> dict[str, pl.DataFrame]:
        """Which sequences survive it. UserError: the models are not those of the task."""
        if loaded.basis != self.basis:
            raise UserError(
                "graft: the models here are not those that the grafts so far were made with. Go "
                "on with the same weights on the same kind of device, or delete the study's "
                "folder 'graft'."
            )
        loaded = loaded._replace(progress=_UpTo(progress, self.size))
        match self.graft:
            case Walk():
                return {"parquet": _walked(loaded, self, self.graft)}
            case Patch():
                return {"parquet": _patched(loaded, self.graft).table(loaded.tried)}
            case Graft():
                return {"parquet": _grafted(loaded, self.graft).table(loaded.tried)}


@dataclass
class _UpTo:
    """Reports no more than a task was said to take, which of a walk is a guess."""

    progress: Progress
    left: int

    def advance(self, n: int = 1) -> None:
        """Report it."""
        n = min(n, self.left)
        self.left -= n
        self.progress.advance(n)


@dataclass(frozen=True)
class _Anatomy:
    """Both models' facts and the names of the parts to graft, kept so that they need no models."""

    key: str
    size = 0  # it takes no time

    def run(self, loaded: "Loaded", progress: Progress) -> dict[str, object]:  # noqa: ARG002
        """`facts` by role, and `parts`. UserError: a part that the model does not have."""
        return {"facts": loaded.facts, "parts": wanted_parts(loaded)}


def _anatomy(study: Study, models: Models) -> _Anatomy:
    wanted = study.settings
    named = [wanted.as_dict()["model"], wanted.reference, wanted.graft.parts, wanted.graft.patch]
    named += sorted(models.given.values())
    named += WHOLE if wanted.graft.parts is None else ()
    return _Anatomy(f"anatomy-{digest([_VERSION, *named])[:20]}")


def graft_stage(study: Study, models: Models) -> None:
    """Write `graft.parquet` and what follows from it.

    `graft_sequences.parquet` says of every sequence what it survives, `graft_curves.parquet` what
    walks leave of each class at each scale, `graft_specificity.parquet` whether a part breaks more
    of a class than random changes that break as much of another, under the taxonomies that a
    finished search has found too, and `graft_patches.parquet` what activations break. Raises
    UserError: no reference model, one of another shape, or too few memorized sequences.
    """
    _check_twin(study, models)
    with study.finishing("graft") as counts:
        parts, made = make_grafts(study, models)
        counts |= _conclude(study, parts, made)
    ask_reference(study, models)
    study.forget("report")  # the report includes the grafts


def make_grafts(
    study: Study, models: Models, share: Share = ALL
) -> tuple[list[str], dict[Graft | Walk | Patch, pl.DataFrame]]:
    """Make all grafts, walks and patches that are not there, or a share of them.

    Gives the names of the parts, and what each left of the sequences.
    """
    n_tried = _check_twin(study, models)
    store, wanted = graft_store(study), study.settings
    opened = Opened(partial(open_pair, study.folder, models, study.settings))
    anatomy = _anatomy(study, models)
    needs = Needs(
        threads=1, gpus=current_executor().gpus(wanted.model.device, wanted.model.device_map)
    )
    (known,) = run_units([anatomy], store, opened, needs=needs)
    for role, facts in known.values["facts"].items():
        study.remember_model(role, facts)
    every = tasks_of(study, known.values["facts"], known.values["parts"])
    tasks = [replace(one, n_tried=n_tried) for one in every]
    n_done, unable = sum(store.has(task.key) for task in tasks), no_verdict(study, _tried(study))
    counted = [len(known.values["parts"]), sum(isinstance(task.graft, Walk) for task in tasks)]
    done = f"; {'all' if n_done == len(tasks) else f'{n_done:,}'} of these are done"
    done = done if n_done else ""
    say(f"{counted_words(len(tasks), *counted, may_decide=not unable)}{done}.")
    if unable and INTO_MODEL in wanted.graft.directions:
        say(unable)
    tasks = share.of(tasks)
    is_here = known.values["facts"]["model"]["device"] == "cpu" and not models.given
    if share == ALL and is_here and sum(one.size for one in tasks) >= _WORTH_WORKERS:
        needs = replace(needs, processes=wanted.train.workers)
    noun = "sequences scanned"
    made = run_units(tasks, store, opened, label="Grafting", noun=noun, needs=needs)
    return known.values["parts"], {
        task.graft: one.table for task, one in zip(tasks, made, strict=True)
    }


def counted_words(n_tasks: int, n_parts: int, n_walks: int, *, may_decide: bool) -> str:
    """What is made of so many parts: grafts, the two models as they are, random changes."""
    grafts = plural(n_tasks - n_walks - _N_WHOLE, "graft")
    said = f"{plural(n_parts, 'part')}: {grafts}, both models as they are"
    how = "each at growing sizes" if may_decide else "as large as the reference's"
    return said + (f", {plural(n_walks, 'random change')}, {how}" if n_walks else "")


class GraftCounts(NamedTuple):
    """What stage `graft` would do: grafts and walks, those that are there, and what is left.

    `n_scans` are left, of `n_each` sequences: the memorized ones and those held out.
    """

    n_parts: int
    n_grafts: int
    n_walks: int
    n_there: int
    n_scans: int
    n_each: int
    n_tried: int  # of these memorized, which the progress of the stage counts
    no_verdict: str  # why classes cannot be compared, empty where they can


def count_grafts(study: Study, models: Models, *, is_afresh: bool = False) -> GraftCounts:
    """Count what the stage would do, without a model; errors as `graft_stage` before it loads one.

    Until both models were laid out for these parts, those that the settings do not name are counted
    by kind. `is_afresh`: nothing that is there will be kept.
    """
    n_tried = _check_twin(study, models)
    store, wanted = graft_store(study), study.settings.graft
    facts: Mapping[str, Mapping[str, Any]] = study.record["models"]
    tried = _tried(study)
    unable = no_verdict(study, tried)
    known = store.get(_anatomy(study, models).key)
    if known is not None:
        facts, parts = known.values["facts"], known.values["parts"]
    else:
        n_layers = facts["model"]["n_layers"]
        single = [f"layers.{at}.{kind}" for at in range(n_layers) for kind in KINDS]
        parts = list(wanted.parts or _with_whole([*single, *OUTSIDE], n_layers))
    if facts.get("reference", {}).get("name") == str(study.settings.reference):
        tasks = [*tasks_of(study, facts, parts)]
    else:  # no graft was made with this reference
        tasks = [
            Task(one, "", "", is_walked=not unable)
            for one in _wanted(study, tried, parts, facts["model"]["n_layers"])
        ]
    todo = [one for one in tasks if is_afresh or not store.has(one.key)]
    every = [one.graft for one in tasks]
    n_walks = sum(isinstance(one, Walk) for one in every)
    return GraftCounts(
        n_parts=len(parts),
        n_grafts=len(every) - n_walks,
        n_walks=n_walks,
        n_there=len(every) - len(todo),
        n_scans=sum(replace(one, n_tried=1).size for one in todo),
        n_each=n_tried + _held_out(study, n_tried).height,
        n_tried=n_tried,
        no_verdict=unable,
    )


def graft_store(study: Study) -> UnitStore:
    """Where grafts are kept, those of earlier settings too."""
    return UnitStore(study.folder / "graft", study.owner)


def score_grafts_again(study: Study) -> None:
    """Score what was grafted once more, with the taxonomies that a search has found since."""
    manifest = study.manifest("graft")
    if manifest is None or not study.is_done("graft"):
        return
    parts, store = manifest["counts"].get("parts", []), graft_store(study)
    tasks = list(tasks_of(study, study.record["models"], parts))
    found = {task.graft: store.get(task.key) for task in tasks}
    made = {graft: one.table for graft, one in found.items() if one is not None}
    if not parts or len(made) < len(tasks):
        say(f"To score these by cause too: mnemoscope graft {study.folder} --redo")
        return
    with study.finishing("graft") as counts:
        counts |= _conclude(study, parts, made)


def _check_twin(study: Study, models: Models) -> int:
    """How many sequences a scan has; UserError, before models are loaded, where none can be made.

    The study is not labelled, has no reference or one of another shape, or too few are memorized.
    """
    study.require("label")
    refuse_padding(study.sequences, where=str(study.folder))
    if study.settings.reference is None:
        raise UserError(
            f"{study.folder}: grafting needs a reference, the same network without what it "
            f"memorized. Give one (an early checkpoint, the base model): {how_to_give(study)}."
        )
    n_tried = len(_ids_tried(study))
    models.check_alike()
    return n_tried


def wanted_parts(loaded: "Loaded") -> list[str]:
    """Names of the parts to graft, each once; UserError for one that the model does not have."""
    pair, wanted = loaded.pairs[INTO_MODEL], loaded.study.settings.graft
    parts = list(wanted.parts or _with_whole(pair.anatomy.parts, pair.anatomy.n_layers))
    lacks = [one for one in parts if one in OUTSIDE and one not in pair.anatomy.parts]
    if lacks and len(lacks) < len(parts):  # such as the unembedding where it is the embedding
        say(f"This model has no {' and no '.join(lacks)} of its own, so none is tried.")
        parts = [one for one in parts if one not in lacks]
    for part in parts:
        pair.anatomy.find(part, pair.twin)
    for lm in loaded.models.values() if wanted.patch else ():
        for layer in range(lm.n_layers):
            for place in PLACES:
                module_at(lm.model, place, layer)
    return parts


def _with_whole(single: Iterable[str], n_layers: int) -> list[str]:
    """All single parts, then each kind in all layers: one layer alone hides a spread memory."""
    return [*single, *(WHOLE if n_layers > 1 else ())]


def tasks_of(
    study: Study, facts: Mapping[str, Mapping[str, Any]], parts: Sequence[str]
) -> Iterator[Task]:
    """All grafts of the settings, walks and patches; nothing comes first.

    `facts` are those of `model` and `reference`, as a study records them.
    """
    tried = _tried(study)
    basis = _basis(study, facts, tried, _held_out(study, tried.height))
    # How far a walk goes depends on the classes too.
    largest = study.settings.graft.largest_scale
    classes = digest([_labels_of(study, tried).write_csv(), largest])
    is_walked = not no_verdict(study, tried)
    for one in _wanted(study, tried, parts, facts["model"]["n_layers"]):
        key = _key(basis, one, *([classes] if isinstance(one, Walk) else []))
        yield Task(one, basis, key, is_walked=is_walked)


def _wanted(
    study: Study, tried: pl.DataFrame, parts: Sequence[str], n_layers: int
) -> Iterator[Graft | Walk | Patch]:
    wanted = study.settings.graft
    may_decide = not no_verdict(study, tried)
    for one in grafts_of(wanted, parts):
        if may_decide or (one.control == "twin" and one.share == 1):  # the rest is for the verdict
            yield one
    yield from walks_of(wanted, parts, most=wanted.draws if may_decide else DRAWS_BESIDE)
    yield from patches_of(wanted, n_layers, n_read=study.settings.sequences.length - 1)


def _key(basis: str, graft: Graft | Walk | Patch, *more: Any) -> str:
    return digest([basis, asdict(graft), *more])[:20]


def patches_of(wanted: GraftSettings, n_layers: int, *, n_read: int) -> Iterator[Patch]:
    """All patches of the settings, of sequences of which `n_read` tokens are read."""
    if not wanted.patch:
        return
    blocks = np.array_split(np.arange(n_read), min(wanted.patch_blocks, n_read))
    named = [f"{one[0]}-{one[-1]}" for one in blocks] if len(blocks) > 1 else []
    for place in PLACES:
        for layer in range(n_layers):
            for positions in ("all", *named):
                for direction in wanted.directions:
                    one = Patch(f"layers.{layer}.{place}", positions, direction)
                    yield one
                    for draw in range(min(wanted.draws, DRAWS_BESIDE)):
                        yield replace(one, control="other", draw=draw)


def grafts_of(wanted: GraftSettings, parts: Sequence[str]) -> Iterator[Graft]:
    """All grafts of the settings, after nothing into the model, and nothing into the twin."""
    yield Graft("")
    yield Graft("", INTO_TWIN)
    for part in parts:
        for direction in wanted.directions:
            for share in sorted({*wanted.shares, 1.0}):
                yield Graft(part, direction, share=share)
        if INTO_MODEL in wanted.directions:
            yield Graft(part, control="flip")


def walks_of(wanted: GraftSettings, parts: Sequence[str], *, most: int) -> Iterator[Walk]:
    """All walks of the settings, the kinds of random changes in turn, `most` of a part."""
    if INTO_MODEL in wanted.directions:
        for part in parts:
            for draw in range(min(wanted.draws, most)):
                yield Walk(part, wanted.controls[draw % len(wanted.controls)], draw)


def no_verdict(study: Study, tried: pl.DataFrame) -> str:
    """Why grafts cannot compare two classes; empty where they can, which walks then do.

    That takes groups of near duplicates in two classes of a taxonomy. Where no class has enough, it
    says that no part can be told from chance either.
    """
    labels = _labels_of(study, tried).with_columns(tried["group"])
    counts = [
        sorted(labels.filter(pl.col(name) == one)["group"].n_unique() for one in classes)
        for name, classes in _taxonomies(study).items()
    ]
    if any(len(each) > 1 and each[-2] >= FEWEST_GROUPS for each in counts):
        return ""
    said = (
        f"No verdict between classes: it needs {FEWEST_GROUPS} sequences in each of two memorized "
        "classes, near duplicates counted once."
    )
    most = max((each[-1] for each in counts if each), default=0)
    if most < FEWEST_GROUPS:
        said += f" Nor can a part be told from chance: that takes {FEWEST_GROUPS} of one class, "
        said += f"and there are {most}."
    return (
        f"{said} Each part stands beside {DRAWS_BESIDE} random changes of the same size, and no "
        "doses are tried."
    )


def _tried(study: Study) -> pl.DataFrame:
    """The rows of `_ids_tried`.

    All columns of the table, `group` of near duplicates and `kind` of text (null: not known).
    """
    rows = look_up(_ids_tried(study).to_frame("sequence_id"), study.sequences)
    kinds = next((pl.col(one) for one in ("kind", "genre") if one in rows.columns), pl.lit(None))
    return rows.with_columns(find_groups(rows).alias("group"), kinds.cast(pl.String).alias("kind"))


def _ids_tried(study: Study) -> pl.Series:
    """The first `n_sequences` memorized ones of each class of each taxonomy, in a seeded order.

    Of what was read twice as many, since the twin does not reproduce all of it. Raises UserError:
    fewer than two.
    """
    wanted = study.settings.graft
    labels = _labels(study)
    order = order_keys(labels["sequence_id"].to_numpy(), wanted.seed)
    labels = labels.with_columns(pl.Series("order", order)).sort("order")
    chosen = [
        labels.filter(pl.col(name) == one)["sequence_id"].head(
            wanted.n_sequences * (2 if (name, one) == (TRUTH, _READ[1]) else 1)
        )
        for name, classes in _taxonomies(study).items()
        for one in classes
    ]
    ids = pl.concat(chosen).unique().sort() if chosen else pl.Series(dtype=pl.Int64)
    if len(ids) < FEWEST_GRAFTED:
        raise UserError(
            f"{study.folder}: {plural(len(ids), 'memorized sequence')}; grafting needs "
            f"{FEWEST_GRAFTED}. Give more texts."
        )
    return ids


_READ = ("never read", "read")


def _taxonomies(study: Study) -> dict[str, list[str]]:
    """The memorized classes of each taxonomy; where it is known what was read, by truth too."""
    found = {
        entry.taxonomy: [one for one in entry.classes if one != NON_MEMO]
        for entry in samples_of(study).values()
    }
    is_known = {"inserted", "held_out"} & set(study.sequences.columns)
    return found | ({TRUTH: list(_READ)} if found and is_known else {})


def _labels(study: Study) -> pl.DataFrame:
    """The class of every sequence under each of `_taxonomies`; by truth of what is memorized."""
    labels, names = study.read(LABELS_FILE), list(_taxonomies(study))
    if TRUTH in names:
        table = look_up(labels.select("sequence_id"), study.sequences)
        if "inserted" in table.columns:
            times = table["inserted"]
        else:
            times = (~table["held_out"]).cast(pl.Int64)
        read = times.clip(0, 1).replace_strict(dict(enumerate(_READ)), default=None)
        is_memorized = labels[names[0]] != NON_MEMO
        labels = labels.with_columns(pl.when(is_memorized).then(read).alias(TRUTH))
    return labels.select("sequence_id", *names)


def _labels_of(study: Study, tried: pl.DataFrame) -> pl.DataFrame:
    return look_up(tried.select("sequence_id"), _labels(study))


def _found_taxonomies(study: Study) -> list[Taxonomy]:
    """What a finished search has found and the study does not hold already."""
    if not study.is_done("search"):
        return []
    file = next(one for one in stage_named("search").outputs if one.endswith(".yaml"))
    known = _taxonomies(study)
    return [one for one in load_taxonomies([str(study.folder / file)]) if one.name not in known]


def _held_out(study: Study, n_tried: int) -> pl.DataFrame:
    """Sequences that the model does not reproduce, in whose loss a graft's damage shows."""
    wanted = study.settings.graft
    labels = study.read(LABELS_FILE)
    name = next(iter(_taxonomies(study)))
    ids = labels.filter(pl.col(name) == NON_MEMO)["sequence_id"]
    order = np.argsort(order_keys(ids.to_numpy(), wanted.seed))[
        : min(wanted.n_heldout, _HELD_OUT_EACH * n_tried)
    ]
    return look_up(ids.gather(np.sort(order)).to_frame("sequence_id"), study.sequences)


def _basis(
    study: Study,
    facts: Mapping[str, Mapping[str, Any]],
    tried: pl.DataFrame,
    held_out: pl.DataFrame,
) -> str:
    """Hash of what decides every graft apart from itself."""
    digest = hashlib.sha256()
    for rows in (tried, held_out):
        digest.update(rows["sequence_id"].to_numpy().tobytes())
        digest.update(rows["tokens"].explode().to_numpy().tobytes())
    known = [identity_of(facts[role]) for role in ("model", "reference")]
    settings = study.settings.graft.seed, study.settings.model.batch_size
    digest.update(json.dumps([_VERSION, known, settings]).encode())
    return digest.hexdigest()


class Loaded(NamedTuple):
    """What all grafts of one process share; `models` and `pairs` by direction."""

    study: Study
    models: dict[str, LanguageModel]
    pairs: dict[str, Pair]
    facts: dict[str, Model]  # by role
    basis: str
    tried: pl.DataFrame
    labels: pl.DataFrame
    held_out: pl.DataFrame
    seen: dict[Graft, np.ndarray]  # what survives, of grafts that walks look at
    # by direction what enters the layer that was changed last, None where it cannot be kept
    states: dict[str, tuple[int, KeptStates | None]]
    progress: Progress = SILENT  # counts sequences that were scanned


def open_pair(folder: Path, models: Models, settings: StudySettings | None = None) -> Loaded:
    """Both models, laid out for grafts, and the sequences; `settings` are the study's unless given.

    Raises UserError: models of different shapes, or too few memorized sequences.
    """
    study = Study(folder)
    study.settings = settings or study.settings  # a graft made anew leaves those in the folder
    model, twin = models.model(), models.reference(None)
    assert twin is not None
    pairs = {
        INTO_MODEL: Pair(model.model, twin.model),
        INTO_TWIN: Pair(twin.model, model.model),
    }
    both, tried = {INTO_MODEL: model, INTO_TWIN: twin}, _tried(study)
    held_out = _held_out(study, tried.height)
    names = study.settings.model.name, str(study.settings.reference)
    facts = {
        role: facts_of(lm, name)
        for role, lm, name in zip(("model", "reference"), both.values(), names, strict=True)
    }
    basis = _basis(study, facts, tried, held_out)
    labels = _labels_of(study, tried)
    return Loaded(study, both, pairs, facts, basis, tried, labels, held_out, {}, {})


class _Survival(NamedTuple):
    """Which of the tried sequences survive, (n,), and the loss of what is held out, in nats."""

    survives: np.ndarray
    heldout_loss: float | None

    def table(self, tried: pl.DataFrame, **more: float) -> pl.DataFrame:
        return tried.select(
            "sequence_id",
            pl.Series("survives", self.survives, dtype=pl.Boolean),
            pl.lit(self.heldout_loss, dtype=pl.Float64).alias("heldout_loss"),
            *(pl.lit(value).alias(name) for name, value in more.items()),
        )


def _grafted(loaded: Loaded, graft: Graft) -> _Survival:
    """What survives one graft."""
    swapped: AbstractContextManager[None] = nullcontext()
    assert graft.control != SAME_SIZE
    if graft.part:
        swapped = loaded.pairs[graft.direction].grafted(
            graft.part, control=graft.control, share=graft.share
        )
    states = _states(loaded, graft.direction, graft.part)
    with swapped:
        return _judged(loaded, loaded.models[graft.direction], graft, states)


def _judged(
    loaded: Loaded, lm: LanguageModel, graft: Graft | Walk, states: KeptStates | None
) -> _Survival:
    """Scan the sequences as the model is now, and ask what is held out."""
    settings, tried, held_out = loaded.study.settings, loaded.tried, loaded.held_out
    asked = {"batch_size": settings.rows_at_once, "prefix": settings.sequences.n_prefix}
    direction = graft.direction if isinstance(graft, Graft) else INTO_MODEL
    try:
        with ExitStack() as stack:
            if states is not None:
                changed = loaded.pairs[direction].changed(graft.part)
                stack.enter_context(states.resuming(changed))
            found = []
            for one in scan_memorized(lm, token_matrix(tried), **asked, states=states):
                found.append(one.is_memorized)
                loaded.progress.advance(len(one.is_memorized))
            survives = np.concatenate(found)
            if not held_out.height:
                return _Survival(survives, None)
            logprobs = suffix_logprobs(lm, token_matrix(held_out), **asked)
        return _Survival(survives, -float(logprobs.mean()))
    except UserError as error:  # logits that are not finite: nothing survives that
        if not graft.part:
            raise
        say(f"{graft.part} ({graft.control}): {error}")
        return _Survival(np.zeros(tried.height, dtype=bool), None)


def _states(loaded: Loaded, direction: str, part: str) -> KeptStates | None:
    """What enters the first layer that a part changes; asked before the model is changed."""
    if not part:
        return None
    layer = loaded.pairs[direction].first_layer(part)
    known = loaded.states.get(direction)
    if known is None or known[0] != layer:  # parts come in the order of layers
        tables = [one for one in (loaded.tried, loaded.held_out) if one.height]
        tokens = np.concatenate([token_matrix(one) for one in tables])
        size = loaded.study.settings.rows_at_once
        kept = keep_states(loaded.models[direction], tokens, layer, batch_size=size)
        known = loaded.states[direction] = layer, kept
    return known[1]


def _walked(loaded: Loaded, task: Task, walk: Walk) -> pl.DataFrame:
    """What survives a walk, a row a scale and sequence.

    Where no classes can be compared, at the twin's size alone. Else from there up until no class
    has more left than under the twin's part and its flip, and a step further, so that resamples
    come there too; down until none has less than under the twin's. So curves reach either's harm
    to every class that may have a verdict.
    """
    change = loaded.pairs[INTO_MODEL].walk(
        walk.part,
        control=walk.control,
        seed=loaded.study.settings.graft.seed * 10_000 + walk.draw,
    )
    model, states = loaded.models[INTO_MODEL], _states(loaded, INTO_MODEL, walk.part)
    found: dict[float, _Survival] = {}

    def tried_at(scale: float) -> np.ndarray:
        with change(scale):
            found[scale] = _judged(loaded, model, walk, states)
        return found[scale].survives

    first = tried_at(1.0)
    if not task.is_walked:
        return found[1.0].table(loaded.tried, scale=1.0)
    grafts = (Graft(walk.part), Graft(walk.part, control="flip"), Graft(""), Graft("", INTO_TWIN))
    twin, flip, base, alone = (_seen(loaded, task, one) for one in grafts)
    taxonomies = _classes(loaded.labels, _taxonomies(loaded.study), base, alone)
    groups = loaded.tried["group"].to_numpy()
    none = np.zeros((0, len(groups)), dtype=bool)
    members = np.concatenate([none, *(one.members for one in taxonomies)]).astype(np.int64)
    members = members[[len(np.unique(groups[one > 0])) >= FEWEST_GROUPS for one in members]]
    left, whole = members @ twin, members.sum(axis=1)
    least = np.minimum(left, members @ flip)
    if (left < _UNHARMED * whole).any():
        largest = loaded.study.settings.graft.largest_scale
        now, scale, is_there = members @ first, WALK_STEP, False
        while now.any() and not is_there and scale <= largest:
            is_there = bool((now <= least).all())
            now, scale = members @ tried_at(scale), scale * WALK_STEP
        now, scale = members @ first, 1 / WALK_STEP
        while (now < left).any() and scale >= _SMALLEST_SCALE:
            now, scale = members @ tried_at(scale), scale / WALK_STEP
    return pl.concat(found[one].table(loaded.tried, scale=one) for one in sorted(found))


def _seen(loaded: Loaded, task: Task, graft: Graft) -> np.ndarray:
    """What survives a graft: as it is kept, else scanned, so that a walk needs no other task."""
    if graft not in loaded.seen:
        kept = graft_store(loaded.study).get(task.beside(graft).key)
        survives = None if kept is None else kept.table["survives"].to_numpy()
        loaded.seen[graft] = _grafted(loaded, graft).survives if survives is None else survives
    return loaded.seen[graft]


def _patched(loaded: Loaded, patch: Patch) -> _Survival:
    """What survives a patch."""
    study, tried, held_out = loaded.study, loaded.tried, loaded.held_out
    lm, source = loaded.models[patch.direction], loaded.models[_OPPOSITE[patch.direction]]
    rows = pl.concat([tried, held_out], how="diagonal_relaxed")
    tokens, others = token_matrix(rows), None
    if patch.control == "other":
        n_draws, seed = min(study.settings.graft.draws, DRAWS_BESIDE), study.settings.graft.seed
        drawn = other_rows(find_groups(rows.drop("group")).to_list(), n_draws, seed=seed)
        others = tokens[drawn[patch.draw]]
    place, layer, positions = patch.where
    batches = scan_patched(
        lm,
        source,
        tokens,
        place,
        layer,
        positions,
        others=others,
        batch_size=study.settings.rows_at_once,
        prefix=study.settings.sequences.n_prefix,
    )
    survives, _, logprob = map(np.concatenate, zip(*batches, strict=True))
    loss = -float(logprob[tried.height :].mean(dtype=np.float64)) if held_out.height else None
    return _Survival(survives[: tried.height], loss)


class _Classes(NamedTuple):
    """The classes of one taxonomy: the place in `names` of each sequence (n,), -1 in none."""

    taxonomy: str
    names: list[str]
    places: np.ndarray

    @property
    def members(self) -> np.ndarray:
        """Whether each sequence is in each class, bool (classes, n)."""
        found: np.ndarray = np.arange(len(self.names))[:, None] == self.places
        return found


def _classes(
    labels: pl.DataFrame, taxonomies: Mapping[str, list[str]], base: np.ndarray, alone: np.ndarray
) -> list[_Classes]:
    """Each taxonomy with the classes that are there; one without any is left out.

    What the model does not reproduce here (`base`, a near tie) is in no class: it can neither
    survive nor break. By truth, nor is what the twin alone does not reproduce (`alone`): its part
    would break that whether it was read or not.
    """
    found = []
    for name, classes in taxonomies.items():
        index = {one: place for place, one in enumerate(classes)}
        column = labels[name].replace_strict(index, default=-1, return_dtype=pl.Int64)
        places = np.where(base, column.to_numpy(), -1)
        if name == TRUTH:
            places[~alone] = -1
        present = [one for one in range(len(classes)) if (places == one).any()]
        if present and (name != TRUTH or len(present) == len(_READ)):
            dense = np.where(places < 0, -1, np.searchsorted(present, places))
            found.append(_Classes(name, [classes[one] for one in present], dense))
    return found


def _conclude(
    study: Study, parts: Sequence[str], made: Mapping[Graft | Walk | Patch, pl.DataFrame]
) -> dict[str, object]:
    """Write what was made says of each taxonomy; returns what the manifest counts."""
    grafts = [one for one in made if isinstance(one, Graft)]
    patches = [one for one in made if isinstance(one, Patch)]
    walks = {one: _curve(made[one]) for one in made if isinstance(one, Walk)}
    at_once: list[Graft | Patch] = [*grafts, *patches]
    survives = {one: made[one]["survives"].to_numpy() for one in at_once}
    losses = {one: made[one]["heldout_loss"][0] for one in survives}
    same_size = dict(_same_size(parts, walks))
    base, alone = grafts[:2]
    tried, seed = _tried(study), study.settings.graft.seed
    labels, taxonomies = _labels_of(study, tried), _taxonomies(study)
    may_decide, found = not no_verdict(study, tried), _found_taxonomies(study)
    for one in found:
        labels = labels.with_columns(label_sequences(tried, one).alias(one.name))
        taxonomies[one.name] = [name for name in one.classes if name != NON_MEMO]
    written: dict[str, list[dict[str, object]]] = {one: [] for one in _TABLES}
    for classes in _classes(labels, taxonomies, survives[base], survives[alone]):
        inside = classes.places >= 0
        of_these = Tried(
            classes.places[inside],
            tried["group"].to_numpy()[inside],
            _kinds(tried, classes.taxonomy)[inside],
            len(classes.names),
        )
        for name, kept in ((GRAFT_FILE, grafts[1:]), (PATCHES_FILE, patches)):
            under = {one: survives[one][inside] for one in kept}
            known = losses
            if name == GRAFT_FILE:
                under |= {one: left[inside] for one, (left, _) in same_size.items()}
                known = losses | {one: loss for one, (_, loss) in same_size.items()}
            written[name] += _rows(classes, of_these, under, known, seed=seed)
        for walk, curve in walks.items():
            written[CURVES_FILE] += _curve_rows(classes, walk, curve)
        if may_decide and walks and len(classes.names) > 1:
            compared = [
                Part(
                    part,
                    survives[Graft(part)][inside],
                    survives[Graft(part, control="flip")][inside],
                    [
                        Walked(curve.scales, curve.survives[:, inside])
                        for walk, curve in walks.items()
                        if walk.part == part
                    ],
                )
                for part in parts
            ]
            largest = {
                one.name: float(max(walk.scales[-1] for walk in one.walks)) for one in compared
            }
            is_found = classes.taxonomy in {one.name for one in found}
            written[GRAFT_SPECIFICITY_FILE] += [
                {
                    **{"taxonomy": classes.taxonomy, "is_found": is_found},
                    **{"largest_scale": largest[one.part]},
                    **specific_row(one, classes.names),
                }
                for one in compare_classes(compared, of_these, seed=seed)
            ]
    of_weights: list[Graft | Walk] = [*grafts, *walks]
    kept_rows = [_sequence_rows(one, made[one]) for one in of_weights]
    study.write(SEQUENCES_FILE, pl.concat(kept_rows), SEQUENCE_COLUMNS)
    for name, rows in written.items():
        if rows or name != PATCHES_FILE:
            frame = frame_of(rows, schema_of(_TABLES[name]))
            frame = frame.with_columns(pl.selectors.float().fill_nan(None))
            study.write(name, frame, _TABLES[name])
    return {
        "grafts": len(grafts),
        "walks": len(walks),
        "scans_of_walks": sum(len(one.scales) for one in walks.values()),
        "patches": len(patches),
        "sequences": tried.height,
        "rows": len(written[GRAFT_FILE]),
        "parts": list(parts),
        "heldout_loss": losses[base],
    }


def _kinds(tried: pl.DataFrame, taxonomy: str) -> np.ndarray:
    """The kind of text of each sequence, by truth with its form: numbers from 1.

    A rule's classes differ in form by definition; how often a text was read does not.
    """
    held = ["kind", *(["form"] if taxonomy == TRUTH and "form" in tried.columns else [])]
    text = pl.concat_str(pl.col(held).cast(pl.String).fill_null(""), separator="\0")
    return tried.select(text.rank("dense").cast(pl.Int64)).to_series().to_numpy()


def _same_size(
    parts: Sequence[str], walks: Mapping[Walk, "_Curve"]
) -> Iterator[tuple[Graft, tuple[np.ndarray, float | None]]]:
    """For each part what random changes as large as the twin's leave, means over the draws.

    Of each sequence the share of draws it survives, (n,), and the loss of what is held out.
    """
    for part in parts:
        at = [(one, list(one.scales).index(1.0)) for of, one in walks.items() if of.part == part]
        if at:
            left = np.mean([one.survives[place] for one, place in at], axis=0)
            losses = [one.losses[place] for one, place in at]
            known = [one for one in losses if one is not None]
            loss = float(np.mean(known)) if len(known) == len(losses) else None
            yield Graft(part, control=SAME_SIZE), (left, loss)


class _Curve(NamedTuple):
    """A walk: scales (S,), survivors (S, n) and loss of what is held out (S,)."""

    scales: np.ndarray
    survives: np.ndarray
    losses: list[float | None]


def _curve(frame: pl.DataFrame) -> _Curve:
    at = frame.unique("scale", maintain_order=True)
    survives = frame["survives"].to_numpy().reshape(at.height, -1)
    return _Curve(at["scale"].to_numpy(), survives, at["heldout_loss"].to_list())


_OF_CLASS = {
    "taxonomy": Column(pl.String, "its name, or `truth`: by how often a text was read"),
    "class": Column(pl.String, "the memorized class"),
}
_TRIED = {
    "n": Column(pl.Int64, "sequences of the class"),
    "n_groups": Column(pl.Int64, "their groups of near duplicates, which the interval draws"),
    "survive": Column(FIGURE, "share of them that is still reproduced"),
    "heldout_loss": Column(pl.Float64, "loss on texts that are held out, nats a token"),
}
_DIRECTION = Column(pl.String, "into which model: `twin_in_model` or `model_in_twin`")
GRAFT_COLUMNS = {
    **_OF_CLASS,
    "part": Column(pl.String, "what is put in; empty: nothing, the twin alone"),
    "direction": _DIRECTION,
    "control": Column(
        pl.String,
        "`twin`, `flip`: the same change in the other direction, or `same size`: "
        "random changes as large as the twin's, means over draws",
    ),
    "share": Column(pl.Float64, "1, or a dose of `graft.shares`"),
    **_TRIED,
}
SPECIFIC_COLUMNS = {
    "taxonomy": _OF_CLASS["taxonomy"],
    "is_found": Column(pl.Boolean, "whether a search has found that taxonomy"),
    "part": Column(pl.String, "what is put in"),
    "broken": Column(pl.String, "the class that it is said to break"),
    "spared": Column(pl.String, "the class that it is held against"),
    "n_walks": Column(pl.Int64, "random changes that break as much of `spared`"),
    "largest_scale": Column(pl.Float64, "largest random change that was tried"),
    "kept_broken": Column(pl.Float64, "of `broken`, left by it; null without a common kind"),
    "kept_spared": Column(pl.Float64, "of `spared`, left by it"),
    "random_broken": Column(pl.Float64, "of `broken`, left by what spares as much"),
    "specific": Column(FIGURE, "`random_broken` minus `kept_broken`, within kinds of text"),
    "crude": Column(FIGURE, "the same with kinds not held equal"),
    "equal_total": Column(FIGURE, "the same where as much is left of both classes together"),
    "scatter": Column(pl.Float64, "standard deviation of single random directions"),
    "p_value": Column(pl.Float64, "one-sided, for all parts and pairs of the taxonomy (Holm)"),
    "over_flip": Column(FIGURE, "`specific` minus that of the flip"),
    "finding": Column(pl.String, "what that says"),
}
CURVE_COLUMNS = {
    **_OF_CLASS,
    "part": Column(pl.String, "what is changed at random"),
    "control": Column(pl.String, "how the random change is drawn"),
    "draw": Column(pl.Int64, "its number"),
    "scale": Column(pl.Float64, "size of the change, the twin's being 1"),
    "survive": Column(pl.Float64, "share of the class that is still reproduced"),
    "heldout_loss": _TRIED["heldout_loss"],
}
PATCH_COLUMNS = {
    **_OF_CLASS,
    "part": Column(pl.String, "a place such as `layers.2.residual`"),
    "positions": Column(pl.String, "`all`, or such as `16-31`, from 0"),
    "direction": _DIRECTION,
    "control": Column(pl.String, "`twin`, or `other`: what another sequence activates"),
    "draw": Column(pl.Int64, "number of that control"),
    **_TRIED,
}
_OF_GRAFT = {
    "part": Column(pl.String, "what is put in or changed; empty: nothing"),
    "direction": _DIRECTION,
    "control": Column(pl.String, "`twin`, `flip`, or how a random change is drawn"),
    "draw": Column(pl.Int64, "number of a random change"),
    "share": Column(pl.Float64, "dose of a graft"),
    "scale": Column(pl.Float64, "size of a random change"),
}
SEQUENCE_COLUMNS = {
    "sequence_id": Column(pl.Int64, "the memorized sequence"),
    "survives": Column(pl.Boolean, "whether it is still reproduced"),
    **_OF_GRAFT,
}
_TABLES = {
    GRAFT_FILE: GRAFT_COLUMNS,
    GRAFT_SPECIFICITY_FILE: SPECIFIC_COLUMNS,
    CURVES_FILE: CURVE_COLUMNS,
    PATCHES_FILE: PATCH_COLUMNS,
}


def _sequence_rows(graft: Graft | Walk, frame: pl.DataFrame) -> pl.DataFrame:
    where = {"direction": INTO_MODEL, "draw": None, "share": None, "scale": None} | asdict(graft)
    if isinstance(graft, Walk):
        del where["scale"]  # a column of its own
    columns = (
        pl.lit(value, dtype=_OF_GRAFT[name].type).alias(name) for name, value in where.items()
    )
    return frame.with_columns(columns).select(list(SEQUENCE_COLUMNS))


def _rows(
    classes: _Classes,
    tried: Tried,
    survives: Mapping[Any, np.ndarray],
    losses: Mapping[Any, float | None],
    *,
    seed: int,
) -> Iterator[dict[str, object]]:
    """Share of each class that survives each graft or patch, with its interval over groups."""
    if not survives:
        return
    columns = np.stack(list(survives.values()), axis=1)
    kept = kept_by_class(columns, tried, seed=seed)
    for at, name in enumerate(classes.names):
        of_class = tried.classes == at
        for column, graft in enumerate(survives):
            yield {
                "taxonomy": classes.taxonomy,
                "class": name,
                **asdict(graft),
                "n": int(of_class.sum()),
                "n_groups": len(np.unique(tried.groups[of_class])),
                "survive": Estimate(*(float(one[at, column]) for one in kept)),
                "heldout_loss": losses[graft],
            }


def _curve_rows(classes: _Classes, walk: Walk, curve: _Curve) -> Iterator[dict[str, object]]:
    """Share of each class that is left at each scale of a walk."""
    for name, members in zip(classes.names, classes.members, strict=True):
        left = curve.survives[:, members].mean(axis=1)
        for scale, share, loss in zip(curve.scales, left, curve.losses, strict=True):
            yield {
                "taxonomy": classes.taxonomy,
                "class": name,
                **asdict(walk),
                "scale": float(scale),
                "survive": float(share),
                "heldout_loss": loss,
            }


def specific_row(found: Specific, names: Sequence[str]) -> dict[str, object]:
    """A row of `graft_specificity.parquet`, taxonomy apart."""
    return {
        **{name: vars(found)[name] for name in SPECIFIC_COLUMNS if name in vars(found)},
        "broken": names[found.broken],
        "spared": names[found.spared],
        "specific": found.value,
        "equal_total": found.at_equal_total,
        "finding": found.finding.name,
    }
