"""Stage `graft`: put parts of the twin into the model and see which classes it still reproduces.

The twin is the study's reference model, where it has the model's shape: the same network without
the memories. Each graft is one scan of the memorized sequences, kept in `graft/` and never made
twice; they run side by side like trainings.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.cluster.engine import current_engine, gpus_for, run_tasks
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.files import read_kept, read_parquet, write_parquet
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.graft import Control, Pair
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import suffix_logprobs
from mnemoscope.localize.grafts import (
    LARGEST_IMBALANCE,
    MOST_AGREEMENT,
    CausalScore,
    Kept,
    Tried,
    causal_score,
    kept_by_class,
    specificities,
)
from mnemoscope.pipeline.label import LABELS_FILE, samples_of
from mnemoscope.progress import say, track
from mnemoscope.study.folder import SETTINGS_FILE, Study
from mnemoscope.study.models import Models, reference_name
from mnemoscope.taxonomy.draw import order_keys
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.names import NON_MEMO
from mnemoscope.words import plain_figure

GRAFT_FILE = "graft.parquet"
GRAFT_SPECIFICITY_FILE = "graft_specificity.parquet"
GRAFT_SCORES_FILE = "graft_scores.parquet"
SEQUENCES_FILE = "graft_sequences.parquet"
_DRAWS_FOR_A_VERDICT = 3
_VERSION = 2  # of what a graft does and keeps; another makes all grafts anew
INTO_MODEL, INTO_TWIN = "twin_in_model", "model_in_twin"
_KIND_WORDS = {
    "qk": "queries and keys",
    "values": "values",
    "output": "output projection",
    "mlp": "MLP",
    "norms": "norms",
}
_CONTROLS: tuple[Control, ...] = ("random", "shuffled")


@dataclass(frozen=True)
class Graft:
    """One thing put in: a part, into which of the two, the twin's or a control, and its draw.

    Part "" is nothing: the model as it is.
    """

    part: str
    direction: str = INTO_MODEL
    control: Control = "twin"
    draw: int = 0
    share: float = 1.0


@dataclass(frozen=True)
class _Task:
    """A graft to make, as sent to another process."""

    study: str
    graft: Graft
    basis: str
    key: str

    @property
    def path(self) -> Path:
        return Path(self.study) / "graft" / f"{self.key}.parquet"


def graft_stage(study: Study, models: Models) -> None:
    """Write `graft.parquet` and what follows from it.

    `graft_sequences.parquet` says of every sequence which grafts it survives,
    `graft_specificity.parquet` what each part breaks of each class beyond the control, and
    `graft_scores.parquet` how differently the classes of each taxonomy break.

    Raises:
        UserError: no reference model, one of another shape, or too few memorized sequences.
    """
    study.require("label")
    if reference_name(study.settings) is None:
        raise UserError(
            f"{study.folder}: grafting needs a twin, the same network without what it memorized. "
            "Name it: --set capture.reference=FOLDER (an early checkpoint, the base model)."
        )
    model, twin = models.model(study), models.reference(study)
    assert twin is not None
    loaded = _load(study, model, twin)  # refuses another shape before anything is begun
    tried, held_out = loaded.tried, loaded.held_out
    grafts = list(grafts_of(study, loaded.pairs[INTO_MODEL]))
    basis = _basis(study, tried, held_out)
    with study.finishing("graft") as counts:
        (study.folder / "graft").mkdir(exist_ok=True)
        tasks = [_Task(str(study.folder), one, basis, _key(basis, one)) for one in grafts]
        todo = [task for task in tasks if not task.path.is_file()]
        say(
            f"{len(grafts):,} grafts, {tried.height:,} memorized and {held_out.height:,} held-out "
            f"sequences each; {len(tasks) - len(todo):,} are there."
        )
        engine = current_engine()
        engine.check_sees(study.folder / SETTINGS_FILE)
        gpus = gpus_for(study.settings.model.device, engine) if engine.is_cluster else 0.0
        workers = study.settings.train.workers if model.device == "cpu" else 1
        _kept[basis] = loaded
        try:
            with track("Grafting", total=len(tasks), unit="grafts") as progress:
                progress.advance(len(tasks) - len(todo))
                for _ in run_tasks(make_graft, todo, workers=workers, gpus=gpus):
                    progress.advance()
            made = [_read(task) for task in tasks]
        finally:
            _kept.clear()
        n_rows = _conclude(study, grafts, made, tried)
        counts |= {"grafts": len(grafts), "sequences": tried.height, "rows": n_rows}
        counts["heldout_loss"] = _loss(made[0])
    study.forget("report")  # the report includes the grafts
    for line in graft_statements(study.read(GRAFT_SPECIFICITY_FILE), study.read(GRAFT_SCORES_FILE)):
        say(line)


def grafts_of(study: Study, pair: Pair) -> Iterator[Graft]:
    """All grafts of the settings; the first is none.

    Raises:
        UserError: a part that the model does not have.
    """
    wanted = study.settings.graft
    yield Graft("")
    if INTO_TWIN in wanted.directions:
        yield Graft("", INTO_TWIN)
    for part in dict.fromkeys(wanted.parts or pair.anatomy.parts):
        pair.anatomy.find(part, pair.twin)
        for direction in wanted.directions:
            for share in sorted({*wanted.shares, 1.0}):
                yield Graft(part, direction, share=share)
        if INTO_MODEL in wanted.directions:
            for control in _CONTROLS:
                for draw in range(wanted.draws):
                    yield Graft(part, INTO_MODEL, control, draw)


def _tried(study: Study) -> pl.DataFrame:
    """Memorized sequences: of every class of every taxonomy the first so many in one order."""
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
    rows = ids.to_frame("sequence_id").join(
        study.sequences, on="sequence_id", how="left", maintain_order="left"
    )
    return rows.with_columns(find_groups(rows).alias("group"))


def _taxonomies(study: Study) -> dict[str, list[str]]:
    """Memorized classes of each taxonomy of the study."""
    return {
        entry["taxonomy"]: [one for one in entry["classes"] if one != NON_MEMO]
        for entry in samples_of(study).values()
    }


def _held_out(study: Study) -> pl.DataFrame:
    """Sequences that the model does not reproduce, in whose loss a graft's damage shows."""
    wanted = study.settings.graft
    labels = study.read(LABELS_FILE)
    name = next(iter(_taxonomies(study)))
    ids = labels.filter(pl.col(name) == NON_MEMO)["sequence_id"]
    order = np.argsort(order_keys(ids.to_numpy(), wanted.seed))[: wanted.n_heldout]
    chosen = ids.gather(np.sort(order)).to_frame("sequence_id")
    return chosen.join(study.sequences, on="sequence_id", how="left", maintain_order="left")


def _basis(study: Study, tried: pl.DataFrame, held_out: pl.DataFrame) -> str:
    """Hash of what decides every graft apart from itself."""
    digest = hashlib.sha256()
    for rows in (tried, held_out):
        digest.update(rows["sequence_id"].to_numpy().tobytes())
        digest.update(rows["tokens"].explode().to_numpy().tobytes())
    models = (study.record["models"][role] for role in ("model", "reference"))
    facts = [[one[name] for name in ("fingerprint", "dtype", "device", "bos_id")] for one in models]
    settings = study.settings.graft.seed, study.settings.model.batch_size
    digest.update(json.dumps([_VERSION, facts, settings]).encode())
    return digest.hexdigest()


def _key(basis: str, graft: Graft) -> str:
    text = json.dumps([basis, asdict(graft)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class _Loaded(NamedTuple):
    """What all grafts of one process share."""

    study: Study
    models: dict[str, LanguageModel]
    pairs: dict[str, Pair]
    tried: pl.DataFrame
    held_out: pl.DataFrame


_kept: dict[str, _Loaded] = {}
"""Of the work in progress, by its basis; other processes load their own."""


def _loaded(task: _Task) -> _Loaded:
    if task.basis not in _kept:
        study = Study(task.study)
        models = Models(study.settings)
        model, twin = models.model(), models.reference(study)
        assert twin is not None
        _kept[task.basis] = _load(study, model, twin)
    return _kept[task.basis]


def _load(study: Study, model: LanguageModel, twin: LanguageModel) -> _Loaded:
    """Both models under the directions in which parts go into them, and the sequences."""
    pairs = {
        INTO_MODEL: Pair(model.model, twin.model),
        INTO_TWIN: Pair(twin.model, model.model),
    }
    models = {INTO_MODEL: model, INTO_TWIN: twin}
    return _Loaded(study, models, pairs, _tried(study), _held_out(study))


def make_graft(task: _Task) -> str:
    """Make one graft, scan the sequences and write what they do; returns its key."""
    study, models, pairs, tried, held_out = _loaded(task)
    graft, size = task.graft, study.settings.model.batch_size
    lm, prefix = models[graft.direction], study.settings.sequences.length // 2
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
    scanned = tried.select("sequence_id").with_columns(
        survives=pl.Series(survives), gap=pl.Series(gap, dtype=pl.Float32)
    )
    found = judged.select("sequence_id").with_columns(logprob=pl.Series(means, dtype=pl.Float32))
    whole = scanned.join(found, on="sequence_id", how="full", coalesce=True)
    write_parquet(task.path, whole)
    return task.key


def _read(task: _Task) -> pl.DataFrame:
    """A graft that was made; made again where its file is damaged."""
    if (kept := read_kept(task.path, "graft")) is not None:
        return kept
    make_graft(task)
    return read_parquet(task.path)


def _conclude(
    study: Study, grafts: Sequence[Graft], made: Sequence[pl.DataFrame], tried: pl.DataFrame
) -> int:
    """Write what the grafts say of each taxonomy; returns the rows of `graft.parquet`."""
    scanned = [frame.drop_nulls("survives").sort("sequence_id") for frame in made]
    base, rest = scanned[0], scanned[1:]
    gap, logprob = (base[one].to_numpy().astype(np.float64) for one in ("gap", "logprob"))
    survives = np.stack([frame["survives"].to_numpy() for frame in rest], axis=1)
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
    labels = tried.select("sequence_id").join(
        study.read(LABELS_FILE), on="sequence_id", how="left", maintain_order="left"
    )
    rows: list[dict[str, Any]] = []
    specific: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    parts, lost = _lost(grafts[1:], survives)
    # What the model does not reproduce here can neither survive nor break (a near tie).
    is_whole = base["survives"].to_numpy()
    for name, classes in _taxonomies(study).items():
        index = labels[name].replace_strict(
            {one: place for place, one in enumerate(classes)}, default=None, return_dtype=pl.Int64
        )
        inside = index.is_not_null().to_numpy() & is_whole
        present = sorted(set(index.to_numpy()[inside].astype(int).tolist()))
        if not present:
            continue
        places = np.searchsorted(present, index.fill_null(0).to_numpy()[inside])
        named = [classes[one] for one in present]
        groups = tried["group"].to_numpy()[inside]
        one = Tried(places, groups, gap[inside], len(present))
        kept = kept_by_class(survives[inside], one, seed=study.settings.graft.seed)
        rows += _rows(name, named, grafts, kept, one, heldout)
        if parts:
            seed = study.settings.graft.seed
            score = causal_score(lost[inside], one, seed=seed)
            also = replace(one, margin=logprob[inside])
            other = causal_score(lost[inside], also, seed=seed)
            draws = study.settings.graft.draws
            scores.append(_score_row(name, named, parts, score, other) | {"draws": draws})
            if len(named) > 1:
                specific += [
                    {"taxonomy": name, "class": named[at], "part": parts[part], "lost": found.lost}
                    | found.specificity.columns("specificity", ends="")
                    for at, part, found in specificities(lost[inside], one, seed=seed)
                ]
    study.write(GRAFT_FILE, pl.DataFrame(rows, infer_schema_length=None).fill_nan(None))
    study.write(GRAFT_SPECIFICITY_FILE, pl.DataFrame(specific, schema=_SPECIFICITY).fill_nan(None))
    study.write(GRAFT_SCORES_FILE, pl.DataFrame(scores, schema=_SCORES).fill_nan(None))
    return len(rows)


_SPECIFICITY = {
    "taxonomy": pl.String,
    "class": pl.String,
    "part": pl.String,
    "lost": pl.Float64,
    "specificity": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
_SCORES = {
    "taxonomy": pl.String,
    "n_classes": pl.Int64,
    "n_groups": pl.Int64,
    "draws": pl.Int64,
    "score": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "permuted": pl.Float64,
    "permuted_high": pl.Float64,
    "p_value": pl.Float64,
    "imbalance": pl.Float64,
    "agreement": pl.Float64,
    "by_logprob": pl.Float64,
    "by_logprob_low": pl.Float64,
    "by_logprob_high": pl.Float64,
    "differs": pl.Boolean,
    "part": pl.String,
    "broken": pl.String,
    "spared": pl.String,
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
    taxonomy: str,
    classes: Sequence[str],
    grafts: Sequence[Graft],
    kept: Kept,
    tried: Tried,
    heldout: Sequence[float | None],
) -> Iterator[dict[str, Any]]:
    """One row a class and graft."""
    for at, name in enumerate(classes):
        of_class = tried.classes == at
        for column, graft in enumerate(grafts[1:]):
            yield {
                "taxonomy": taxonomy,
                "class": name,
                **asdict(graft),
                "n": int(of_class.sum()),
                "n_groups": len(np.unique(tried.groups[of_class])),
                "survive": float(kept.survive[at, column]),
                "low": float(kept.low[at, column]),
                "high": float(kept.high[at, column]),
                "matched_survive": float(kept.matched[at, column]),
                "heldout_loss": heldout[column + 1],
            }


def _score_row(
    taxonomy: str,
    classes: Sequence[str],
    parts: Sequence[str],
    found: CausalScore,
    by_logprob: CausalScore,
) -> dict[str, Any]:
    has_score = found.part >= 0
    return {
        "taxonomy": taxonomy,
        "n_classes": len(classes),
        "n_groups": found.n_groups,
        **found.score.columns("score", ends=""),
        "permuted": found.permuted,
        "permuted_high": found.permuted_high,
        "p_value": found.p_value,
        "imbalance": found.imbalance,
        "agreement": found.agreement,
        **by_logprob.score.columns("by_logprob"),
        "differs": found.takes_a_side and by_logprob.takes_a_side,
        "part": parts[found.part] if has_score else None,
        "broken": classes[found.broken] if has_score else None,
        "spared": classes[found.spared] if has_score else None,
    }


def graft_statements(specific: pl.DataFrame, scores: pl.DataFrame) -> Iterator[str]:
    """What the grafts allow to be said, one sentence a taxonomy with a score."""
    for row in scores.drop_nulls("score").iter_rows(named=True):
        name, broken, spared = (row[one] for one in ("taxonomy", "broken", "spared"))
        score = plain_figure(row["score"], row["low"], row["high"], unit=" points", digits=0)
        chance = f"labels permuted: {100 * row['permuted_high']:.0f} at most in 95 %"
        if row["draws"] < _DRAWS_FOR_A_VERDICT:
            yield (
                f"By cause, under {name}: the classes' largest difference is {score} ({chance}); a "
                f"verdict needs {_DRAWS_FOR_A_VERDICT} draws of the controls, there are "
                f"{row['draws']}."
            )
            continue
        if row["imbalance"] > LARGEST_IMBALANCE:
            yield (
                f"By cause, under {name}: no side is taken, as the model holds one class so much "
                "more firmly than another that too few sequences have equal margins."
            )
            continue
        if not row["differs"]:
            yield (
                f"By cause, under {name}: no part was found that holds one class more than another "
                f"(largest difference {score}, matched on log-probability "
                f"{100 * (row['by_logprob'] or 0.0):.0f}; {chance})."
            )
            continue
        found = specific.filter(
            (pl.col("taxonomy") == name) & (pl.col("class") == broken) & (pl.col("low") > 0)
        ).sort("specificity", descending=True)
        held = "; ".join(part_words(part) for part in found["part"].head(3))
        if row["agreement"] < MOST_AGREEMENT:
            yield (
                f"By cause, under {name}: classes differ in mechanism. The part that divides two "
                f"of them most, not always the same, breaks one {score} more than the other, "
                f"beyond changes of equal norm and at equal margins ({chance})."
            )
            continue
        yield (
            f"By cause, under {name}: {broken} and {spared} differ in mechanism. With "
            f"{part_words(row['part'])} taken from the reference {broken} loses {score} more than "
            f"{spared}, beyond changes of equal norm and at equal margins ({chance})."
            + (f" {broken} depends most on {held}." if held else "")
        )


def part_words(part: str) -> str:
    """Name a part in a sentence.

    >>> part_words("layers.0.qk"), part_words("embedding")
    ('the queries and keys of layer 0', 'the embedding')
    """
    match = re.fullmatch(r"layers\.([\d-]+)\.(\w+)", part)
    if match is None or match[2] not in _KIND_WORDS:
        return f"the {part}"
    return f"the {_KIND_WORDS[match[2]]} of layer {match[1]}"
