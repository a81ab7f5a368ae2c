"""Stage `graft`: put parts of the twin into the model and see which classes it still reproduces.

The twin is the study's reference model, where it has the model's shape: the same network without
the memories. Each graft is one scan of the memorized sequences, kept in `graft/` and never made
twice; they run side by side like trainings. Patches do the same with the twin's activations.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.cluster.engine import current_engine, gpus_for, n_workers, run_tasks
from mnemoscope.data.table import look_up, refuse_padding, token_matrix
from mnemoscope.errors import UserError
from mnemoscope.files import digest, read_kept, read_parquet, write_kept
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.graft import PLACES, Control, Pair, Place, module_at, scan_patched
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import suffix_logprobs
from mnemoscope.localize.grafts import (
    LARGEST_IMBALANCE,
    MOST_AGREEMENT,
    Tried,
    causal_score,
    kept_by_class,
    specificities,
)
from mnemoscope.pipeline.label import LABELS_FILE, samples_of
from mnemoscope.progress import say, track
from mnemoscope.study.folder import SETTINGS_FILE, Study, stage_named
from mnemoscope.study.models import Models, identity_of, reference_name
from mnemoscope.study.settings import GraftSettings
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.draw import order_keys
from mnemoscope.taxonomy.groups import find_groups, other_rows
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import NON_MEMO, Taxonomy
from mnemoscope.words import about, part_words, plain_figure

GRAFT_FILE = "graft.parquet"
PATCHES_FILE = "graft_patches.parquet"
GRAFT_SPECIFICITY_FILE = "graft_specificity.parquet"
GRAFT_SCORES_FILE = "graft_scores.parquet"
SEQUENCES_FILE = "graft_sequences.parquet"
_DRAWS_FOR_A_VERDICT = 3
_VERSION = 2  # of what a graft does and keeps; another makes all grafts anew
INTO_MODEL, INTO_TWIN = "twin_in_model", "model_in_twin"
_OPPOSITE = {INTO_MODEL: INTO_TWIN, INTO_TWIN: INTO_MODEL}


@dataclass(frozen=True)
class Graft:
    """Which part is put into which model, from the twin or a control; part "" is none."""

    part: str
    direction: str = INTO_MODEL
    control: Control = "twin"
    draw: int = 0
    share: float = 1.0


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
    """A graft or patch to make, as sent to another process, and the folder where it is kept."""

    study: str
    graft: Graft | Patch
    basis: str
    key: str
    folder: str

    @property
    def path(self) -> Path:
        """Its file."""
        return Path(self.folder) / f"{self.key}.parquet"


def graft_stage(study: Study, models: Models) -> None:
    """Write `graft.parquet` and what follows from it.

    `graft_sequences.parquet` says of every sequence which grafts it survives,
    `graft_specificity.parquet` what each part breaks of each class beyond the control,
    `graft_scores.parquet` how differently the classes of each taxonomy break, those that a finished
    search has found among them, and `graft_patches.parquet` what activations break. Raises
    UserError: no reference model, one of another shape, or too few memorized sequences.
    """
    check_twin(study)
    loaded = load_pair(study, models, is_recorded=True)
    parts = wanted_parts(study, loaded)
    with study.finishing("graft") as counts:
        tasks = list(tasks_of(study, study.record["models"], parts, study.folder / "graft"))
        (study.folder / "graft").mkdir(exist_ok=True)
        with _in_use(tasks, loaded):
            make_grafts(study, tasks, loaded)
            counts |= _conclude(study, tasks, parts)
    _say_what_came(study)


def make_part(
    study: Study,
    loaded: "Loaded",
    facts: Mapping[str, Mapping[str, Any]],
    parts: Sequence[str],
    folder: Path,
    does: Callable[[int], bool],
) -> None:
    """Make the grafts whose number (from 0) is this part's, into a folder."""
    tasks = [one for at, one in enumerate(tasks_of(study, facts, parts, folder)) if does(at)]
    if not tasks:
        say("Nothing to do: there are fewer grafts than parts.")
        return
    with _in_use(tasks, loaded):
        make_grafts(study, tasks, loaded, workers=1)


def conclude_grafts(study: Study, tasks: Sequence[Task], parts: Sequence[str]) -> None:
    """Finish the stage from grafts that are all made."""
    with study.finishing("graft") as counts:
        counts |= _conclude(study, tasks, parts)
    _say_what_came(study)


def score_grafts_again(study: Study) -> None:
    """Score what was grafted once more, with the taxonomies that a search has found since."""
    manifest = study.manifest("graft")
    if manifest is None or not study.is_done("graft"):
        return
    parts = manifest["counts"].get("parts", [])
    tasks = list(tasks_of(study, study.record["models"], parts, study.folder / "graft"))
    if not parts or not all(task.path.is_file() for task in tasks):
        say(f"To score these by cause too: mnemoscope graft {study.folder} --redo")
        return
    _conclude(study, tasks, parts)


def _say_what_came(study: Study) -> None:
    study.forget("report")  # the report includes the grafts
    for line in graft_statements(study.read(GRAFT_SCORES_FILE)):
        say(line)


def check_twin(study: Study) -> None:
    """Raise UserError where a study is not labelled or has no reference model."""
    study.require("label")
    refuse_padding(study.sequences, where=str(study.folder))
    if reference_name(study.settings) is None:
        raise UserError(
            f"{study.folder}: grafting needs a twin, the same network without what it memorized. "
            "Name it: --set capture.reference=FOLDER (an early checkpoint, the base model)."
        )


def make_grafts(
    study: Study, tasks: Sequence[Task], loaded: "Loaded", *, workers: int | None = None
) -> None:
    """Make what is not there, several at once, and say first how long that takes."""
    todo = [task for task in tasks if not task.path.is_file()]
    say(
        f"{len(tasks):,} grafts, {loaded.tried.height:,} memorized and "
        f"{loaded.held_out.height:,} held-out sequences each; {len(tasks) - len(todo):,} are there."
    )
    engine = current_engine()
    engine.check_sees(study.folder / SETTINGS_FILE)
    gpus = gpus_for(study.settings.model.device, engine) if engine.is_cluster else 0.0
    if workers is None:
        is_cpu = loaded.models[INTO_MODEL].device == "cpu"
        workers = study.settings.train.workers if is_cpu else 1
    todo.sort(key=lambda task: not task.graft.part)  # a graft of nothing takes longer
    first, rest = todo[:1], todo[1:]
    started = monotonic()
    for _ in run_tasks(make_graft, first, workers=1, gpus=gpus):
        seconds = monotonic() - started
        say(_time_left(seconds, rest, 1 if engine.is_cluster else n_workers(workers)))
    with track("Grafting", total=len(tasks), unit="grafts") as progress:
        progress.advance(len(tasks) - len(rest))
        for _ in run_tasks(make_graft, rest, workers=workers, gpus=gpus):
            progress.advance()


def _time_left(seconds: float, rest: Sequence[Task], workers: int) -> str:
    """What the first graft says of how long the others take."""
    at_once = max(1, min(workers, len(rest)))
    n_forward = sum(2 if isinstance(task.graft, Patch) else 1 for task in rest)  # both models run
    left = about(seconds * n_forward / at_once)
    return f"The first graft took {about(seconds)}; {len(rest):,} more, {at_once} at once: {left}."


def wanted_parts(study: Study, loaded: "Loaded") -> list[str]:
    """Names of the parts to graft, each once; UserError for one that the model does not have."""
    pair, wanted = loaded.pairs[INTO_MODEL], study.settings.graft
    parts = list(wanted.parts or pair.anatomy.parts)
    for part in parts:
        pair.anatomy.find(part, pair.twin)
    for lm in loaded.models.values() if wanted.patch else ():
        for layer in range(lm.n_layers):
            for place in PLACES:
                module_at(lm.model, place, layer)
    return parts


def tasks_of(
    study: Study, facts: Mapping[str, Mapping[str, Any]], parts: Sequence[str], folder: Path
) -> Iterator[Task]:
    """All grafts of the settings, then all patches, to be kept in `folder`; the first is nothing.

    `facts` are those of `model` and `reference`, as a study records them.
    """
    wanted = study.settings.graft
    basis = _basis(study, facts, _tried(study), _held_out(study))
    patches = patches_of(
        wanted, facts["model"]["n_layers"], n_read=study.settings.sequences.length - 1
    )
    every: list[Graft | Patch] = [*grafts_of(wanted, parts), *patches]
    for one in every:
        key = digest([basis, asdict(one)])[:20]
        yield Task(str(study.folder), one, basis, key, str(folder))


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
                    for draw in range(wanted.draws):
                        yield replace(one, control="other", draw=draw)


def grafts_of(wanted: GraftSettings, parts: Sequence[str]) -> Iterator[Graft]:
    """All grafts of the settings, after one of nothing into each model that is used."""
    yield Graft("")
    if INTO_TWIN in wanted.directions:
        yield Graft("", INTO_TWIN)
    for part in parts:
        for direction in wanted.directions:
            for share in sorted({*wanted.shares, 1.0}):
                yield Graft(part, direction, share=share)
        if INTO_MODEL in wanted.directions:
            for control in wanted.controls:
                for draw in range(wanted.draws):
                    yield Graft(part, INTO_MODEL, control, draw)


def _tried(study: Study) -> pl.DataFrame:
    """The first `n_sequences` memorized ones of each class of each taxonomy, in a seeded order."""
    wanted = study.settings.graft
    labels = study.read(LABELS_FILE)
    order = order_keys(labels["sequence_id"].to_numpy(), wanted.seed)
    labels = labels.with_columns(pl.Series("order", order)).sort("order")
    chosen = [
        labels.filter(pl.col(name) == one)["sequence_id"].head(wanted.n_sequences)
        for name, classes in _taxonomies(study).items()
        for one in classes
    ]
    ids = pl.concat(chosen).unique().sort() if chosen else pl.Series(dtype=pl.Int64)
    if len(ids) < 2:
        raise UserError(
            f"{study.folder}: {len(ids)} memorized sequences; grafting needs 2. Give more texts."
        )
    rows = look_up(ids.to_frame("sequence_id"), study.sequences)
    return rows.with_columns(find_groups(rows).alias("group"))


def _taxonomies(study: Study) -> dict[str, list[str]]:
    return {
        entry["taxonomy"]: [one for one in entry["classes"] if one != NON_MEMO]
        for entry in samples_of(study).values()
    }


def _found_taxonomies(study: Study) -> list[Taxonomy]:
    """What a finished search has found and the study does not hold already."""
    if not study.is_done("search"):
        return []
    file = next(one for one in stage_named("search").outputs if one.endswith(".yaml"))
    known = _taxonomies(study)
    return [one for one in load_taxonomies([str(study.folder / file)]) if one.name not in known]


def _held_out(study: Study) -> pl.DataFrame:
    """Sequences that the model does not reproduce, in whose loss a graft's damage shows."""
    wanted = study.settings.graft
    labels = study.read(LABELS_FILE)
    name = next(iter(_taxonomies(study)))
    ids = labels.filter(pl.col(name) == NON_MEMO)["sequence_id"]
    order = np.argsort(order_keys(ids.to_numpy(), wanted.seed))[: wanted.n_heldout]
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
    tried: pl.DataFrame
    held_out: pl.DataFrame


_kept: dict[str, Loaded] = {}
"""What the work in progress has loaded, by its basis; other processes load their own."""


@contextmanager
def _in_use(tasks: Sequence[Task], loaded: Loaded) -> Iterator[None]:
    """Let this process make grafts with what it has loaded."""
    _kept[tasks[0].basis] = loaded
    try:
        yield
    finally:
        _kept.clear()


def _loaded(task: Task) -> Loaded:
    if task.basis not in _kept:
        study = Study(task.study)
        _kept[task.basis] = load_pair(study, Models(study.settings))
    return _kept[task.basis]


def load_pair(study: Study, models: Models, *, is_recorded: bool = False) -> Loaded:
    """Both models, laid out for grafts, and the sequences; perhaps recorded in the study.

    Raises UserError: models of different shapes, or too few memorized sequences.
    """
    recorded = study if is_recorded else None
    model, twin = models.model(recorded), models.reference(recorded)
    assert twin is not None
    pairs = {
        INTO_MODEL: Pair(model.model, twin.model),
        INTO_TWIN: Pair(twin.model, model.model),
    }
    both = {INTO_MODEL: model, INTO_TWIN: twin}
    return Loaded(study, both, pairs, _tried(study), _held_out(study))


def make_graft(task: Task) -> str:
    """Make one graft or patch, scan the sequences and write what they do; returns its key."""
    loaded, graft = _loaded(task), task.graft
    made = _patched(loaded, graft) if isinstance(graft, Patch) else _grafted(loaded, graft)
    write_kept(task.path, made)
    return task.key


def _grafted(loaded: Loaded, graft: Graft) -> pl.DataFrame:
    """A scan under one graft, and log-probabilities of what is held out."""
    study, models, pairs, tried, held_out = loaded
    size, prefix = study.settings.model.batch_size, study.settings.sequences.n_prefix
    lm = models[graft.direction]
    swapped: AbstractContextManager[None] = nullcontext()
    if graft.part:
        seed = study.settings.graft.seed * 1000 + graft.draw
        swapped = pairs[graft.direction].grafted(
            graft.part, control=graft.control, seed=seed, share=graft.share
        )
    judged = held_out if graft.part else pl.concat([tried, held_out], how="diagonal")
    survives, gap = np.zeros(tried.height, dtype=bool), np.full(tried.height, np.nan)
    means = np.full(judged.height, np.nan)
    with swapped:
        try:
            scans = list(scan_memorized(lm, token_matrix(tried), batch_size=size, prefix=prefix))
            survives = np.concatenate([one.is_memorized for one in scans])
            gap = np.concatenate([one.smallest_gap for one in scans])
            if judged.height:
                tokens = token_matrix(judged)
                logprobs = suffix_logprobs(lm, tokens, batch_size=size, prefix=prefix)
                means = logprobs.mean(axis=1)
        except UserError as error:  # logits that are not finite: nothing survives that
            if not graft.part:
                raise
            say(f"{graft.part} ({graft.control}): {error}")
    logprob = np.full(tried.height + held_out.height, np.nan)
    logprob[len(logprob) - len(means) :] = means
    return _table(tried, held_out, survives, gap, logprob)


def _patched(loaded: Loaded, patch: Patch) -> pl.DataFrame:
    """As `_grafted`, under a patch."""
    study, models, _, tried, held_out = loaded
    lm, source = models[patch.direction], models[_OPPOSITE[patch.direction]]
    rows = pl.concat([tried, held_out], how="diagonal")
    tokens, others = token_matrix(rows), None
    if patch.control == "other":
        wanted = study.settings.graft
        drawn = other_rows(
            find_groups(rows.drop("group")).to_list(), wanted.draws, seed=wanted.seed
        )
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
        batch_size=study.settings.model.batch_size,
        prefix=study.settings.sequences.n_prefix,
    )
    survives, gap, logprob = map(np.concatenate, zip(*batches, strict=True))
    return _table(tried, held_out, survives[: tried.height], gap[: tried.height], logprob)


def _table(
    tried: pl.DataFrame,
    held_out: pl.DataFrame,
    survives: np.ndarray,
    gap: np.ndarray,
    logprob: np.ndarray,
) -> pl.DataFrame:
    """What was tried, then what is held out; `survives` and `gap` of the first, NaN as null."""
    found = tried.select(
        "sequence_id",
        pl.Series("survives", survives, dtype=pl.Boolean),
        pl.Series("gap", gap, dtype=pl.Float32),
    )
    rows = pl.concat([found, held_out.select("sequence_id")], how="diagonal")
    return rows.with_columns(pl.Series("logprob", logprob, dtype=pl.Float32)).fill_nan(None)


def _read(task: Task) -> pl.DataFrame:
    """A graft that was made; made again where its file is damaged."""
    if (kept := read_kept(task.path, "graft")) is not None:
        return kept
    make_graft(task)
    return read_parquet(task.path)


def _conclude(study: Study, tasks: Sequence[Task], parts: Sequence[str]) -> dict[str, Any]:
    """Write what all grafts and patches say of each taxonomy; returns what the manifest counts."""
    of_grafts = [task for task in tasks if isinstance(task.graft, Graft)]
    made = [_read(task) for task in of_grafts]
    grafts = [task.graft for task in of_grafts if isinstance(task.graft, Graft)]
    scanned = [frame.drop_nulls("survives").sort("sequence_id") for frame in made]
    base, seed = scanned[0], study.settings.graft.seed
    survives = _survival(scanned[1:])
    heldout = [_loss(frame) for frame in made]
    study.write(
        SEQUENCES_FILE,
        pl.concat(
            frame.select("sequence_id", "survives").with_columns(
                **{name: pl.lit(value) for name, value in asdict(graft).items()}
            )
            for graft, frame in zip(grafts, scanned, strict=True)
        ),
    )
    patches = [task.graft for task in tasks if isinstance(task.graft, Patch)]
    patched = [_read(task) for task in tasks if isinstance(task.graft, Patch)]
    under_patch = _survival([one.drop_nulls("survives").sort("sequence_id") for one in patched])
    patch_loss = [_loss(frame) for frame in patched]
    rows: list[dict[str, Any]] = []
    patch_rows: list[dict[str, Any]] = []
    specific: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    scored_parts, lost = _lost(grafts[1:], survives)
    found = {one.name for one in _found_taxonomies(study)}
    for one in _classes(study, base):
        rows += _rows(one, grafts[1:], survives, heldout[1:], seed=seed)
        if patches:
            patch_rows += _rows(one, patches, under_patch, patch_loss, seed=seed)
        if scored_parts:
            about = {"draws": study.settings.graft.draws, "is_found": one.taxonomy in found}
            scores.append(_score_row(one, scored_parts, lost, seed=seed) | about)
        if scored_parts and len(one.names) > 1:
            specific += [
                {
                    "taxonomy": one.taxonomy,
                    "class": one.names[at],
                    "part": scored_parts[part],
                    "lost": share,
                    **figure.columns("specificity", ends=""),
                }
                for at, part, share, figure in specificities(lost[one.inside], one.tried, seed=seed)
            ]
    study.write(GRAFT_FILE, pl.DataFrame(rows, infer_schema_length=None).fill_nan(None))
    study.write(GRAFT_SPECIFICITY_FILE, pl.DataFrame(specific, schema=_SPECIFICITY).fill_nan(None))
    study.write(GRAFT_SCORES_FILE, pl.DataFrame(scores, schema=_SCORES).fill_nan(None))
    (study.folder / PATCHES_FILE).unlink(missing_ok=True)
    if patches:
        study.write(PATCHES_FILE, pl.DataFrame(patch_rows, infer_schema_length=None).fill_nan(None))
    return {
        "grafts": len(grafts),
        "patches": len(patches),
        "sequences": base.height,
        "rows": len(rows),
        "parts": list(parts),
        "heldout_loss": heldout[0],
    }


def _survival(scanned: Sequence[pl.DataFrame]) -> np.ndarray:
    """Whether each sequence survives each graft, (sequences, grafts) bool."""
    columns = [frame["survives"].to_numpy() for frame in scanned]
    return np.stack(columns, axis=1) if columns else np.empty((0, 0), dtype=bool)


class _Classes(NamedTuple):
    """The sequences of one taxonomy's classes, among all that were tried."""

    taxonomy: str
    names: list[str]
    inside: np.ndarray
    tried: Tried
    logprob: np.ndarray


def _classes(study: Study, base: pl.DataFrame) -> Iterator[_Classes]:
    """Each taxonomy, the found ones last; those of which nothing was tried are left out."""
    tried = _tried(study)
    labels = look_up(tried.select("sequence_id"), study.read(LABELS_FILE))
    taxonomies = _taxonomies(study)
    for found in _found_taxonomies(study):
        labels = labels.with_columns(label_sequences(tried, found).alias(found.name))
        taxonomies[found.name] = [one for one in found.classes if one != NON_MEMO]
    gap, logprob = (base[one].to_numpy().astype(np.float64) for one in ("gap", "logprob"))
    # What the model does not reproduce here can neither survive nor break (a near tie).
    is_whole = base["survives"].to_numpy()
    for name, classes in taxonomies.items():
        index = labels[name].replace_strict(
            {one: place for place, one in enumerate(classes)}, default=None, return_dtype=pl.Int64
        )
        inside = index.is_not_null().to_numpy() & is_whole
        present = sorted(set(index.to_numpy()[inside].astype(int).tolist()))
        if present:
            places = np.searchsorted(present, index.fill_null(0).to_numpy()[inside])
            groups = tried["group"].to_numpy()[inside]
            one = Tried(places, groups, gap[inside], len(present))
            yield _Classes(name, [classes[at] for at in present], inside, one, logprob[inside])


_SPECIFICITY = {
    **dict.fromkeys(("taxonomy", "class", "part"), pl.String),
    **dict.fromkeys(("lost", "specificity", "low", "high"), pl.Float64),
}
_BY_LOGPROB = ("by_logprob", "by_logprob_low", "by_logprob_high")
_SCORES = {
    "taxonomy": pl.String,
    "is_found": pl.Boolean,
    **dict.fromkeys(("n_classes", "n_groups", "draws"), pl.Int64),
    **dict.fromkeys(("score", "low", "high", "permuted", "permuted_high"), pl.Float64),
    **dict.fromkeys(("p_value", "imbalance", "agreement", *_BY_LOGPROB), pl.Float64),
    "by_logprob_imbalance": pl.Float64,
    "differs": pl.Boolean,
    **dict.fromkeys(("part", "broken", "spared"), pl.String),
}


def _loss(made: pl.DataFrame) -> float | None:
    """Mean loss of the held-out suffixes in nats; None where there are none."""
    held_out = made.filter(pl.col("survives").is_null())
    loss = -float(held_out["logprob"].to_numpy().mean()) if held_out.height else np.nan
    return loss if np.isfinite(loss) else None


def _lost(grafts: Sequence[Graft], survives: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Parts, and for (sequence, part) the mean survival of all controls minus the twin's."""
    place = {graft: column for column, graft in enumerate(grafts)}
    parts, columns = [], []
    for graft in grafts:
        controls = [
            column
            for one, column in place.items()
            if one.part == graft.part and one.control != "twin"
        ]
        is_whole = graft.direction == INTO_MODEL and graft.control == "twin" and graft.share == 1
        if is_whole and controls:
            parts.append(graft.part)
            columns.append(
                survives[:, controls].mean(axis=1) - survives[:, place[graft]].astype(np.float64)
            )
    return parts, np.stack(columns, axis=1) if columns else np.empty((len(survives), 0))


def _rows(
    classes: _Classes,
    grafts: Sequence[Graft | Patch],
    survives: np.ndarray,
    heldout: Sequence[float | None],
    *,
    seed: int,
) -> Iterator[dict[str, Any]]:
    tried = classes.tried
    kept = kept_by_class(survives[classes.inside], tried, seed=seed)
    for at, name in enumerate(classes.names):
        of_class = tried.classes == at
        for column, graft in enumerate(grafts):
            yield {
                "taxonomy": classes.taxonomy,
                "class": name,
                **asdict(graft),
                "n": int(of_class.sum()),
                "n_groups": len(np.unique(tried.groups[of_class])),
                "survive": float(kept.survive[at, column]),
                "low": float(kept.low[at, column]),
                "high": float(kept.high[at, column]),
                "matched_survive": float(kept.matched[at, column]),
                "heldout_loss": heldout[column],
            }


def _score_row(
    classes: _Classes, parts: Sequence[str], lost: np.ndarray, *, seed: int
) -> dict[str, Any]:
    names, tried, inside = classes.names, classes.tried, lost[classes.inside]
    found = causal_score(inside, tried, seed=seed)
    by_logprob = causal_score(inside, replace(tried, margin=classes.logprob), seed=seed)
    has_score = found.part >= 0
    return {
        **vars(found),
        "taxonomy": classes.taxonomy,
        "n_classes": len(names),
        **found.score.columns("score", ends=""),
        **by_logprob.score.columns("by_logprob"),
        "by_logprob_imbalance": by_logprob.imbalance,
        "differs": found.takes_a_side and by_logprob.takes_a_side,
        "part": parts[found.part] if has_score else None,
        "broken": names[found.broken] if has_score else None,
        "spared": names[found.spared] if has_score else None,
    }


class Grafted(Enum):
    """What grafts say of the classes of a taxonomy."""

    FEW = "too few draws"
    UNEVEN = "uneven margins"
    ALIKE = "alike"
    VARYING = "differ, not always by the same part"
    DIFFER = "differ"


def graft_verdict(score: Mapping[str, Any]) -> Grafted:
    """The verdict of a row of scores that is not null."""
    if score["draws"] < _DRAWS_FOR_A_VERDICT:
        return Grafted.FEW
    if score["imbalance"] > LARGEST_IMBALANCE:
        return Grafted.UNEVEN
    if not score["differs"]:
        # An earlier version wrote no imbalance by log-probability.
        by_logprob = score.get("by_logprob_imbalance", 0.0)
        is_even = by_logprob is not None and by_logprob <= LARGEST_IMBALANCE
        differs_by_gap = score["low"] > 0 and score["score"] > score["permuted_high"]
        return Grafted.UNEVEN if differs_by_gap and not is_even else Grafted.ALIKE
    return Grafted.VARYING if score["agreement"] < MOST_AGREEMENT else Grafted.DIFFER


def graft_statements(scores: pl.DataFrame) -> Iterator[str]:
    """What the grafts allow to be said, one sentence a taxonomy with a score."""
    for row in scores.drop_nulls("score").iter_rows(named=True):
        yield f"By cause, under {row['taxonomy']}: {_said_of(row)}"


def _said_of(row: Mapping[str, Any]) -> str:
    score = plain_figure(row["score"], row["low"], row["high"], unit=" points", digits=0)
    chance = f"labels permuted: {100 * row['permuted_high']:.0f} at most in 95 %"
    beyond = (
        f"beyond changes of equal norm ({chance}). Equal norm is not equal harm: a larger change "
        "may do the same, so this is no verdict on mechanism."
    )
    match graft_verdict(row):
        case Grafted.FEW:
            return (
                f"the classes' largest difference is {score} ({chance}); a verdict needs "
                f"{_DRAWS_FOR_A_VERDICT} draws of the controls, there are {row['draws']}."
            )
        case Grafted.UNEVEN:
            return (
                "no verdict, as the model holds one class so much more firmly than another that "
                "too few sequences have equal margins."
            )
        case Grafted.ALIKE:
            return (
                f"no part was found that holds one class more than another (largest difference "
                f"{score}, matched on log-probability {100 * (row['by_logprob'] or 0.0):.0f}; "
                f"{chance})."
            )
        case Grafted.VARYING:
            return (
                "the part that divides two classes most, not always the same, breaks one "
                f"{score} more than the other, {beyond}"
            )
    broken, spared = row["broken"], row["spared"]
    return (
        f"with {part_words(row['part'])} taken from the reference {broken} loses {score} more than "
        f"{spared}, {beyond}"
    )
