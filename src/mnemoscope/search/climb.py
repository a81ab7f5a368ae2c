"""Stage `search`: find the taxonomies that attention supports best.

Each rung keeps the best taxonomies and spends more on them: a regression on pooled statistics,
short CNNs, then CNNs as in any study. Taxonomies are chosen on the selection part of the
sequences; the figures reported come from the final part, which had no influence on the choice.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml

from mnemoscope.benchmark.baselines import (
    blind_maps,
    classify_statistics,
    map_statistics,
    ngram_dimensions,
)
from mnemoscope.benchmark.excess import (
    OBJECTIVES,
    ObjectiveName,
    Votes,
    compare_objective,
    measure_objective,
)
from mnemoscope.benchmark.sources import BASELINES, MEMORY_FREE, TABLE, of_reader
from mnemoscope.columns import schema_of
from mnemoscope.data.table import look_up, token_matrix
from mnemoscope.errors import UserError
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import suffix_logprobs
from mnemoscope.pipeline.capture import capture_rows, shown_tokens
from mnemoscope.pipeline.graft import score_grafts_again
from mnemoscope.pipeline.label import text_measures
from mnemoscope.pipeline.stored_maps import maps_folder, open_maps
from mnemoscope.pipeline.train import Job, SampleRows, load_outcome, make_job, run_jobs
from mnemoscope.pipeline.trainings import settings_of
from mnemoscope.progress import say, track
from mnemoscope.search.found import PARTS, SEARCH_COLUMNS, SEARCH_FILE
from mnemoscope.search.space import SearchSpace, check_optuna, find_columns, make_space, propose
from mnemoscope.stats import Estimate, frame_of
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models, identity_of
from mnemoscope.study.settings import SearchSettings
from mnemoscope.taxonomy.catalogue import load_taxonomies, read_nodes
from mnemoscope.taxonomy.draw import draw_lots, order_keys, split_by_group
from mnemoscope.taxonomy.groups import find_groups, other_rows
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import Taxonomy, label_digest
from mnemoscope.taxonomy.nodes import UNION, is_node_file
from mnemoscope.taxonomy.sample import SampleKey

FOUND_FILE = "search.yaml"
MEASURES_FILE = "search_measures.parquet"
MODEL_MEASURES = ("prefix_perplexity", "suffix_perplexity", "prior_gain")
"""Columns measured with the model; null unless memorized, because no node needs them there."""
_SHARES = {"train": 0.5, "select": 0.2}  # the rest is final
_MOST_PROPOSALS = 20
"""Most proposals per wanted candidate: most spaces have fewer divisions than names."""


@dataclass(frozen=True)
class Candidate:
    """A taxonomy on the searched sequences."""

    taxonomy: Taxonomy
    digest: str  # the same for taxonomies that divide these sequences alike
    rows: SampleRows  # evaluation holds selection and final; `position` counts searched rows
    counts: dict[str, int]  # sequences drawn of every class, by part

    def positions(self, part: str) -> np.ndarray:
        """Positions of a part's rows in the searched rows, in order, int64."""
        both = pl.concat([self.rows.train, self.rows.evaluation])
        return both.filter(pl.col("part") == part)["position"].to_numpy()


class Rung(NamedTuple):
    """How the CNNs of a rung are trained; its name is a column of `search.parquet`."""

    name: str
    preset: str
    seeds: tuple[int, ...]


@dataclass
class TaxonomyScores:
    """A taxonomy of the search and its score on each rung it reached."""

    candidate: Candidate
    is_baseline: bool = False
    scores: dict[str, float | None] = field(default_factory=dict)
    final: dict[str, Estimate] = field(default_factory=dict)  # figures of the final part
    strongest: str | None = None  # of the controls there


@dataclass
class Proposals:
    """All proposals and their outcome."""

    entries: list[TaxonomyScores] = field(default_factory=list)  # with a cheap score, as proposed
    seen: dict[str, float | None] = field(default_factory=dict)  # cheap score by digest
    n_proposed: int = 0
    n_same: int = 0
    n_small: int = 0
    largest_smallest: int = 0  # of the sizes of smallest classes in their smallest parts


def search_stage(study: Study, models: Models) -> None:
    """Write `search.parquet` (one row per taxonomy tried) and `search.yaml` (the finalists).

    Raises UserError: no maps, an unknown node or range, optuna missing, too few sequences.
    """
    study.require("capture")
    check_optuna()
    wanted = study.settings.search
    with study.finishing("search") as counts:
        baselines = load_taxonomies(wanted.baselines) if wanted.baselines else []
        if wanted.capture_all:
            _capture_all(study, models)
        _text_measures(study, models, baselines)
        rows = searched_rows(study)
        memorized = rows.filter(pl.col("is_memorized"))
        learned_from = memorized.filter(pl.col("part") == "train")
        space = make_space(wanted.nodes, learned_from, classes=wanted.classes)
        proposals = propose_candidates(study, rows, space)
        references, impossible = [], {}
        for taxonomy in baselines:
            candidate = candidate_of(rows, taxonomy, wanted)
            if isinstance(candidate, Candidate):
                references.append(TaxonomyScores(candidate, is_baseline=True))
            else:
                impossible[taxonomy.name] = candidate
        finalists = _climb(study, proposals.entries, references)
        for entry in [*finalists, *references]:
            _measure(study, entry)
        for entry in references:
            _compare(study, finalists[0].candidate, entry)
        study.write(SEARCH_FILE, _table(proposals.entries, references, finalists), SEARCH_COLUMNS)
        _write_found(study, space, [one.candidate.taxonomy for one in finalists])
        counts |= {
            "sequences": rows.height,
            "memorized": memorized.height,
            **{f"memorized_{part}": int((memorized["part"] == part).sum()) for part in PARTS},
            "space": space.n_taxonomies,
            "proposed": proposals.n_proposed,
            "tried": len(proposals.seen),
            "same": proposals.n_same,
            "too_small": proposals.n_small,
            "untrained": len(proposals.seen) - len(proposals.entries),
            "impossible_baselines": impossible,
        }
    score_grafts_again(study)
    study.forget("report")  # the report includes the search


def _capture_all(study: Study, models: Models) -> None:
    """Capture every memorized sequence and half as many others, whatever is stored already."""
    table = study.sequences.filter(pl.col("is_memorized").is_not_null())
    memorized, others = table.filter("is_memorized"), table.filter(~pl.col("is_memorized"))
    suffix = study.settings.label.non_memo_suffix
    if suffix == "own":
        others = others.filter(pl.col("continuation").is_not_null())
    n_others = min(others.height, ceil(memorized.height / 2))
    others = others.sample(n_others, seed=study.settings.search.seed)
    chosen = [
        rows.select("sequence_id", pl.lit(shown).alias("suffix")).sort("sequence_id")
        for rows, shown in ((memorized, "true"), (others, suffix))
    ]
    capture_rows(study, models, pl.concat(chosen))


# Measures that nodes need, of the text and of the model.


def _text_measures(study: Study, models: Models, baselines: Sequence[Taxonomy]) -> None:
    """Add the measures that the nodes and the baselines need."""
    settings = study.settings.search
    own = [
        node
        for path in filter(is_node_file, settings.nodes)
        for nodes in read_nodes(path).values()
        for node in nodes
    ]
    wanted = {column for node in own for column in node.columns}
    wanted |= {column for taxonomy in baselines for column in taxonomy.columns}
    wanted |= {*find_columns(settings.nodes)}
    table = study.sequences
    found = [made] if (made := text_measures(table, wanted)) is not None else []
    if names := [name for name in MODEL_MEASURES if name in wanted]:
        measured = _measure_by_model(study, models, table, with_prior="prior_gain" in wanted)
        found.append(look_up(table.select("sequence_id"), measured, *names))
    if found:
        study.write(MEASURES_FILE, pl.concat(found, how="align"))


def _measure_by_model(
    study: Study, models: Models, table: pl.DataFrame, *, with_prior: bool
) -> pl.DataFrame:
    """`sequence_id` and the model's measures of the memorized sequences; cached on disk."""
    wanted, facts = study.settings.search, study.record["models"]["model"]
    chosen = table.filter(pl.col("is_memorized").fill_null(False))
    basis = [
        *identity_of(facts),
        *((wanted.other_prefixes, wanted.seed) if with_prior else ()),
        hashlib.sha256(chosen["sequence_id"].to_numpy().tobytes()).hexdigest(),
    ]
    name = f"search/measures-{_hash(basis)}"
    ask = partial(_ask_model, study, models, table, chosen, with_prior=with_prior)
    return study.kept(name, ask)


def _ask_model(
    study: Study, models: Models, table: pl.DataFrame, chosen: pl.DataFrame, *, with_prior: bool
) -> pl.DataFrame:
    """Measure the chosen sequences; groups of near duplicates are of the whole table."""
    wanted = study.settings.search
    lm, tokens = models.model(study), token_matrix(chosen)
    half, batch_size = study.settings.sequences.n_prefix, study.settings.rows_at_once
    total = 1 + (wanted.other_prefixes if with_prior else 0)
    with track("Perplexity and prior", total=total, unit="passes") as progress:
        before, after = perplexities(lm, tokens, batch_size=batch_size, prefix=half)
        progress.advance()
        columns = {"prefix_perplexity": before, "suffix_perplexity": after}
        if with_prior:
            groups = table.select("sequence_id", find_groups(table).alias("group"))
            own = look_up(chosen.select("sequence_id"), groups)["group"]
            others = other_rows(own.to_list(), wanted.other_prefixes, seed=wanted.seed)
            prior = mean_prior(
                lm, tokens, others, batch_size=batch_size, prefix=half, on_prefix=progress.advance
            )
            columns["prior_gain"] = -np.log(after) * (tokens.shape[1] - half) - prior
    return chosen.select("sequence_id").with_columns(
        **{name: pl.Series(values) for name, values in columns.items()}
    )


def _hash(basis: list[Any]) -> str:
    return hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:20]


def perplexities(
    lm: LanguageModel, tokens: npt.NDArray[np.int32], *, batch_size: int, prefix: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Perplexity of each sequence's prefix and of its suffix, two arrays of shape (sequences,).

    The first token is left out: without a beginning-of-sequence token it has no probability.
    """
    logprobs = suffix_logprobs(lm, tokens, batch_size=batch_size, prefix=1).astype(np.float64)
    halves = logprobs[:, : prefix - 1], logprobs[:, prefix - 1 :]
    before, after = (np.exp(-half.mean(axis=1)) for half in halves)
    return before, after


def mean_prior(
    lm: LanguageModel,
    tokens: npt.NDArray[np.int32],
    others: npt.NDArray[np.int64],
    *,
    batch_size: int,
    prefix: int,
    on_prefix: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.float64]:
    """Log-probability of each suffix under the average of K other prefixes, shape (sequences,).

    In nats: ln of the mean over K prefixes of p(suffix | prefix). `others` holds the rows whose
    prefixes are used, shape (K, sequences); `on_prefix` is called after each of the K.
    Source: arXiv 2602.18733 compares a suffix's probability under its own prefix with that under
    unrelated ones.
    """
    found = []
    for rows in others:
        exchanged = np.concatenate([tokens[rows, :prefix], tokens[:, prefix:]], axis=1)
        logprobs = suffix_logprobs(lm, exchanged, batch_size=batch_size, prefix=prefix)
        found.append(logprobs.sum(axis=1, dtype=np.float64))
        on_prefix()
    return np.asarray(np.logaddexp.reduce(found, axis=0) - np.log(len(found)))


# The searched sequences: three parts that share no group, and each candidate's share of them.


def stored_roles(study: Study) -> tuple[str, ...]:
    """Models whose maps were captured: the study's, and its reference if there is one."""
    has_reference = (maps_folder(study, "reference") / "meta.json").is_file()
    return ("model", "reference") if has_reference else ("model",)


def searched_rows(study: Study) -> pl.DataFrame:
    """All sequences whose maps are stored, with their `group`, `part`, and `suffix`: whose maps.

    Rows are in the order of drawing: every group gives one sequence before any gives a second.
    Raises UserError: none of them is memorized, or all are.
    """
    table = study.sequences
    table = table.with_columns(find_groups(table).alias("group"))
    own = pl.lit(study.settings.label.non_memo_suffix)
    suffix = pl.when(pl.col("is_memorized")).then(pl.lit("true")).otherwise(own)
    rows = table.filter(pl.col("is_memorized").is_not_null()).with_columns(suffix=suffix)
    for role in stored_roles(study):
        stored = open_maps(study, role).index
        rows = rows.join(stored, on=["sequence_id", "suffix"], how="semi")
    if rows["is_memorized"].n_unique() < 2:
        raise UserError(
            f"{study.folder}: {int(rows['is_memorized'].sum()):,} memorized of {rows.height:,} "
            "sequences with maps; a search needs both kinds. Capture more of them."
        )
    keys = order_keys(rows["sequence_id"].to_numpy(), study.settings.search.seed)
    rows = rows.with_columns(pl.Series("key", keys)).sort("key")
    rows = rows.with_columns(pl.Series("part", _parts(rows)))
    turn = pl.int_range(pl.len()).over("group")
    return rows.sort(turn, "key").drop("key")


def _parts(rows: pl.DataFrame) -> list[str]:
    """Assign parts by group, with the same shares of memorized sequences and Non-Memo."""
    cells = rows["is_memorized"].cast(pl.Int64).to_numpy()
    groups = rows["group"].rank("dense").cast(pl.Int64).to_numpy() - 1
    lots = draw_lots(rows["key"].to_numpy(), groups)
    is_train = _split(cells, groups, lots, _SHARES["train"])
    part = np.where(is_train, "train", "final").astype(object)
    rest = np.flatnonzero(~is_train)
    of_rest = _SHARES["select"] / (1 - _SHARES["train"])
    # The first split used up these lots, so the rest draws new ones.
    again = draw_lots(np.arange(len(rest), dtype=np.uint64), groups[rest])
    chosen = _split(cells[rest], groups[rest], again, of_rest)
    part[rest[chosen]] = "select"
    return [str(one) for one in part]


def _split(cells: np.ndarray, groups: np.ndarray, lots: np.ndarray, share: float) -> np.ndarray:
    """True for the first side, which gets about this share of each cell."""
    counts = np.bincount(cells, minlength=2)
    first = np.round(share * counts).astype(np.int64)
    return split_by_group(cells, groups, lots, n_train=first, n_eval=counts - first)


def candidate_of(
    rows: pl.DataFrame, taxonomy: Taxonomy, wanted: SearchSettings
) -> Candidate | dict[str, int]:
    """Draw a taxonomy's sequences, equally many per class, in each part.

    Gives the smallest class's size by part instead if that is below `minimum`. Raises UserError: a
    column that the taxonomy needs is missing.
    """
    codes, n_classes = taxonomy.codes(label_sequences(rows, taxonomy)), len(taxonomy.classes)
    frame = rows.select("sequence_id", "suffix", "part", "group").with_row_index("position")
    frame = frame.with_columns(pl.col("position").cast(pl.Int64), class_index=pl.Series(codes))
    frame = frame.filter(pl.col("class_index") >= 0)
    sizes = {"train": wanted.n_train, "select": wanted.n_select, "final": wanted.n_final}
    drawn, smallest = {}, {}
    for part in PARTS:
        inside = frame.filter(pl.col("part") == part)
        counts = np.bincount(inside["class_index"].to_numpy(), minlength=n_classes)
        smallest[part] = int(counts.min())
        turn = pl.int_range(pl.len()).over("class_index")
        drawn[part] = inside.filter(turn < min(smallest[part], sizes[part]))
    if min(smallest.values()) < wanted.minimum:
        return smallest
    sample = SampleRows(
        train=drawn["train"].with_columns(split=pl.lit("train")),
        evaluation=pl.concat([drawn["select"], drawn["final"]]).with_columns(split=pl.lit("eval")),
        classes=taxonomy.classes,
    )
    counts_drawn = {part: drawn[part].height // n_classes for part in PARTS}
    return Candidate(taxonomy, label_digest(codes)[:16], sample, counts_drawn)


# The first rung: optuna proposes, a regression on statistics of the stored maps scores.


def propose_candidates(study: Study, rows: pl.DataFrame, space: SearchSpace) -> Proposals:
    """Propose and score until enough differ; UserError: classes too small, or none above chance."""
    wanted = study.settings.search
    scorer, found = CheapScorer(study, rows), Proposals()
    with (
        _quiet_optuna() as optuna,
        track("Searching (cheap)", total=wanted.candidates, unit="taxonomies") as progress,
    ):
        n_startup = max(10, wanted.candidates // 3)
        sampler = optuna.samplers.TPESampler(n_startup_trials=n_startup, seed=wanted.seed)
        proposer = optuna.create_study(direction="maximize", sampler=sampler)
        while len(found.seen) < wanted.candidates and (
            found.n_proposed < _MOST_PROPOSALS * wanted.candidates
        ):
            trial = proposer.ask()
            found.n_proposed += 1
            n_before = len(found.seen)
            taxonomy = propose(space, trial)
            score = None if taxonomy is None else _try(taxonomy, rows, wanted, found, scorer)
            found.n_same += taxonomy is None
            proposer.tell(trial, score, optuna.trial.TrialState.PRUNED if score is None else None)
            progress.advance(len(found.seen) - n_before)
    if found.entries:
        return found
    here = f"{int(rows['is_memorized'].sum()):,} memorized of {rows.height:,} sequences with maps"
    if found.seen:
        raise UserError(
            f"{study.folder}: the attention shows none of {len(found.seen):,} taxonomies above "
            f"chance in a regression ({here}). Capture more sequences (--capture-all)."
        )
    raise UserError(
        f"{study.folder}: too few sequences ({here}): of {found.n_proposed:,} taxonomies none has "
        f"{wanted.minimum} of each class in each of three parts, the best "
        f"{found.largest_smallest}. Try --capture-all, or lower search.minimum."
    )


@contextmanager
def _quiet_optuna() -> Iterator[Any]:
    """Optuna without a log line per trial; restores its log level."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)


def _try(
    taxonomy: Taxonomy,
    rows: pl.DataFrame,
    wanted: SearchSettings,
    found: Proposals,
    scorer: "CheapScorer",
) -> float | None:
    """Score one proposal; None if a class is too small or nothing is above chance."""
    candidate = candidate_of(rows, taxonomy, wanted)
    if not isinstance(candidate, Candidate):
        found.n_small += 1
        found.largest_smallest = max(found.largest_smallest, min(candidate.values()))
        return None
    if candidate.digest in found.seen:
        found.n_same += 1
        return found.seen[candidate.digest]
    score = found.seen[candidate.digest] = scorer.score(candidate)
    if score is not None:
        found.entries.append(TaxonomyScores(candidate, scores={"cheap": score}))
    return score


class CheapScorer:
    """Scores candidates on the selection part; scores are cached on disk."""

    def __init__(self, study: Study, rows: pl.DataFrame) -> None:
        self._study, self._rows = study, rows
        wanted = study.settings.search
        basis = [
            [facts["fingerprint"] for facts in study.record["models"].values()],
            "reference" in stored_roles(study),
            [wanted.objective, wanted.seed, wanted.n_train, wanted.n_select, wanted.n_final],
            hashlib.sha256(rows["sequence_id"].to_numpy().tobytes()).hexdigest(),
            hashlib.sha256("".join(rows["part"] + rows["suffix"]).encode()).hexdigest(),
        ]
        self._name = f"search/cheap-{_hash(basis)}"
        kept = study.store.kept(self._name, "the scores")
        self._kept: dict[str, float | None] = {} if kept is None else dict(kept["scores"])

    def score(self, candidate: Candidate) -> float | None:
        """The objective of one candidate; None if the regression on attention is at chance."""
        if candidate.digest in self._kept:
            return self._kept[candidate.digest]
        wanted = self._study.settings.search
        train, select = candidate.positions("train"), candidate.positions("select")
        labels = candidate.rows.train["class_index"].to_numpy()
        chosen = candidate.rows.evaluation.filter(pl.col("part") == "select")
        sources: dict[str, Votes] = {}
        for name, columns in self._columns.items():
            fit = classify_statistics(columns[train], labels, columns[select], wanted.seed)
            if fit.did_train:
                sources[name] = _votes([(0, fit.predicted[None], fit.probabilities)], chosen)
        self._kept[candidate.digest] = _score(sources, wanted.objective)
        self._study.store.put(self._name, {}, scores=self._kept)
        return self._kept[candidate.digest]

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """What each source sees of every searched row, shape (rows, columns)."""
        say(f"Statistics of {self._rows.height:,} maps")
        ids, suffixes = self._rows["sequence_id"].to_numpy(), self._rows["suffix"].to_list()
        found, prefix = {}, self._study.settings.sequences.n_prefix
        for role in stored_roles(self._study):
            maps = open_maps(self._study, role)
            statistics = map_statistics(maps.dataset(ids, suffixes, "mean"), prefix)
            found[role] = statistics.reshape(len(ids), -1)
        return found | {"blind": self._text()}

    def _text(self) -> np.ndarray:
        """Statistics of the blind maps, and the first dimensions of the n-gram counts."""
        tokens = shown_tokens(self._study.sequences, self._rows.select("sequence_id", "suffix"))
        prefix = self._study.settings.sequences.n_prefix
        is_train = (self._rows["part"] == "train").to_numpy()
        blind = map_statistics(blind_maps(tokens), prefix).reshape(len(tokens), -1)
        _, counts = ngram_dimensions(
            tokens[is_train], tokens, seed=self._study.settings.search.seed
        )
        return np.concatenate([blind, counts], axis=1)


def _votes(runs: Sequence[tuple[int, np.ndarray, np.ndarray]], rows: pl.DataFrame) -> Votes:
    """Votes of one source from (seed, classes (epochs, rows), probabilities) of each training."""
    scores = np.stack([probabilities for _, _, probabilities in runs])
    return Votes(
        sequence_ids=rows["sequence_id"].to_numpy(),
        true=rows["class_index"].to_numpy(),
        predicted=np.concatenate([predicted for _, predicted, _ in runs]),
        seeds=np.concatenate([np.full(len(predicted), seed) for seed, predicted, _ in runs]),
        n_classes=scores.shape[2],
        probabilities=scores.mean(axis=0, dtype=np.float64),
        scores=scores.astype(np.float32),
        score_seeds=np.array([seed for seed, _, _ in runs]),
        groups=rows["group"].cast(pl.Int64).to_numpy(),
    )


def _score(sources: dict[str, Votes], objective: ObjectiveName) -> float | None:
    """The objective; None if the model's attention, or every control it needs, was at chance."""
    if "model" not in sources or (len(sources) < 2 and objective in ("excess", "auc_excess")):
        return None
    return measure_objective(sources, objective).value


# The later rungs: CNNs on the attention, the text and the reference's attention.


def _climb(
    study: Study, entries: list[TaxonomyScores], references: list[TaxonomyScores]
) -> list[TaxonomyScores]:
    """Successive halving: the finalists, best first."""
    wanted = study.settings.search
    preset = study.settings.train.preset
    brief = "rows" if preset == "rows" else "brief"  # rows take no longer
    rungs = [Rung("brief", brief, tuple(wanted.seeds[:1])), _full_rung(study)]
    n_kept = max(wanted.finalists, ceil(len(entries) / wanted.reduction))
    kept = _best(entries, "cheap", n_kept)
    for rung in rungs:
        with_references = [*kept, *(references if rung.name == "full" else [])]
        _train(study, [one.candidate for one in with_references], rung)
        for entry in with_references:
            sources = _collect(study, entry.candidate, rung, "select")
            entry.scores[rung.name] = _score(sources, wanted.objective)
        n_kept = max(wanted.finalists, ceil(len(kept) / wanted.reduction))
        kept = _best(kept, rung.name, wanted.finalists if rung.name == "full" else n_kept)
        if not kept:
            raise UserError(
                f"{study.folder}: no CNN of the search learned anything ({rung.name} rung). "
                "Capture more sequences (--capture-all)."
            )
    return kept


def _full_rung(study: Study) -> Rung:
    return Rung("full", study.settings.train.preset, tuple(study.settings.search.seeds))


def _best(entries: Sequence[TaxonomyScores], rung: str, n: int) -> list[TaxonomyScores]:
    """The best of a rung, best first; ties are ordered by name."""
    scored = [one for one in entries if one.scores.get(rung) is not None]
    scored.sort(key=lambda one: (-(one.scores[rung] or 0.0), one.candidate.taxonomy.name))
    return scored[:n]


def _train(study: Study, candidates: Sequence[Candidate], rung: Rung) -> None:
    """Train what these candidates lack, several at once."""
    jobs = [job for one in candidates for job in _jobs(study, one, rung)]
    run_jobs(study, jobs, f"Searching ({rung.name})")


def _collect(study: Study, candidate: Candidate, rung: Rung, part: str) -> dict[str, Votes]:
    """Votes on one part by source, of the trainings above chance."""
    inside = (candidate.rows.evaluation["part"] == part).to_numpy()
    rows = candidate.rows.evaluation.filter(pl.Series(inside))
    found: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for job in _jobs(study, candidate, rung):
        outcome = load_outcome(job)
        if outcome.facts.did_train:
            run = (job.seed, outcome.predicted[:, inside], outcome.probabilities[inside])
            found.setdefault(job.source, []).append(run)
    return {source: _votes(runs, rows) for source, runs in found.items()}


def _jobs(study: Study, candidate: Candidate, rung: Rung) -> list[Job]:
    """The trainings of one candidate: the model's and the controls of its excess."""
    sample, rows = SampleKey(candidate.taxonomy.name), candidate.rows
    usable = "reference" in stored_roles(study)
    controls = [
        one for one in of_reader(MEMORY_FREE, "model") if usable or TABLE[one].reads != "reference"
    ]
    return [
        replace(make_job(study, sample, rows, source, setting, seed, rung.preset), rows=rows)
        for source in ("model", *controls)
        for setting in settings_of(study.settings, source)[:1]
        for seed in (rung.seeds[:1] if source in BASELINES else rung.seeds)
    ]


# Results as tables and in words.


def _measure(study: Study, entry: TaxonomyScores) -> None:
    """Give an entry every figure of its taxonomy on the final part, with intervals."""
    seed, n_resamples = study.settings.search.seed, study.settings.benchmark.n_resamples
    sources = _collect(study, entry.candidate, _full_rung(study), "final")
    entry.final = {
        name: measure_objective(sources, name, seed=seed, n_resamples=n_resamples)
        for name in OBJECTIVES
        if _score(sources, name) is not None
    }
    controls = {name: votes for name, votes in sources.items() if name != "model"}
    of_each = {name: _score({"model": one}, "min_f1") or 0.0 for name, one in controls.items()}
    entry.strongest = max(of_each, key=of_each.__getitem__, default=None)


def _compare(study: Study, best: Candidate, entry: TaxonomyScores) -> None:
    """Give an entry how much the winner is above it on the final part, paired: its `lead`."""
    wanted, n_resamples = study.settings.search, study.settings.benchmark.n_resamples
    both = best, entry.candidate
    own, baseline = (_collect(study, one, _full_rung(study), "final") for one in both)
    if None not in (_score(one, wanted.objective) for one in (own, baseline)):
        entry.final["lead"] = compare_objective(
            own, baseline, wanted.objective, seed=wanted.seed, n_resamples=n_resamples
        )


def _table(
    entries: Sequence[TaxonomyScores],
    references: Sequence[TaxonomyScores],
    finalists: Sequence[TaxonomyScores],
) -> pl.DataFrame:
    """One row per taxonomy: finalists, baselines, then the rest by how far they came."""
    rest = [one for one in entries if one not in finalists]
    rest.sort(key=lambda one: (-len(one.scores), -(list(one.scores.values())[-1] or 0.0)))
    places = {id(one): place for place, one in enumerate(finalists, start=1)}
    rows = [
        {
            "taxonomy": one.candidate.taxonomy.name,
            "classes": len(one.candidate.taxonomy.classes),
            "kind": "baseline" if one.is_baseline else "found",
            "place": places.get(id(one)),
            **one.scores,
            **one.final,
            "strongest": one.strongest,
            **{f"n_{part}": one.candidate.counts[part] for part in PARTS},
        }
        for one in [*finalists, *references, *rest]
    ]
    return frame_of(rows, schema_of(SEARCH_COLUMNS))


def _write_found(study: Study, space: SearchSpace, taxonomies: Sequence[Taxonomy]) -> None:
    """Write the finalists as a file of taxonomies, with the user's nodes they use."""
    nodes = [node for taxonomy in taxonomies for node in taxonomy.nodes]
    named = {part for node in nodes for part in node.name.split(UNION)}
    own = [
        {"name": name, "yes_when": node.cuts[0].column, "meaning": node.meaning}
        for name, node in space.own.items()
        if name in named
    ]
    names = {"taxonomies": [one.name for one in taxonomies]}
    content = {"nodes": own, **names} if own else names
    head = f"# Found by 'mnemoscope search {study.folder.name}'; use: -t {FOUND_FILE}\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
    study.write(FOUND_FILE, (head + text).encode())
