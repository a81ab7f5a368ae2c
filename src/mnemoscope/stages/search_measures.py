"""Add to a study's table what the nodes of a search ask for: measures of text, and of the model.

Perplexity of prefix and suffix, and what the own prefix adds to the suffix beyond K others.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.logprobs import suffix_logprobs
from mnemoscope.parquet import read_parquet, write_parquet
from mnemoscope.progress import Progress, track
from mnemoscope.sequences.measures import TEXT_MEASURES, measure_text
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.stages.models import Models
from mnemoscope.study import Study
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.search_space import find_columns
from mnemoscope.taxonomy.splitting import find_groups
from mnemoscope.taxonomy.yaml_file import read_nodes

__all__ = ["MODEL_MEASURES", "add_measures", "mean_prior", "other_rows", "perplexities"]

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
