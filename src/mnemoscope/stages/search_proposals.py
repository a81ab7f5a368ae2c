"""The first rung of a search: optuna proposes taxonomies, each is scored cheaply and once.

Proposals follow from the seed and the scores alone, and the scores are kept, so that a stopped
search proposes the same again and goes on where it was.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.atomic_write import write_json
from mnemoscope.benchmark.objective import ObjectiveName
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.progress import track
from mnemoscope.stages.search_cheap import CheapScorer
from mnemoscope.stages.search_extra import load_optuna
from mnemoscope.stages.search_rows import Candidate, candidate_of, has_reference
from mnemoscope.study import Study
from mnemoscope.taxonomy.search_space import SearchSpace, propose

__all__ = ["Proposals", "propose_candidates"]

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
