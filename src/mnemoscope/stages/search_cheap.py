"""The cheapest rung of a search: logistic regression on pooled statistics of the stored maps.

Everything that does not depend on the taxonomy (statistics of both models' maps, of the text) is
computed once; a taxonomy then costs a fraction of a second.
"""

from functools import cached_property

import numpy as np
import polars as pl
from sklearn.decomposition import TruncatedSVD

from mnemoscope.benchmark.baseline import BaselineFit
from mnemoscope.benchmark.blind import blind_maps, count_ngrams
from mnemoscope.benchmark.objective import ObjectiveName, measure_objective
from mnemoscope.benchmark.statistics import classify_statistics, map_statistics
from mnemoscope.benchmark.votes import Votes
from mnemoscope.maps.store import MapStore
from mnemoscope.progress import say
from mnemoscope.stages.capture import maps_folder, shown_tokens
from mnemoscope.stages.search_rows import Candidate, has_reference
from mnemoscope.study import Study

__all__ = ["CheapScorer"]

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
