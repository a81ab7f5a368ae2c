"""Stage `search`: the taxonomies that attention bears out best, chosen apart from their figure.

`mnemoscope search STUDY`. Every rung keeps the best of its taxonomies and gives them more: a
regression on pooled statistics, short CNNs, then CNNs as in any study. The choice is made on the
selection part; what is reported of the chosen comes from the final part.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml
from sklearn.decomposition import TruncatedSVD

from mnemoscope.benchmark.baselines import (
    BaselineFit,
    blind_maps,
    classify_statistics,
    count_ngrams,
    map_statistics,
)
from mnemoscope.benchmark.excess import OBJECTIVES, ObjectiveName, Votes, measure_objective
from mnemoscope.benchmark.sources import BASELINES, CONTROLS, TABLE
from mnemoscope.cluster.engine import run_tasks
from mnemoscope.data.features import TEXT_MEASURES, measure_text
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import read_parquet, write_json, write_parquet, write_text
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.probe import suffix_logprobs
from mnemoscope.maps.store import MapStore
from mnemoscope.pipeline.capture import capture_rows, maps_folder, shown_tokens
from mnemoscope.pipeline.train import (
    Job,
    Outcome,
    SampleRows,
    is_finished,
    load_outcome,
    make_job,
    run_job_on,
    training_gpus,
)
from mnemoscope.pipeline.trainings import settings_of
from mnemoscope.progress import Progress, say, track
from mnemoscope.search.extra import load_optuna
from mnemoscope.search.space import SearchSpace, find_columns, make_space, propose
from mnemoscope.search.words import describe_search
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import SearchSettings
from mnemoscope.taxonomy.catalogue import load_taxonomies, read_nodes
from mnemoscope.taxonomy.draw import draw_lots, order_keys, split_by_group
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import Taxonomy

# Add to a study's table what the nodes of a search ask for: measures of text, and of the model.

MODEL_MEASURES = ("prefix_perplexity", "suffix_perplexity", "prior_gain")
"""Columns that ask the model; null where a sequence is not memorized, since no node asks there."""


def add_measures(study: Study, models: Models) -> None:
    """Add the measures that `search.nodes` and `search.beside` need and the table lacks.

    Those of the model are kept in `search/` under the hash of what decides them.

    Raises:
        UserError: the model cannot be loaded, or is not the one that made the study.
    """
    wanted, table = _wanted(study), study.sequences
    if wanted & set(TEXT_MEASURES):
        table = table.with_columns(measure_text(table).get_columns())
    if wanted & set(MODEL_MEASURES):
        table = table.join(
            _of_model(study, models, table, with_prior="prior_gain" in wanted),
            on="sequence_id",
            how="left",
            maintain_order="left",
            suffix="_new",
        )
        table = table.with_columns(
            pl.col(f"{name}_new").alias(name)
            for name in MODEL_MEASURES
            if f"{name}_new" in table.columns
        )
    made = [name for name in (*TEXT_MEASURES, *MODEL_MEASURES) if name in wanted]
    if made:
        study.add_columns(table.select(made))


def perplexities(
    lm: LanguageModel, tokens: npt.NDArray[np.int32], *, batch_size: int, prefix: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Perplexity of each sequence's prefix and of its suffix, from one forward.

    The first token has no probability without a beginning-of-sequence token; it is left out.

    Args:
        lm: the model.
        tokens: shape (sequences, length).
        batch_size: sequences at once.
        prefix: tokens of the prefix.

    Returns:
        Two arrays of shape (sequences,): e to the mean negative log-probability a token.
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
    on_prefix: Callable[[], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Log-probability of each suffix under the average of K other prefixes.

    The average is of probabilities: ln of the mean over the K prefixes of p(suffix | prefix).

    Args:
        lm: the model.
        tokens: shape (sequences, length).
        others: rows whose prefixes are put before each suffix, shape (K, sequences).
        batch_size: sequences at once.
        prefix: tokens of the prefix.
        on_prefix: called after each of the K.

    Returns:
        Nats a suffix, shape (sequences,).

    Source: arXiv 2602.18733 compares a suffix's probability under its own prefix with that under
        unrelated ones.
    """
    found = []
    for rows in others:
        exchanged = np.concatenate([tokens[rows, :prefix], tokens[:, prefix:]], axis=1)
        logprobs = suffix_logprobs(lm, exchanged, batch_size=batch_size, prefix=prefix)
        found.append(logprobs.sum(axis=1, dtype=np.float64))
        if on_prefix is not None:
            on_prefix()
    whole: npt.NDArray[np.float64] = np.logaddexp.reduce(found, axis=0) - np.log(len(found))
    return whole


def other_rows(groups: Sequence[str], n_others: int, *, seed: int) -> npt.NDArray[np.int64]:
    """For every row, rows of other groups, drawn by a seed.

    Args:
        groups: group of every row.
        n_others: how many rows each gets.
        seed: from 0.

    Returns:
        Shape (n_others, rows), int64. Where all rows are one group, other rows of it.
    """
    named = np.unique(np.asarray(groups), return_inverse=True)[1]
    generator, n_rows = np.random.default_rng(seed), len(named)
    rows = np.arange(n_rows)
    found = np.empty((n_others, n_rows), dtype=np.int64)
    for draw in range(n_others):
        chosen = generator.integers(0, n_rows, n_rows)
        for _ in range(n_rows if named.max(initial=0) else 1):
            same = np.flatnonzero(named[chosen] == named)
            if not len(same):
                break
            chosen[same] = (chosen[same] + 1) % n_rows
        found[draw] = np.where(chosen == rows, (chosen + 1) % n_rows, chosen)
    return found


def _wanted(study: Study) -> set[str]:
    """Columns that any node of the search, or of what stands beside it, looks at."""
    settings = study.settings.search
    files = [one for one in settings.nodes if one.lower().endswith((".yaml", ".yml"))]
    own = [node for path in files for nodes in read_nodes(path).values() for node in nodes]
    beside = load_taxonomies(settings.beside) if settings.beside else []
    of_own = {column for node in own for column in node.columns}
    of_beside = {column for taxonomy in beside for column in taxonomy.columns}
    return {*find_columns(settings.nodes), *of_own, *of_beside}


def _of_model(
    study: Study, models: Models, table: pl.DataFrame, *, with_prior: bool
) -> pl.DataFrame:
    """`sequence_id` and the model's measures of the memorized sequences; kept once made."""
    chosen = table.filter(pl.col("is_memorized").fill_null(False))
    path = _path(study, chosen, with_prior=with_prior)
    if path.is_file():
        return read_parquet(path)
    lm, tokens = models.model(study), token_matrix(chosen)
    half, batch_size = tokens.shape[1] // 2, study.settings.model.batch_size
    n_others = study.settings.search.other_prefixes if with_prior else 0
    with track("Perplexity and prior", total=1 + n_others, unit="passes") as progress:
        before, after = perplexities(lm, tokens, batch_size=batch_size, prefix=half)
        progress.advance()
        columns = {"prefix_perplexity": before, "suffix_perplexity": after}
        if with_prior:
            own = -np.log(after) * (tokens.shape[1] - half)
            prior = _prior(study, lm, table, chosen, tokens, progress)
            columns["prior_gain"] = own - prior
    frame = chosen.select("sequence_id").with_columns(
        **{k: pl.Series(v) for k, v in columns.items()}
    )
    path.parent.mkdir(exist_ok=True)
    write_parquet(path, frame)
    return frame


def _prior(
    study: Study,
    lm: LanguageModel,
    table: pl.DataFrame,
    chosen: pl.DataFrame,
    tokens: npt.NDArray[np.int32],
    progress: Progress,
) -> npt.NDArray[np.float64]:
    """`mean_prior` of the chosen rows, whose other prefixes come from other groups."""
    wanted = study.settings.search
    groups = table.select("sequence_id").with_columns(find_groups(table).alias("group"))
    own = chosen.select("sequence_id").join(
        groups, on="sequence_id", how="left", maintain_order="left"
    )
    return mean_prior(
        lm,
        tokens,
        other_rows(own["group"].to_list(), wanted.other_prefixes, seed=wanted.seed),
        batch_size=study.settings.model.batch_size,
        prefix=tokens.shape[1] // 2,
        on_prefix=progress.advance,
    )


def _path(study: Study, chosen: pl.DataFrame, *, with_prior: bool) -> Path:
    """The file of these measures, named by the hash of all that decides them."""
    facts, wanted = study.record["models"]["model"], study.settings.search
    basis = [
        *(facts[name] for name in ("fingerprint", "dtype", "device", "bos_id")),
        *((wanted.other_prefixes, wanted.seed) if with_prior else ()),
        hashlib.sha256(chosen["sequence_id"].to_numpy().tobytes()).hexdigest(),
    ]
    key = hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:20]
    return study.folder / "search" / f"measures-{key}.parquet"


# Which sequences a search works on: three parts that share no group, and a candidate's rows.

PARTS = ("train", "select", "final")
_SHARES = {"train": 0.5, "select": 0.2}  # the rest is final


@dataclass(frozen=True)
class Candidate:
    """A taxonomy on the searched sequences.

    Attributes:
        taxonomy: what it is.
        digest: same for two that divide these sequences alike.
        rows: training rows, and selection and final rows together as its evaluation, with
            their `part` and `position` in the searched rows.
        counts: sequences of every class in each part that were drawn, by part.
    """

    taxonomy: Taxonomy
    digest: str
    rows: SampleRows
    counts: dict[str, int]

    def positions(self, part: str) -> np.ndarray:
        """Positions of a part's rows in the searched rows, in order, int64."""
        both = pl.concat([self.rows.train, self.rows.evaluation])
        return both.filter(pl.col("part") == part)["position"].to_numpy()


def has_reference(study: Study) -> bool:
    """Say whether the maps of a reference model were captured."""
    return (maps_folder(study, "reference") / "meta.json").is_file()


def searched_rows(study: Study) -> pl.DataFrame:
    """All sequences whose maps are stored, each with its part.

    Returns:
        The study's columns, `group`, `suffix` (whose maps are stored) and `part`, in the order in
        which sequences are drawn: every group gives one before any gives a second.

    Raises:
        UserError: no memorized sequence among them, or none that is not.
    """
    table = study.sequences
    table = table.with_columns(find_groups(table).alias("group"))
    own = pl.lit(study.settings.label.non_memo_suffix)
    suffix = pl.when(pl.col("is_memorized")).then(pl.lit("true")).otherwise(own)
    rows = table.filter(pl.col("is_memorized").is_not_null()).with_columns(suffix=suffix)
    for role in ("model", "reference") if has_reference(study) else ("model",):
        stored = MapStore(maps_folder(study, role), verify=False).index
        rows = rows.join(stored, on=["sequence_id", "suffix"], how="semi")
    if rows["is_memorized"].n_unique() < 2:
        raise UserError(
            f"{study.folder}: {int(rows['is_memorized'].sum()):,} memorized of {rows.height:,} "
            "sequences with maps; a search needs both kinds. Capture more of them."
        )
    seed = study.settings.search.seed
    keys = order_keys(rows["sequence_id"].to_numpy(), seed)
    rows = rows.with_columns(pl.Series("key", keys)).sort("key")
    rows = rows.with_columns(pl.Series("part", _parts(rows)))
    turn = pl.int_range(pl.len()).over("group")
    return rows.sort(turn, "key").drop("key")


def _parts(rows: pl.DataFrame) -> list[str]:
    """Part of every row, by group, Non-Memo and memorized each in the shares asked for."""
    cells = rows["is_memorized"].cast(pl.Int64).to_numpy()
    groups = rows["group"].rank("dense").cast(pl.Int64).to_numpy() - 1
    lots = draw_lots(rows["key"].to_numpy(), groups)
    is_train = _split(cells, groups, lots, _SHARES["train"])
    part = np.where(is_train, "train", "final").astype(object)
    rest = np.flatnonzero(~is_train)
    of_rest = _SHARES["select"] / (1 - _SHARES["train"])
    # Lots fell one way for the rest already; turned round within it they are lots again.
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
    """Draw a taxonomy's sequences, as many of every class, in each of the parts.

    Args:
        rows: from `searched_rows`.
        taxonomy: the taxonomy.
        wanted: sizes.

    Returns:
        The candidate; where a class has fewer than `minimum` in a part, how many sequences the
        smallest class has, by part.

    Raises:
        UserError: a column that the taxonomy needs is not there.
    """
    labels = label_sequences(rows, taxonomy)
    numbers = {name: index for index, name in enumerate(taxonomy.classes)}
    codes = labels.replace_strict(numbers, default=None, return_dtype=pl.Int64)
    frame = rows.select("sequence_id", "suffix", "part").with_row_index("position")
    frame = frame.with_columns(codes.alias("class_index")).drop_nulls("class_index")
    frame = frame.with_columns(pl.col("position").cast(pl.Int64))
    sizes = {"train": wanted.n_train, "select": wanted.n_select, "final": wanted.n_final}
    drawn, smallest = {}, {}
    for part in PARTS:
        inside = frame.filter(pl.col("part") == part)
        counts = np.bincount(inside["class_index"].to_numpy(), minlength=len(numbers))
        smallest[part] = int(counts.min())
        take = min(smallest[part], sizes[part])
        turn = pl.int_range(pl.len()).over("class_index")
        drawn[part] = inside.filter(turn < take)
    if min(smallest.values()) < wanted.minimum:
        return smallest
    sample = SampleRows(
        train=drawn["train"].with_columns(split=pl.lit("train")),
        evaluation=pl.concat([drawn["select"], drawn["final"]]).with_columns(split=pl.lit("eval")),
        classes=taxonomy.classes,
    )
    counts_drawn = {part: drawn[part].height // len(numbers) for part in PARTS}
    return Candidate(taxonomy, label_digest(codes), sample, counts_drawn)


def label_digest(codes: pl.Series) -> str:
    """Same for two labellings of the memorized sequences whose classes correspond one to one.

    Args:
        codes: class index of every row, 0 for Non-Memo, null for none.
    """
    values = codes.fill_null(-1).to_numpy()
    names: dict[int, int] = {-1: -1, 0: 0}
    for code in values[np.sort(np.unique(values, return_index=True)[1])].tolist():
        names.setdefault(code, len(names) - 1)
    renamed = np.array([names[code] for code in values.tolist()], dtype=np.int8)
    return hashlib.sha256(renamed.tobytes()).hexdigest()[:16]


# The cheapest rung of a search: logistic regression on pooled statistics of the stored maps.

_TEXT_DIMENSIONS = 64


class CheapScorer:
    """Scores candidates on the selection part.

    Args:
        study: with maps captured.
        rows: from `searched_rows`.
    """

    def __init__(self, study: Study, rows: pl.DataFrame) -> None:
        self._study, self._rows = study, rows

    def score(self, candidate: Candidate, objective: ObjectiveName) -> float | None:
        """The objective of one candidate, None where the regression on the attention is at chance.

        Args:
            candidate: rows and classes.
            objective: what is maximized.
        """
        train, select = candidate.positions("train"), candidate.positions("select")
        labels = candidate.rows.train["class_index"].to_numpy()
        chosen = candidate.rows.evaluation.filter(pl.col("part") == "select")
        sources: dict[str, Votes] = {}
        for name, columns in self._columns.items():
            seed = self._study.settings.search.seed
            fit = classify_statistics(columns[train], labels, columns[select], seed)
            if fit.did_train:
                sources[name] = _votes(fit, chosen)
        if "model" not in sources or (len(sources) < 2 and objective in ("excess", "auc_excess")):
            return None
        return measure_objective(sources, objective).value

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """What each source sees of every searched row, shape (rows, columns)."""
        say(f"Statistics of {self._rows.height:,} maps")
        roles = ("model", "reference") if has_reference(self._study) else ("model",)
        return {role: self._statistics(role) for role in roles} | {"blind": self._text()}

    def _statistics(self, role: str) -> np.ndarray:
        """Pooled statistics of one model's mean maps."""
        store = MapStore(maps_folder(self._study, role), verify=False)
        ids, suffixes = self._rows["sequence_id"].to_numpy(), self._rows["suffix"].to_list()
        return map_statistics(store.dataset(ids, suffixes, "mean")).reshape(len(ids), -1)

    def _text(self) -> np.ndarray:
        """Statistics of the blind maps, and the first dimensions of the n-gram counts."""
        tokens = shown_tokens(self._study.sequences, self._rows.select("sequence_id", "suffix"))
        is_train = (self._rows["part"] == "train").to_numpy()
        blind = map_statistics(blind_maps(tokens)).reshape(len(tokens), -1)
        known, counts = count_ngrams(tokens[is_train], tokens)
        dimensions = min(_TEXT_DIMENSIONS, known.shape[1] - 1, known.shape[0] - 1)
        if dimensions < 1:
            return blind
        reducer = TruncatedSVD(dimensions, random_state=self._study.settings.search.seed)
        reducer.fit(known.log1p())
        return np.concatenate([blind, reducer.transform(counts.log1p())], axis=1)


def _votes(fit: BaselineFit, rows: pl.DataFrame) -> Votes:
    """A fit's predictions as votes of one run."""
    return Votes(
        sequence_ids=rows["sequence_id"].to_numpy(),
        true=rows["class_index"].to_numpy(),
        predicted=fit.predicted[None],
        seeds=np.zeros(1, dtype=np.int64),
        n_classes=fit.probabilities.shape[1],
        probabilities=fit.probabilities,
        scores=fit.probabilities[None].astype(np.float32),
        score_seeds=np.zeros(1, dtype=np.int64),
    )


# The first rung of a search: optuna proposes taxonomies, each is scored cheaply and once.

_MOST_PROPOSALS = 20
"""Proposals a wanted candidate: most spaces hold fewer divisions than names."""


@dataclass
class Proposals:
    """What was proposed, and what came of it.

    Attributes:
        scored: candidates with a score, in the order in which they were proposed.
        scores: the cheap score of each, by its digest.
        n_proposed: all proposals.
        n_same: those that divide as an earlier one does.
        n_small: those with a class that is too small in one of the parts.
        n_untrained: different ones of which the cheap regression learned nothing.
        largest_smallest: the best that any proposal's smallest class reached in its scarcest part.
    """

    scored: list[Candidate] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    n_proposed: int = 0
    n_same: int = 0
    n_small: int = 0
    n_untrained: int = 0
    largest_smallest: int = 0


def propose_candidates(study: Study, rows: pl.DataFrame, space: SearchSpace) -> Proposals:
    """Propose and score until enough different taxonomies have been tried.

    Args:
        study: with maps captured.
        rows: from `searched_rows`.
        space: what may be proposed.

    Returns:
        The candidates and their scores.

    Raises:
        UserError: optuna is missing, or no taxonomy has enough sequences of each class.
    """
    wanted = study.settings.search
    scorer = _KeptScores(study, rows)
    found, seen = Proposals(), dict[str, float | None]()
    with (
        _quiet(load_optuna()) as optuna,
        track("Searching (cheap)", total=wanted.candidates, unit="taxonomies") as progress,
    ):
        n_startup = max(10, wanted.candidates // 3)
        sampler = optuna.samplers.TPESampler(n_startup_trials=n_startup, seed=wanted.seed)
        proposer = optuna.create_study(direction="maximize", sampler=sampler)
        while len(seen) < wanted.candidates and (
            found.n_proposed < _MOST_PROPOSALS * wanted.candidates
        ):
            trial = proposer.ask()
            n_before = len(seen)
            score = _try(study, rows, space, trial, found, seen, scorer)
            if score is None:
                proposer.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                proposer.tell(trial, score)
            progress.advance(len(seen) - n_before)
    if not found.scored:
        raise UserError(_nothing(study, rows, found))
    return found


def _try(
    study: Study,
    rows: pl.DataFrame,
    space: SearchSpace,
    trial: Any,
    found: Proposals,
    seen: dict[str, float | None],
    scorer: "_KeptScores",
) -> float | None:
    """Score one proposal; None where it cannot be, or is too small."""
    found.n_proposed += 1
    taxonomy = propose(space, trial)
    if taxonomy is None:
        found.n_same += 1
        return None
    candidate = candidate_of(rows, taxonomy, study.settings.search)
    if not isinstance(candidate, Candidate):
        found.n_small += 1
        found.largest_smallest = max(found.largest_smallest, min(candidate.values()))
        return None
    if candidate.digest in seen:
        found.n_same += 1
        return seen[candidate.digest]
    score = seen[candidate.digest] = scorer.score(candidate)
    if score is None:
        found.n_untrained += 1
        return None
    found.scored.append(candidate)
    found.scores[candidate.digest] = score
    return score


class _KeptScores:
    """Cheap scores, read back where an earlier run found them."""

    def __init__(self, study: Study, rows: pl.DataFrame) -> None:
        self._scorer = CheapScorer(study, rows)
        self._objective: ObjectiveName = study.settings.search.objective
        self._path = study.folder / "search" / f"cheap-{_key(study, rows)}.json"
        self._kept = _read(self._path)

    def score(self, candidate: Candidate) -> float | None:
        """The candidate's score, kept once found."""
        if candidate.digest not in self._kept:
            self._kept[candidate.digest] = self._scorer.score(candidate, self._objective)
            self._path.parent.mkdir(exist_ok=True)
            write_json(self._path, self._kept)
        return self._kept[candidate.digest]


def _read(path: Path) -> dict[str, float | None]:
    """Scores of an earlier run."""
    if not path.is_file():
        return {}
    try:
        kept: dict[str, float | None] = json.loads(path.read_text(encoding="utf-8"))
        kept.items()
    except (OSError, ValueError, AttributeError):
        raise DamagedDataError(f"{path}: damaged. Delete it: the scores are found anew.") from None
    return kept


def _key(study: Study, rows: pl.DataFrame) -> str:
    """Hash of all that decides a cheap score beyond how a taxonomy divides the rows."""
    wanted = study.settings.search
    basis = [
        [facts["fingerprint"] for facts in study.record["models"].values()],
        has_reference(study),
        [wanted.objective, wanted.seed, wanted.n_train, wanted.n_select, wanted.n_final],
        hashlib.sha256(rows["sequence_id"].to_numpy().tobytes()).hexdigest(),
        hashlib.sha256("".join(rows["part"] + rows["suffix"]).encode()).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:20]


@contextmanager
def _quiet(optuna: Any) -> Iterator[Any]:
    """Keep optuna from reporting every trial; its level is restored after."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)


def _nothing(study: Study, rows: pl.DataFrame, found: Proposals) -> str:
    """Why no taxonomy could be scored."""
    n_memorized = int(rows["is_memorized"].sum())
    here = f"{n_memorized:,} memorized of {rows.height:,} sequences with maps"
    if found.n_untrained:
        return (
            f"{study.folder}: the attention shows none of {found.n_untrained:,} taxonomies above "
            f"chance in a regression ({here}). Capture more sequences (--capture-all)."
        )
    return (
        f"{study.folder}: too few sequences ({here}): of {found.n_proposed:,} taxonomies none has "
        f"{study.settings.search.minimum} of each class in each of three parts, the best "
        f"{found.largest_smallest}. Try --capture-all, or lower search.minimum."
    )


# The dearer rungs of a search: CNNs on the attention, the text and the reference's attention.


@dataclass(frozen=True)
class Rung:
    """How much a candidate is given.

    Attributes:
        name: what it is called in `search.parquet`.
        preset: of the CNNs.
        seeds: one CNN each.
    """

    name: str
    preset: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class SearchTask:
    """A job and its rows, as they are sent to another process."""

    job: Job
    rows: SampleRows


def run_search_task(task: SearchTask) -> str:
    """Run one job; returns its key.

    Args:
        task: from `train`.
    """
    return run_job_on(Study(task.job.study), task.job, task.rows)


def train(study: Study, candidates: Sequence[Candidate], rung: Rung) -> None:
    """Train what is missing of these candidates, several at once.

    Args:
        study: with maps of all their rows.
        candidates: of one rung.
        rung: how they are trained.

    Raises:
        MnemoscopeError: maps missing or damaged, no room; what is finished is kept.
    """
    (study.folder / "cnn").mkdir(exist_ok=True)
    tasks = [
        SearchTask(job, candidate.rows)
        for candidate in candidates
        for job in _jobs(study, candidate, rung)
    ]
    todo = [task for task in tasks if not is_finished(task.job)]
    workers, gpus = study.settings.train.workers, training_gpus(study)
    with track(f"Searching ({rung.name})", total=len(tasks), unit="CNNs and baselines") as progress:
        progress.advance(len(tasks) - len(todo))
        for _ in run_tasks(run_search_task, todo, workers=workers, gpus=gpus):
            progress.advance()


def collect(study: Study, candidate: Candidate, rung: Rung, part: str) -> dict[str, Votes]:
    """What the trainings of one candidate said of one part.

    Args:
        study: the study.
        candidate: whose trainings are finished.
        rung: how it was trained.
        part: `select` or `final`.

    Returns:
        Votes by source, of the trainings that left chance; a source without any is left out.
    """
    evaluation = candidate.rows.evaluation
    inside = (evaluation["part"] == part).to_numpy()
    found: dict[str, list[tuple[int, Outcome]]] = {}
    for job in _jobs(study, candidate, rung):
        outcome = load_outcome(job)
        if outcome.facts["did_train"]:
            found.setdefault(job.source, []).append((job.seed, outcome))
    rows = evaluation.filter(pl.Series(inside))
    return {source: _search_trainings_votes(runs, inside, rows) for source, runs in found.items()}


def _search_trainings_votes(
    runs: list[tuple[int, Outcome]], inside: np.ndarray, rows: pl.DataFrame
) -> Votes:
    """Put the trainings of one source together; epochs are runs of one training."""
    scores = np.stack([outcome.probabilities[inside] for _, outcome in runs])
    return Votes(
        sequence_ids=rows["sequence_id"].to_numpy(),
        true=rows["class_index"].to_numpy(),
        predicted=np.concatenate([outcome.predicted[:, inside] for _, outcome in runs]),
        seeds=np.concatenate([np.full(len(outcome.predicted), seed) for seed, outcome in runs]),
        n_classes=scores.shape[2],
        probabilities=scores.mean(axis=0, dtype=np.float64),
        scores=scores.astype(np.float32),
        score_seeds=np.array([seed for seed, _ in runs]),
    )


def _jobs(study: Study, candidate: Candidate, rung: Rung) -> list[Job]:
    """The trainings of one candidate, in order."""
    usable = has_reference(study)
    sources = [
        "model",
        *(one for one in CONTROLS if usable or TABLE[one].reads != "reference"),
    ]
    return [
        make_job(
            study,
            candidate.taxonomy.name,
            candidate.rows,
            source,
            settings_of(study.settings, source)[0],
            seed,
            rung.preset,
        )
        for source in sources
        for seed in (rung.seeds[:1] if source in BASELINES else rung.seeds)
    ]


# Stage `search`: the taxonomies that attention bears out best, chosen apart from their figure.

SEARCH_FILE = "search.parquet"
FOUND_FILE = "search.yaml"


@dataclass
class _Entry:
    """One taxonomy of the search: as far as it came, and what it scored there."""

    candidate: Candidate
    is_beside: bool = False
    scores: dict[str, float | None] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)


def search_stage(study: Study, models: Models) -> None:
    """Write `search.parquet` (a row a taxonomy tried) and `search.yaml` (the finalists).

    Raises:
        UserError: no maps, an unknown node or range, optuna missing, too few sequences.
    """
    study.require("capture")
    load_optuna()
    wanted = study.settings.search
    with study.finishing("search") as counts:
        beside = load_taxonomies(wanted.beside) if wanted.beside else []
        if wanted.capture_all:
            _capture_all(study, models)
        add_measures(study, models)
        rows = searched_rows(study)
        learned_from = rows.filter(pl.col("is_memorized") & (pl.col("part") == "train"))
        space = make_space(wanted.nodes, learned_from, classes=wanted.classes)
        proposals = propose_candidates(study, rows, space)
        entries = [
            _Entry(one, scores={"cheap": proposals.scores[one.digest]}) for one in proposals.scored
        ]
        references, impossible = [], {}
        for taxonomy in beside:
            candidate = candidate_of(rows, taxonomy, wanted)
            if isinstance(candidate, Candidate):
                references.append(_Entry(candidate, is_beside=True))
            else:
                impossible[taxonomy.name] = candidate
        finalists = _climb(study, entries, references)
        for entry in [*finalists, *references]:
            entry.final = _final_figures(study, entry)
        study.write(SEARCH_FILE, _table(entries, references, finalists))
        _write_found(study, [one.candidate for one in finalists])
        counts |= _counts(rows, proposals, space.n_taxonomies) | {"impossible_beside": impossible}
    study.forget("report")  # it shows the search where there is one


def search_words(study: Study) -> list[str]:
    """The result of a finished search in plain words.

    Args:
        study: with the stage done.

    Raises:
        UserError: it has not been run.
    """
    study.require("search")
    manifest = study.manifest("search")
    assert manifest is not None
    return describe_search(study.read(SEARCH_FILE), manifest["counts"], study.settings.search)


def _capture_all(study: Study, models: Models) -> None:
    """Capture every memorized sequence and half as many others, whatever is stored already."""
    table = study.sequences.filter(pl.col("is_memorized").is_not_null())
    memorized = table.filter(pl.col("is_memorized"))
    suffix = study.settings.label.non_memo_suffix
    others = table.filter(~pl.col("is_memorized"))
    if suffix == "own":
        others = others.filter(pl.col("continuation").is_not_null())
    n_others = min(others.height, ceil(memorized.height / 2))
    others = others.sample(n_others, seed=study.settings.search.seed)
    wanted = [(memorized, "true"), (others, suffix)]
    capture_rows(
        study,
        models,
        pl.concat(
            rows.select("sequence_id", pl.lit(shown).alias("suffix")).sort("sequence_id")
            for rows, shown in wanted
        ),
    )


def _climb(study: Study, entries: list[_Entry], references: list[_Entry]) -> list[_Entry]:
    """Successive halving: the finalists, best first."""
    wanted = study.settings.search
    rungs = [
        Rung("brief", "brief", tuple(wanted.seeds[:1])),
        Rung("full", study.settings.train.preset, tuple(wanted.seeds)),
    ]
    kept = _best(entries, "cheap", _n_kept(len(entries), study))
    for rung in rungs:
        with_references = [*kept, *(references if rung.name == "full" else [])]
        train(study, [one.candidate for one in with_references], rung)
        for entry in with_references:
            sources = _compared(collect(study, entry.candidate, rung, "select"))
            entry.scores[rung.name] = _score(sources, wanted.objective)
        n_kept = wanted.finalists if rung.name == "full" else _n_kept(len(kept), study)
        kept = _best(kept, rung.name, n_kept)
        if not kept:
            raise UserError(
                f"{study.folder}: no CNN of the search learned anything ({rung.name} rung). "
                "Capture more sequences (--capture-all)."
            )
    return kept


def _n_kept(n: int, study: Study) -> int:
    """How many of a rung go on."""
    wanted = study.settings.search
    return max(wanted.finalists, ceil(n / wanted.reduction))


def _best(entries: Sequence[_Entry], rung: str, n: int) -> list[_Entry]:
    """The best of a rung, best first; ties by name, so that the order is the same every time."""
    scored = [one for one in entries if one.scores.get(rung) is not None]
    scored.sort(key=lambda one: (-(one.scores[rung] or 0.0), one.candidate.taxonomy.name))
    return scored[:n]


def _compared(sources: dict[str, Votes]) -> dict[str, Votes]:
    """The model and the controls that an excess is counted over."""
    return {name: one for name, one in sources.items() if name in ("model", *CONTROLS)}


def _score(sources: dict[str, Votes], objective: ObjectiveName) -> float | None:
    """The objective, None where no CNN of the model, or no control that is needed, trained."""
    if "model" not in sources or (len(sources) < 2 and objective in ("excess", "auc_excess")):
        return None
    return measure_objective(sources, objective).value


def _final_figures(study: Study, entry: _Entry) -> dict[str, Any]:
    """Every figure of one taxonomy on the final part, with intervals."""
    wanted, resamples = study.settings.search, study.settings.benchmark.n_resamples
    rung = Rung("full", study.settings.train.preset, tuple(wanted.seeds))
    sources = _compared(collect(study, entry.candidate, rung, "final"))
    figures: dict[str, Any] = {}
    for name in OBJECTIVES:
        if _score(sources, name) is None:
            continue
        found = measure_objective(sources, name, seed=wanted.seed, n_resamples=resamples)
        figures |= found.columns(name)
    controls = {name: one for name, one in sources.items() if name != "model"}
    of_each = {name: _score({"model": one}, "min_f1") or 0.0 for name, one in controls.items()}
    return figures | {"strongest": max(of_each, key=of_each.__getitem__, default=None)}


def _table(
    entries: Sequence[_Entry], references: Sequence[_Entry], finalists: Sequence[_Entry]
) -> pl.DataFrame:
    """One row a taxonomy: finalists, what stands beside them, then the rest by how far it came."""
    rest = [one for one in entries if one not in finalists]
    rest.sort(key=lambda one: (-len(one.scores), -(list(one.scores.values())[-1] or 0.0)))
    places = {id(one): place for place, one in enumerate(finalists, start=1)}
    rows = [
        {
            "taxonomy": one.candidate.taxonomy.name,
            "classes": len(one.candidate.taxonomy.classes),
            "kind": "beside" if one.is_beside else "found",
            "place": places.get(id(one)),
            **{rung: one.scores.get(rung) for rung in ("cheap", "brief", "full")},
            **{name: one.final.get(name) for name in _final_names()},
            "strongest": one.final.get("strongest"),
            **{f"n_{part}": one.candidate.counts[part] for part in PARTS},
        }
        for one in [*finalists, *references, *rest]
    ]
    return pl.DataFrame(rows, schema=_schema())


def _final_names() -> list[str]:
    """Columns of the final figures."""
    return [f"{name}{end}" for name in OBJECTIVES for end in ("", "_low", "_high")]


def _schema() -> pl.Schema:
    """The columns of `search.parquet`."""
    floats = ["cheap", "brief", "full", *_final_names()]
    return pl.Schema(
        {"taxonomy": pl.String, "classes": pl.Int64, "kind": pl.String, "place": pl.Int64}
        | dict.fromkeys(floats, pl.Float64)
        | {"strongest": pl.String}
        | {f"n_{part}": pl.Int64 for part in PARTS}
    )


def _write_found(study: Study, finalists: Sequence[Candidate]) -> None:
    """The finalists as a file of taxonomies, with the user's own nodes that they hold."""
    taxonomies = [one.taxonomy for one in finalists]
    own = study.settings.search.nodes
    files = [path for path in own if path.lower().endswith((".yaml", ".yml"))]
    nodes = _own_nodes(files, taxonomies)
    content: dict[str, Any] = {"nodes": nodes} if nodes else {}
    content["taxonomies"] = [one.name for one in taxonomies]
    head = f"# Found by 'mnemoscope search {study.folder.name}'; use: -t {FOUND_FILE}\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
    write_text(study.folder / FOUND_FILE, head + text)


def _own_nodes(files: Sequence[str], taxonomies: Sequence[Any]) -> list[dict[str, str]]:
    """The user's own nodes that any of the taxonomies names, as YAML entries."""
    from mnemoscope.taxonomy.catalogue import read_nodes

    given = {
        node.name: node for path in files for nodes in read_nodes(path).values() for node in nodes
    }
    named = {
        part
        for taxonomy in taxonomies
        for node in taxonomy.nodes
        for part in node.name.split("-or-")
    }
    return [
        {"name": name, "yes_when": node.cuts[0].column, "meaning": node.meaning}
        for name, node in given.items()
        if name in named
    ]


def _counts(rows: pl.DataFrame, proposals: Proposals, n_taxonomies: int) -> dict[str, Any]:
    """What the manifest keeps of a search."""
    memorized = rows.filter(pl.col("is_memorized"))
    return {
        "sequences": rows.height,
        "memorized": memorized.height,
        **{f"memorized_{part}": int((memorized["part"] == part).sum()) for part in PARTS},
        "space": n_taxonomies,
        "proposed": proposals.n_proposed,
        "tried": len(proposals.scored) + proposals.n_untrained,
        "same": proposals.n_same,
        "too_small": proposals.n_small,
        "untrained": proposals.n_untrained,
    }
