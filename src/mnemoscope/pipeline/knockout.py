"""Stage `knockout`: cut the edges that a ranking names in the running model; see what breaks.

Every kind of cut is tried on the same memorized sequences of every class. The outcome of each cut
is kept in `knockout/` under a hash of its inputs, so a stopped run resumes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from mnemoscope.cluster.local import LocalExecutor
from mnemoscope.cluster.run import run_units
from mnemoscope.cluster.units import Opened, UnitStore
from mnemoscope.columns import Column, schema_of
from mnemoscope.data.table import look_up, token_matrix
from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.edges import total_effects
from mnemoscope.lm.model import LanguageModel
from mnemoscope.localize.cut import (
    count_edges,
    cut_and_continue,
    equal_mass_edges,
    largest_edges,
    mean_share,
    random_edges,
    random_keys,
    same_layer_edges,
    specificity,
)
from mnemoscope.maps.shape import copy_edges
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.pipeline.causes import KNOCKOUT_FILE, SPECIFICITY_FILE, cut_verdicts, own_statements
from mnemoscope.pipeline.deltas import StoredDelta, load_deltas
from mnemoscope.pipeline.label import LABELS_FILE, samples_of
from mnemoscope.pipeline.localize import rank_edges
from mnemoscope.pipeline.stored_maps import open_maps
from mnemoscope.pipeline.train import sample_rows
from mnemoscope.progress import Progress, say
from mnemoscope.stats import FIGURE, NO_ESTIMATE, Estimate, difference_of, frame_of
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models, identity_of
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.sample import KEY_COLUMNS, SampleKey

_N_RESAMPLES = 1000
_BY = Column(pl.String, "what ranked the edges: `delta`, or a ranking (`knockout.by`)")
KNOCKOUT_COLUMNS = {
    **KEY_COLUMNS,
    "by": _BY,
    "choice": Column(
        pl.String,
        "which edges were cut: `decisive` (first in the ranking), `highest mass`, `random`, `equal "
        "mass`, `same layers`, `copy`, `copy, random`, `copy, equal mass`, `own` (each sequence's "
        "first by total effect), `own, another's`, `own, equal mass` or `nothing`",
    ),
    "edges_of": Column(pl.String, "the class whose ranking or mass names them; empty if none"),
    "strength": Column(pl.Float64, "per cent of all edges; null where each sequence has its own"),
    "class": Column(pl.String, "the memorized class it was tried on"),
    "n": Column(pl.Int64, "sequences of the class that were tried"),
    "n_groups": Column(pl.Int64, "their groups of near duplicates, which the interval draws"),
    "draws": Column(pl.Int64, "random draws that the figures are means of"),
    "n_edges": Column(pl.Float64, "edges cut"),
    "mass": Column(pl.Float64, "their share of all attention"),
    "survival": Column(FIGURE, "share of the sequences that the model still reproduces"),
    "score": Column(pl.Float64, "mean share of right tokens of the suffix"),
    "logprob": Column(pl.Float64, "mean log-probability of a token of the suffix, nats"),
}
SPECIFICITY_COLUMNS = {
    **KEY_COLUMNS,
    "by": _BY,
    "class": Column(pl.String, "the class whose decisive edges are cut"),
    "strength": Column(pl.Float64, "per cent of all edges"),
    "broken_own": Column(FIGURE, "share of that class that they break"),
    "broken_own_equal_mass": Column(FIGURE, "share that random edges of equal mass break"),
    "beyond_equal_mass": Column(FIGURE, "the first minus the second, of the same sequences"),
    "broken_others": Column(pl.String, "JSON: share of each other class that they break"),
    "broken_own_by_others": Column(pl.String, "JSON: share that others' edges break"),
    "specificity": Column(FIGURE, "own minus others, beyond edges of equal mass"),
}


@dataclass(frozen=True)
class EdgeCut:
    """One set of edges to cut."""

    sample: SampleKey
    choice: str  # as in `KNOCKOUT_COLUMNS`
    # The class whose ranking or mass names the edges, empty if none does. Non-Memo only has
    # decisive edges, tried on the memorized classes.
    edges_of: str
    strength: float | None  # per cent of all edges; null if each sequence has its own edges
    draw: int  # number of the random draw


Outcomes = Mapping[EdgeCut, pl.DataFrame]
"""What each cut did to each sequence: `sequence_id`, `class`, `group` of near duplicates,
`survives`, `score`, `logprob`."""
Sizes = Mapping[EdgeCut, Mapping[str, tuple[float, float]]]
"""For each cut and class: edges cut, and their share of all attention."""


def cut_rows(
    names: Sequence[str], outcomes: Outcomes, sizes: Sizes, *, by: str, seed: int
) -> Iterator[dict[str, object]]:
    """One row per kind of cut and tried class, over all draws; `by` is the ranking's name."""
    for (choice, edges_of, strength), draws in _by_kind(outcomes).items():
        for name in names:
            parts = [outcomes[cut].filter(pl.col("class") == name) for cut in draws]
            survival = mean_share(
                [part["survives"].to_numpy() for part in parts],
                n_resamples=_N_RESAMPLES,
                seed=seed,
                groups=parts[0]["group"].to_numpy(),
            )
            yield {
                **draws[0].sample._asdict(),
                "by": by,
                "choice": choice,
                "edges_of": edges_of,
                "strength": strength,
                "class": name,
                "n": parts[0].height,
                "n_groups": parts[0]["group"].n_unique(),
                "draws": len(draws),
                "n_edges": float(np.mean([sizes[cut][name][0] for cut in draws])),
                "mass": float(np.mean([sizes[cut][name][1] for cut in draws])),
                "survival": survival,
                "score": float(np.mean([part["score"].to_numpy().mean() for part in parts])),
                "logprob": float(np.mean([part["logprob"].to_numpy().mean() for part in parts])),
            }


def specificity_rows(
    names: Sequence[str], outcomes: Outcomes, *, by: str, seed: int
) -> Iterator[dict[str, object]]:
    """For each class and strength: what its decisive edges break, and what others break of it."""
    kinds = _by_kind(outcomes)
    for choice, own, strength in kinds:
        if choice != "decisive" or own not in names:
            continue
        (decisive,) = kinds[choice, own, strength]
        broken = {name: _broken(outcomes[decisive], name) for name in names}
        by_equal_mass = {
            name: [_broken(outcomes[cut], name) for cut in kinds["equal mass", own, strength]]
            for name in names
        }
        groups = {
            name: outcomes[decisive].filter(pl.col("class") == name)["group"].to_numpy()
            for name in names
        }

        def share(values: list[np.ndarray], of: str) -> Estimate:
            drawn_by = groups[of]  # noqa: B023 - used in this turn
            return mean_share(values, n_resamples=_N_RESAMPLES, seed=seed, groups=drawn_by)

        others = {name: share([broken[name]], name) for name in names if name != own}
        by_others = {
            name: share([_broken(outcomes[kinds["decisive", name, strength][0]], own)], own)
            for name in others
        }
        of_own, by_random = share([broken[own]], own), share(by_equal_mass[own], own)
        differs = broken[own] - np.mean(by_equal_mass[own], axis=0)
        beyond = share([differs], own)
        if np.ptp(differs) == 0:  # all resamples are alike
            beyond = difference_of(of_own, by_random)
        row: dict[str, object] = {
            **decisive.sample._asdict(),
            "by": by,
            "class": own,
            "strength": strength,
            "broken_own": of_own,
            "broken_own_equal_mass": by_random,
            "beyond_equal_mass": beyond,
            "broken_others": _as_json(others),
            "broken_own_by_others": _as_json(by_others),
            "specificity": NO_ESTIMATE,
        }
        if others:
            index = specificity(
                broken, by_equal_mass, own, n_resamples=_N_RESAMPLES, seed=seed, groups=groups
            )
            row["specificity"] = index
        yield row


def _as_json(figures: Mapping[str, Estimate]) -> str:
    return json.dumps({name: one._asdict() for name, one in figures.items()})


def _by_kind(cuts: Iterable[EdgeCut]) -> dict[tuple[str, str, float | None], list[EdgeCut]]:
    """The draws of each kind of cut, by choice, class of the edges and strength, in order."""
    kinds: dict[tuple[str, str, float | None], list[EdgeCut]] = {}
    for cut in cuts:
        kinds.setdefault((cut.choice, cut.edges_of, cut.strength), []).append(cut)
    return kinds


def _broken(frame: pl.DataFrame, name: str) -> np.ndarray:
    return ~frame.filter(pl.col("class") == name)["survives"].to_numpy()


@dataclass(frozen=True)
class _Subject:
    """One sample to cut: its Δ, the mean attention of its classes, the sequences to try."""

    delta: StoredDelta
    mass: dict[str, torch.Tensor]  # of each memorized class, over its evaluation sequences
    tried: pl.DataFrame  # sequence_id, class, group
    tokens: np.ndarray
    attention: torch.Tensor  # of each sequence tried, mean over heads: (n, layers, T, T)
    effects: torch.Tensor  # total effects in each sequence tried, the same shape


def knockout_stage(study: Study, models: Models) -> None:
    """Write `knockout.parquet` (a row per cut and tried class) and `specificity.parquet`.

    Raises UserError: no Δ of the chosen attribution, a class without Δ or memorized sequences, or a
    model whose attention cannot be cut or ranked so.
    """
    study.require("localize")
    model, wanted = models.model(study), study.settings.knockout
    with study.finishing("knockout") as counts:
        rows, indices = [], []
        for subject in _subjects(study, model):
            cuts = list(_cuts(subject, study))
            units = [_unit(study, subject, cut, edges) for cut, edges in cuts]
            found = run_units(
                units,
                UnitStore(study.folder / "knockout", study.owner),
                Opened(lambda: (study, model, subject)),  # noqa: B023 - used in this turn
                label=f"Cutting ({subject.delta.shown})",
                noun="cuts",
                executor=LocalExecutor(),
            )
            outcomes = {
                cut: subject.tried.hstack(one.table.select(_COLUMNS))
                for (cut, _), one in zip(cuts, found, strict=True)
            }
            sizes = {cut: _size(edges, subject) for cut, edges in cuts}
            names, by, seed = tuple(subject.mass), wanted.by, wanted.seed
            rows += list(cut_rows(names, outcomes, sizes, by=by, seed=seed))
            indices += list(specificity_rows(names, outcomes, by=by, seed=seed))
        table = frame_of(rows, schema_of(KNOCKOUT_COLUMNS))
        study.write(KNOCKOUT_FILE, table, KNOCKOUT_COLUMNS)
        specific = frame_of(indices, schema_of(SPECIFICITY_COLUMNS))
        study.write(SPECIFICITY_FILE, specific, SPECIFICITY_COLUMNS)
        counts |= {"rows": len(rows), "taxonomies": len({row["taxonomy"] for row in rows})}
    study.forget("report")  # the report includes the knockout
    for line in (*cut_verdicts(specific), *own_statements(study.read(KNOCKOUT_FILE))):
        say(line)


class CutCounts(NamedTuple):
    """What stage `knockout` would do: cuts of so many taxonomies, each of some sequences."""

    n_taxonomies: int
    n_cuts: int
    n_continued: int  # sequences continued again, over all cuts


def count_cuts(study: Study) -> CutCounts:
    """Count what the stage would do, without a model; errors as `knockout_stage` before it."""
    study.require("localize")
    wanted, samples, counts = study.settings.knockout, samples_of(study), []
    stored = _stored(study)
    for key in _mains(study) if wanted.by != "delta" else stored:
        one = stored.get(key)
        if one is not None:
            _check_used(study, one)
        entry = samples[key]
        classes = one.classes if one is not None else (entry.trained_classes or entry.classes)
        tried = _sequences_to_try(study, key, entry.shown, classes)
        n_classes, draws = len(classes) - 1, wanted.draws
        of_non_memo = one is None or one.n_used[0] > 0
        each = draws + of_non_memo + n_classes * (2 + 2 * draws)
        n = 1 + len(wanted.strengths) * each + (1 + 2 * draws) + (2 + draws)
        counts.append((n, n * tried.height))
    n_cuts, n_continued = (sum(column) for column in zip(*counts, strict=True))
    return CutCounts(len(counts), n_cuts, n_continued)


def _subjects(study: Study, model: LanguageModel) -> Iterator[_Subject]:
    """Each taxonomy on its main sample, without the repetitions on matched sequences."""
    deltas = _ranked(study, model)
    for delta in deltas:
        if delta.delta.shape[1] != model.n_layers:
            raise UserError(
                f"{study.folder}: Δ of {delta.delta.shape[1]} layers, but {model.name} has "
                f"{model.n_layers}. Make it anew: mnemoscope localize {study.folder} --redo."
            )
        _check_used(study, delta)
        tried = _sequences_to_try(study, delta.sample, delta.shown, delta.classes)
        tokens = token_matrix(look_up(tried, study.sequences, "tokens"))
        size, prefix = study.settings.rows_at_once, study.settings.sequences.n_prefix
        captured = capture_pooled(model, tokens, batch_size=size)
        attention = torch.cat([batch.mean for batch in captured])
        effects = torch.cat(list(total_effects(model, tokens, batch_size=size, prefix=prefix)))
        mass = _mean_attention(study, delta)
        yield _Subject(delta, mass, tried, tokens, attention, effects)


def _ranked(study: Study, model: LanguageModel) -> list[StoredDelta]:
    """Each taxonomy's edges by the ranking asked for, from the study where it holds it."""
    stored, by = _stored(study), study.settings.knockout.by
    if by == "delta":
        return list(stored.values())
    return [stored.get(one) or rank_edges(study, model, one, by) for one in _mains(study)]


def _mains(study: Study) -> list[SampleKey]:
    samples = samples_of(study).items()
    return [key for key, entry in samples if key.is_main and not entry.impossible]


def _stored(study: Study) -> dict[SampleKey, StoredDelta]:
    """The main samples that the study holds the ranking of; UserError where one needs it."""
    wanted = study.settings.knockout
    name = wanted.attribution if wanted.by == "delta" else wanted.by
    every = {one.sample: one for one in load_deltas(study) if one.attribution == name}
    found = {key: every[key] for key in _mains(study) if key in every}
    if wanted.by == "delta" and not found:
        asked, anew = study.settings.localize.attributions, ""
        if name not in asked:
            listed = ",".join([*asked, name])
            setting = f"--set 'localize.attributions=[{listed}]'"
            anew = f"Make it: mnemoscope localize {study.folder} {setting} --redo. "
        raise UserError(
            f"{study.folder}: no Δ by '{name}' of any CNN that trained. {anew}Or rank otherwise: "
            f"{_otherwise(study)}."
        )
    return found


def _otherwise(study: Study) -> str:
    """The command of the default ranking, which needs no CNN."""
    usual = type(study.settings.knockout)().by
    return f"mnemoscope knockout {study.folder} --by {usual}"


def _check_used(study: Study, delta: StoredDelta) -> None:
    """Refuse a class without Δ: its largest edges mean nothing."""
    for name, n_used in zip(delta.classes[1:], delta.n_used[1:], strict=True):
        if n_used == 0:
            raise UserError(
                f"{study.folder}: {delta.shown}: no correctly classified sequence of class "
                f"'{name}', so there is no Δ of it. Rank otherwise: {_otherwise(study)}."
            )


def _sequences_to_try(
    study: Study, sample: SampleKey, shown: str, classes: Sequence[str]
) -> pl.DataFrame:
    """Memorized sequences of each class, those not used to measure Δ first."""
    wanted = study.settings.knockout
    measured = sample_rows(study, sample).evaluation["sequence_id"].implode()
    of_class = pl.col(sample.taxonomy).alias("class")
    labels = study.read(LABELS_FILE).select("sequence_id", of_class)
    labels = labels.sample(fraction=1.0, shuffle=True, seed=wanted.seed)
    labels = labels.sort(pl.col("sequence_id").is_in(measured), maintain_order=True)
    chosen = []
    for name in classes[1:]:
        rows = labels.filter(pl.col("class") == name).head(wanted.n_sequences)
        if rows.height < 2:
            raise UserError(
                f"{study.folder}: {shown}: {rows.height} memorized sequences of class '{name}'; "
                "cutting needs 2. Leave the class out: mnemoscope run -o "
                f"{study.folder} --drop-small-classes --redo."
            )
        chosen.append(rows)
    groups = find_groups(study.sequences).cast(pl.Int64).alias("group")
    return look_up(pl.concat(chosen), study.sequences.select("sequence_id", groups))


def _mean_attention(study: Study, delta: StoredDelta) -> dict[str, torch.Tensor]:
    """Mean over heads and evaluation sequences of each class: (layers, T, T) float32."""
    rows = sample_rows(study, delta.sample).evaluation
    store, found = open_maps(study, "model"), {}
    for name in delta.classes[1:]:
        part = rows.filter(pl.col("class") == name)
        maps = store.dataset(part["sequence_id"].to_numpy(), part["suffix"].to_list(), "mean")
        total = torch.zeros(maps.read(torch.arange(1)).shape[1:], dtype=torch.float64)
        for start in range(0, len(maps), 64):
            total += maps.read(torch.arange(start, min(start + 64, len(maps)))).double().sum(0)
        found[name] = unpack_triangle((total / len(maps)).float())
    return found


def _cuts(subject: _Subject, study: Study) -> Iterator[tuple[EdgeCut, torch.Tensor]]:
    """Every cut of one sample with its edges, for all sequences or (n, …) for each its own."""
    wanted, delta = study.settings.knockout, subject.delta
    shape = torch.from_numpy(delta.delta[0])
    cut = partial(EdgeCut, delta.sample)
    generator = partial(_generator, wanted.seed)
    yield cut("nothing", "", 0.0, 0), torch.zeros(shape.shape, dtype=torch.bool)
    for strength in wanted.strengths:
        n = count_edges(strength, *shape.shape[:2])
        for draw in range(wanted.draws):
            yield cut("random", "", strength, draw), random_edges(shape, n, generator(draw, n))
        if delta.n_used[0] > 0:
            yield cut("decisive", delta.classes[0], strength, 0), largest_edges(shape, n)
        for index, name in enumerate(delta.classes[1:], start=1):
            decisive = largest_edges(torch.from_numpy(delta.delta[index]), n)
            mass = subject.mass[name]
            yield cut("decisive", name, strength, 0), decisive
            yield cut("highest mass", name, strength, 0), largest_edges(mass, n)
            for draw in range(wanted.draws):
                equal = equal_mass_edges(decisive, mass, generator(draw, n, index))
                layers = same_layer_edges(decisive, generator(draw, n, index, 1))
                yield cut("equal mass", name, strength, draw), equal
                yield cut("same layers", name, strength, draw), layers
    copies = copy_edges(torch.from_numpy(subject.tokens), len(shape))
    yield cut("copy", "", None, 0), copies
    for draw in range(wanted.draws):
        keys, heavy = [], []  # as many other keys of each query, and equally heavy edges
        for row, own in enumerate(copies):
            random = generator(draw, row)
            heavy.append(equal_mass_edges(own, subject.attention[row], random))
            keys.append(random_keys(own, random))
        yield cut("copy, random", "", None, draw), torch.stack(keys)
        yield cut("copy, equal mass", "", None, draw), torch.stack(heavy)
    own = torch.stack([largest_edges(one, wanted.own_edges) for one in subject.effects])
    yield cut("own", "", None, 0), own
    yield cut("own, another's", "", None, 0), own[_of_another(subject.tried["class"])]
    for draw in range(wanted.draws):
        heavy = [
            equal_mass_edges(edges, attention, generator(draw, row, 1))
            for row, (edges, attention) in enumerate(zip(own, subject.attention, strict=True))
        ]
        yield cut("own, equal mass", "", None, draw), torch.stack(heavy)


def _of_another(classes: pl.Series) -> torch.Tensor:
    """For each sequence the place of the next one of its class."""
    places = np.arange(len(classes))
    for name in classes.unique():
        own = np.flatnonzero((classes == name).to_numpy())
        places[own] = np.roll(own, -1)
    return torch.from_numpy(places)


def _generator(*seeds: int) -> torch.Generator:
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


_COLUMNS = ("survives", "score", "logprob")


@dataclass(frozen=True)
class _CutUnit:
    """One cut to try, a unit of work: on (study, model, subject)."""

    key: str
    edges: torch.Tensor
    size = 1

    def run(
        self,
        context: tuple[Study, LanguageModel, _Subject],
        progress: Progress,  # noqa: ARG002
    ) -> dict[str, pl.DataFrame]:
        """What it does to each sequence tried."""
        study, model, subject = context
        found = cut_and_continue(
            model,
            subject.tokens,
            self.edges,
            renormalize=study.settings.knockout.renormalize,
            batch_size=study.settings.rows_at_once,
            prefix=study.settings.sequences.n_prefix,
        )
        columns = (pl.Series(one, getattr(found, one)) for one in _COLUMNS)
        return {"parquet": subject.tried.with_columns(columns)}


def _unit(study: Study, subject: _Subject, cut: EdgeCut, edges: torch.Tensor) -> _CutUnit:
    """A cut of a subject, with its key."""
    facts, wanted = study.record["models"]["model"], study.settings.knockout
    basis = hashlib.sha256(json.dumps(asdict(cut), sort_keys=True).encode())
    basis.update(np.packbits(edges.numpy()).tobytes())
    basis.update(subject.tried["sequence_id"].to_numpy().tobytes())
    basis.update(json.dumps(identity_of(facts)).encode())
    basis.update(f"{wanted.renormalize} {wanted.seed}".encode())
    return _CutUnit(basis.hexdigest()[:20], edges)


def _size(edges: torch.Tensor, subject: _Subject) -> dict[str, tuple[float, float]]:
    """Number of edges cut, and their share of all attention (of own edges, their own), by class."""
    sizes = {}
    for name, mass in subject.mass.items():
        cut, attention = edges[None], mass[None]
        if edges.ndim == 4:
            rows = torch.from_numpy((subject.tried["class"] == name).to_numpy())
            cut, attention = edges[rows], subject.attention[rows]
        held = (cut * attention)[:, :, :-1].sum() / attention[:, :, :-1].sum()
        sizes[name] = (float(cut.sum() / len(cut)), float(held))
    return sizes
